package scheduler

import "time"

// Task is one unit of work with the payload J. Only ID is required.
type Task[J any] struct {
	// ID is unique within a run.
	ID string
	// Group names tasks that want to run on the same worker, one after the
	// other; empty: a group of its own.
	Group string
	// Labels are what a worker must have, key by key. They are the wants;
	// affinity is in Affinity.
	Labels map[string]string
	// Affinity is a key that a worker keeps once it has run a task with it,
	// such as a provider or a suite's set-up; the longest known key first.
	Affinity string
	// Apart is a key of tasks that want to be apart (anti-affinity): no two of
	// the same key are given to the same worker, at the same time or ever, from
	// its arrival to its release; another attempt at the same task neither.
	// Such a task is never batched with others of its group. Empty: none.
	Apart string
	// After are the dependencies; see Dependency.
	After []Dependency
	// Priority: higher first. Default 0.
	Priority int
	// Estimate is the expected duration; zero: unknown. Config.Estimate is
	// asked for tasks without one.
	Estimate time.Duration
	// Timeout bounds one attempt, measured by the worker; zero: none.
	Timeout time.Duration
	// PendingLimit bounds the wait for a worker, from the moment at which the
	// task could run; zero: DefaultPendingLimit, negative: none.
	PendingLimit time.Duration
	// Attempts is how often the task may be tried when the environment fails;
	// zero: Config.Attempts.
	Attempts int
	// Serial: no other serial task runs at the same time.
	Serial bool
	// Exclusive: nothing else runs at the same time, in the whole fleet.
	Exclusive bool
	// Account is charged by executors that have accounts.
	Account string

	Payload J
}

// Dependency is one condition on another task. The zero condition asks that it
// has passed.
type Dependency struct {
	Task string
	// Ended asks only that it has ended, with whatever verdict.
	Ended bool
	// Statuses and Exits, where not empty, name the allowed ones; both must
	// hold when both are given.
	Statuses []string
	Exits    []int
}

// DefaultPendingLimit is how long a task waits for a worker at the most.
const DefaultPendingLimit = 24 * time.Hour
