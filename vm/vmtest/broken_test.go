package vmtest_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"

	"github.com/bullpen-vm/bullpen/vm"
	"github.com/bullpen-vm/bullpen/vm/fake"
	"github.com/bullpen-vm/bullpen/vm/vmtest"
)

var errBroken = errors.New("broken")

// hook breaks one operation of a driver.
type hook func(ctx context.Context, id vm.ID, result any, do func(context.Context) error) error

// breaks puts hooks in front of a driver.
func breaks(hooks map[string]hook) func(vm.Driver) vm.Driver {
	return func(d vm.Driver) vm.Driver {
		return vm.Intercept(d, vm.Interceptor{
			Call: func(ctx context.Context, op string, id vm.ID, result any, do func(context.Context) error) error {
				if h := hooks[op]; h != nil {
					return h(ctx, id, result, do)
				}
				return do(ctx)
			},
		})
	}
}

// shell changes what an interceptor does not see.
type shell struct {
	vm.Driver
	host func(string) string
	spec func(vm.Spec) vm.Spec
}

func (s shell) HostID() string {
	if s.host != nil {
		return s.host(s.Driver.HostID())
	}
	return s.Driver.HostID()
}

func (s shell) Create(ctx context.Context, spec vm.Spec) (vm.Machine, error) {
	if s.spec != nil {
		spec = s.spec(spec)
	}
	return s.Driver.Create(ctx, spec)
}

func (s shell) As(target any) bool {
	if f, ok := target.(*vm.Forker); ok {
		found, ok := vm.As[vm.Forker](s.Driver)
		*f = found
		return ok
	}
	return false
}

// ignore answers nil whatever happened; never does nothing and answers nil.
func ignore(ctx context.Context, _ vm.ID, _ any, do func(context.Context) error) error {
	_ = do(ctx)
	return nil
}

func never(context.Context, vm.ID, any, func(context.Context) error) error { return nil }

func deafToContext(ctx context.Context, _ vm.ID, _ any, do func(context.Context) error) error {
	return do(context.WithoutCancel(ctx))
}

// instead answers an error of another kind.
func instead(of, with error) hook {
	return func(ctx context.Context, _ vm.ID, _ any, do func(context.Context) error) error {
		if err := do(ctx); errors.Is(err, of) {
			return with
		} else {
			return err
		}
	}
}

// then changes what an operation answers.
func then[T any](change func(id vm.ID, got *T) error) hook {
	return func(ctx context.Context, id vm.ID, result any, do func(context.Context) error) error {
		err := do(ctx)
		if got, ok := result.(*T); ok && err == nil {
			err = change(id, got)
		}
		return err
	}
}

// one is a front with one hook.
func one(op string, h hook) func() (harness, func(vm.Driver) vm.Driver) {
	return func() (harness, func(vm.Driver) vm.Driver) {
		return newHarness(fake.Config{}), breaks(map[string]hook{op: h})
	}
}

// lie changes each Info that is told, in listings too.
func lie(change func(*vm.Info)) func() (harness, func(vm.Driver) vm.Driver) {
	return func() (harness, func(vm.Driver) vm.Driver) {
		return newHarness(fake.Config{}), func(d vm.Driver) vm.Driver { return fake.Wrap(d, fake.Fault{Lie: change}) }
	}
}

// guest is a fake whose guests are broken.
func guest(exec func(context.Context, *fake.Call) vm.Exit, job func(context.Context, *fake.Job) error) func() (harness, func(vm.Driver) vm.Driver) {
	return func() (harness, func(vm.Driver) vm.Driver) {
		h := newHarness(fake.Config{})
		h.h = fake.NewHypervisor(fake.Config{Exec: exec, Job: job})
		return h, nil
	}
}

