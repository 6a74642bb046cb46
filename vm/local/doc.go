// Package local is the embedded default driver: a machine is a directory and a
// process group on this computer. It needs nothing but Go and Linux with /proc.
//
// # No isolation
//
// There is none. A job runs as the harness's user, on the harness's kernel,
// file system and network; it can read and change whatever that user can,
// the harness included. What the driver gives is a place of its own for each
// machine (work folder, home and temporary folder), a clean environment, and
// certainty at the end: when a machine is killed, or its harness dies, every
// process that it started is gone, daemons too. Use it for trusted jobs, for
// the tests of a harness, and as a local worker; use a hypervisor for the rest.
//
// # Processes
//
//	harness ── keeper ── agent ── steps of jobs ── whatever they start
//
// The driver starts the harness's own program again, so [Main] must be the
// first line of main and of TestMain. The keeper is to a machine what a
// hypervisor's process is to a virtual one. It leads a session of its own, is
// the subreaper of all below it, so that a daemon that lost its parents comes to
// it, reaps them, drains the console, and ends everything when the agent ends
// or when its harness does: it holds one end of a socket pair whose other end
// only the harness has, and has a parent-death signal besides. The agent is
// package diskio/guest: the same code as in a real guest.
//
// Processes are found again in three ways: as descendants of the keeper; by the
// variable BULLPEN_MARK in their environment; and by a mark in a resource
// limit that has no effect (RLIMIT_RTTIME, see mark), which survives env -i,
// setsid, a double fork and the keeper's own violent death. Signals are sent by
// pidfd after the start time was compared, so a reused process id is never hit.
//
// A job that wants to try what happens when its machine dies runs
// eval "$BULLPEN_CRASH"; see crashVar.
//
// # Addresses
//
// Each machine has a loopback address, 127.x.y.z, which no other of its root has
// and which is never 127.0.0.1: jobs find it as BULLPEN_ADDRESS and the harness
// by vm.Addresser. Servers that listen there may use one port in several machines
// at a time; a server that listens on all addresses takes it from the others.
//
// # Files
//
// The root belongs to one user (mode 0700); each machine is a folder there:
//
//	<root>/<name>/spec.json   what it is; written once
//	              owner.json  vm.Owner, replaced atomically
//	              address     its loopback address
//	              secret      the secret of Spec, mode 0600
//	              run.json    keeper and agent of the last run
//	              run.lock    flocked by the keeper for as long as it lives
//	              end.json    how the last run ended
//	              op.lock     flocked during an operation
//	              console.log bounded by Config.Console
//	              job-<n>     the job disks: raw sparse files
//	              input-<n>   the inputs: hard links, clones or copies, and their digests
//	              root/       what the guest sees as its own: work, home, tmp, the dirty mark
//
//	<root>/.addresses/127.x.y.z   a link that names the machine
//
// Machines are made as .new-* and removed as .dead-*, so one that is half made
// or half removed is never listed. Several harnesses may use one root at once.
package local
