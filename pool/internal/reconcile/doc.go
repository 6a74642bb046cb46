// Package reconcile judges what a hypervisor lists: which machines are the
// pool's, which are leftovers and may be destroyed, and by which rule. It is
// pure: it gets the listing, the records and what is known of owners as
// arguments and answers with verdicts.
//
// A machine may be destroyed only
//
//	(a) under its slot's lease in the same store with a higher token, whatever
//	    its pool, or
//	(b) with the same pool name and its owner's flock seen free on this machine.
//
// All else is foreign and never touched.
package reconcile
