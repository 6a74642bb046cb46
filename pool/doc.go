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
// # Where machines are made
//
// Where says nothing of who: whose turn it is does not change by it. A machine is
// made on a host that can take it now (room, no pause, quarantine or back-off,
// Starts), Want.Avoid last, by the lowest share of used slots less a credit:
//
//	ParentCredit  50  hundredths of its slots, to a host that has Template.Parent
//	InputsCredit  25  to one that has all of Want.Inputs, less in proportion
//
// then by the share alone, then the first. So a host with the parent takes
// machines until half of its slots more are used than on the others, and the
// others never idle while it fills up. For the same credit the share decides. A
// machine that is free is chosen by the same rule for a call with Inputs, by the
// slots in use, among the 64 of a class that came free last; without Inputs it is
// the one that came free last. The sum of locality and load is that of the
// Kubernetes scheduler (ImageLocality and LeastAllocated).
//
// Hosts are asked what they have (vm.Forker, vm.Stocker) beside each listing, for
// at most 10 s each, and boots and hand-outs add to it. A host that cannot say
// has no credit, and nothing is decided against it. Stats.Unlisted counts such
// hosts; Progress.Reason says where parent and inputs are, Event.Place why a
// machine is where it is, Stats.Cold and Stats.FromParent what came of it. After
// New, machines are made once all hosts were listed, or after a second.
//
// # Inside
//
// All decisions are made under one mutex and do no I/O; each operation on a slot
// runs in a goroutine that the pool waits for in Close.
package pool
