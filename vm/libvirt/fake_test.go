package libvirt

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"libvirt.org/go/libvirtxml"

	"github.com/bullpen-vm/bullpen/diskio"
	"github.com/bullpen-vm/bullpen/diskio/guest"
)

// fakeHost is a hypervisor in memory that any number of fake connections reach,
// as drivers would reach a daemon. Its guests are agents in this process, on the
// sockets and disks that the domains' descriptions name.
type fakeHost struct {
	caps string
	dir  string // what guests see as theirs

	mu      sync.Mutex
	domains map[string]*fakeDomain
	conns   map[*fakeConn]bool
	down    bool // nobody can connect, calls are lost
	// before, when set, is asked before each call: an error is its answer.
	before func(op, name string) error
	// after is asked after each: an error replaces the answer, the deed is done.
	after  func(op, name string) error
	guests sync.WaitGroup
	holds  atomic.Int64 // how often guests do not let go of a disk
	// addresses, when set, answers for those of a guest; asked counts from one.
	addresses func(source addressSource, asked int) ([]netip.Addr, error)
}

type fakeDomain struct {
	xml       *libvirtxml.Domain
	live      *libvirtxml.Domain // what it was restored as
	name      string
	record    string
	state     int
	reason    int
	transient bool
	die       *fakeConn
	snapshots []string
	records   map[string]string // of the snapshots' times
	guest     *fakeGuest
	asked     int // for addresses
}

const fakeCaps = `<capabilities><host><uuid>aabbccdd-0000-1111-2222-333344445555</uuid><cpu><arch>x86_64</arch></cpu></host>` +
	`<guest><os_type>hvm</os_type><arch name='x86_64'><domain type='qemu'/>%s</arch></guest></capabilities>`

func newFakeHost(dir string) *fakeHost {
	return &fakeHost{caps: fmt.Sprintf(fakeCaps, ""), dir: dir, domains: map[string]*fakeDomain{}, conns: map[*fakeConn]bool{}}
}

func lostError() error { return &callError{code: codeRPC, text: "client socket is closed", lost: true} }

