package vm

import "strings"

// Set is a set of capabilities, one bit each.
type Set uint32

// The capabilities, by what they let one do.
const (
	CanWait       Set = 1 << iota // Waiter
	CanSnapshot                   // Snapshotter
	CanSave                       // Saver
	CanFork                       // Forker, of drivers
	CanAttach                     // Attacher
	CanOwn                        // Owned
	CanAddress                    // Addresser
	CanConsole                    // Consoler
	CanMessage                    // Messenger
	CanSuspend                    // Suspender
	CanScreenshot                 // Screenshotter
	CanStock                      // Stocker, of drivers
)

// Every capability there is.
const (
	AllOfMachines = CanWait | CanSnapshot | CanSave | CanAttach | CanOwn | CanAddress |
		CanConsole | CanMessage | CanSuspend | CanScreenshot
	AllOfDrivers = CanFork | CanStock
)

var setNames = [...]string{"Waiter", "Snapshotter", "Saver", "Forker", "Attacher", "Owned",
	"Addresser", "Consoler", "Messenger", "Suspender", "Screenshotter", "Stocker"}

// Has reports whether all of want are in the set.
func (s Set) Has(want Set) bool { return s&want == want }

// String lists the names of the interfaces, "Waiter, Forker", or is "none".
func (s Set) String() string {
	var names []string
	for i, n := range setNames {
		if s&(1<<i) != 0 {
			names = append(names, n)
		}
	}
	if len(names) == 0 {
		return "none"
	}
	return strings.Join(names, ", ")
}

// As finds the capability T of a driver or a machine. It does no I/O.
//
// A value with a method As(target any) bool answers for itself: it stores what
// it has in the *T and is never looked behind, which is what guards are for. Any
// other value that does not implement T itself is asked for what it wraps, by
// its method Unwrap() any.
func As[T any](v any) (T, bool) {
	for v != nil {
		if a, ok := v.(interface{ As(target any) bool }); ok {
			var found T // here: it escapes, and what is found directly costs nothing
			ok = a.As(&found)
			return found, ok
		}
		if t, ok := v.(T); ok {
			return t, true
		}
		u, ok := v.(interface{ Unwrap() any })
		if !ok {
			break
		}
		v = u.Unwrap()
	}
	var none T
	return none, false
}

// has reports whether As finds T.
func has[T any](v any) bool {
	_, ok := As[T](v)
	return ok
}

// Capabilities is what a driver or a machine declares, found with As. A method
// of a declared capability may still answer errors.ErrUnsupported where only the
// hypervisor can tell.
func Capabilities(v any) Set {
	var s Set
	for _, c := range []struct {
		bit Set
		has bool
	}{
		{CanWait, has[Waiter](v)},
		{CanSnapshot, has[Snapshotter](v)},
		{CanSave, has[Saver](v)},
		{CanFork, has[Forker](v)},
		{CanAttach, has[Attacher](v)},
		{CanOwn, has[Owned](v)},
		{CanAddress, has[Addresser](v)},
		{CanConsole, has[Consoler](v)},
		{CanMessage, has[Messenger](v)},
		{CanSuspend, has[Suspender](v)},
		{CanScreenshot, has[Screenshotter](v)},
		{CanStock, has[Stocker](v)},
	} {
		if c.has {
			s |= c.bit
		}
	}
	return s
}
