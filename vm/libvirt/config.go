package libvirt

import (
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"libvirt.org/go/libvirtxml"

	"github.com/bullpen-vm/bullpen/vm"
)

// Config is what Open takes. URI alone is required.
type Config struct {
	// URI names the hypervisor; see the package documentation.
	URI string
	// Root is the folder of the machines' files, made where it is missing;
	// empty: "bullpen" in an embedded driver's root, else
	// bullpen-libvirt-<uid> in os.TempDir. QEMU must be able to get there. It
	// has to be short, for the paths of sockets are limited to 107 bytes.
	Root string
	// ForceTCG has machines emulated although the hypervisor may offer KVM.
	ForceTCG bool
	// ProbeTimeout bounds the tiny guest that shows whether KVM works; zero:
	// DefaultProbeTimeout.
	ProbeTimeout time.Duration
	// Memory is that of machines whose Spec says none, in bytes; zero:
	// DefaultMemory.
	Memory int64
	// Emulator and MachineType replace the hypervisor's own choice.
	Emulator    string
	MachineType string
	// InputSize is the size that input disks seem to have, in bytes, and so the
	// largest input: a multiple of 4096. The files are sparse. On another computer
	// it is the largest input only. Zero: DefaultInputSize.
	InputSize int64
	// Pool is the storage pool in which another computer (qemu+ssh) keeps job
	// disks and inputs: one of files, such as a dir pool, that runs. Empty:
	// DefaultPool.
	Pool string
	// KeepInputs is how long such an input stays there after its last use; zero:
	// DefaultKeepInputs. It is looked for when another is sent.
	KeepInputs time.Duration
	// Console bounds a machine's console in bytes: when it is longer, the older
	// half goes. Zero: DefaultConsole.
	Console int64
	// Domain, when set, may change each domain before it is defined. Its error
	// is Create's. Names, serials, metadata, channel and console are the
	// driver's own: it needs them.
	Domain func(*libvirtxml.Domain) error
	// Keepalive is how long an agent goes on without a word from the driver
	// before it powers its machine off; zero: DefaultKeepalive, negative: for ever.
	Keepalive time.Duration
	// BootTimeout bounds Start; zero: DefaultBootTimeout.
	BootTimeout time.Duration
	// KillTimeout bounds Kill, and killing in Destroy and Close; zero:
	// DefaultKillTimeout.
	KillTimeout time.Duration
	// Reconnect is how long a call waits for a connection that was lost before
	// it answers vm.ErrHostLost; zero: DefaultReconnect. The driver tries on.
	Reconnect time.Duration
	// Poll is how often a machine is looked at besides the hypervisor's events;
	// zero: DefaultPoll.
	Poll time.Duration
	// Logger takes what the driver has to say; nil: nothing is logged.
	Logger *slog.Logger
}

// The defaults of Config.
const (
	DefaultProbeTimeout = 10 * time.Second
	DefaultMemory       = 256 << 20
	DefaultInputSize    = 16 << 30
	DefaultConsole      = 4 << 20
	DefaultPool         = "default"
	DefaultKeepInputs   = 24 * time.Hour
	DefaultKeepalive    = time.Hour
	DefaultBootTimeout  = time.Minute
	DefaultKillTimeout  = 30 * time.Second
	DefaultReconnect    = 30 * time.Second
	DefaultPoll         = 2 * time.Second
)

// minConsole keeps the tail that an End carries.
const minConsole = 4 * vm.ConsoleTail

// mostRoot keeps the paths of sockets within a socket address: the folder is
// followed by <key>/.sockets/<name>.
const mostRoot = 107 - len("/0123456789ab/.sockets/0123456789abcdef")

// withDefaults reports the first field that breaks a rule.
func (c Config) withDefaults() (Config, target, error) {
	t, err := parseURI(c.URI)
	if err != nil {
		return c, t, err
	}
	if c.Root == "" {
		if c.Root = filepath.Join(os.TempDir(), fmt.Sprintf("bullpen-libvirt-%d", os.Getuid())); t.kind == kindEmbed {
			c.Root = filepath.Join(t.root, "bullpen")
		}
	}
	if c.Root, err = filepath.Abs(c.Root); err != nil {
		return c, t, fmt.Errorf("libvirt: Config.Root: %w", err)
	}
	if len(c.Root) > mostRoot {
		return c, t, fmt.Errorf("libvirt: Config.Root is %q (%d bytes), want at most %d: the paths of sockets are limited", c.Root, len(c.Root), mostRoot)
	}
	for _, d := range []struct {
		name     string
		value    *time.Duration
		fallback time.Duration
	}{
		{"ProbeTimeout", &c.ProbeTimeout, DefaultProbeTimeout},
		{"BootTimeout", &c.BootTimeout, DefaultBootTimeout},
		{"KillTimeout", &c.KillTimeout, DefaultKillTimeout},
		{"Reconnect", &c.Reconnect, DefaultReconnect},
		{"Poll", &c.Poll, DefaultPoll},
		{"KeepInputs", &c.KeepInputs, DefaultKeepInputs},
	} {
		if *d.value < 0 {
			return c, t, fmt.Errorf("libvirt: Config.%s is %v, want 0 (default %v) or more", d.name, *d.value, d.fallback)
		}
		if *d.value == 0 {
			*d.value = d.fallback
		}
	}
	for _, n := range []struct {
		name        string
		value       *int64
		fallback    int64
		least, unit int64
	}{
		{"Memory", &c.Memory, DefaultMemory, 1 << 20, 1},
		{"InputSize", &c.InputSize, DefaultInputSize, 4096, 4096},
		{"Console", &c.Console, DefaultConsole, minConsole, 1},
	} {
		if *n.value == 0 {
			*n.value = n.fallback
		}
		if *n.value < n.least || *n.value%n.unit != 0 {
			return c, t, fmt.Errorf("libvirt: Config.%s is %d bytes, want 0 (default %d) or at least %d, in multiples of %d", n.name, *n.value, n.fallback, n.least, n.unit)
		}
	}
	if c.Pool == "" {
		c.Pool = DefaultPool
	}
	if c.Keepalive == 0 {
		c.Keepalive = DefaultKeepalive
	}
	c.Keepalive = max(c.Keepalive, 0)
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return c, t, nil
}
