//go:build linux

package boot

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"
	"unsafe"

	"github.com/bullpen-vm/bullpen/diskio"
	"github.com/bullpen-vm/bullpen/diskio/guest"
)

// Config says what the machine is like. The zero value is that of an initramfs
// made by package initramfs.
type Config struct {
	Port    string // name of the channel's virtio-serial port; empty: "bullpen.0"
	Modules string // list of modules; empty: "/etc/bullpen/modules"
	WorkDir string // empty: "/work"
	InDir   string // where inputs appear; empty: "/in"
	Mark    string // the dirty mark; empty: "/.bullpen-dirty"
	// PortTimeout bounds the wait for the channel's port; zero: a minute.
	PortTimeout time.Duration
	Logger      *slog.Logger // nil: to standard error, which is the console
}

func (c Config) withDefaults() Config {
	for _, d := range []struct {
		field *string
		value string
	}{
		{&c.Port, "bullpen.0"},
		{&c.Modules, "/etc/bullpen/modules"},
		{&c.WorkDir, "/work"},
		{&c.InDir, "/in"},
		{&c.Mark, "/.bullpen-dirty"},
	} {
		if *d.field == "" {
			*d.field = d.value
		}
	}
	if c.PortTimeout <= 0 {
		c.PortTimeout = time.Minute
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.NewTextHandler(os.Stderr, nil))
	}
	return c
}

// ErrNotInit: Run was called by a process that is not the first of its machine.
var ErrNotInit = errors.New("not the first process of a machine")

// Run makes the machine work and serves its host until it is told to power
// off, which it does: on success it does not return. Errors of the machine's
// set-up are written to the console and end the machine as well, for there is
// nobody to hand them to; ErrNotInit alone is returned.
func Run(ctx context.Context, c Config) error {
	if os.Getpid() != 1 {
		return fmt.Errorf("boot: %w: its process id is %d", ErrNotInit, os.Getpid())
	}
	c = c.withDefaults()
	if err := serve(ctx, c); err != nil {
		c.Logger.Error("boot: the machine ends", "error", err)
	}
	powerOff(c.Logger)
	return errors.New("boot: the kernel did not power off")
}

func serve(ctx context.Context, c Config) error {
	if err := errors.Join(mountAll(), setPath(), raiseLoopback()); err != nil {
		return err
	}
	if err := loadModules(c.Modules); err != nil {
		return err
	}
	cmdline, err := os.ReadFile("/proc/cmdline")
	if err != nil {
		return fmt.Errorf("boot: %w", err)
	}
	said := parameters(string(cmdline))
	wait, cancel := context.WithTimeout(ctx, c.PortTimeout)
	defer cancel()
	path, err := findPort(wait, "/sys", c.Port)
	if err != nil {
		return err
	}
	for _, dir := range []string{c.WorkDir, c.InDir} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return fmt.Errorf("boot: %w", err)
		}
	}
	var uname syscall.Utsname
	_ = syscall.Uname(&uname) // for people only
	agent, err := guest.New(guest.Config{
		Dial:        func(ctx context.Context) (io.ReadWriteCloser, error) { return openPort(ctx, path) },
		Secret:      said["secret"],
		Incarnation: said["incarnation"],
		Agent:       "bullpen-boot",
		Disks:       func(n int) (guest.Disk, error) { return openJobDisk(ctx, "/sys", n) },
		Inputs: func(ctx context.Context, in diskio.GoInput) (string, func() error, error) {
			return mountInput(ctx, "/sys", "/run/bullpen-inputs", in)
		},
		WorkDir: c.WorkDir, InDir: c.InDir, Mark: c.Mark,
		Environ: environ(),
		Reseed:  reseed, SetClock: setClock, SetHostName: setHostName, SetMachineID: setMachineID,
		Details: map[string]string{"kernel": text(uname.Release[:]), "machine": text(uname.Machine[:])},
		Reap:    true,
		Logger:  c.Logger,
	})
	if err != nil {
		return err
	}
	return agent.Run(ctx)
}

const searchPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

func setPath() error { return os.Setenv("PATH", searchPath) }

// environ is what jobs get. BULLPEN_CRASH is a shell command that ends the
// machine at once, without a word, for jobs that try what happens then.
func environ() []string {
	return []string{"PATH=" + searchPath, "HOME=/root", "TERM=linux", "LANG=C.UTF-8", "BULLPEN_CRASH=echo c >/proc/sysrq-trigger"}
}

// powerOff ends the machine. It returns only where the kernel cannot.
func powerOff(log *slog.Logger) {
	syscall.Sync()
	if err := syscall.Reboot(syscall.LINUX_REBOOT_CMD_POWER_OFF); err != nil {
		log.Error("boot: power off", "error", err)
	}
}

// The ioctls of random(4).
const (
	rndAddEntropy = 0x40085203
	rndReseedCRNG = 0x5207
)

// reseed mixes entropy into the kernel's generator and has it used at once:
// machines that come out of one saved state have the same generator.
func reseed(entropy []byte) error {
	f, err := os.OpenFile("/dev/urandom", os.O_WRONLY, 0)
	if err != nil {
		return fmt.Errorf("boot: %w", err)
	}
	defer f.Close()
	info := struct {
		bits, size int32
		bytes      [512]byte
	}{}
	n := copy(info.bytes[:], entropy)
	info.bits, info.size = int32(n*8), int32(n)
	if _, _, errno := syscall.Syscall(syscall.SYS_IOCTL, f.Fd(), rndAddEntropy, uintptr(unsafe.Pointer(&info))); errno != 0 {
		return fmt.Errorf("boot: RNDADDENTROPY: %w", errno)
	}
	if _, _, errno := syscall.Syscall(syscall.SYS_IOCTL, f.Fd(), rndReseedCRNG, 0); errno != 0 {
		return fmt.Errorf("boot: RNDRESEEDCRNG: %w", errno)
	}
	return nil
}

func setClock(t time.Time) error {
	tv := syscall.NsecToTimeval(t.UnixNano())
	if err := syscall.Settimeofday(&tv); err != nil {
		return fmt.Errorf("boot: set the clock: %w", err)
	}
	return nil
}

func setHostName(name string) error {
	if err := syscall.Sethostname([]byte(name)); err != nil {
		return fmt.Errorf("boot: set the host name: %w", err)
	}
	return nil
}

func setMachineID(id string) error {
	if err := os.MkdirAll("/etc", 0o755); err != nil {
		return fmt.Errorf("boot: %w", err)
	}
	tmp := filepath.Join("/etc", ".machine-id.new")
	if err := os.WriteFile(tmp, []byte(id+"\n"), 0o444); err != nil {
		return fmt.Errorf("boot: %w", err)
	}
	if err := os.Rename(tmp, "/etc/machine-id"); err != nil {
		return fmt.Errorf("boot: %w", err)
	}
	return nil
}

// text is a C string.
func text(c []int8) string {
	var b strings.Builder
	for _, x := range c {
		if x == 0 {
			break
		}
		b.WriteByte(byte(x))
	}
	return b.String()
}
