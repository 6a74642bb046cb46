package vm

import (
	"context"
	"time"
)

// Rung is one way to bring a machine to its known state; see Renew.
type Rung uint8

// The rungs, cheapest last.
const (
	RungNone    Rung = iota
	RungCold         // destroy, create on fresh disks, boot
	RungRevert       // revert a snapshot in place: the incarnation stays
	RungRestore      // restore a parent's saved state
	RungFork         // copy-on-write fork of a parent
)

var rungNames = [...]string{"none", "cold", "revert", "restore", "fork"}

// String is the rung's name.
func (r Rung) String() string {
	if int(r) < len(rungNames) {
		return rungNames[r]
	}
	return "unknown"
}

// Policy says how Renew may work.
type Policy struct {
	Driver Driver
	// Spec is of the machine to have; its Name and Owner.Incarnation are new,
	// for every rung but RungRevert makes a new incarnation.
	Spec Spec
	// Rungs are those allowed, in the order to be tried; none: the cheapest
	// that driver and machine are capable of first, RungCold last.
	Rungs []Rung
	// Parent names the parent for RungRestore and RungFork; empty: these two
	// are passed over. Snapshot likewise for RungRevert.
	Parent   string
	Snapshot string
	// Clean proves that the machine is clean and ready; nil: ProveClean.
	Clean func(ctx context.Context, m Machine) error
}

// Renewed is what Renew made.
type Renewed struct {
	Machine Machine // the same or a new one; owned by the caller
	Rung    Rung
	Cost    time.Duration
	// Skipped says why cheaper rungs were not taken, in their order.
	Skipped []Skipped
}

// Skipped is a rung that was not taken.
type Skipped struct {
	Rung Rung
	Err  error
}
