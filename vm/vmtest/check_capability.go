package vmtest

import (
	"bytes"
	"context"
	"errors"
	"io"
	"strings"

	"github.com/bullpen-vm/bullpen/vm"
)

var capabilityChecks = []check{
	{
		name: "capabilities",
		rule: "What As finds is exactly what Harness.Without does not declare absent, and what is found works: it does not answer ErrUnsupported.",
		do: func(e *env) {
			m, _ := e.boot()
			has := vm.Capabilities(e.d)&vm.AllOfDrivers | vm.Capabilities(m)&vm.AllOfMachines
			should := (vm.AllOfDrivers | vm.AllOfMachines) &^ e.h.Without()
			if extra := has &^ should; extra != 0 {
				e.errorf("As finds %v, which Harness.Without declares absent", extra)
			}
			if missing := should &^ has; missing != 0 {
				e.errorf("As does not find %v, which Harness.Without does not declare absent", missing)
			}
			for _, t := range tries(e, e.d, m) {
				if !has.Has(t.cap) || t.ends {
					continue
				}
				if err := t.do(); errors.Is(err, errors.ErrUnsupported) {
					e.errorf("%s of %v, which As finds: %w", t.name, t.cap, err)
				}
			}
		},
	},
	{
		name: "set-owner",
		rule: "SetOwner rewrites the ownership on the machine, so that others see it, in whatever state the machine is, and changes nothing else.",
		need: vm.CanOwn,
		do: func(e *env) {
			m, s := e.create()
			o := as[vm.Owned](e, m)
			for _, state := range []vm.State{vm.StateDefined, vm.StateRunning, vm.StateStopped} {
				switch state {
				case vm.StateRunning:
					e.must(m.Start(e), "Start")
				case vm.StateStopped:
					e.must(m.Kill(e), "Kill")
				}
				owner := s.Owner
				owner.Pool, owner.Token, owner.Slot, owner.Lock = "pool of "+state.String(), uint64(state)+7, "host/x/slot/<1>&", "/run/ä lock"
				e.must(o.SetOwner(e, owner), "SetOwner of a machine that is %v", state)
				other, err := e.open().Open(e, m.ID())
				e.must(err, "Open by another driver")
				i := e.info(other)
				want(e, i.Owner, owner, "the ownership that another driver sees")
				want(e, i.State, state, "the state after SetOwner")
			}
		},
	},
	{
		name: "addresses",
		rule: "Addresses waits for an address of the guest and gives it; a machine that does not run is ErrState.",
		need: vm.CanAddress,
		do: func(e *env) {
			m, _ := e.create()
			a := as[vm.Addresser](e, m)
			_, err := a.Addresses(e)
			e.is(err, vm.ErrState, "Addresses of a machine that does not run")
			e.must(m.Start(e), "Start")
			got, err := a.Addresses(e)
			e.must(err, "Addresses")
			if len(got) == 0 {
				e.errorf("Addresses gives none and no error")
			}
			for _, addr := range got {
				if !addr.IsValid() {
					e.errorf("Addresses gives an invalid address")
				}
			}
		},
	},
	{
		name: "console",
		rule: "Console gives at most the last n bytes, also of a machine that ended or never ran.",
		need: vm.CanConsole,
		do: func(e *env) {
			m, _ := e.create()
			c := as[vm.Consoler](e, m)
			_, err := c.Console(e, 100)
			e.ok(err, "Console of a machine that never ran")
			e.must(m.Start(e), "Start")
			e.must(m.Kill(e), "Kill")
			all, err := c.Console(e, 1<<20)
			e.must(err, "Console")
			last, err := c.Console(e, 5)
			e.must(err, "Console")
			if len(last) > 5 {
				e.errorf("Console gave %d bytes, asked for at most 5", len(last))
			}
			if !bytes.HasSuffix(all, last) {
				e.errorf("the last 5 bytes %q are not the end of the console %q", last, all)
			}
		},
	},
	{
		name: "screenshot",
		rule: "Screenshot writes a picture and says its media type.",
		need: vm.CanScreenshot,
		do: func(e *env) {
			m, _ := e.boot()
			var b bytes.Buffer
			kind, err := as[vm.Screenshotter](e, m).Screenshot(e, &b)
			e.must(err, "Screenshot")
			if !strings.HasPrefix(kind, "image/") || b.Len() == 0 {
				e.errorf("Screenshot wrote %d bytes of %q, want a picture of image/...", b.Len(), kind)
			}
		},
	},
}

