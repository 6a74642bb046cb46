package libvirt

import (
	"errors"
	"fmt"
	"strings"
	"syscall"

	"github.com/bullpen-vm/bullpen/vm"
)

// virErrorNumber, those that are told apart; see
// https://libvirt.org/html/libvirt-virterror.html.
const (
	codeInternal       = 1
	codeNoSupport      = 3
	codeInvalidArg     = 8 // unknown flags too
	codeFailed         = 9
	codeSystem         = 38
	codeRPC            = 39
	codeNoDomain       = 42
	codeInvalid        = 55 // not in this state
	codeConfigSupport  = 67 // also: the description was changed in a way that is not allowed
	codeTimeout        = 68 // somebody else's operation takes too long
	codeNoPool         = 49
	codeNoVolume       = 50
	codeNoSnapshot     = 72
	codeArgUnsupported = 74 // also: a device that the domain lacks
	codeNoMetadata     = 80
	codeUnsupported    = 84
)

// callError is libvirt's answer to a call that failed.
type callError struct {
	code int
	text string
	// lost: the connection is gone, and nobody knows what became of the call.
	lost bool
}

// Error is libvirt's own text, with the number for searching.
func (e *callError) Error() string {
	s := fmt.Sprintf("libvirt: %s (error %d)", e.text, e.code)
	if e.code == codeTimeout && strings.Contains(e.text, "state change lock") {
		s += "; where that lasts, libvirtd was killed as it began to start it: see \"When the harness dies\" in the documentation of vm/libvirt"
	}
	return s
}

// Unwrap gives the word of package vm for it, or nil.
func (e *callError) Unwrap() error {
	if e.lost {
		return vm.ErrHostLost
	}
	switch e.code {
	case codeNoDomain, codeNoSnapshot, codeNoPool, codeNoVolume:
		return vm.ErrNotFound
	case codeInvalid:
		return vm.ErrState
	case codeTimeout:
		return vm.ErrBusy
	case codeNoSupport, codeConfigSupport, codeUnsupported, codeArgUnsupported:
		return errors.ErrUnsupported
	}
	// What QEMU said of a start for which there is no room now.
	for _, full := range []string{"Cannot allocate memory", "cannot set up guest memory", "No space left on device", "Disk quota exceeded"} {
		if strings.Contains(e.text, full) {
			return vm.ErrBusy
		}
	}
	return nil
}

// hasCode reports whether libvirt answered that.
func hasCode(err error, code int) bool {
	var e *callError
	return errors.As(err, &e) && e.code == code
}

// isLost reports whether the connection was lost in a call.
func isLost(err error) bool {
	var e *callError
	return errors.As(err, &e) && e.lost
}

// full makes a full disk vm.ErrBusy: nothing is wrong, it is not possible now.
func full(err error) error {
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		return fmt.Errorf("%w: %w", vm.ErrBusy, err)
	}
	return err
}
