// Package vm is the seam between Bullpen and whatever runs machines: small
// interfaces for the implementers of drivers, and the few functions that every
// user of a driver needs.
//
//	harness, pool  ->  vm (concrete: Run, Renew, Exec, Guard)  ->  Driver, Machine (interfaces)
//
// # For users
//
// Take a [Driver] from a backend (vm/local, vm/fake, vm/libvirt), make a
// [Machine] from a [Spec], and use [Run] to run one job on it, [Exec], [CopyTo]
// and [CopyFrom] to work on it by hand, and [Renew] to bring it back to its known
// state. [Guard] and [GuardMachine] put a fence in front of a driver or a
// machine: once the fence answers an error, nothing gets through.
//
// # For implementers
//
// Implement [Driver] and [Machine]. All else is optional: a machine or a driver
// that can do more implements one of the capability interfaces ([Waiter],
// [Snapshotter], [Saver], [Forker], [Stocker], [Attacher], [Owned], [Addresser],
// [Consoler], [Messenger], [Suspender], [Screenshotter]). Users find them with
// [As], never by a type assertion, because a machine may be wrapped. A method of
// a capability may still answer an error that wraps [errors.ErrUnsupported].
// Package vm/vmtest is the conformance suite; a driver that passes it works with
// the rest of Bullpen.
//
// Everything in this package, and every method of a driver, is safe for
// concurrent use unless its documentation says otherwise.
package vm
