package need

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

type thing struct {
	name    string
	provide string // the command that provides it
	probe   Probe
}

// things are those that the project's own tests ask for. A probe is quick and
// has no effects; that a thing works is for the test to find out.
func things() []thing {
	return []thing{
		{"dnsmasq", "apt-get install --no-install-recommends dnsmasq-base", program("dnsmasq")},
		{"e2fsck", "apt-get install e2fsprogs", program("e2fsck")},
		{"etcd", "apt-get install etcd-server", either(variable("BULLPEN_ETCD"), program("etcd"))},
		{"gcc", "apt-get install gcc libc6-dev, and CGO_ENABLED=1", program("gcc")},
		{"kernel", "apt-get download a linux-image package, dpkg -x it, and set BULLPEN_KERNEL to its vmlinuz", either(variable("BULLPEN_KERNEL"), file("/boot/vmlinuz*"))},
		{"kvm", "a machine with /dev/kvm that this user may open (usermod -aG kvm $USER)", device("/dev/kvm")},
		{"libvirt", "apt-get install --no-install-recommends libvirt-daemon libvirt-daemon-driver-qemu, and build with -tags libvirt_dlopen", either(file("/usr/lib/*/libvirt.so.0"), file("/usr/lib*/libvirt.so.0"))},
		{"mount", "run as root, with loop devices (modprobe loop)", both(root, device("/dev/loop-control"))},
		{"postgres", "apt-get install postgresql, or set BULLPEN_POSTGRES to a connection string", either(variable("BULLPEN_POSTGRES"), file("/usr/lib/postgresql/*/bin/initdb"))},
		{"qemu", "apt-get install --no-install-recommends qemu-system-x86 qemu-utils", both(program("qemu-system-x86_64"), program("qemu-img"))},
		{"root", "run as root", root},
		{"sshd", "apt-get install --no-install-recommends openssh-server", program("sshd")},
	}
}

// Names gives the names of all known things, sorted.
func Names() []string {
	var names []string
	for _, t := range things() {
		names = append(names, t.name)
	}
	return names
}

func find(name string) (thing, bool) {
	all := things()
	at := slices.IndexFunc(all, func(t thing) bool { return t.name == name })
	if at < 0 {
		return thing{}, false
	}
	return all[at], true
}

func lookPath(name string) (string, error) {
	path, err := exec.LookPath(name)
	if err == nil {
		return path, nil
	}
	for _, dir := range []string{"/usr/local/sbin", "/usr/sbin", "/sbin"} {
		if path, err := exec.LookPath(filepath.Join(dir, name)); err == nil {
			return path, nil
		}
	}
	return "", fmt.Errorf("no program %s in PATH, /usr/sbin or /sbin", name)
}

func program(name string) Probe {
	return func(context.Context) error {
		_, err := lookPath(name)
		return err
	}
}

func variable(name string) Probe {
	return func(context.Context) error {
		if os.Getenv(name) == "" {
			return fmt.Errorf("%s is not set", name)
		}
		return nil
	}
}

func file(pattern string) Probe {
	return func(context.Context) error {
		found, err := filepath.Glob(pattern)
		if err != nil {
			return err
		}
		if len(found) == 0 {
			return fmt.Errorf("no file %s", pattern)
		}
		return nil
	}
}

func device(path string) Probe {
	return func(context.Context) error {
		f, err := os.OpenFile(path, os.O_RDWR, 0)
		if err != nil {
			return err
		}
		return f.Close()
	}
}

func root(context.Context) error {
	if id := os.Geteuid(); id != 0 {
		return fmt.Errorf("user id is %d, want 0", id)
	}
	return nil
}

func either(probes ...Probe) Probe {
	return func(ctx context.Context) error {
		var texts []string
		for _, p := range probes {
			err := p(ctx)
			if err == nil {
				return nil
			}
			texts = append(texts, err.Error())
		}
		return errors.New(strings.Join(texts, ", and "))
	}
}

func both(probes ...Probe) Probe {
	return func(ctx context.Context) error {
		for _, p := range probes {
			if err := p(ctx); err != nil {
				return err
			}
		}
		return nil
	}
}
