package libvirt

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"
)

// verdictFile keeps what trying KVM has shown, in the folder of the hypervisor's
// machines: a try that fails takes as long as Config.ProbeTimeout.
const verdictFile = ".kvm.json"

// verdictAge is how long a verdict holds: somebody may have mended the host.
const verdictAge = 12 * time.Hour

// verdict is about one host since its start, and one binary of QEMU.
type verdict struct {
	Key  string    `json:"key"`
	Kind string    `json:"kind"`
	Why  string    `json:"why"`
	At   time.Time `json:"at"`
}

// verdictKey changes with all that a verdict depends on.
func (d *Driver) verdictKey() (string, error) {
	bootID, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "", err
	}
	h := sha256.New()
	fmt.Fprintf(h, "%s\n%s\n%s\n", bootID, d.conf.Emulator, d.host.emulator)
	for _, path := range []string{d.conf.Emulator, d.host.emulator, "/dev/kvm"} {
		fi, err := os.Stat(path)
		if err != nil {
			fmt.Fprintf(h, "none\n")
			continue
		}
		fmt.Fprintf(h, "%d %v %v\n", fi.Size(), fi.Mode(), fi.ModTime().UnixNano())
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// recall gives an earlier verdict; nil when there is none that holds.
func (d *Driver) recall(key string) *accelerator {
	var v verdict
	err := readRecord(filepath.Join(d.base, verdictFile), &v)
	age := time.Since(v.At)
	if err != nil || v.Key != key || age < 0 || age > verdictAge {
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			d.log.Warn("the verdict on KVM is not usable", "err", err)
		}
		return nil
	}
	return &accelerator{v.Kind, fmt.Sprintf("%s (found %v ago)", v.Why, age.Round(time.Second))}
}

// remember keeps a verdict; without it the next driver tries again.
func (d *Driver) remember(key string, a accelerator) {
	if err := writeRecord(filepath.Join(d.base, verdictFile), verdict{key, a.kind, a.why, time.Now().UTC()}); err != nil {
		d.log.Warn("the verdict on KVM cannot be kept", "err", err)
	}
}
