package local

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/bullpen-vm/bullpen/vm"
)

// Config is what Open takes. The zero value is usable.
type Config struct {
	// Root is the folder of the machines, made with mode 0700 when it is not
	// there; empty: bullpen-local-<uid> in os.TempDir. One that is a symbolic
	// link or belongs to another user is refused.
	Root string
	// Executable is the program to start as keeper and agent; its main calls
	// Main first. Empty: this program, also when its file was replaced since.
	Executable string
	// Env is set for the agent and its jobs (KEY=value), over the few
	// variables that are passed on: see Environment.
	Env []string
	// Keepalive is how long an agent goes on without a word from the driver
	// before it ends its machine; zero: DefaultKeepalive, negative: for ever.
	Keepalive time.Duration
	// BootTimeout bounds Start; zero: DefaultBootTimeout.
	BootTimeout time.Duration
	// KillTimeout bounds Kill and the killing in Destroy and Close; zero:
	// DefaultKillTimeout.
	KillTimeout time.Duration
	// Console bounds a machine's console in bytes: when it is reached, the
	// older half goes. Zero: DefaultConsole.
	Console int64
	// InputCache bounds the inputs that are kept unpacked in the root, in bytes;
	// those in use do not count. Zero: DefaultInputCache.
	InputCache int64
	// Logger takes what the driver has to say; nil: nothing is logged.
	Logger *slog.Logger
}

// The defaults of Config.
const (
	DefaultKeepalive   = time.Hour
	DefaultBootTimeout = 30 * time.Second
	DefaultKillTimeout = 10 * time.Second
	DefaultConsole     = 1 << 20
	DefaultInputCache  = 4 << 30
)

// minConsole keeps the tail that an End carries.
const minConsole = 4 * vm.ConsoleTail

// withDefaults reports the first field that breaks a rule.
func (c Config) withDefaults() (Config, error) {
	if c.Root == "" {
		c.Root = filepath.Join(os.TempDir(), fmt.Sprintf("bullpen-local-%d", os.Getuid()))
	}
	for _, kv := range c.Env {
		if i := strings.IndexByte(kv, '='); i < 1 || strings.IndexByte(kv, 0) >= 0 {
			return c, fmt.Errorf("local: Config.Env has %q, want KEY=value without zero bytes", kv)
		}
	}
	switch {
	case c.BootTimeout < 0:
		return c, fmt.Errorf("local: Config.BootTimeout is %v, want 0 (default %v) or more", c.BootTimeout, DefaultBootTimeout)
	case c.KillTimeout < 0:
		return c, fmt.Errorf("local: Config.KillTimeout is %v, want 0 (default %v) or more", c.KillTimeout, DefaultKillTimeout)
	case c.Console != 0 && c.Console < minConsole:
		return c, fmt.Errorf("local: Config.Console is %d bytes, want 0 (default %d) or at least %d", c.Console, DefaultConsole, minConsole)
	case c.InputCache < 0:
		return c, fmt.Errorf("local: Config.InputCache is %d bytes, want 0 (default %d) or more", c.InputCache, int64(DefaultInputCache))
	}
	if c.Executable == "" {
		// Not os.Executable: this one is the running file itself, whatever
		// has become of its name.
		c.Executable = "/proc/self/exe"
	}
	if c.Keepalive == 0 {
		c.Keepalive = DefaultKeepalive
	}
	c.Keepalive = max(c.Keepalive, 0)
	if c.BootTimeout == 0 {
		c.BootTimeout = DefaultBootTimeout
	}
	if c.KillTimeout == 0 {
		c.KillTimeout = DefaultKillTimeout
	}
	if c.Console == 0 {
		c.Console = DefaultConsole
	}
	if c.InputCache == 0 {
		c.InputCache = DefaultInputCache
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return c, nil
}

// hostID is the same for all who use this root on this computer: the root's
// own random id (a copy of the root has another inode), and the computer's
// (a root on a network file system is not one host).
func hostID(root string) (string, error) {
	path := filepath.Join(root, ".id")
	id, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		// A link of a whole file: of several who do this at once, one wins.
		tmp := filepath.Join(root, ".id-"+rand.Text())
		if err := os.WriteFile(tmp, []byte(rand.Text()+"\n"), 0o600); err != nil {
			return "", fmt.Errorf("local: root: %w", err)
		}
		err := os.Link(tmp, path)
		if rerr := os.Remove(tmp); err == nil || errors.Is(err, fs.ErrExist) {
			err = rerr
		}
		if err != nil {
			return "", fmt.Errorf("local: root: %w", err)
		}
		id, err = os.ReadFile(path)
		if err != nil {
			return "", fmt.Errorf("local: root: %w", err)
		}
	} else if err != nil {
		return "", fmt.Errorf("local: root: %w", err)
	}
	host, err := os.ReadFile("/etc/machine-id")
	if err != nil || len(strings.TrimSpace(string(host))) == 0 {
		if host, err = os.ReadFile(bootIDPath); err != nil {
			return "", fmt.Errorf("local: neither /etc/machine-id nor the boot id can be read: %w", err)
		}
	}
	fi, err := os.Stat(root)
	if err != nil {
		return "", fmt.Errorf("local: root: %w", err)
	}
	st := fi.Sys().(*syscall.Stat_t)
	h := sha256.New()
	fmt.Fprintf(h, "bullpen local host\n%s\n%s\n%d\n%d\n", id, host, st.Dev, st.Ino)
	return "local-" + hex.EncodeToString(h.Sum(nil)[:10]), nil
}
