// Package runner runs jobs on the guests of a pool: it writes the job disk,
// puts in the inputs, lets the guest go, reads the records back, and says what
// the end of the run means. It is the only place that maps how a run ended to a
// verdict; see the table in verdict.go.
//
// [Source] makes a pool a source of workers for a scheduler; [Run] runs one job
// on a guest that the caller holds; [Cases] turns a scheduler's outcome into
// cases for a report.
//
// A verdict is never better than its proof: passed needs the completion record
// of the job, read off the disk under a lease that was held throughout. What the
// environment broke is errored and, through the scheduler, tried elsewhere; it
// is never a failed test.
package runner
