package vmtest

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"strings"
	"testing"
	"time"

	"github.com/bullpen-vm/bullpen/vm"
)

// Harness is what the author of a driver writes for the suite. See also Jobber,
// Forgetter and Timer.
type Harness interface {
	// Open opens a driver to the hypervisor under test. Every call reaches the
	// same hypervisor, as another process would. The suite closes it.
	Open(ctx context.Context) (vm.Driver, error)
	// Spec is of a small machine whose name and incarnation were never given
	// before, with a Secret, a Template, OnExit vm.Die, and, where there is
	// Attacher, two job disks of different sizes and two places for inputs.
	Spec() vm.Spec
	// Without are the capabilities that the driver and its machines do not have.
	Without() vm.Set
}

// Jobber is a Harness whose guests run jobs. Without it jobs are not checked.
type Jobber interface {
	// Job writes a job on job disk 0 of the machine and gives the go message
	// for it. The job ends at once, or with hang only when it is cancelled.
	Job(ctx context.Context, m vm.Machine, hang bool) ([]byte, error)
}

// Timer is a Harness that says how long one check may take; else it is
// DefaultTime.
type Timer interface {
	Time() time.Duration
}

// Forgetter is a Harness that says whether its guests keep nothing over a new
// start, because their root is memory. Else a mark has to outlive it.
type Forgetter interface {
	Forgets() bool
}

// DefaultTime is how long one check may take at the most.
const DefaultTime = 2 * time.Minute

// Violation is a rule that a driver breaks.
type Violation struct {
	Check string // the check's name, in words with dashes
	Rule  string // what drivers must do
	Err   error  // what was seen
}

// String is all of it in one text.
func (v Violation) String() string {
	return fmt.Sprintf("%s: %v\n  rule: %s", v.Check, v.Err, strings.ReplaceAll(v.Rule, "\n", "\n  "))
}

// check is one rule and how to see whether it is kept.
type check struct {
	name string
	rule string
	need vm.Set // not run for drivers that declare one of these absent
	job  bool   // only for a Jobber
	do   func(*env)
}

// all are the checks in the order in which they are run.
func all() []check {
	var c []check
	for _, part := range [][]check{driverChecks, machineChecks, closeChecks, capabilityChecks, diskChecks, stateChecks, channelChecks, jobChecks, renewChecks, fenceChecks} {
		c = append(c, part...)
	}
	return c
}

// Check runs the whole suite and gives what it found, in the order of the
// checks. The context's end is a violation of the checks that it stopped.
func Check(ctx context.Context, h Harness) []Violation {
	var found []Violation
	for _, c := range all() {
		if c.applies(h) {
			found = append(found, c.run(ctx, h)...)
		}
	}
	return found
}

// Run runs the suite as subtests, one a check. It is a shim over what Check does.
func Run(t *testing.T, h Harness) {
	t.Helper()
	for _, c := range all() {
		t.Run(c.name, func(t *testing.T) {
			if !c.applies(h) {
				t.Skipf("declared absent by Harness.Without: %v of %v", c.need&h.Without(), c.need)
			}
			for _, v := range c.run(t.Context(), h) {
				t.Errorf("%v\n  rule: %s", v.Err, v.Rule)
			}
		})
	}
}

func (c check) applies(h Harness) bool {
	if _, ok := h.(Jobber); c.job && !ok {
		return false
	}
	return c.need&h.Without() == 0
}

// stop ends a check that cannot go on.
type stop struct{}

// run runs one check on a driver of its own.
func (c check) run(ctx context.Context, h Harness) (found []Violation) {
	limit := DefaultTime
	if t, ok := h.(Timer); ok && t.Time() > 0 {
		limit = t.Time()
	}
	ctx, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("vmtest: the check took more than %v", limit))
	defer cancel()
	e := &env{Context: ctx, h: h}
	func() {
		defer func() {
			switch r := recover().(type) {
			case nil, stop:
			default:
				e.errorf("panic: %v\n%s", r, debug.Stack())
			}
		}()
		e.d = e.open()
		c.do(e)
	}()
	e.cleanup()
	for _, err := range e.bad {
		found = append(found, Violation{c.name, c.rule, err})
	}
	return found
}

// env is what a check works with. It is the check's context too.
type env struct {
	context.Context
	h       Harness
	d       vm.Driver
	drivers []vm.Driver
	made    []vm.ID
	parents []string
	bad     []error
}

