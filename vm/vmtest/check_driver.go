package vmtest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/bullpen-vm/bullpen/vm"
)

var driverChecks = []check{
	{
		name: "host-id",
		rule: "HostID is not empty, and the same for all who reach this hypervisor.",
		do: func(e *env) {
			if e.d.HostID() == "" {
				e.errorf("HostID is empty")
			}
			want(e, e.open().HostID(), e.d.HostID(), "HostID of a second driver")
		},
	},
	{
		name: "create-defines",
		rule: "Create defines a machine and does not start it. Info tells its ID, its template and the ownership of its Spec.",
		do: func(e *env) {
			m, s := e.create()
			i := e.info(m)
			want(e, i.ID, m.ID(), "Info.ID")
			want(e, i.State, vm.StateDefined, "Info.State")
			want(e, i.Template, s.Template, "Info.Template")
			want(e, i.Owner, s.Owner, "Info.Owner")
			if i.End != nil {
				e.errorf("Info.End is %+v of a machine that never ran, want nil", *i.End)
			}
			if i.Created.IsZero() {
				e.errorf("Info.Created is zero")
			}
		},
	},
	{
		name: "create-exists",
		rule: "Create of a name that exists is ErrExists, and the machine that is there is left as it is.",
		do: func(e *env) {
			m, s := e.boot()
			other := s
			other.Owner.Pool = "another"
			_, err := e.d.Create(e, other)
			e.is(err, vm.ErrExists, "Create again")
			_, err = e.open().Create(e, other)
			e.is(err, vm.ErrExists, "Create by another driver")
			i := e.info(m)
			want(e, i.Owner, s.Owner, "Info.Owner of the first machine")
			want(e, i.State, vm.StateRunning, "Info.State of the first machine")
		},
	},
	{
		name: "create-race",
		rule: "Of several Creates of one name at once exactly one succeeds, the others answer ErrExists (or ErrState or ErrBusy), and the machine is whole.",
		do: func(e *env) {
			s := e.spec()
			errs := together(4, func(int) error {
				_, err := e.d.Create(e, s)
				return err
			})
			won := 0
			for _, err := range errs {
				switch {
				case err == nil:
					won++
				case errors.Is(err, vm.ErrExists), errors.Is(err, vm.ErrState), errors.Is(err, vm.ErrBusy):
				default:
					e.errorf("a Create that lost: %w", err)
				}
			}
			want(e, won, 1, "the number of Creates that succeeded")
			m, err := e.d.Open(e, vm.ID(s.Name))
			e.must(err, "Open afterwards")
			e.ok(m.Start(e), "Start afterwards")
		},
	},
	{
		name: "create-refuses",
		rule: "A Spec that breaks a rule is refused by Create with an error that names the field, and nothing is left behind.",
		do: func(e *env) {
			for field, change := range map[string]func(*vm.Spec){
				"Name":              func(s *vm.Spec) { s.Name = "../" + s.Name },
				"Owner.Incarnation": func(s *vm.Spec) { s.Owner.Incarnation = "" },
				"CPUs":              func(s *vm.Spec) { s.CPUs = -1 },
				"Disks":             func(s *vm.Spec) { s.Disks = []vm.Disk{{Format: "guess"}} },
			} {
				s := e.spec()
				change(&s)
				if _, err := e.d.Create(e, s); err == nil || !strings.Contains(err.Error(), field) {
					e.errorf("Create with a wrong %s: got %s, want an error that names it", field, quote(err))
				}
				e.absent(vm.ID(s.Name))
			}
		},
	},
	{
		name: "create-ended-context",
		rule: "Create with a context that has ended answers an error, and nothing is left behind.",
		do: func(e *env) {
			s := e.spec()
			if _, err := e.d.Create(ended(e), s); err == nil {
				e.errorf("Create with an ended context: got no error")
			}
			e.absent(vm.ID(s.Name))
		},
	},
	{
		name: "open",
		rule: "Open finds a machine by its ID, whoever made it; ErrNotFound when there is none.",
		do: func(e *env) {
			m, s := e.create()
			got, err := e.open().Open(e, m.ID())
			e.must(err, "Open by another driver")
			want(e, got.ID(), m.ID(), "ID of the machine opened")
			want(e, e.info(got).Owner, s.Owner, "Info.Owner of the machine opened")
			_, err = e.d.Open(e, vm.ID(e.spec().Name))
			e.is(err, vm.ErrNotFound, "Open of an ID that was never used")
		},
	},
	{
		name: "list-complete",
		rule: "List answers with every machine of the hypervisor, whoever made it and whatever its state, each once, with the same Info as the machine's own.",
		do: func(e *env) {
			a, _ := e.create()
			b, _ := e.boot()
			mine := e.d
			e.d = e.open()
			c, _ := e.create()
			for _, d := range []vm.Driver{mine, e.d} {
				all, err := d.List(e)
				e.must(err, "List")
				for _, m := range []vm.Machine{a, b, c} {
					n := 0
					for _, i := range all {
						if i.ID != m.ID() {
							continue
						}
						n++
						own := e.info(m)
						want(e, i.State, own.State, "the state listed of "+string(i.ID))
						want(e, i.Owner, own.Owner, "the ownership listed of "+string(i.ID))
						want(e, i.Template, own.Template, "the template listed of "+string(i.ID))
					}
					want(e, n, 1, "how often "+string(m.ID())+" is listed")
				}
			}
		},
	},
	{
		name: "list-error",
		rule: "A List that could not look answers an error, never a part and never \"none\".",
		do: func(e *env) {
			e.create()
			if all, err := e.d.List(ended(e)); err == nil {
				// A driver that needs no wait may still answer, with all.
				if !slices.ContainsFunc(all, func(i vm.Info) bool { return slices.Contains(e.made, i.ID) }) {
					e.errorf("List with an ended context: got %d machines, without the one that exists, and no error", len(all))
				}
			}
		},
	},
	{
		name: "concurrent",
		rule: "Drivers and machines are safe for concurrent use: machines that are made, started, looked at and destroyed at once do not disturb each other.",
		do: func(e *env) {
			specs := make([]vm.Spec, 6)
			for i := range specs {
				specs[i] = e.spec()
			}
			for i, err := range together(len(specs), func(i int) error {
				m, err := e.d.Create(e, specs[i])
				if err != nil {
					return err
				}
				if err := m.Start(e); err != nil {
					return err
				}
				info, err := m.Info(e)
				if err != nil {
					return err
				}
				if info.State != vm.StateRunning || info.Owner != specs[i].Owner {
					return fmt.Errorf("Info after Start: %v of %+v, want running of %+v", info.State, info.Owner, specs[i].Owner)
				}
				if _, err := e.d.List(e); err != nil {
					return err
				}
				return m.Destroy(e)
			}) {
				e.ok(err, "machine %d of %d", i, len(specs))
			}
			for _, s := range specs {
				e.absent(vm.ID(s.Name))
			}
		},
	},
	{
		name: "errors",
		rule: "Errors are *vm.OpError with the operation and the machine, so that they say what failed where.",
		do: func(e *env) {
			id := vm.ID(e.spec().Name)
			_, err := e.d.Open(e, id)
			e.opError("Open", err, id)
			m, s := e.boot()
			e.opError("Start", m.Start(e), m.ID())
			_, err = e.d.Create(e, s)
			e.opError("Create", err, m.ID())
		},
	},
	{
		name: "secret",
		rule: "The secret of the Spec is told to nobody: not in Info, not in an error.",
		do: func(e *env) {
			m, s := e.boot()
			if s.Secret == "" {
				e.errorf("Harness.Spec gives no Secret, so this cannot be checked")
				return
			}
			i := e.info(m)
			_, err := e.d.Create(e, s)
			for what, text := range map[string]string{"Info": fmt.Sprintf("%+v", i), "an error": fmt.Sprintf("%+v", err)} {
				if strings.Contains(text, s.Secret.Reveal()) {
					e.errorf("%s tells the secret", what)
				}
			}
		},
	},
}

