// Package spool is a small batch system for one machine: a queue with so many
// slots, whose jobs are scripts that run as processes, first come first served.
// Jobs are submitted, polled, suspended, resumed and cancelled, through a [Queue] or,
// from other processes, through a [Client] over the socket that [Queue.Serve] listens on.
package spool
