//go:build cgo && (libvirt || libvirt_dlopen)

package libvirt

import (
	"errors"
	"io"
	"maps"
	"net/netip"
	"slices"
	"sync"

	lv "libvirt.org/go/libvirt"
)

// connection is conn over libvirt's binding. It holds no domains: each call
// looks its domain up and frees it.
type connection struct {
	raw     *lv.Connect
	shared  bool // raw is the process's
	events  int  // callback for events
	watched bool // there is one for the close too
	calls   sync.WaitGroup

	mu       sync.Mutex
	closed   bool
	channels map[*farChannel]bool
}

// wrap makes an error of libvirt's, and leaves nil and others as they are.
func wrap(err error, lost bool) error {
	var e lv.Error
	if errors.As(err, &e) {
		return &callError{code: int(e.Code), text: e.Message, lost: lost}
	}
	return err
}

// call is a call under way. Close waits for all: libvirt's calls do not hold the
// connection that they use.
func (c *connection) call(f func() error) error {
	c.mu.Lock()
	if c.closed {
		c.mu.Unlock()
		return &callError{text: "the connection was closed", lost: true}
	}
	c.calls.Add(1)
	c.mu.Unlock()
	defer c.calls.Done()
	err := f()
	if err == nil {
		return nil
	}
	alive, aerr := c.raw.IsAlive()
	return wrap(err, aerr == nil && !alive)
}

// with calls f with a domain.
func (c *connection) with(name string, f func(*lv.Domain) error) error {
	return c.call(func() error {
		d, err := c.raw.LookupDomainByName(name)
		if err != nil {
			return err
		}
		err = f(d)
		_ = d.Free() // cannot fail with a domain that is held
		return err
	})
}

func (c *connection) Capabilities() (text string, err error) {
	err = c.call(func() (err error) {
		text, err = c.raw.GetCapabilities()
		return err
	})
	return text, err
}

