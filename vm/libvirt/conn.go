package libvirt

import (
	"context"
	"io"
	"net/netip"
)

// conn is what the driver needs of a connection to libvirt: the tagged file
// adapter.go has the real one, tests a fake. Domains are named, not held. Every
// method blocks until libvirt has answered, takes no context, because libvirt's
// calls take none, and answers a *callError.
type conn interface {
	// Capabilities gives the host's capabilities as XML.
	Capabilities() (string, error)
	// List gives all domains, or an error.
	List() ([]domain, error)
	// Look looks at one domain; codeNoDomain when there is none.
	Look(name string) (domain, error)
	Define(xml string) error
	// Undefine removes an inactive domain with all that libvirt keeps for it.
	Undefine(name string) error
	// Start boots a defined domain. With die it ends with this connection.
	Start(name string, die bool) error
	// Run makes and boots a domain that vanishes when it ends.
	Run(xml string, die bool) error
	Shutdown(name string) error // presses the power button
	Kill(name string) error
	Suspend(name string) error
	Resume(name string) error
	// SetRecord replaces the driver's metadata, of a running domain in both
	// its descriptions.
	SetRecord(name, record string) error

	Snapshot(name, xml string) error
	Revert(name, snapshot string) error
	Snapshots(name string) ([]string, error) // with their parents before them
	DeleteSnapshot(name, snapshot string) error

	// Description is a domain's XML: of a running one that of its run, or with
	// config that of its next.
	Description(name string, config bool) (string, error)
	// Attach adds a disk to a domain's next run, or with live to this one. Detach
	// takes one away; with live it may only have asked the guest to let go of it.
	Attach(name, xml string, live bool) error
	Detach(name, xml string, live bool) error
	// Save writes a running domain's state to a file, which ends the domain.
	Save(name, file string) error
	// SavedXML is the description in such a file, with its secrets.
	SavedXML(file string) (string, error)
	// Restore makes a running domain of a file; xml replaces the description in
	// it as far as libvirt allows.
	Restore(file, xml string) error

	// Addresses gives the addresses that a source knows of a running domain's
	// guest: none is no error.
	Addresses(name string, source addressSource) ([]netip.Addr, error)
	// Screenshot writes what the first screen shows and gives its media type.
	Screenshot(name string, w io.Writer) (string, error)

	// PoolPath is the folder of a storage pool.
	PoolPath(pool string) (string, error)
	// MakeVolume makes a sparse raw volume; codeNoPool without the pool.
	MakeVolume(pool, name string, size int64) error
	// Volumes gives those whose names begin so.
	Volumes(pool, prefix string) ([]volume, error)
	// RemoveVolume answers codeNoVolume when there is none.
	RemoveVolume(pool, name string) error
	// Upload and Download write and read a piece of a volume, whole.
	Upload(pool, name string, off int64, b []byte) error
	Download(pool, name string, off int64, b []byte) error
	// Channel opens the host's end of a running domain's channel. Closing it
	// ends reads and writes in progress; so does the connection's end.
	Channel(name, channel string) (io.ReadWriteCloser, error)

	// Close releases the connection. It is called once.
	Close() error
}

// domain is what libvirt says of a domain.
type domain struct {
	name   string
	state  int    // virDomainState
	reason int    // of that state
	record string // the driver's metadata; empty: there is none
}

// event is a lifecycle event.
type event struct {
	name   string
	event  int // virDomainEventType
	detail int
}

// dial opens a connection. Both funcs may be called from any thread until Close
// has returned, must not block, and must not call the connection.
type dial func(ctx context.Context, uri string, events func(event), closed func(reason string)) (conn, error)