var diskChecks = []check{
	{
		name: "job-disk",
		rule: "JobDisk n is as large as its Spec says and keeps what is written, through other handles and drivers and starts too. Each disk is the machine's own.",
		need: vm.CanAttach,
		do: func(e *env) {
			m, s := e.create()
			other, _ := e.create()
			if len(s.JobDisks) < 2 {
				e.errorf("Harness.Spec has %d job disks, want 2", len(s.JobDisks))
				return
			}
			for n, size := range s.JobDisks {
				d := disk(e, m, n)
				want(e, d.Size(), size, "the size of a job disk")
				mark := []byte{'d', byte('0' + n)}
				for _, off := range []int64{0, 5000, size - int64(len(mark))} {
					_, err := d.WriteAt(mark, off)
					e.ok(err, "WriteAt %d of disk %d", off, n)
				}
				e.ok(d.Sync(e), "Sync")
				if _, err := d.WriteAt(mark, size-1); err == nil {
					e.errorf("WriteAt beyond the disk's end: got no error")
				}
				e.ok(d.Close(), "Close of a disk")
			}
			e.must(m.Start(e), "Start")
			e.must(m.Kill(e), "Kill")
			far, err := e.open().Open(e, m.ID())
			e.must(err, "Open by another driver")
			for n, size := range s.JobDisks {
				mark := string([]byte{'d', byte('0' + n)})
				for _, h := range []vm.Machine{m, far} {
					for _, off := range []int64{0, 5000, size - 2} {
						want(e, read(e, disk(e, h, n), off), mark, "what is read back")
					}
				}
				want(e, read(e, disk(e, other, n), 5000), "\x00\x00", "what another machine's disk holds")
				if k, err := disk(e, m, n).ReadAt(make([]byte, 4), size-2); k != 2 || !errors.Is(err, io.EOF) {
					e.errorf("ReadAt across the end: got %d bytes and %s, want 2 and EOF", k, quote(err))
				}
			}
			for _, n := range []int{-1, len(s.JobDisks)} {
				if _, err := as[vm.Attacher](e, m).JobDisk(e, n); err == nil {
					e.errorf("JobDisk(%d): got no error, though there are %d", n, len(s.JobDisks))
				}
			}
		},
	},
	{
		name: "inputs",
		rule: "Insert puts an input into a reserved place, again at no harm, another one after Eject; Eject is idempotent; places that are not reserved are refused.",
		need: vm.CanAttach,
		do: func(e *env) {
			m, s := e.create()
			if s.Inputs < 2 {
				e.errorf("Harness.Spec has %d places for inputs, want 2", s.Inputs)
				return
			}
			a := as[vm.Attacher](e, m)
			one, two := newPicture("one"), newPicture("two")
			try := func(when string) {
				e.ok(a.Eject(e, 0), "Eject of an empty place, %s", when)
				e.ok(a.Insert(e, 0, one), "Insert, %s", when)
				e.ok(a.Insert(e, 0, one), "Insert of what is there, %s", when)
				e.ok(a.Insert(e, 1, two), "Insert into the second place, %s", when)
				e.ok(a.Eject(e, 0), "Eject, %s", when)
				e.ok(a.Eject(e, 0), "Eject again, %s", when)
				e.ok(a.Insert(e, 0, two), "Insert of another input, %s", when)
				e.ok(a.Eject(e, 0), "Eject, %s", when)
				e.ok(a.Eject(e, 1), "Eject, %s", when)
			}
			try("before the start")
			e.must(m.Start(e), "Start")
			try("while it runs")
			for _, place := range []int{-1, s.Inputs} {
				if a.Insert(e, place, one) == nil {
					e.errorf("Insert into place %d: got no error, though there are %d", place, s.Inputs)
				}
			}
		},
	},
	{
		name: "stock",
		rule: "Stock lists the input that a machine has, once, whichever driver put it in; a place that is emptied harms nothing.",
		need: vm.CanAttach | vm.CanStock,
		do: func(e *env) {
			m, _ := e.create()
			in := newPicture("stock " + string(m.ID()))
			stock := func(when string) (n int) {
				all, err := as[vm.Stocker](e, e.d).Stock(e)
				e.ok(err, "Stock, %s", when)
				for _, d := range all {
					if d == in.Digest() {
						n++
					}
				}
				return n
			}
			if n := stock("before"); n != 0 {
				e.errorf("Stock lists %s, which nobody put in", in.Digest())
			}
			a := as[vm.Attacher](e, m)
			e.must(a.Insert(e, 0, in), "Insert")
			if n := stock("after the Insert"); n != 1 {
				e.errorf("Stock lists an input that a machine has %d times, want once", n)
			}
			e.ok(a.Insert(e, 1, in), "Insert into another place")
			if n := stock("after two Inserts"); n != 1 {
				e.errorf("Stock lists an input that is in two places %d times, want once", n)
			}
			e.ok(a.Eject(e, 0), "Eject")
			e.ok(a.Eject(e, 1), "Eject")
			stock("after the Ejects")
		},
	},
}

// disk opens a job disk.
func disk(e *env, m vm.Machine, n int) vm.JobDisk {
	d, err := as[vm.Attacher](e, m).JobDisk(e, n)
	e.must(err, "JobDisk(%d)", n)
	return d
}

