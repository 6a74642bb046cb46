// Package health decides whom to leave alone, and for how long: back-off,
// quarantine and half-open probes for machines, hosts and templates. It is
// pure: time is an argument, locking is the caller's.
package health
