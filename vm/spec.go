package vm

import (
	"encoding/json"
	"fmt"
	"strings"
)

// Spec says what machine to make. Name and Owner.Incarnation are required;
// what the other fields default to is the driver's to say.
type Spec struct {
	// Name is the machine's name and becomes its ID: 1 to 100 bytes of
	// [A-Za-z0-9._-], not starting with a dot or a dash. Names, files and
	// sockets derive from the incarnation, so that a late call for an older
	// incarnation can never reach a newer one.
	Name     string
	Template string // the recipe's name, for people and for Info

	CPUs   int   // zero: 1
	Memory int64 // bytes; zero: the driver's default

	// What is booted: Firmware, or Kernel with Initrd and Cmdline, or neither
	// for the driver's default firmware. Paths on the hypervisor's host.
	Firmware string
	Kernel   string
	Initrd   string
	Cmdline  string

	Disks []Disk
	// JobDisks are the sizes in bytes of the reserved read-write job disks;
	// see Attacher.JobDisk. Each is a multiple of 4096.
	JobDisks []int64
	// Inputs is how many places for read-only input disks are reserved.
	Inputs int

	// Console is the file that takes the guest's console; empty: the driver
	// chooses and removes it with the machine.
	Console string

	Owner Owner
	// Properties are told to the guest, as BULLPEN_<KEY> in the environment
	// of its jobs. Keys are [A-Za-z_][A-Za-z0-9_]*.
	Properties map[string]string
	// Network names the hypervisor's network to join; empty: none.
	Network string
	OnExit  OnExit
	// Secret is what the guest's agent must say in its hello; per boot.
	Secret Secret
}

// Disk is one disk beside the job disks and inputs. Formats are always stated
// and never probed: a guest may write a qcow2 header onto a raw disk.
type Disk struct {
	Path          string // on the hypervisor's host; empty: made by the driver
	Format        string // "raw" or "qcow2"
	Backing       string // the overlay's base; empty: none
	BackingFormat string
	Size          int64 // bytes, of a disk that the driver makes without Backing
	ReadOnly      bool
}

// Owner is what is written on the machine itself, so that whoever finds it
// later can tell whose it is and whether it may be destroyed. To a driver it is
// text.
type Owner struct {
	Store       string `json:"store,omitempty"`   // id of the lease store
	Pool        string `json:"pool,omitempty"`    // the pool's name
	Run         string `json:"run,omitempty"`     // id of the harness's run
	Job         string `json:"job,omitempty"`     // the harness's job name, exact
	Session     string `json:"session,omitempty"` // id of the lease session
	Slot        string `json:"slot,omitempty"`    // the leased key
	Incarnation string `json:"incarnation,omitempty"`
	Lock        string `json:"lock,omitempty"`  // path of the file that the owner holds a flock on
	Token       uint64 `json:"token,omitempty"` // of the slot's lease
	// Recipe is a digest of what the machine was made from: one with another
	// recipe is not adopted.
	Recipe string `json:"recipe,omitempty"`
}

// Zero reports whether nothing is known of the owner.
func (o Owner) Zero() bool { return o == Owner{} }

// OnExit says what becomes of a machine when the process that started it ends.
type OnExit uint8

const (
	// Die: the machine ends with the process that started it, also when that
	// process is killed. What the driver cannot end by itself then, the next
	// run's reconcile destroys.
	Die OnExit = iota
	// Survive: the machine goes on, to be adopted or held.
	Survive
)

// String is "die" or "survive".
func (e OnExit) String() string {
	if e == Survive {
		return "survive"
	}
	return "die"
}

// Secret is a credential. It prints and marshals as [redacted]; Reveal gives
// the text.
type Secret string

// Reveal returns the text itself.
func (s Secret) Reveal() string { return string(s) }

// String is "[redacted]", or "" when there is no secret.
func (s Secret) String() string {
	if s == "" {
		return ""
	}
	return "[redacted]"
}

// GoString is String, so that %#v does not tell either.
func (s Secret) GoString() string { return fmt.Sprintf("%q", s.String()) }

// MarshalJSON writes the redacted form.
func (s Secret) MarshalJSON() ([]byte, error) { return json.Marshal(s.String()) }

// Validate reports the first field that breaks a rule that holds for every
// driver; drivers call it first in Create.
func (s Spec) Validate() error {
	if err := checkName(s.Name); err != nil {
		return err
	}
	if s.Owner.Incarnation == "" {
		return fmt.Errorf("spec: Owner.Incarnation is empty, want one per cold boot or fork")
	}
	if s.CPUs < 0 {
		return fmt.Errorf("spec: CPUs is %d, want 0 (default 1) or more", s.CPUs)
	}
	if s.Memory < 0 {
		return fmt.Errorf("spec: Memory is %d bytes, want 0 (the driver's default) or more", s.Memory)
	}
	if s.Inputs < 0 {
		return fmt.Errorf("spec: Inputs is %d, want 0 or more", s.Inputs)
	}
	for i, n := range s.JobDisks {
		if n <= 0 || n%4096 != 0 {
			return fmt.Errorf("spec: JobDisks[%d] is %d bytes, want a positive multiple of 4096", i, n)
		}
	}
	for i, d := range s.Disks {
		switch d.Format {
		case "raw", "qcow2":
		default:
			return fmt.Errorf("spec: Disks[%d].Format is %q, want raw or qcow2 (formats are never probed)", i, d.Format)
		}
		if d.Backing != "" && d.BackingFormat != "raw" && d.BackingFormat != "qcow2" {
			return fmt.Errorf("spec: Disks[%d].BackingFormat is %q, want raw or qcow2 (formats are never probed)", i, d.BackingFormat)
		}
	}
	for k := range s.Properties {
		if !propertyKey(k) {
			return fmt.Errorf("spec: Properties has key %q, want [A-Za-z_][A-Za-z0-9_]*", k)
		}
	}
	return nil
}

func checkName(name string) error {
	if name == "" || len(name) > 100 {
		return fmt.Errorf("spec: Name is %q (%d bytes), want 1 to 100 bytes", name, len(name))
	}
	if name[0] == '.' || name[0] == '-' {
		return fmt.Errorf("spec: Name is %q, want a first character other than %q", name, name[0])
	}
	for _, c := range name {
		if !strings.ContainsRune("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-", c) {
			return fmt.Errorf("spec: Name is %q, want only [A-Za-z0-9._-], found %q", name, c)
		}
	}
	return nil
}

func propertyKey(k string) bool {
	for i, c := range k {
		letter := c == '_' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z'
		if !letter && (i == 0 || c < '0' || c > '9') {
			return false
		}
	}
	return k != ""
}
