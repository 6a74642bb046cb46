// Package guest is the guest's side of Bullpen: the agent as a library. An
// Agent says hello over a byte stream, gets the machine ready (entropy, clock,
// names), runs jobs from job disks and appends their results, runs commands and
// copies files. The same code serves a real machine, where it is the first
// process or a service, and vm/local, where the machine is a process group. What
// differs is in Config: where the channel, the disks and the inputs are, and how
// a clock is set.
//
// The protocol is in diskio/PROTOCOL.md, so that a guest can also be written in
// another language.
//
// # Processes
//
// Every step and every command runs in a process group of its own, which is
// killed as a whole when the step ends, with what was left in the background.
// What leaves its group (setsid) is found by the step's environment at the end
// of the job, and killed too. A program that may be started by nohup, or by a
// script in the background, calls HearSignals first.
package guest
