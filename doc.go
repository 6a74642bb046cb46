// Package bullpen is the root of a library for authors of test harnesses: it
// keeps virtual machines warm and hands them out under lease, so that thousands
// of tests can each run on a clean machine, on many hosts, without leaking a
// machine, giving one to two holders, losing a result, or calling a broken host
// a failed test.
//
// This package holds no code. Import the parts you need:
//
//   - [github.com/bullpen-vm/bullpen/vm] is the seam to hypervisors: Driver,
//     Machine, Run, Renew, Guard. Backends are vm/local (processes, no
//     isolation, nothing to install) and vm/fake (in memory, for tests); vm/vmtest
//     proves a backend of your own.
//   - [github.com/bullpen-vm/bullpen/diskio] writes jobs and inputs onto disks
//     and reads results back from disks that a hostile guest may have written;
//     diskio/guest is the guest's side.
//   - [github.com/bullpen-vm/bullpen/lease] gives exclusive, expiring rights with
//     fencing tokens, over stores that may be shared by many harnesses.
//   - [github.com/bullpen-vm/bullpen/pool] keeps machines of several templates
//     warm on several hosts and hands them out, clean, in order.
//   - [github.com/bullpen-vm/bullpen/scheduler] decides which task runs where and
//     when: dependencies, groups, estimates, retries of what the environment broke.
//   - [github.com/bullpen-vm/bullpen/result] holds verdicts and writes them as
//     JUnit, JSON lines and HTML.
//   - [github.com/bullpen-vm/bullpen/pool/runner] joins them: one job on one
//     guest, from packing to cases; pool/pooltest does it inside go test.
//
// # How they meet
//
//	tasks -> scheduler (which, where, when)
//	      -> runner    (writes the job disk, asks the pool for a guest)
//	      -> pool      (proves a machine clean, leases it)
//	      -> vm.Run    (go, messages, end)
//	      -> the guest's agent (inputs, steps, records)
//	      -> diskio    (reads the records, checks that they are complete)
//	      -> runner    (verdict, reason of release)
//	      -> result    (report, exit code)
//
// and the pool renews the machine behind it. The scheduler, lease, vm, diskio
// and result packages import none of each other; only pool joins vm and lease,
// and only pool/runner joins all. Begin with examples/minimal, which is the
// whole of it in eighty lines.
package bullpen