// absent notes a violation when a machine is there.
func (e *env) absent(id vm.ID) {
	if _, err := e.d.Open(e, id); !errors.Is(err, vm.ErrNotFound) && vm.ID(strings.TrimPrefix(string(id), "../")) == id {
		e.errorf("Open of %s, which should not be there: got %s, want %q", id, quote(err), vm.ErrNotFound)
	}
	all, err := e.d.List(e)
	e.must(err, "List")
	for _, i := range all {
		if i.ID == id || strings.HasSuffix(string(id), "/"+string(i.ID)) {
			e.errorf("%s is still listed, as %v", id, i.State)
		}
	}
}

func (e *env) opError(what string, err error, id vm.ID) {
	var oe *vm.OpError
	if !errors.As(err, &oe) {
		e.errorf("%s answered %s, want a *vm.OpError", what, quote(err))
		return
	}
	if oe.Op == "" {
		e.errorf("the OpError of %s has no Op", what)
	}
	want(e, oe.ID, id, "ID in the OpError of "+what)
}

// ended is a context that has ended.
func ended(ctx context.Context) context.Context {
	ctx, cancel := context.WithCancel(ctx)
	cancel()
	return ctx
}

// together calls f n times at once and gives the errors in order.
func together(n int, f func(i int) error) []error {
	errs := make([]error, n)
	start := make(chan struct{})
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			<-start
			errs[i] = f(i)
		})
	}
	close(start)
	wg.Wait()
	return errs
}