// read gives two bytes of a disk and closes it.
func read(e *env, d vm.JobDisk, off int64) string {
	b := make([]byte, 2)
	_, err := d.ReadAt(b, off)
	e.ok(err, "ReadAt %d", off)
	e.ok(d.Close(), "Close of a disk")
	return string(b)
}

// try is one call of a method of a capability.
type try struct {
	name string
	cap  vm.Set // zero: of Driver or Machine itself
	ends bool   // it changes or ends the machine
	do   func() error
}

// tries are calls of every method of every capability, made with As.
func tries(ctx context.Context, d vm.Driver, m vm.Machine) []try {
	t := []try{
		{"List", 0, false, func() error { _, err := d.List(ctx); return err }},
		{"Open", 0, false, func() error { _, err := d.Open(ctx, m.ID()); return err }},
		{"Create", 0, true, func() error { _, err := d.Create(ctx, vm.Spec{}); return err }},
		{"Info", 0, false, func() error { _, err := m.Info(ctx); return err }},
		{"Start", 0, true, func() error { return m.Start(ctx) }},
		{"Stop", 0, true, func() error { return m.Stop(ctx) }},
		{"Kill", 0, true, func() error { return m.Kill(ctx) }},
		{"Destroy", 0, true, func() error { return m.Destroy(ctx) }},
		{"Close of the driver", 0, true, func() error { return d.Close() }},
	}
	if c, ok := vm.As[vm.Forker](d); ok {
		t = append(t,
			try{"Parents", vm.CanFork, false, func() error { _, err := c.Parents(ctx); return err }},
			try{"DropParent", vm.CanFork, false, func() error { return c.DropParent(ctx, "vmtest-none") }},
			try{"Fork", vm.CanFork, true, func() error { _, err := c.Fork(ctx, "vmtest-none", vm.Spec{}); return err }},
		)
	}
	if c, ok := vm.As[vm.Stocker](d); ok {
		t = append(t, try{"Stock", vm.CanStock, false, func() error { _, err := c.Stock(ctx); return err }})
	}
	if c, ok := vm.As[vm.Waiter](m); ok {
		t = append(t, try{"Wait", vm.CanWait, true, func() error { _, err := c.Wait(ctx); return err }})
	}
	if c, ok := vm.As[vm.Snapshotter](m); ok {
		t = append(t,
			try{"Snapshots", vm.CanSnapshot, false, func() error { _, err := c.Snapshots(ctx); return err }},
			try{"Snapshot", vm.CanSnapshot, true, func() error { return c.Snapshot(ctx, "vmtest") }},
			try{"Revert", vm.CanSnapshot, true, func() error { return c.Revert(ctx, "vmtest") }},
			try{"DeleteSnapshot", vm.CanSnapshot, true, func() error { return c.DeleteSnapshot(ctx, "vmtest") }},
		)
	}
	if c, ok := vm.As[vm.Saver](m); ok {
		t = append(t, try{"Save", vm.CanSave, true, func() error { return c.Save(ctx, "vmtest-save") }})
	}
	if c, ok := vm.As[vm.Attacher](m); ok {
		t = append(t,
			try{"JobDisk", vm.CanAttach, false, func() error {
				j, err := c.JobDisk(ctx, 0)
				if err != nil {
					return err
				}
				return j.Close()
			}},
			try{"Insert", vm.CanAttach, true, func() error { return c.Insert(ctx, 0, newPicture("try")) }},
			try{"Eject", vm.CanAttach, false, func() error { return c.Eject(ctx, 0) }},
		)
	}
	if c, ok := vm.As[vm.Owned](m); ok {
		t = append(t, try{"SetOwner", vm.CanOwn, true, func() error { return c.SetOwner(ctx, vm.Owner{Incarnation: "x"}) }})
	}
	if c, ok := vm.As[vm.Addresser](m); ok {
		t = append(t, try{"Addresses", vm.CanAddress, false, func() error { _, err := c.Addresses(ctx); return err }})
	}
	if c, ok := vm.As[vm.Consoler](m); ok {
		t = append(t, try{"Console", vm.CanConsole, false, func() error { _, err := c.Console(ctx, 10); return err }})
	}
	if c, ok := vm.As[vm.Messenger](m); ok {
		t = append(t, try{"Channel", vm.CanMessage, false, func() error { _, err := c.Channel(ctx); return err }})
	}
	if c, ok := vm.As[vm.Suspender](m); ok {
		t = append(t,
			try{"Suspend", vm.CanSuspend, true, func() error { return c.Suspend(ctx) }},
			try{"Resume", vm.CanSuspend, true, func() error { return c.Resume(ctx) }},
		)
	}
	if c, ok := vm.As[vm.Screenshotter](m); ok {
		t = append(t, try{"Screenshot", vm.CanScreenshot, false, func() error { _, err := c.Screenshot(ctx, io.Discard); return err }})
	}
	return t
}