func (h *fakeHost) dial(ctx context.Context, _ string, events func(event), closed func(string)) (conn, error) {
	if err := context.Cause(ctx); err != nil {
		return nil, err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.down {
		return nil, &callError{code: codeSystem, text: "Failed to connect socket: No such file or directory"}
	}
	c := &fakeConn{h: h, events: events, closed: closed}
	h.conns[c] = true
	return c, nil
}

// restart drops every connection, as a daemon that is started anew does.
func (h *fakeHost) restart() {
	h.mu.Lock()
	var all []*fakeConn
	for c := range h.conns {
		c.dead = true
		all = append(all, c)
	}
	clear(h.conns)
	for _, d := range h.domains {
		d.die = nil
		if d.state == domShutoff {
			d.reason = offUnknown
		}
	}
	h.mu.Unlock()
	for _, c := range all {
		c.closed("libvirtd closed the connection or ended")
	}
}

func (h *fakeHost) tell(e event) {
	h.mu.Lock()
	var all []*fakeConn
	for c := range h.conns {
		all = append(all, c)
	}
	h.mu.Unlock()
	for _, c := range all {
		c.events(e)
	}
}

// stop ends a domain, for a reason, with the events that libvirt would send.
func (h *fakeHost) stop(name string, reason int, told ...event) {
	h.mu.Lock()
	d := h.domains[name]
	if d == nil || !active(d.state) {
		h.mu.Unlock()
		return
	}
	g := d.guest
	d.guest, d.live, d.state, d.reason, d.die = nil, nil, domShutoff, reason, nil
	if d.transient {
		delete(h.domains, name)
	}
	h.mu.Unlock()
	if g != nil {
		g.end()
	}
	for _, e := range told {
		h.tell(e)
	}
	h.tell(event{name, eventStopped, slices.Index(stoppedReasons[:], reason)})
}

// fakeConn is a conn.
type fakeConn struct {
	h      *fakeHost
	events func(event)
	closed func(string)
	dead   bool
}

// call does f under the host's lock.
func (c *fakeConn) call(op, name string, f func(d *fakeDomain) error) (err error) {
	c.h.mu.Lock()
	before, after := c.h.before, c.h.after
	c.h.mu.Unlock()
	if before != nil {
		if err := before(op, name); err != nil {
			return err
		}
	}
	if after != nil {
		defer func() {
			if aerr := after(op, name); aerr != nil {
				err = aerr
			}
		}()
	}
	c.h.mu.Lock()
	defer c.h.mu.Unlock()
	if c.dead || c.h.down {
		return lostError()
	}
	d := c.h.domains[name]
	if name != "" && d == nil {
		return &callError{code: codeNoDomain, text: fmt.Sprintf("Domain not found: no domain with matching name '%s'", name)}
	}
	return f(d)
}

func (c *fakeConn) Capabilities() (text string, err error) {
	err = c.call("capabilities", "", func(*fakeDomain) error { text = c.h.caps; return nil })
	return text, err
}

func (d *fakeDomain) look() domain { return domain{d.name, d.state, d.reason, d.record} }

func (c *fakeConn) List() (all []domain, err error) {
	err = c.call("list", "", func(*fakeDomain) error {
		for _, d := range c.h.domains {
			all = append(all, d.look())
		}
		return nil
	})
	return all, err
}

func (c *fakeConn) Look(name string) (got domain, err error) {
	err = c.call("look", name, func(d *fakeDomain) error { got = d.look(); return nil })
	return got, err
}

func (c *fakeConn) define(text string) (*fakeDomain, error) {
	var x libvirtxml.Domain
	if err := x.Unmarshal(text); err != nil {
		return nil, &callError{code: 27, text: err.Error()}
	}
	if c.h.domains[x.Name] != nil {
		return nil, &callError{code: codeFailed, text: "operation failed: domain '" + x.Name + "' already exists with another uuid"}
	}
	d := &fakeDomain{xml: &x, name: x.Name, state: domShutoff}
	if x.Metadata != nil {
		d.record = x.Metadata.XML
	}
	c.h.domains[x.Name] = d
	return d, nil
}

func (c *fakeConn) Define(text string) error {
	return c.call("define", "", func(*fakeDomain) error {
		_, err := c.define(text)
		return err
	})
}

func (c *fakeConn) Undefine(name string) error {
	return c.call("undefine", name, func(d *fakeDomain) error {
		if active(d.state) {
			return &callError{code: codeInvalid, text: "cannot undefine a running domain"}
		}
		delete(c.h.domains, name)
		return nil
	})
}

func (c *fakeConn) Start(name string, die bool) error {
	err := c.call("start", name, func(d *fakeDomain) error { return c.boot(d, die) })
	if err == nil {
		c.h.tell(event{name, eventStarted, 0})
	}
	return err
}

// boot runs a domain; under the lock.
func (c *fakeConn) boot(d *fakeDomain, die bool) error {
	if active(d.state) {
		return &callError{code: codeInvalid, text: "Requested operation is not valid: domain is already running"}
	}
	for _, disk := range d.xml.Devices.Disks {
		if _, err := os.Stat(disk.Source.File.File); err != nil {
			return &callError{code: codeSystem, text: "Cannot access storage file: " + err.Error()}
		}
	}
	if len(d.xml.Devices.Channels) > 0 {
		g, err := c.h.startGuest(d)
		if err != nil {
			return err
		}
		d.guest = g
	}
	if d.live == nil { // a run has a description of its own
		text, err := d.xml.Marshal()
		if err != nil {
			return err
		}
		d.live = &libvirtxml.Domain{}
		if err := d.live.Unmarshal(text); err != nil {
			return err
		}
	}
	d.state, d.reason, d.die = domRunning, 1, nil
	if die {
		d.die = c
	}
	return nil
}

func (c *fakeConn) Run(text string, die bool) error {
	return c.call("run", "", func(*fakeDomain) error {
		d, err := c.define(text)
		if err != nil {
			return err
		}
		d.transient, d.state, d.reason = true, domRunning, 1
		return nil
	})
}

func (c *fakeConn) Shutdown(name string) error {
	err := c.call("shutdown", name, func(d *fakeDomain) error {
		if !active(d.state) {
			return &callError{code: codeInvalid, text: "domain is not running"}
		}
		return nil
	})
	if err == nil {
		c.h.stop(name, offShutdown)
	}
	return err
}

func (c *fakeConn) Kill(name string) error {
	err := c.call("kill", name, func(d *fakeDomain) error {
		if !active(d.state) {
			return &callError{code: codeInvalid, text: "domain is not running"}
		}
		return nil
	})
	if err == nil {
		c.h.stop(name, offDestroyed)
	}
	return err
}

func (c *fakeConn) Suspend(name string) error {
	return c.call("suspend", name, func(d *fakeDomain) error {
		if d.state, d.reason = domPaused, 1; d.guest != nil {
			d.guest.gate.set(false)
		}
		return nil
	})
}

func (c *fakeConn) Resume(name string) error {
	return c.call("resume", name, func(d *fakeDomain) error {
		if d.state, d.reason = domRunning, 5; d.guest != nil {
			d.guest.gate.set(true)
		}
		return nil
	})
}

func (c *fakeConn) SetRecord(name, record string) error {
	return c.call("set record", name, func(d *fakeDomain) error { d.record = record; return nil })
}

func (c *fakeConn) Snapshot(name, text string) error {
	return c.call("snapshot", name, func(d *fakeDomain) error {
		var s libvirtxml.DomainSnapshot
		if err := s.Unmarshal(text); err != nil {
			return err
		}
		d.snapshots = append(d.snapshots, s.Name)
		if d.records == nil {
			d.records = map[string]string{}
		}
		d.records[s.Name] = d.record
		return nil
	})
}

func (c *fakeConn) Revert(name, snapshot string) error {
	return c.call("revert", name, func(d *fakeDomain) error { d.record = d.records[snapshot]; return nil })
}

func (c *fakeConn) Snapshots(name string) (names []string, err error) {
	err = c.call("snapshots", name, func(d *fakeDomain) error { names = slices.Clone(d.snapshots); return nil })
	return names, err
}

func (c *fakeConn) DeleteSnapshot(name, snapshot string) error {
	return c.call("delete snapshot", name, func(d *fakeDomain) error {
		d.snapshots = slices.DeleteFunc(d.snapshots, func(s string) bool { return s == snapshot })
		return nil
	})
}

// Save writes a head as libvirt does, and no state: the guest's is what its
// command line says.
func (c *fakeConn) Save(name, file string) error {
	err := c.call("save", name, func(d *fakeDomain) error {
		live := d.xml
		if d.live != nil {
			live = d.live
		}
		text, err := live.Marshal()
		if err != nil {
			return err
		}
		return os.WriteFile(file, savedState([]byte(text), []byte("<cookie/>")), 0o600)
	})
	if err == nil {
		c.h.stop(name, offSaved)
	}
	return err
}

// savedState is the head of a file of libvirt's, with room for more.
func savedState(text, cookie []byte) []byte {
	b := make([]byte, saveHead+16384)
	copy(b, saveMagic)
	binary.LittleEndian.PutUint32(b[16:], saveVersion)
	binary.LittleEndian.PutUint32(b[20:], 16384)
	binary.LittleEndian.PutUint32(b[24:], 1)
	copy(b[saveHead:], text)
	if cookie != nil {
		binary.LittleEndian.PutUint32(b[32:], uint32(len(text)+1))
		copy(b[saveHead+len(text)+1:], cookie)
	}
	return b
}

func (c *fakeConn) Description(name string, config bool) (text string, err error) {
	err = c.call("description", name, func(d *fakeDomain) (err error) {
		text, err = d.description(!config).Marshal()
		return err
	})
	return text, err
}

func (d *fakeDomain) description(live bool) *libvirtxml.Domain {
	if live && d.live != nil {
		return d.live
	}
	return d.xml
}

// plug changes a description in place; a run has one of its own from then on.
func (c *fakeConn) plug(op, name, text string, live bool, change func(x *libvirtxml.Domain, disk libvirtxml.DomainDisk) error) error {
	return c.call(op, name, func(d *fakeDomain) error {
		var disk libvirtxml.DomainDisk
		if err := disk.Unmarshal(text); err != nil {
			return err
		}
		if live && !active(d.state) {
			return &callError{code: codeInvalid, text: "domain is not running"}
		}
		return change(d.description(live), disk)
	})
}

func (c *fakeConn) Attach(name, text string, live bool) error {
	return c.plug("attach", name, text, live, func(x *libvirtxml.Domain, disk libvirtxml.DomainDisk) error {
		if slices.ContainsFunc(x.Devices.Disks, func(d libvirtxml.DomainDisk) bool { return d.Target.Dev == disk.Target.Dev }) {
			return &callError{code: codeFailed, text: "target " + disk.Target.Dev + " already exists"}
		}
		if _, err := os.Stat(disk.Source.File.File); err != nil && live {
			return &callError{code: codeSystem, text: err.Error()}
		}
		x.Devices.Disks = append(x.Devices.Disks, disk)
		return nil
	})
}

func (c *fakeConn) Detach(name, text string, live bool) error {
	return c.plug("detach", name, text, live, func(x *libvirtxml.Domain, disk libvirtxml.DomainDisk) error {
		if live && c.h.holds.Add(-1) >= 0 {
			return nil // the guest has yet to let go of it
		}
		x.Devices.Disks = slices.DeleteFunc(x.Devices.Disks, func(d libvirtxml.DomainDisk) bool { return d.Target.Dev == disk.Target.Dev })
		return nil
	})
}

func (c *fakeConn) Volumes(pool, prefix string) (all []volume, err error) {
	err = c.call("volumes", "", func(*fakeDomain) error {
		dir, err := c.h.pool(pool)
		if err != nil {
			return err
		}
		entries, err := os.ReadDir(dir)
		for _, e := range entries {
			if fi, err := e.Info(); err == nil && strings.HasPrefix(e.Name(), prefix) {
				all = append(all, volume{e.Name(), fi.Size(), fi.ModTime()})
			}
		}
		return err
	})
	return all, err
}

func (c *fakeConn) SavedXML(file string) (text string, err error) {
	err = c.call("saved xml", "", func(*fakeDomain) error {
		head, err := headOf(file)
		text = string(head.xml)
		return err
	})
	return text, err
}

func headOf(file string) (saveData, error) {
	f, err := os.Open(file)
	if err != nil {
		return saveData{}, &callError{code: codeSystem, text: err.Error()}
	}
	defer f.Close()
	head, err := readSave(f)
	if err != nil {
		return saveData{}, &callError{code: codeFailed, text: err.Error()}
	}
	return head, nil
}

func (c *fakeConn) Restore(file, text string) error {
	head, err := headOf(file)
	if err != nil {
		return err
	}
	if text == "" {
		text = string(head.xml)
	}
	var x libvirtxml.Domain
	if err := x.Unmarshal(text); err != nil {
		return &callError{code: 27, text: err.Error()}
	}
	return c.call("restore", x.Name, func(d *fakeDomain) error {
		if d.xml.UUID != x.UUID || string(head.cookie) != "<cookie/>" {
			return &callError{code: codeConfigSupport, text: "target domain uuid does not match source"}
		}
		d.live, d.record = &x, x.Metadata.XML
		return c.boot(d, false)
	})
}

// Addresses has a lease at the second look, unless the host says otherwise.
func (c *fakeConn) Addresses(name string, source addressSource) (all []netip.Addr, err error) {
	err = c.call("addresses", name, func(d *fakeDomain) (err error) {
		if !active(d.state) {
			return &callError{code: codeInvalid, text: "domain is not running"}
		}
		d.asked++
		if c.h.addresses != nil {
			all, err = c.h.addresses(source, d.asked)
			return err
		}
		if source == fromAgent {
			return &callError{code: codeArgUnsupported, text: "argument unsupported: QEMU guest agent is not configured"}
		}
		if source == fromLease && d.asked > 3 {
			all = []netip.Addr{netip.MustParseAddr("192.0.2.7")}
		}
		return nil
	})
	return all, err
}

// Screenshot is of a black pixel.
func (c *fakeConn) Screenshot(name string, w io.Writer) (string, error) {
	err := c.call("screenshot", name, func(d *fakeDomain) error {
		if len(d.xml.Devices.Videos) == 0 {
			return &callError{code: codeUnsupported, text: "Operation not supported: no screens to take screenshot from"}
		}
		_, err := w.Write([]byte("P6\n1 1\n255\n\x00\x00\x00"))
		return err
	})
	return "image/x-portable-pixmap", err
}

// Volumes are files of one folder.
func (c *fakeConn) PoolPath(pool string) (path string, err error) {
	err = c.call("pool path", "", func(*fakeDomain) error { path, err = c.h.pool(pool); return err })
	return path, err
}

func (h *fakeHost) pool(name string) (string, error) {
	if name != DefaultPool {
		return "", &callError{code: codeNoPool, text: "Storage pool not found: no storage pool with matching name '" + name + "'"}
	}
	return filepath.Join(h.dir, "pool"), os.MkdirAll(filepath.Join(h.dir, "pool"), 0o700)
}

func (c *fakeConn) volume(op, pool, name string, flag int, f func(*os.File) error) error {
	return c.call(op, "", func(*fakeDomain) error {
		dir, err := c.h.pool(pool)
		if err != nil {
			return err
		}
		file, err := os.OpenFile(filepath.Join(dir, name), os.O_RDWR|flag, 0o600)
		if errors.Is(err, os.ErrNotExist) {
			return &callError{code: codeNoVolume, text: "Storage volume not found: no storage vol with matching name '" + name + "'"}
		}
		if err != nil {
			return err
		}
		return errors.Join(f(file), file.Close())
	})
}

func (c *fakeConn) MakeVolume(pool, name string, size int64) error {
	return c.volume("make volume", pool, name, os.O_CREATE|os.O_EXCL, func(f *os.File) error { return f.Truncate(size) })
}

func (c *fakeConn) RemoveVolume(pool, name string) error {
	return c.volume("remove volume", pool, name, 0, func(f *os.File) error { return os.Remove(f.Name()) })
}

func (c *fakeConn) Upload(pool, name string, off int64, b []byte) error {
	return c.volume("upload", pool, name, 0, func(f *os.File) error { _, err := f.WriteAt(b, off); return err })
}

func (c *fakeConn) Download(pool, name string, off int64, b []byte) error {
	return c.volume("download", pool, name, 0, func(f *os.File) error { _, err := f.ReadAt(b, off); return err })
}

func (c *fakeConn) Channel(name, _ string) (rw io.ReadWriteCloser, err error) {
	err = c.call("channel", name, func(d *fakeDomain) error {
		if d.guest == nil {
			return &callError{code: codeInvalid, text: "domain is not running"}
		}
		rw, err = net.Dial("unix", d.guest.listener.Addr().String())
		return err
	})
	return rw, err
}

// Close ends what was to end with this connection.
func (c *fakeConn) Close() error {
	c.h.mu.Lock()
	delete(c.h.conns, c)
	var doomed []string
	for name, d := range c.h.domains {
		if d.die == c {
			doomed = append(doomed, name)
		}
	}
	c.dead = true
	c.h.mu.Unlock()
	for _, name := range doomed {
		c.h.stop(name, offDestroyed)
	}
	return nil
}

// fakeGuest is an agent that listens where QEMU would.
type fakeGuest struct {
	listener net.Listener
	cancel   context.CancelFunc
	done     chan struct{}
	gate     gate
}

// gate lets nobody through while it is shut.
type gate struct {
	mu   sync.Mutex
	open chan struct{} // nil: it is open
}

func (g *gate) set(open bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	switch {
	case !open && g.open == nil:
		g.open = make(chan struct{})
	case open && g.open != nil:
		close(g.open)
		g.open = nil
	}
}

func (g *gate) pass() {
	g.mu.Lock()
	open := g.open
	g.mu.Unlock()
	if open != nil {
		<-open
	}
}

// startGuest runs a guest for a domain; under the host's lock.
func (h *fakeHost) startGuest(d *fakeDomain) (*fakeGuest, error) {
	x := d.xml
	if d.live != nil {
		x = d.live
	}
	path := x.Devices.Channels[0].Source.UNIX.Path
	if path == "" { // libvirt chooses
		path = filepath.Join(h.dir, fmt.Sprintf("s%d", len(h.domains))+d.name[len(d.name)-5:])
	}
	_ = os.Remove(path)
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, &callError{code: codeInternal, text: err.Error()}
	}
	dir, err := os.MkdirTemp(h.dir, "guest")
	if err != nil {
		return nil, err
	}
	said := map[string]string{}
	for _, w := range strings.Fields(x.OS.Cmdline) {
		if k, v, ok := strings.Cut(strings.TrimPrefix(w, "bullpen."), "="); ok {
			said[k] = v
		}
	}
	files := map[string]string{}
	for _, disk := range x.Devices.Disks {
		files[disk.Serial] = disk.Source.File.File
	}
	ctx, cancel := context.WithCancel(context.Background())
	g := &fakeGuest{listener: l, cancel: cancel, done: make(chan struct{})}
	off := false
	agent, err := guest.New(guest.Config{
		Dial: func(ctx context.Context) (io.ReadWriteCloser, error) {
			c, err := l.Accept()
			if err != nil {
				return nil, err
			}
			return gated{c, &g.gate}, nil
		},
		Secret: said["secret"], Incarnation: said["incarnation"],
		Disks: func(n int) (guest.Disk, error) {
			f, err := os.OpenFile(files[fmt.Sprintf("bullpen-job-%d", n)], os.O_RDWR, 0)
			if err != nil {
				return nil, err
			}
			return fileDisk{f}, nil
		},
		Inputs: func(_ context.Context, in diskio.GoInput) (string, func() error, error) {
			return "", nil, errors.New("the fake mounts nothing")
		},
		WorkDir: filepath.Join(dir, "work"), Root: dir, Mark: filepath.Join(dir, "mark"),
		PowerOff: func() { off = true },
	})
	if err != nil {
		cancel()
		return nil, err
	}
	name := d.name
	h.guests.Add(1)
	go func() {
		defer h.guests.Done()
		_ = agent.Run(ctx)
		_ = l.Close()
		close(g.done)
		if off || ctx.Err() == nil {
			h.guests.Add(1)
			go func() { // stop waits for this guest
				defer h.guests.Done()
				h.stop(name, offShutdown, event{name, eventShutdown, 1})
			}()
		}
	}()
	return g, nil
}

func (g *fakeGuest) end() {
	g.cancel()
	_ = g.listener.Close()
	g.gate.set(true)
	<-g.done
}

// gated is a connection that stands still while its guest is suspended.
type gated struct {
	net.Conn
	gate *gate
}

func (g gated) Write(b []byte) (int, error) {
	g.gate.pass()
	return g.Conn.Write(b)
}

type fileDisk struct{ *os.File }

func (f fileDisk) Size() int64 {
	fi, err := f.Stat()
	if err != nil {
		return 0
	}
	return fi.Size()
}