// errorf notes a violation.
func (e *env) errorf(format string, a ...any) { e.bad = append(e.bad, fmt.Errorf(format, a...)) }

// must ends the check when err is not nil.
func (e *env) must(err error, format string, a ...any) {
	if err != nil {
		e.errorf("%s: %w", fmt.Sprintf(format, a...), err)
		panic(stop{})
	}
}

// is notes a violation when err does not wrap want.
func (e *env) is(err, want error, format string, a ...any) {
	if !errors.Is(err, want) {
		e.errorf("%s: got %s, want %q", fmt.Sprintf(format, a...), quote(err), want)
	}
}

func quote(err error) string {
	if err == nil {
		return "no error"
	}
	return fmt.Sprintf("%q", err)
}

// ok notes a violation when err is not nil.
func (e *env) ok(err error, format string, a ...any) {
	if err != nil {
		e.errorf("%s: %w", fmt.Sprintf(format, a...), err)
	}
}

// want notes a violation when the two are not equal.
func want[T comparable](e *env, got, want T, what string) {
	if got != want {
		e.errorf("%s is %v, want %v", what, got, want)
	}
}

func (e *env) open() vm.Driver {
	d, err := e.h.Open(e)
	e.must(err, "Harness.Open")
	e.drivers = append(e.drivers, d)
	return d
}

// spec is a fresh one; its machine is destroyed at the check's end.
func (e *env) spec() vm.Spec {
	s := e.h.Spec()
	e.made = append(e.made, vm.ID(s.Name))
	return s
}

// create makes a machine.
func (e *env) create() (vm.Machine, vm.Spec) {
	s := e.spec()
	m, err := e.d.Create(e, s)
	e.must(err, "Create %s", s.Name)
	e.made = append(e.made, m.ID())
	return m, s
}

// boot makes a running machine.
func (e *env) boot() (vm.Machine, vm.Spec) {
	m, s := e.create()
	e.must(m.Start(e), "Start %s", s.Name)
	return m, s
}

func (e *env) info(m vm.Machine) vm.Info {
	i, err := m.Info(e)
	e.must(err, "Info")
	return i
}

// state waits until the machine is in the state, for some change by themselves.
func (e *env) state(m vm.Machine, want vm.State) {
	for {
		i := e.info(m)
		if i.State == want {
			return
		}
		if !e.sleep(50 * time.Millisecond) {
			e.errorf("the machine's state is %v, want %v", i.State, want)
			panic(stop{})
		}
	}
}

// sleep pauses between two looks; false: the check's time is over.
func (e *env) sleep(d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-e.Done():
		return false
	}
}

// as finds a capability that the driver must have.
func as[T any](e *env, v any) T {
	c, ok := vm.As[T](v)
	if !ok {
		e.errorf("As finds no %T, which Harness.Without does not declare absent", *new(*T))
		panic(stop{})
	}
	return c
}

// cleanup destroys what the check made, by a driver of its own where the
// check's is closed, and sees that it is gone.
func (e *env) cleanup() {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(e.Context), DefaultTime)
	defer cancel()
	if len(e.drivers) > 0 {
		if d, err := e.h.Open(ctx); err != nil {
			e.errorf("cleanup: Harness.Open: %w", err)
		} else {
			e.drivers = append(e.drivers, d)
			for _, id := range e.made {
				m, err := d.Open(ctx, id)
				switch {
				case errors.Is(err, vm.ErrNotFound):
				case err != nil:
					e.errorf("cleanup: Open %s: %w", id, err)
				default:
					e.ok(m.Destroy(ctx), "cleanup: Destroy %s", id)
				}
			}
			if f, ok := vm.As[vm.Forker](d); ok {
				for _, p := range e.parents {
					e.ok(f.DropParent(ctx, p), "cleanup: DropParent %s", p)
				}
			}
		}
	}
	for _, d := range e.drivers {
		e.ok(d.Close(), "cleanup: Close")
	}
}

// Rule is one rule of the suite.
type Rule struct {
	Check string // as in Violation
	Text  string
}

// Rules lists what the suite checks, in order.
func Rules() []Rule {
	var r []Rule
	for _, c := range all() {
		r = append(r, Rule{c.name, c.rule})
	}
	return r
}
