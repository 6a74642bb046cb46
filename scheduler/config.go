package scheduler

import (
	"fmt"
	"log/slog"
	"math"
	"time"
)

// Order is what decides between tasks of the same priority.
type Order string

// The orders.
const (
	ByDuration Order = "duration" // never seen first, then the longest path to the end; the default
	Random     Order = "random"   // by Config.Seed: the same seed, the same order
	Given      Order = "given"    // as they were added
)

// Estimate is what is known of a task's duration from earlier runs.
type Estimate struct {
	Duration time.Duration // negative: nothing is known
	Spread   float64       // standard deviation of the logarithm; zero: not known
	Count    int           // how many runs it rests on
}

// The defaults.
const (
	DefaultAttempts       = 3
	DefaultPoisonAfter    = 3
	DefaultGrace          = 300 * time.Second
	DefaultGraceMargin    = 30 * time.Second
	DefaultReleaseTimeout = 5 * time.Minute
	DefaultIdle           = time.Minute
	DefaultBackoff        = time.Second
	DefaultMostBackoff    = time.Minute
	DefaultKeys           = 16
	DefaultRotate         = 10 * time.Minute
)

// Config says how a Scheduler decides. The zero value is usable: one worker.
type Config struct {
	// Workers is how many workers are held or asked for at once, at the most;
	// zero: 1. One that is still being released counts.
	Workers int
	// Accounts are how many batches of an account run at once, by Task.Account;
	// an account without an entry has no limit.
	Accounts map[string]int
	// Executors are how many batches run at once of the tasks whose
	// ExecutorLabel names an executor; see Registry.Limits. One without an
	// entry has no limit.
	Executors map[string]int

	// Estimate gives what is known of a task that has no Task.Estimate; nil:
	// nothing. It is asked in Add and must be safe for the callers of Add.
	Estimate func(id string) (Estimate, bool)
	// Order is what decides between equal priorities; empty: ByDuration.
	Order Order
	// Seed of the Random order.
	Seed uint64
	// Switch is what it costs to give a worker a batch with an affinity key or
	// of a group that it does not know, and so what cutting a group costs;
	// zero: it is measured while the run goes on (Snapshot.Switch), by how much
	// longer than their estimates tasks take behind a switch; until it is known
	// groups are cut only above a quarter of the fair share.
	Switch time.Duration
	// Whole keeps every group in one batch, whatever that costs.
	Whole bool
	// Keys is how many affinity keys are remembered per worker, the newest;
	// zero: DefaultKeys, negative: none.
	Keys int

	// Attempts is how often a task is tried when the environment fails; zero:
	// DefaultAttempts. Task.Attempts goes before it.
	Attempts int
	// Retries is how many attempts beyond the first there are in the whole run;
	// zero: half as many as there are tasks and ten, negative: none.
	Retries int
	// PoisonAfter is how often a task may be started and lost with its worker;
	// zero: DefaultPoisonAfter.
	PoisonAfter int
	// Respawns is how often workers for the same labels may fail one after the
	// other (the source gives an error, or the worker breaks) with no task
	// ended between; zero: three times Workers and at least 5. Then the tasks
	// that want those labels are errored.
	Respawns int
	// Backoff is the wait after such a failure, doubled for each up to
	// MostBackoff; zero: DefaultBackoff, DefaultMostBackoff.
	Backoff, MostBackoff time.Duration
	// MostFailures aborts the run when as many tasks have failed, timed out or
	// errored; zero: no limit.
	MostFailures int

	// Grace is how long a worker may take to end what it runs after it was
	// interrupted; zero: DefaultGrace. After Grace and GraceMargin (zero:
	// DefaultGraceMargin) the scheduler stops waiting for it.
	Grace, GraceMargin time.Duration
	// ReleaseTimeout bounds Worker.Release; zero: DefaultReleaseTimeout.
	ReleaseTimeout time.Duration
	// Idle is how long a worker is kept that nothing fits while other tasks are
	// still to come; zero: DefaultIdle, negative: not at all.
	Idle time.Duration

	// Rotate is how long a demand may go without an answer before it makes room
	// for the demand of a task with other labels, whatever their priorities;
	// doubled for those labels each time. Such labels then come last, until a
	// worker arrives for them. Zero: DefaultRotate, negative: never.
	Rotate time.Duration

	// Log, where not nil, records all inputs, for Replay.
	Log *Log
	// Logger hears what is dropped, retried, given up; nil: nobody.
	Logger *slog.Logger
}

// filled checks the configuration and puts the defaults in.
func (c Config) filled() (Config, error) {
	wrong := func(field string, v any, rule string) error {
		return fmt.Errorf("scheduler: Config.%s is %v, want %s", field, v, rule)
	}
	for _, f := range []struct {
		name string
		v    int
	}{{"Workers", c.Workers}, {"Attempts", c.Attempts}, {"PoisonAfter", c.PoisonAfter}, {"Respawns", c.Respawns}, {"MostFailures", c.MostFailures}} {
		if f.v < 0 || f.v > math.MaxInt32 {
			return c, wrong(f.name, f.v, "0 or more and less than 2^31")
		}
	}
	for _, f := range []struct {
		name string
		v    time.Duration
	}{{"Switch", c.Switch}, {"Backoff", c.Backoff}, {"MostBackoff", c.MostBackoff}, {"Grace", c.Grace}, {"GraceMargin", c.GraceMargin}, {"ReleaseTimeout", c.ReleaseTimeout}} {
		if f.v < 0 {
			return c, wrong(f.name, f.v, "0 or more")
		}
	}
	for name, n := range c.Accounts {
		if n < 1 {
			return c, wrong(fmt.Sprintf("Accounts[%q]", name), n, "1 or more")
		}
	}
	for name, n := range c.Executors {
		if n < 1 {
			return c, wrong(fmt.Sprintf("Executors[%q]", name), n, "1 or more")
		}
	}
	switch c.Order {
	case "":
		c.Order = ByDuration
	case ByDuration, Random, Given:
	default:
		return c, wrong("Order", fmt.Sprintf("%q", c.Order), `"duration", "random" or "given"`)
	}
	preset(&c.Workers, 1)
	preset(&c.Attempts, DefaultAttempts)
	preset(&c.PoisonAfter, DefaultPoisonAfter)
	preset(&c.Respawns, max(5, 3*c.Workers))
	preset(&c.Keys, DefaultKeys)
	preset(&c.Grace, DefaultGrace)
	preset(&c.GraceMargin, DefaultGraceMargin)
	preset(&c.ReleaseTimeout, DefaultReleaseTimeout)
	preset(&c.Idle, DefaultIdle)
	preset(&c.Rotate, DefaultRotate)
	preset(&c.Backoff, DefaultBackoff)
	preset(&c.MostBackoff, max(DefaultMostBackoff, c.Backoff))
	if c.MostBackoff < c.Backoff {
		return c, wrong("MostBackoff", c.MostBackoff, fmt.Sprintf("Backoff (%v) or more", c.Backoff))
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return c, nil
}

func preset[T int | time.Duration](v *T, def T) {
	if *v == 0 {
		*v = def
	}
}
