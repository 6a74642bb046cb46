// Package scheduler decides which task runs where and when.
//
// A [Scheduler] takes tasks with groups, dependencies, labels and priorities,
// asks a [Source] for workers, gives them batches and yields one [Outcome] per
// task, exactly one, whatever happens on the way. Tasks carry a payload J and
// give a result R; the scheduler looks into neither.
//
// # Order
//
// Higher priority first; then tasks that were never seen before (no estimate:
// they may be the longest of all, and history shows that they decide the end
// of a run); then the longest path of estimated durations through the
// dependencies to the end of the run, longest first. Tasks of one group go to
// one worker in one batch, unless the group is longer than a quarter of a
// worker's fair share: then it is cut. A worker that already ran a task with an
// affinity key, or a longer part of it, gets the like of it first as long as
// nothing more urgent is delayed by that. Tasks of one [Task.Apart] key never
// share a worker. Demands that a source does not answer make way by age.
//
// # Failure
//
// Only failures of the environment are retried ([Verdict].Infra, a worker that
// broke, a worker that returned without ending a task), on another worker where
// there is one, within budgets per task and per run. Tests that fail are
// results. A task that was started and lost Config.PoisonAfter times is poison
// and ends as errored; so do tasks whose source keeps failing. A task whose
// dependency did not end as asked is blocked, with the cause.
//
// # Executors
//
// A [Registry] holds executors by name: those that run a task themselves
// ([Runner]), those that submit it to a queueing system, poll its state and
// cancel it ([Submitter]), and those that have a Source of workers. It is a
// Source like any other; tasks name theirs with the label [ExecutorLabel].
//
// # Decisions
//
// All decisions are made by one deterministic state machine without goroutines
// or clock. The runtime behind [Scheduler.Run] feeds it; a [Log] of its inputs
// replays a run exactly ([Replay]); [Simulate] runs it on a virtual clock.
//
// A decision costs O(log n) in the number of tasks; labels, limits and affinity
// are indices, not scans.
package scheduler
