// Package fake is a hypervisor in memory. It does no I/O and starts no process,
// works under testing/synctest, and does everything that a driver of package vm
// can do, with faults where its script says so: boots that fail, hang, crash or
// lie about their state, refusals, slow rollbacks, listings that fail or are
// short. It is for the tests of whatever uses package vm.
//
//	hypervisor := fake.NewHypervisor(fake.Config{Times: fake.Times{Boot: 20 * time.Second}})
//	driver := hypervisor.Driver()
//
// Several drivers of one hypervisor stand for several processes on one host.
// Machines run a guest that speaks the true protocol with the host over pipes in
// memory; what it does on a job is Config.Job, on a command Config.Exec. A
// machine costs no goroutine until somebody opens its channel.
//
// [Wrap] adds faults to any driver.
package fake
