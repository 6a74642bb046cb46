// Package queue matches free machines to waiters. It is pure: no clock, no
// lock, no goroutine; its owner calls it under a lock of its own.
//
// Machines with equal template and labels are one [Class], equal constraints
// one [Demand], and which demands a class serves is worked out once, so that a
// machine that comes free looks only at the demands that it can serve, and at
// the first waiter of each.
//
// The order of waiters is priority (higher first), then arrival. The rule that
// holds after each call: no waiter lacks a machine while one that it accepts is
// free, or is reserved for somebody behind it. A waiter for several machines
// collects them under this rule, so the first of all waiters gets each machine
// that it accepts and comes free: there is neither deadlock nor starvation.
package queue
