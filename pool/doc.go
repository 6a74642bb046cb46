// Package pool keeps machines warm and hands them out under lease.
//
//	machines, err := pool.New(pool.Config{
//		Hosts:     []pool.Host{{Name: "here", Driver: driver, Slots: 3}},
//		Templates: []pool.Template{{Name: "debian-12", Ready: 2}},
//	})
//	defer machines.Close(ctx)
//	guest, err := machines.Acquire(ctx, pool.Want{Template: "debian-12"})
//	defer guest.Release(ctx, nil)
//
// # What a pool promises
//
// A machine is handed out only when it was proven clean and ready, to one holder
// at a time. Each slot of a host is a leased key, held from before a machine is
// made until after it was destroyed, so pools and harnesses that share a lease
// store share hosts without ever exceeding them. Release cuts the holder off at
// once, and the machine is renewed behind it.
//
// Waiters are served by priority, then by arrival. Nobody is overtaken for a
// machine that both accept. What can never be satisfied is refused at once.
// Waits end with a stated reason.
//
// Hosts and templates that fail are left alone for 10 s to 1 h, then probed
// once. A host that is busy is passed over and nothing is counted against it.
//
// Leftovers of dead runs are found on the hosts and destroyed by two rules only:
// under their slot's lease in the same store, or with the same pool name and
// their owner seen dead on this machine. All else is never touched.
//
// Machines that others made (Template.Existing) are leased, checked and reverted
// like made ones, and never made nor destroyed. Reload and Resize change a pool
// while it runs: guests keep what they have, and what has no place any more is
// handed out to nobody. Accounts may have quotas. A guest that is to stay is kept
// for a person (Hold) or leaves the pool for good (Detach). A guest may be lent to
// child processes (Handle, OpenHandle), which are served and fenced by the one
// that holds it.
//
// # Inside
//
// All decisions are made under one mutex and do no I/O; each operation on a slot
// runs in a goroutine that the pool waits for in Close.
package pool
