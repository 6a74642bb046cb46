package fake

import (
	"context"
	"log/slog"
	"time"

	"github.com/bullpen-vm/bullpen/vm"
)

// Config is a hypervisor's. The zero value is usable: everything works, at once.
type Config struct {
	HostID string // empty: "fake"
	// Seed decides by which calls faults with a Chance hit, whatever the order
	// in which goroutines make them.
	Seed   uint64
	Faults []Fault
	// Without are the capabilities that it does not have.
	Without vm.Set
	// Halts has its machines be vm.Halter, which few hypervisors' are.
	Halts bool
	// Capacity is how many machines may exist at once; above it Create and
	// Fork answer vm.ErrBusy. Zero: any number.
	Capacity int
	Times    Times
	// Rung is what Forker says; zero: vm.RungFork.
	Rung vm.Rung
	// Keepalive is told to the guests, which power off when they have heard
	// nothing for that long; zero: never. It counts from the opening of the
	// channel: guests that nobody ever spoke to cost nothing and stay.
	Keepalive time.Duration
	// Job is what a guest does on go; see Job. nil: done at once. An error is
	// told to the host as the reason why the job could not be run.
	Job func(ctx context.Context, j *Job) error
	// Exec is what a guest does on a command; nil: BuiltIn.
	Exec func(ctx context.Context, c *Call) vm.Exit
	// Logger is for the channels; nil: none.
	Logger *slog.Logger
}

// Times are how long things take. The zero value is at once.
type Times struct {
	Create, Start, Kill, Destroy   time.Duration
	Boot                           time.Duration // from Start's end to the guest's hello
	Stop                           time.Duration // the guest's, from the request to its end
	Snapshot, Revert, Save, Fork   time.Duration
	Suspend, Resume, Insert, Eject time.Duration
	Info, List                     time.Duration
}