// broken are drivers that break one rule each, by the check that must see it.
var broken = []struct {
	what  string
	check string
	build func() (harness, func(vm.Driver) vm.Driver)
}{
	{"each driver has its own host id", "host-id", func() (harness, func(vm.Driver) vm.Driver) {
		n := 0
		return newHarness(fake.Config{}), func(d vm.Driver) vm.Driver {
			n++
			id := fmt.Sprint("host-", n)
			return shell{Driver: d, host: func(string) string { return id }}
		}
	}},
	{"the host id is empty", "host-id", func() (harness, func(vm.Driver) vm.Driver) {
		return newHarness(fake.Config{}), func(d vm.Driver) vm.Driver {
			return shell{Driver: d, host: func(string) string { return "" }}
		}
	}},
	{"create starts the machine", "create-defines", one(vm.OpCreate, then(func(_ vm.ID, m *vm.Machine) error {
		return (*m).Start(context.Background())
	}))},
	{"create forgets the template", "create-defines", func() (harness, func(vm.Driver) vm.Driver) {
		return newHarness(fake.Config{}), func(d vm.Driver) vm.Driver {
			return shell{Driver: d, spec: func(s vm.Spec) vm.Spec { s.Template = ""; return s }}
		}
	}},
	{"create does not write the ownership", "create-defines", func() (harness, func(vm.Driver) vm.Driver) {
		return newHarness(fake.Config{}), func(d vm.Driver) vm.Driver {
			return shell{Driver: d, spec: func(s vm.Spec) vm.Spec { s.Owner = vm.Owner{Incarnation: s.Owner.Incarnation}; return s }}
		}
	}},
	{"create gives what is there", "create-exists", existing},
	{"create gives what is there to all", "create-race", existing},
	{"create replaces what is there", "create-exists", func() (harness, func(vm.Driver) vm.Driver) {
		h := newHarness(fake.Config{})
		return h, breaks(map[string]hook{vm.OpCreate: func(ctx context.Context, id vm.ID, _ any, do func(context.Context) error) error {
			err := do(ctx)
			if errors.Is(err, vm.ErrExists) {
				_ = h.h.Forget(id)
			}
			return err
		}})
	}},
	{"create loses a race in other words", "create-race", one(vm.OpCreate, instead(vm.ErrExists, errBroken))},
	{"create refuses without a reason", "create-refuses", one(vm.OpCreate, func(ctx context.Context, _ vm.ID, _ any, do func(context.Context) error) error {
		if do(ctx) != nil {
			return errBroken
		}
		return nil
	})},
	{"create does not look at its context", "create-ended-context", one(vm.OpCreate, deafToContext)},
	{"open finds nothing in other words", "open", one(vm.OpOpen, instead(vm.ErrNotFound, errBroken))},
	{"open gives another machine", "open", func() (harness, func(vm.Driver) vm.Driver) {
		h := newHarness(fake.Config{})
		return h, func(d vm.Driver) vm.Driver {
			return breaks(map[string]hook{vm.OpOpen: then(func(_ vm.ID, m *vm.Machine) error {
				s := h.Spec()
				other, err := d.Create(context.Background(), s)
				if err == nil {
					_ = h.h.Remove(other.ID()) // so that nothing is left
					*m = other
				}
				return err
			})})(d)
		}
	}},
	{"a listing is short", "list-complete", one(vm.OpList, then(func(_ vm.ID, l *[]vm.Info) error {
		*l = (*l)[:len(*l)/2]
		return nil
	}))},
	{"a listing has a machine twice", "list-complete", one(vm.OpList, then(func(_ vm.ID, l *[]vm.Info) error {
		*l = append(*l, *l...)
		return nil
	}))},
	{"a listing shows all as running", "list-complete", one(vm.OpList, then(func(_ vm.ID, l *[]vm.Info) error {
		for i := range *l {
			(*l)[i].State = vm.StateRunning
		}
		return nil
	}))},
	{"a listing has no owners", "list-complete", one(vm.OpList, then(func(_ vm.ID, l *[]vm.Info) error {
		for i := range *l {
			(*l)[i].Owner = vm.Owner{}
		}
		return nil
	}))},
	{"a listing that failed is empty", "list-error", func() (harness, func(vm.Driver) vm.Driver) {
		return newHarness(fake.Config{Times: fake.Times{List: time.Second}}), breaks(map[string]hook{vm.OpList: ignore})
	}},
	{"starts at once disturb each other", "concurrent", func() (harness, func(vm.Driver) vm.Driver) {
		var busy sync.Mutex
		return newHarness(fake.Config{Times: fake.Times{Start: time.Second}}), breaks(map[string]hook{vm.OpStart: func(ctx context.Context, _ vm.ID, _ any, do func(context.Context) error) error {
			if !busy.TryLock() {
				return errBroken
			}
			defer busy.Unlock()
			return do(ctx)
		}})
	}},
	{"errors say neither what nor where", "errors", one(vm.OpStart, func(ctx context.Context, _ vm.ID, _ any, do func(context.Context) error) error {
		return errors.Unwrap(do(ctx))
	})},
	{"errors name another machine", "errors", one(vm.OpOpen, func(ctx context.Context, _ vm.ID, _ any, do func(context.Context) error) error {
		err := do(ctx)
		var oe *vm.OpError
		if errors.As(err, &oe) {
			oe.ID = "another"
		}
		return err
	})},
	{"the secret is among the details", "secret", func() (harness, func(vm.Driver) vm.Driver) {
		var mu sync.Mutex
		told := map[vm.ID]string{}
		return newHarness(fake.Config{}), func(d vm.Driver) vm.Driver {
			return shell{
				Driver: fake.Wrap(d, fake.Fault{Lie: func(i *vm.Info) {
					mu.Lock()
					defer mu.Unlock()
					i.Details = map[string]string{"secret": told[i.ID]}
				}}),
				spec: func(s vm.Spec) vm.Spec {
					mu.Lock()
					defer mu.Unlock()
					told[vm.ID(s.Name)] = s.Secret.Reveal()
					return s
				},
			}
		}
	}},
	{"a start of what runs is no error", "start", one(vm.OpStart, instead(vm.ErrState, nil))},
	{"a start ends what runs", "start", func() (harness, func(vm.Driver) vm.Driver) {
		h := newHarness(fake.Config{})
		return h, breaks(map[string]hook{vm.OpStart: func(ctx context.Context, id vm.ID, _ any, do func(context.Context) error) error {
			err := do(ctx)
			if errors.Is(err, vm.ErrState) {
				_ = h.h.Crash(id)
			}
			return err
		}})
	}},
	{"all starts of a race win", "start-race", one(vm.OpStart, instead(vm.ErrState, nil))},
	{"start does not look at its context", "start-ended-context", one(vm.OpStart, deafToContext)},
	{"what ended cannot be started again", "start-again", func() (harness, func(vm.Driver) vm.Driver) {
		var mu sync.Mutex
		started := map[vm.ID]bool{}
		return newHarness(fake.Config{}), breaks(map[string]hook{vm.OpStart: func(ctx context.Context, id vm.ID, _ any, do func(context.Context) error) error {
			mu.Lock()
			again := started[id]
			started[id] = true
			mu.Unlock()
			if again {
				return vm.ErrState
			}
			return do(ctx)
		}})
	}},
	{"kill of what does not run is an error", "kill", func() (harness, func(vm.Driver) vm.Driver) {
		return newHarness(fake.Config{}), func(d vm.Driver) vm.Driver {
			return breaks(map[string]hook{vm.OpKill: func(ctx context.Context, id vm.ID, _ any, do func(context.Context) error) error {
				if m, err := d.Open(ctx, id); err == nil {
					if i, err := m.Info(ctx); err == nil && i.State != vm.StateRunning {
						return vm.ErrState
					}
				}
				return do(ctx)
			}})(d)
		}
	}},
	{"kill does nothing", "kill", one(vm.OpKill, never)},
	{"a killed machine is said to have crashed", "kill", lie(func(i *vm.Info) {
		if i.End != nil {
			i.End.Kind = vm.EndCrashed
		}
	})},
	{"stop asks nobody", "stop", one(vm.OpStop, never)},
	{"a stop is told as a kill", "stop", lie(func(i *vm.Info) {
		if i.End != nil && i.End.Kind == vm.EndPoweredOff {
			i.End.Kind = vm.EndKilled
		}
	})},
	{"destroy does nothing", "destroy", one(vm.OpDestroy, never)},
	{"destroy only kills", "destroy", func() (harness, func(vm.Driver) vm.Driver) {
		h := newHarness(fake.Config{})
		return h, breaks(map[string]hook{vm.OpDestroy: func(_ context.Context, id vm.ID, _ any, _ func(context.Context) error) error {
			_ = h.h.KillOutside(id)
			return nil
		}})
	}},
	{"destroy of what is gone is an error", "destroy-idempotent", func() (harness, func(vm.Driver) vm.Driver) {
		var mu sync.Mutex
		gone := map[vm.ID]bool{}
		return newHarness(fake.Config{}), breaks(map[string]hook{vm.OpDestroy: func(ctx context.Context, id vm.ID, _ any, do func(context.Context) error) error {
			mu.Lock()
			again := gone[id]
			gone[id] = true
			mu.Unlock()
			if again {
				return vm.ErrNotFound
			}
			return do(ctx)
		}})
	}},
	{"a destroy that was interrupted cannot be done again", "destroy-retry", func() (harness, func(vm.Driver) vm.Driver) {
		var mu sync.Mutex
		stuck := map[vm.ID]bool{}
		return newHarness(fake.Config{}), breaks(map[string]hook{vm.OpDestroy: func(ctx context.Context, id vm.ID, _ any, do func(context.Context) error) error {
			mu.Lock()
			defer mu.Unlock()
			if ctx.Err() != nil || stuck[id] {
				stuck[id] = true
				return errBroken
			}
			return do(ctx)
		}})
	}},
	{"kill ends the neighbours too", "isolation", func() (harness, func(vm.Driver) vm.Driver) {
		h := newHarness(fake.Config{})
		return h, func(d vm.Driver) vm.Driver {
			return breaks(map[string]hook{vm.OpKill: func(ctx context.Context, _ vm.ID, _ any, do func(context.Context) error) error {
				all, _ := d.List(ctx)
				for _, i := range all {
					_ = h.h.KillOutside(i.ID)
				}
				return do(ctx)
			}})(d)
		}
	}},
	{"close does not close", "close", func() (harness, func(vm.Driver) vm.Driver) {
		h := newHarness(fake.Config{})
		return h, breaks(map[string]hook{vm.OpClose: never})
	}},
	{"a second close is an error", "close", func() (harness, func(vm.Driver) vm.Driver) {
		return newHarness(fake.Config{}), func(d vm.Driver) vm.Driver {
			n := 0
			return breaks(map[string]hook{vm.OpClose: func(ctx context.Context, _ vm.ID, _ any, do func(context.Context) error) error {
				if n++; n > 1 {
					return vm.ErrClosed
				}
				return do(ctx)
			}})(d)
		}
	}},
	{"nothing dies with its driver", "close-on-exit", func() (harness, func(vm.Driver) vm.Driver) {
		return newHarness(fake.Config{}), func(d vm.Driver) vm.Driver {
			return shell{Driver: d, spec: func(s vm.Spec) vm.Spec { s.OnExit = vm.Survive; return s }}
		}
	}},
	{"nothing survives its driver", "close-on-exit", func() (harness, func(vm.Driver) vm.Driver) {
		return newHarness(fake.Config{}), func(d vm.Driver) vm.Driver {
			return shell{Driver: d, spec: func(s vm.Spec) vm.Spec { s.OnExit = vm.Die; return s }}
		}
	}},
	{"wait does not wait", "wait", one(vm.OpWait, never)},
	{"wait tells another end", "wait", one(vm.OpWait, then(func(_ vm.ID, e *vm.End) error { e.Kind = vm.EndPoweredOff; return nil }))},
	{"wait has its own word for what is gone", "wait-destroyed", func() (harness, func(vm.Driver) vm.Driver) {
		return newHarness(fake.Config{}), breaks(map[string]hook{vm.OpWait: func(ctx context.Context, _ vm.ID, r any, do func(context.Context) error) error {
			if err := do(ctx); err != nil || r.(*vm.End).Detail == "destroyed" {
				return errBroken
			}
			return nil
		}})
	}},
	{"a snapshot's name is taken twice", "snapshot", one(vm.OpSnapshot, instead(vm.ErrExists, nil))},
	{"snapshots are sorted by name", "snapshot", one(vm.OpSnapshots, then(func(_ vm.ID, l *[]string) error { slices.Sort(*l); return nil }))},
	{"a snapshot is never deleted", "snapshot", one(vm.OpDeleteSnapshot, never)},
	{"a machine with snapshots is not destroyed", "snapshot", func() (harness, func(vm.Driver) vm.Driver) {
		return newHarness(fake.Config{}), func(d vm.Driver) vm.Driver {
			return breaks(map[string]hook{vm.OpDestroy: func(ctx context.Context, id vm.ID, _ any, do func(context.Context) error) error {
				if m, err := d.Open(ctx, id); err == nil {
					s, _ := vm.As[vm.Snapshotter](m)
					if names, _ := s.Snapshots(ctx); len(names) > 0 {
						return errBroken
					}
				}
				return do(ctx)
			}})(d)
		}
	}},
	{"a revert does nothing", "revert", one(vm.OpRevert, never)},
	{"a revert keeps the mark", "revert", func() (harness, func(vm.Driver) vm.Driver) {
		return newHarness(fake.Config{Faults: []fake.Fault{{Op: vm.OpRevert, Guest: fake.Guest{Dirty: "still here"}}}}), nil
	}},
	{"a revert brings its time's owner back", "revert", func() (harness, func(vm.Driver) vm.Driver) {
		return newHarness(fake.Config{}), func(d vm.Driver) vm.Driver {
			return breaks(map[string]hook{vm.OpRevert: func(ctx context.Context, id vm.ID, _ any, do func(context.Context) error) error {
				m, err := d.Open(ctx, id)
				if err == nil {
					err = do(ctx)
				}
				if err != nil {
					return err
				}
				o, _ := vm.As[vm.Owned](m)
				info, err := m.Info(ctx)
				if err != nil {
					return err
				}
				info.Owner.Token = 0
				return o.SetOwner(ctx, info.Owner)
			}})(d)
		}
	}},
	{"a suspend does nothing", "suspend", one(vm.OpSuspend, never)},
	{"a second suspend is no error", "suspend", one(vm.OpSuspend, instead(vm.ErrState, nil))},
	{"a capability that is declared absent", "capabilities", func() (harness, func(vm.Driver) vm.Driver) {
		h := newHarness(fake.Config{})
		h.without = vm.CanScreenshot
		return h, nil
	}},
	{"a capability that is neither there nor declared absent", "capabilities", func() (harness, func(vm.Driver) vm.Driver) {
		h := newHarness(fake.Config{Without: vm.CanScreenshot})
		h.without = 0
		return h, nil
	}},
	{"a capability that is there but not supported", "capabilities", one(vm.OpConsole, func(context.Context, vm.ID, any, func(context.Context) error) error {
		return errors.ErrUnsupported
	})},
	{"ownership is not rewritten", "set-owner", one(vm.OpSetOwner, never)},
	{"a part of the ownership is lost", "set-owner", lie(func(i *vm.Info) { i.Owner.Token = 0 })},
	{"no address, and no error", "addresses", one(vm.OpAddresses, then(func(_ vm.ID, a *[]netip.Addr) error { *a = nil; return nil }))},
	{"an address of what does not run", "addresses", one(vm.OpAddresses, instead(vm.ErrState, nil))},
	{"the console is given whole", "console", one(vm.OpConsole, then(func(_ vm.ID, b *[]byte) error {
		*b = append(slices.Repeat([]byte("x"), 100), *b...)
		return nil
	}))},
	{"the console's beginning is given", "console", one(vm.OpConsole, then(func(_ vm.ID, b *[]byte) error {
		if len(*b) == 5 {
			copy(*b, "booti")
		}
		return nil
	}))},
	{"no picture", "screenshot", one(vm.OpScreenshot, never)},
	{"a disk of another size", "job-disk", func() (harness, func(vm.Driver) vm.Driver) {
		return newHarness(fake.Config{}), func(d vm.Driver) vm.Driver {
			return shell{Driver: d, spec: func(s vm.Spec) vm.Spec { s.JobDisks = []int64{1 << 20, 1 << 20}; return s }}
		}
	}},
	{"what is written is lost", "job-disk", one(vm.OpWriteDisk, func(_ context.Context, _ vm.ID, r any, _ func(context.Context) error) error {
		*r.(*int) = 2
		return nil
	})},
	{"one disk for all machines", "job-disk", func() (harness, func(vm.Driver) vm.Driver) {
		var mu sync.Mutex
		shared := map[int64]vm.JobDisk{}
		return newHarness(fake.Config{}), breaks(map[string]hook{vm.OpJobDisk: then(func(_ vm.ID, d *vm.JobDisk) error {
			mu.Lock()
			defer mu.Unlock()
			if s := shared[(*d).Size()]; s != nil {
				*d = s
			}
			*d = neverClosed{*d}
			shared[(*d).Size()] = *d
			return nil
		})})
	}},
	{"an eject of nothing is an error", "inputs", func() (harness, func(vm.Driver) vm.Driver) {
		full := map[string]bool{}
		return newHarness(fake.Config{}), breaks(map[string]hook{
			vm.OpInsert: func(ctx context.Context, id vm.ID, _ any, do func(context.Context) error) error {
				full[string(id)] = true
				return do(ctx)
			},
			vm.OpEject: func(ctx context.Context, id vm.ID, _ any, do func(context.Context) error) error {
				if !full[string(id)] {
					return errBroken
				}
				full[string(id)] = false
				return do(ctx)
			},
		})
	}},
	{"an insert into no place is no error", "inputs", one(vm.OpInsert, ignore)},
	{"no channel in other words", "channel", one(vm.OpChannel, instead(vm.ErrState, errBroken))},
	{"each boot has the same name", "channel", one(vm.OpReady, then(func(_ vm.ID, g *vm.Greeting) error { g.Boot = "same"; return nil }))},
	{"a guest that never says hello", "channel", func() (harness, func(vm.Driver) vm.Driver) {
		return newHarness(fake.Config{Faults: []fake.Fault{{Op: vm.OpStart, Guest: fake.Guest{Silent: true}}}}), nil
	}},
	{"a start makes the mark go away", "clean", one(vm.OpReady, then(func(_ vm.ID, g *vm.Greeting) error {
		g.Dirty, g.Jobs = "", 0
		return nil
	}))},
	{"a command stops the channel", "drained", func() (harness, func(vm.Driver) vm.Driver) {
		var mu sync.Mutex
		sent := map[vm.ID]bool{}
		return newHarness(fake.Config{}), breaks(map[string]hook{
			vm.OpSend: func(ctx context.Context, id vm.ID, _ any, do func(context.Context) error) error {
				mu.Lock()
				sent[id] = true
				mu.Unlock()
				return do(ctx)
			},
			vm.OpPing: func(ctx context.Context, id vm.ID, _ any, do func(context.Context) error) error {
				mu.Lock()
				stuck := sent[id]
				mu.Unlock()
				if stuck {
					return errBroken
				}
				return do(ctx)
			},
		})
	}},
	{"every command ends well", "exec", guest(func(ctx context.Context, c *fake.Call) vm.Exit {
		fake.BuiltIn(ctx, c)
		return vm.Exit{}
	}, nil)},
	{"output is cut", "exec", guest(func(ctx context.Context, c *fake.Call) vm.Exit {
		c.Stdin = io.LimitReader(c.Stdin, 1<<20-1)
		return fake.BuiltIn(ctx, c)
	}, nil)},
	{"the environment is lost", "exec", guest(func(ctx context.Context, c *fake.Call) vm.Exit {
		c.Env = nil
		return fake.BuiltIn(ctx, c)
	}, nil)},
	{"a program that is not there ends well", "exec", guest(func(ctx context.Context, c *fake.Call) vm.Exit {
		exit := fake.BuiltIn(ctx, c)
		c.Fail = ""
		return exit
	}, nil)},
	{"a byte of a copy is changed", "copy", one(vm.OpRecv, then(func(_ vm.ID, b *[]byte) error {
		if len(*b) > 10_000 {
			(*b)[9_000] ^= 1
		}
		return nil
	}))},
	{"a job powers the guest off", "run", guest(nil, func(_ context.Context, j *fake.Job) error { j.PowerOff(); return nil })},
	{"a job cannot be run", "run", guest(nil, func(context.Context, *fake.Job) error { return errBroken })},
	{"a job heeds no cancel", "run-cancelled", guest(nil, func(_ context.Context, j *fake.Job) error {
		if string(j.Go) == "hang" {
			j.Hang()
		}
		return nil
	})},
	{"a kill is told as a crash", "run-killed", one(vm.OpWait, then(func(_ vm.ID, e *vm.End) error { e.Kind = vm.EndCrashed; return nil }))},
	{"a renewed machine leaves the old one", "renew-cold", one(vm.OpDestroy, never)},
	{"a renewed machine is not clean", "renew-cold", func() (harness, func(vm.Driver) vm.Driver) {
		return newHarness(fake.Config{Faults: []fake.Fault{{Op: vm.OpStart, Guest: fake.Guest{Dirty: "old disk"}}}}), nil
	}},
	{"a fork of an unknown parent in other words", "fork", one(vm.OpFork, instead(vm.ErrNotFound, errBroken))},
	{"a fork that boots the parent's own identity", "fork", lie(func(i *vm.Info) { i.Owner.Incarnation = "inc1" })},
	{"a fork that is not clean", "fork", func() (harness, func(vm.Driver) vm.Driver) {
		return newHarness(fake.Config{Faults: []fake.Fault{{Op: vm.OpFork, Guest: fake.Guest{Dirty: "base disk"}}}}), nil
	}},
	{"a fork that does not run", "fork", one(vm.OpFork, then(func(_ vm.ID, m *vm.Machine) error { return (*m).Kill(context.Background()) }))},
	{"parents are not listed", "fork", one(vm.OpParents, then(func(_ vm.ID, l *[]string) error { *l = nil; return nil }))},
	{"the stock is not listed", "stock", one(vm.OpStock, then(func(_ vm.ID, l *[]string) error { *l = nil; return nil }))},
	{"the stock is listed twice", "stock", one(vm.OpStock, then(func(_ vm.ID, l *[]string) error { *l = append(*l, *l...); return nil }))},
	{"a parent is replaced", "fork", one(vm.OpSave, instead(vm.ErrExists, nil))},
	{"a parent is never dropped", "fork", one(vm.OpDropParent, never)},
	{"a capability that comes and goes", "fence", func() (harness, func(vm.Driver) vm.Driver) {
		return newHarness(fake.Config{}), func(d vm.Driver) vm.Driver { return &fickle{Driver: d} }
	}},
}

