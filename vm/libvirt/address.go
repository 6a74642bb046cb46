package libvirt

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"strings"
	"sync/atomic"
	"time"

	"github.com/bullpen-vm/bullpen/vm"
)

// addressSource is virDomainInterfaceAddressesSource.
type addressSource uint

const (
	fromLease addressSource = iota // the leases of libvirt's own networks
	fromAgent                      // QEMU's guest agent, where the guest has one
	fromARP                        // the host's neighbours
)

func (s addressSource) String() string { return [...]string{"leases", "guest agent", "ARP"}[s] }

// addressPause is the longest pause between two looks for an address: libvirt
// has no event for one.
const addressPause = time.Second

// Addresses waits until a lease of a libvirt network, QEMU's guest agent or the
// host's neighbour table knows an address of the guest, and gives all that the
// first of the three which knows any has. Loopback and link-local addresses do
// not count. It is there for machines with Spec.Network, or interfaces that
// Config.Domain added, and for domains that others made; the context is the only
// deadline.
func (m *machine) Addresses(ctx context.Context) ([]netip.Addr, error) {
	began := time.Now()
	var why atomic.Pointer[string] // the sources do not know
	all, err := do(ctx, m.d, vm.OpAddresses, m.id, nil, func(ctx context.Context) ([]netip.Addr, error) { return m.addresses(ctx, &why) })
	if err != nil && ctx.Err() != nil {
		text := "no source was asked to its end"
		if w := why.Load(); w != nil {
			text = *w
		}
		err = m.d.fail(vm.OpAddresses, m.id, fmt.Errorf("nobody knows an address of the guest after %v (%s): %w", time.Since(began).Round(time.Millisecond), text, context.Cause(ctx)))
	}
	return all, err
}

func (m *machine) addresses(ctx context.Context, why *atomic.Pointer[string]) ([]netip.Addr, error) {
	for pause := 20 * time.Millisecond; ; pause = min(2*pause, addressPause) {
		info, err := m.look(ctx)
		if err != nil {
			return nil, err
		}
		switch info.State {
		case vm.StateRunning, vm.StatePaused, vm.StateStarting:
		default:
			return nil, fmt.Errorf("%w: it is %v, want running", vm.ErrState, info.State)
		}
		var said []error // by sources that cannot tell
		unsupported := 0
		for _, source := range []addressSource{fromLease, fromAgent, fromARP} {
			var found []netip.Addr
			err := m.d.line.use(ctx, true, func(c conn) (err error) {
				found, err = c.Addresses(string(m.id), source)
				return err
			})
			switch {
			case context.Cause(ctx) != nil, errors.Is(err, vm.ErrHostLost), errors.Is(err, vm.ErrNotFound):
				return nil, err
			case err != nil:
				if said = append(said, fmt.Errorf("%v: %w", source, err)); errors.Is(err, errors.ErrUnsupported) {
					unsupported++
				}
			}
			if found = reachable(found); len(found) > 0 {
				return found, nil
			}
		}
		text := "leases, guest agent and ARP were asked"
		if err := errors.Join(said...); err != nil {
			text = strings.ReplaceAll(err.Error(), "\n", "; ")
			if unsupported == 3 {
				return nil, err
			}
		}
		why.Store(&text)
		if err := sleep(ctx, pause); err != nil {
			return nil, err
		}
	}
}

// reachable leaves out what only the guest itself can reach.
func reachable(all []netip.Addr) []netip.Addr {
	var some []netip.Addr
	for _, a := range all {
		if a.IsValid() && !a.IsLoopback() && !a.IsUnspecified() && !a.IsLinkLocalUnicast() && !a.IsMulticast() {
			some = append(some, a)
		}
	}
	return some
}

// mostPicture bounds a screenshot, in bytes: an uncompressed one of 8K.
const mostPicture = 128 << 20

// Screenshot writes what the machine's screen shows, in the hypervisor's format,
// which is image/png or image/x-portable-pixmap. It is there for machines to
// which Config.Domain added a video device, and for domains that others made:
// machines are headless otherwise.
func (m *machine) Screenshot(ctx context.Context, w io.Writer) (string, error) {
	type shot struct {
		kind    string
		picture []byte
	}
	// Into memory: w is the caller's, who may have left by then.
	got, err := do(ctx, m.d, vm.OpScreenshot, m.id, nil, func(ctx context.Context) (shot, error) {
		var s shot
		err := m.d.line.use(ctx, true, func(c conn) (err error) {
			var b limited
			s.kind, err = c.Screenshot(string(m.id), &b)
			s.picture = b.Bytes()
			return err
		})
		return s, err
	})
	if err == nil {
		_, err = w.Write(got.picture)
	}
	return got.kind, m.d.fail(vm.OpScreenshot, m.id, err)
}

// limited is a buffer that refuses too much.
type limited struct{ bytes.Buffer }

func (l *limited) Write(b []byte) (int, error) {
	if l.Len()+len(b) > mostPicture {
		return 0, fmt.Errorf("the picture is larger than %d bytes: %w", mostPicture, vm.ErrTooLarge)
	}
	return l.Buffer.Write(b)
}
