package vm

import (
	"context"
	"io"
	"net/netip"
)

// Waiter waits for a machine's end.
type Waiter interface {
	// Wait blocks until the machine does not run, and says how it ended. A
	// machine that does not run answers at once with its last end.
	Wait(ctx context.Context) (End, error)
}

// Snapshotter keeps named states of a machine and goes back to them in place:
// the incarnation and the ownership stay. The channel of a machine that runs may
// end with a snapshot, and does with a revert: Messenger gives the next.
type Snapshotter interface {
	Snapshot(ctx context.Context, name string) error // ErrExists for a name in use
	Revert(ctx context.Context, name string) error   // ErrNotFound for a name not in use
	Snapshots(ctx context.Context) ([]string, error) // oldest first; an error is never "none"
	// DeleteSnapshot removes one; ErrNotFound for a name not in use.
	DeleteSnapshot(ctx context.Context, name string) error
}

// Halter is a Machine whose end its driver can bring about and see by itself,
// where the hypervisor takes its time to notice. It is a help for Renew, which then
// has the next machine made while the hypervisor clears away the last one, and no
// capability that Capabilities tells of.
type Halter interface {
	// Halt ends the present run like Kill, and returns when nothing of the machine
	// runs any more and its memory and files are free. The hypervisor may still say
	// that it runs: Destroy has to follow. errors.ErrUnsupported where that
	// cannot be done for this machine, which then is as it was.
	Halt(ctx context.Context) error
}

// Saver turns a booted, idle machine into a parent, from which others are made.
type Saver interface {
	// Save keeps the machine's whole state as parent and ends the machine,
	// which is left stopped. ErrExists for a parent that is there already.
	Save(ctx context.Context, parent string) error
}

// Forker is a Driver that makes running machines from a parent.
type Forker interface {
	// Fork makes a machine from the parent and lets it run. The guest's
	// channel says hello anew. ErrNotFound for an unknown parent.
	Fork(ctx context.Context, parent string, s Spec) (Machine, error)
	// Parents lists the parents that are whole, or answers an error.
	Parents(ctx context.Context) ([]string, error)
	// DropParent removes a parent; idempotent. Machines made from it go on.
	DropParent(ctx context.Context, parent string) error
	// Rung is RungFork where clones share memory copy-on-write, else
	// RungRestore. It does no I/O.
	Rung() Rung
}

// Stocker is a Driver that keeps inputs on its host: an Insert of one of them,
// into whichever of its machines, moves none of its bytes there. How much it
// keeps, and what it drops first, is its own to decide.
type Stocker interface {
	// Stock lists the digests (see Image) of the inputs that are there now, in
	// no order, or answers an error, which is never "none".
	Stock(ctx context.Context) ([]string, error)
}

// JobDisk is a reserved read-write disk, seen from the host. On a remote host,
// writes are uploaded before the guest is told to go, and results are
// downloaded at the end.
type JobDisk interface {
	io.ReaderAt
	io.WriterAt
	Size() int64 // bytes
	// Sync makes what was written visible to the guest.
	Sync(ctx context.Context) error
	// Close releases the handle; the disk stays.
	Close() error
}

// Image is the content of an input disk. *diskio.Image is one.
type Image interface {
	io.ReaderAt
	Size() int64    // bytes
	Digest() string // "sha256:" and 64 hexadecimal digits, of the image's bytes
}

// Attacher gives access to the reserved disks. Without it a machine serves Exec
// and copies only.
type Attacher interface {
	// JobDisk opens reserved job disk n, counted from zero in Spec.JobDisks.
	// The disk's inode never changes while the machine exists.
	JobDisk(ctx context.Context, n int) (JobDisk, error)
	// Insert puts an input into a reserved place, counted from zero. Putting
	// in what is there already costs nothing.
	Insert(ctx context.Context, place int, in Image) error
	// Eject empties a place; idempotent.
	Eject(ctx context.Context, place int) error
}

// Owned rewrites the ownership on a machine, for adoption and hand-outs.
type Owned interface {
	SetOwner(ctx context.Context, o Owner) error
}

// Addresser tells the addresses of a guest.
type Addresser interface {
	// Addresses waits until the guest has one.
	Addresses(ctx context.Context) ([]netip.Addr, error)
}

// Consoler reads the guest's console.
type Consoler interface {
	// Console gives at most the last n bytes so far.
	Console(ctx context.Context, n int) ([]byte, error)
}

// Messenger gives the machine's channel.
type Messenger interface {
	// Channel gives the channel of the present run of the machine: one per
	// boot, made by the driver with NewChannel and drained until the machine
	// ends. It does not wait for the guest: see Channel.Ready. ErrState when
	// the machine does not run.
	Channel(ctx context.Context) (*Channel, error)
}

// Suspender freezes and thaws a machine in place.
type Suspender interface {
	Suspend(ctx context.Context) error
	Resume(ctx context.Context) error
}

// Screenshotter takes a picture of the machine's screen.
type Screenshotter interface {
	// Screenshot writes the picture and says its media type, such as image/png.
	Screenshot(ctx context.Context, w io.Writer) (mediaType string, err error)
}