// existing is a driver whose Create gives what is there.
func existing() (harness, func(vm.Driver) vm.Driver) {
	return newHarness(fake.Config{}), func(d vm.Driver) vm.Driver {
		return breaks(map[string]hook{vm.OpCreate: func(ctx context.Context, id vm.ID, r any, do func(context.Context) error) error {
			err := do(ctx)
			if errors.Is(err, vm.ErrExists) {
				*r.(*vm.Machine), err = d.Open(ctx, id)
			}
			return err
		}})(d)
	}
}

// neverClosed is a disk whose handles share one closing.
type neverClosed struct{ vm.JobDisk }

func (neverClosed) Close() error { return nil }

// fickle is a Forker at every other look.
type fickle struct {
	vm.Driver
	looks int
}

func (f *fickle) As(target any) bool {
	if t, ok := target.(*vm.Forker); ok {
		f.looks++
		found, ok := vm.As[vm.Forker](f.Driver)
		*t = found
		return ok && f.looks%2 == 0
	}
	return false
}

func TestEachCheckCatchesADriverThatBreaksItsRule(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	caught := map[string]bool{}
	t.Run("drivers", func(t *testing.T) {
		for _, b := range broken {
			t.Run(b.check+"/"+b.what, func(t *testing.T) {
				t.Parallel()
				synctest.Test(t, func(t *testing.T) {
					h, front := b.build()
					h.front = front
					var names []string
					for _, v := range vmtest.Check(t.Context(), h) {
						names = append(names, v.Check)
						assert.Contains(t, v.String(), "rule: ")
					}
					assert.Contains(t, names, b.check, "the check did not see it")
					assert.NoError(t, h.h.Close())
					mu.Lock()
					defer mu.Unlock()
					caught[b.check] = true
				})
			})
		}
	})
	for _, r := range vmtest.Rules() {
		assert.True(t, caught[r.Check], "no broken driver shows that %s sees anything", r.Check)
		delete(caught, r.Check)
	}
	assert.Empty(t, slices.Collect(maps.Keys(caught)), "broken drivers for checks that are not there")
}