func (c *connection) List() (all []domain, err error) {
	err = c.call(func() error {
		doms, err := c.raw.ListAllDomains(0)
		if err != nil {
			return err
		}
		var errs []error
		for i := range doms {
			d, err := read(&doms[i])
			switch {
			case err == nil:
				all = append(all, d)
			case isCode(err, lv.ERR_NO_DOMAIN): // gone since
			default:
				errs = append(errs, err)
			}
			_ = doms[i].Free()
		}
		if len(errs) > 0 {
			return errs[0]
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return all, nil
}

func (c *connection) Look(name string) (got domain, err error) {
	err = c.with(name, func(d *lv.Domain) (err error) {
		got, err = read(d)
		return err
	})
	return got, err
}

func read(d *lv.Domain) (domain, error) {
	name, err := d.GetName()
	if err != nil {
		return domain{}, err
	}
	state, reason, err := d.GetState()
	if err != nil {
		return domain{}, err
	}
	text, err := d.GetMetadata(lv.DOMAIN_METADATA_ELEMENT, Namespace, lv.DOMAIN_AFFECT_CURRENT)
	if err != nil && !isCode(err, lv.ERR_NO_DOMAIN_METADATA) {
		return domain{}, err
	}
	return domain{name: name, state: int(state), reason: reason, record: text}, nil
}

func isCode(err error, code lv.ErrorNumber) bool {
	var e lv.Error
	return errors.As(err, &e) && e.Code == code
}

func (c *connection) Define(xml string) error {
	return c.call(func() error {
		d, err := c.raw.DomainDefineXML(xml)
		if err == nil {
			_ = d.Free()
		}
		return err
	})
}

// Undefine asks for less where a hypervisor does not know a flag, or its daemon
// is too old for it.
func (c *connection) Undefine(name string) error {
	const most = lv.DOMAIN_UNDEFINE_MANAGED_SAVE | lv.DOMAIN_UNDEFINE_SNAPSHOTS_METADATA |
		lv.DOMAIN_UNDEFINE_NVRAM | lv.DOMAIN_UNDEFINE_CHECKPOINTS_METADATA
	return c.with(name, func(d *lv.Domain) (err error) {
		for _, flags := range []lv.DomainUndefineFlagsValues{most, most &^ lv.DOMAIN_UNDEFINE_CHECKPOINTS_METADATA,
			lv.DOMAIN_UNDEFINE_MANAGED_SAVE | lv.DOMAIN_UNDEFINE_SNAPSHOTS_METADATA} {
			if err = d.UndefineFlags(flags); !isCode(err, lv.ERR_INVALID_ARG) && !isCode(err, lv.ERR_NO_SUPPORT) {
				return err
			}
		}
		return err
	})
}

func startFlags(die bool) lv.DomainCreateFlags {
	if die {
		return lv.DOMAIN_START_AUTODESTROY
	}
	return lv.DOMAIN_NONE
}

func (c *connection) Start(name string, die bool) error {
	return c.with(name, func(d *lv.Domain) error { return d.CreateWithFlags(startFlags(die)) })
}

func (c *connection) Run(xml string, die bool) error {
	return c.call(func() error {
		d, err := c.raw.DomainCreateXML(xml, startFlags(die))
		if err == nil {
			_ = d.Free()
		}
		return err
	})
}

func (c *connection) Shutdown(name string) error {
	return c.with(name, func(d *lv.Domain) error { return d.ShutdownFlags(lv.DOMAIN_SHUTDOWN_DEFAULT) })
}

func (c *connection) Kill(name string) error {
	return c.with(name, func(d *lv.Domain) error { return d.DestroyFlags(lv.DOMAIN_DESTROY_DEFAULT) })
}

func (c *connection) Suspend(name string) error {
	return c.with(name, (*lv.Domain).Suspend)
}

func (c *connection) Resume(name string) error {
	return c.with(name, (*lv.Domain).Resume)
}

func (c *connection) SetRecord(name, record string) error {
	return c.with(name, func(d *lv.Domain) error {
		const both = lv.DOMAIN_AFFECT_LIVE | lv.DOMAIN_AFFECT_CONFIG
		set := func(where lv.DomainModificationImpact) error {
			return d.SetMetadata(lv.DOMAIN_METADATA_ELEMENT, record, metadataKey, Namespace, where)
		}
		err := set(both)
		if isCode(err, lv.ERR_OPERATION_INVALID) { // it does not run
			if err = set(lv.DOMAIN_AFFECT_CONFIG); err == nil {
				// It may have been started between the two.
				if on, aerr := d.IsActive(); aerr == nil && on {
					err = set(both)
				}
			}
		}
		return err
	})
}

func (c *connection) Snapshot(name, xml string) error {
	return c.with(name, func(d *lv.Domain) error {
		s, err := d.CreateSnapshotXML(xml, 0)
		if err == nil {
			_ = s.Free()
		}
		return err
	})
}

func (c *connection) withSnapshot(name, snapshot string, f func(*lv.DomainSnapshot) error) error {
	return c.with(name, func(d *lv.Domain) error {
		s, err := d.SnapshotLookupByName(snapshot, 0)
		if err != nil {
			return err
		}
		err = f(s)
		_ = s.Free()
		return err
	})
}

func (c *connection) Revert(name, snapshot string) error {
	return c.withSnapshot(name, snapshot, func(s *lv.DomainSnapshot) error { return s.RevertToSnapshot(0) })
}

func (c *connection) DeleteSnapshot(name, snapshot string) error {
	return c.withSnapshot(name, snapshot, func(s *lv.DomainSnapshot) error { return s.Delete(0) })
}

func (c *connection) Snapshots(name string) (names []string, err error) {
	err = c.with(name, func(d *lv.Domain) error {
		all, err := d.ListAllSnapshots(lv.DOMAIN_SNAPSHOT_LIST_TOPOLOGICAL)
		if err != nil {
			return err
		}
		for i := range all {
			n, nerr := all[i].GetName()
			if nerr != nil && err == nil {
				err = nerr
			}
			names = append(names, n)
			_ = all[i].Free()
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return names, nil
}

func (c *connection) Save(name, file string) error {
	return c.with(name, func(d *lv.Domain) error { return d.SaveFlags(file, "", 0) })
}

func (c *connection) Description(name string, config bool) (text string, err error) {
	var flags lv.DomainXMLFlags
	if config {
		flags = lv.DOMAIN_XML_INACTIVE
	}
	err = c.with(name, func(d *lv.Domain) (err error) {
		text, err = d.GetXMLDesc(flags)
		return err
	})
	return text, err
}

func affects(live bool) lv.DomainDeviceModifyFlags {
	if live {
		return lv.DOMAIN_DEVICE_MODIFY_LIVE
	}
	return lv.DOMAIN_DEVICE_MODIFY_CONFIG
}

func (c *connection) Attach(name, xml string, live bool) error {
	return c.with(name, func(d *lv.Domain) error { return d.AttachDeviceFlags(xml, affects(live)) })
}

func (c *connection) Detach(name, xml string, live bool) error {
	return c.with(name, func(d *lv.Domain) error { return d.DetachDeviceFlags(xml, affects(live)) })
}

func (c *connection) SavedXML(file string) (text string, err error) {
	err = c.call(func() (err error) {
		text, err = c.raw.DomainSaveImageGetXMLDesc(file, lv.DOMAIN_SAVE_IMAGE_XML_SECURE)
		return err
	})
	return text, err
}

func (c *connection) Restore(file, xml string) error {
	return c.call(func() error { return c.raw.DomainRestoreFlags(file, xml, 0) })
}

// Addresses leaves out what is no address.
func (c *connection) Addresses(name string, source addressSource) (all []netip.Addr, err error) {
	err = c.with(name, func(d *lv.Domain) error {
		found, err := d.ListAllInterfaceAddresses(lv.DomainInterfaceAddressesSource(source))
		for _, i := range found {
			for _, a := range i.Addrs {
				if addr, perr := netip.ParseAddr(a.Addr); perr == nil {
					all = append(all, addr)
				}
			}
		}
		return err
	})
	return all, err
}

// Screenshot drains libvirt's stream also when it cannot write.
func (c *connection) Screenshot(name string, w io.Writer) (kind string, err error) {
	err = c.with(name, func(d *lv.Domain) error {
		s, err := c.raw.NewStream(0)
		if err != nil {
			return err
		}
		defer func() { _ = s.Free() }()
		if kind, err = d.Screenshot(s, 0, 0); err != nil {
			return err
		}
		if err := s.RecvAll(func(_ *lv.Stream, b []byte) (int, error) { return w.Write(b) }); err != nil {
			return err // RecvAll has aborted the stream
		}
		return s.Finish()
	})
	return kind, err
}

// Close takes the callbacks off first: a connection that still has one is never
// let go by libvirt.
func (c *connection) Close() error {
	c.mu.Lock()
	if c.closed {
		c.mu.Unlock()
		return nil
	}
	c.closed = true
	c.mu.Unlock()
	c.calls.Wait()
	c.mu.Lock()
	open := slices.Collect(maps.Keys(c.channels))
	c.mu.Unlock()
	for _, r := range open {
		_ = r.Close() // it gives none
	}
	if c.shared {
		events.sinks.remove(c.events)
		return events.release()
	}
	errs := []error{c.raw.DomainEventDeregister(c.events)}
	if c.watched {
		errs = append(errs, c.raw.UnregisterCloseCallback())
	}
	_, err := c.raw.Close()
	return errors.Join(errors.Join(errs...), err, events.release())
}
