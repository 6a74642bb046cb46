package fake

import "github.com/bullpen-vm/bullpen/vm"

// Faulty is a driver with faults added to it. It has the capabilities of the
// wrapped driver, and vm.As does not look behind it.
type Faulty struct {
	vm.Driver
	faults *injector
}

// Wrap adds faults to any driver and to what comes back from it. Close closes
// the wrapped driver.
func Wrap(d vm.Driver, faults ...Fault) *Faulty {
	j := newInjector(d.HostID(), 0, faults)
	return &Faulty{Driver: vm.Intercept(d, vm.Interceptor{Call: j.do}), faults: j}
}

// As answers for the wrapped driver's capabilities, with faults.
func (f *Faulty) As(target any) bool { return asDriver(target, f, f.Driver) }

// Inject adds faults; their counts begin now.
func (f *Faulty) Inject(faults ...Fault) { f.faults.add(faults) }

// Heal removes all faults. Calls that hang go on hanging.
func (f *Faulty) Heal() { f.faults.clear() }

// Calls is how often an operation, such as vm.OpStart, was asked for.
func (f *Faulty) Calls(op string) int { return f.faults.count(op) }

// asDriver answers with self for a driver, else with what in has.
func asDriver(target any, self vm.Driver, in vm.Driver) bool {
	switch t := target.(type) {
	case *vm.Driver:
		*t = self
		return true
	case *vm.Forker:
		f, ok := vm.As[vm.Forker](in)
		*t = f
		return ok
	case *vm.Stocker:
		s, ok := vm.As[vm.Stocker](in)
		*t = s
		return ok
	}
	return false
}
