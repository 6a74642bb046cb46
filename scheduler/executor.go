package scheduler

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strings"
	"time"
)

// ExecutorLabel is the label of a task that names its executor.
const ExecutorLabel = "executor"

// The defaults of an Executor.
const (
	DefaultPollInterval    = 30 * time.Second
	DefaultMaxPollInterval = 5 * time.Minute
	DefaultUnknownTimeout  = 10 * time.Minute
	DefaultCancelTimeout   = time.Minute
	DefaultCallTimeout     = time.Minute
)

// ErrExecutor: a name that no executor has, or that one has already, or an
// executor that cannot be used.
var ErrExecutor = errors.New("executor")

// ErrJobUnknown: the state of a job could not be told for too long.
var ErrJobUnknown = errors.New("the state of the job is not known")

// ErrJobCancelled: somebody else cancelled the job.
var ErrJobCancelled = errors.New("the job was cancelled")

// Job is what an executor is given: one attempt at one task.
type Job[J any] struct {
	Task    Task[J]
	Attempt int // from one
	// Executor is the name under which the executor was registered.
	Executor string
	// Account is what to charge: the task's, else the executor's.
	Account string
	// BeforeScript is the executor's text that goes before whatever the task
	// runs, in the same shell or machine. The scheduler does not read it.
	BeforeScript string
}

// Runner is an executor that runs a job itself.
type Runner[J, R any] interface {
	// Run returns when the job has ended. When the context ends, it interrupts
	// the job and returns within Config.Grace. Verdict.Infra says that the
	// environment failed: then the task may be tried again. It is called from
	// several goroutines at once, up to Executor.MaxJobs.
	Run(ctx context.Context, j Job[J]) (Verdict, R)
}

// Submitter is an executor that hands jobs to a queueing system and asks how
// they are. Each call returns when its context ends, which bounds it by
// Executor.CallTimeout. All are called from several goroutines at once.
type Submitter[J, R any] interface {
	// Submit returns the job's id in the queueing system. An id together with
	// an error is a job that may have been taken: it is cancelled.
	Submit(ctx context.Context, j Job[J]) (id string, err error)
	// Poll tells a job's state. An error is a state that is not known.
	Poll(ctx context.Context, id string) (JobStatus[R], error)
	// Cancel asks for the end of a job, pending or running; of one that has
	// ended it is no error. That it worked is seen by Poll.
	Cancel(ctx context.Context, id string) error
}

// JobState is the state of a submitted job. A word that is none of these
// counts as JobUnknown.
type JobState string

// The states; complete, failed and cancelled are final.
const (
	JobPending   JobState = "pending"   // in the queue
	JobSuspended JobState = "suspended" // stopped, may go on
	JobRunning   JobState = "running"
	JobComplete  JobState = "complete"  // ran to its end: passed with exit 0, else failed
	JobFailed    JobState = "failed"    // the queueing system counts it as failed
	JobCancelled JobState = "cancelled" // by whomever
	JobUnknown   JobState = "unknown"
)

// known says whether a state is one that tells something.
func (s JobState) known() bool {
	switch s {
	case JobPending, JobSuspended, JobRunning:
		return true
	}
	return s.Final()
}

// Final says whether a job in this state changes no more.
func (s JobState) Final() bool { return s == JobComplete || s == JobFailed || s == JobCancelled }

// JobStatus is how a submitted job is.
type JobStatus[R any] struct {
	State  JobState
	Exit   int    // of a final one
	Reason string // for people, such as the queueing system's own word
	Result R      // of a final one
	// Verdict, where its Status or Infra is set, is that of a final job, as of
	// one that failed with its node; else it follows from State and Exit.
	Verdict Verdict
}

// verdict of a final job that nobody here cancelled.
func (s *JobStatus[R]) verdict(id string) Verdict {
	v := s.Verdict
	switch {
	case v.Status != "" || v.Infra != nil:
		return v
	case s.State == JobCancelled:
		return Verdict{Status: Errored, Exit: s.Exit, Infra: Infra(fmt.Errorf("%w: job %s%s", ErrJobCancelled, id, behind(s.Reason)))}
	case s.State == JobComplete && s.Exit == 0:
		return Verdict{Status: Passed}
	}
	return Verdict{Status: Failed, Exit: s.Exit}
}

func behind(reason string) string {
	if reason == "" {
		return ""
	}
	return ": " + reason
}

// Executor is one place where tasks run, under a name. Name and exactly one of
// Runner, Submitter and Source are required.
type Executor[J, R any] struct {
	Name      string
	Runner    Runner[J, R]
	Submitter Submitter[J, R]
	// Source gives workers, such as the machines of a pool: a task runs on one
	// that is asked for with its labels, those apart that the executor has
	// itself. The worker finds BeforeScript in the Batch.
	Source Source[J, R]

	// Labels are what tasks may want of it beside its name; its name is added
	// as ExecutorLabel.
	Labels map[string]string
	// MaxJobs is how many jobs it has at once at the most, pending ones
	// included; zero: no limit.
	MaxJobs int
	// Account is charged for tasks without one.
	Account string
	// BeforeScript goes with each Job, or with the Batch.
	BeforeScript string

	// PollInterval is the wait before a Poll, growing by half for each that
	// tells no change up to MaxPollInterval; zero: DefaultPollInterval and
	// DefaultMaxPollInterval (or PollInterval, if that is more). Deadlines are
	// met whatever it is.
	PollInterval, MaxPollInterval time.Duration
	// MaxPendTime bounds the time from Submit until the job is first seen
	// running; then it is cancelled and the task is errored, not tried again
	// (ErrPending). Task.PendingLimit goes before it; zero:
	// DefaultPendingLimit, negative: none. With a Source, Registry.Assign makes
	// it the Task.PendingLimit of tasks that have none.
	MaxPendTime time.Duration
	// UnknownTimeout bounds the time without a known state; then the job is
	// cancelled and the environment has failed (ErrJobUnknown); zero:
	// DefaultUnknownTimeout.
	UnknownTimeout time.Duration
	// CancelTimeout bounds the wait for a cancelled job to be final. One that
	// is not may still run: its task is errored and not tried again
	// (ErrAbandoned). Zero: DefaultCancelTimeout. It should be less than
	// Config.Grace.
	CancelTimeout time.Duration
	// CallTimeout bounds each call of a Submitter; zero: DefaultCallTimeout.
	CallTimeout time.Duration

	// Polled is called after each Poll with how the job is then, from several
	// goroutines at once; it must not block. Nil: nobody is told.
	Polled func(j JobInfo)
}

// filled checks an executor and puts the defaults in.
func (e Executor[J, R]) filled() (Executor[J, R], error) {
	wrong := func(format string, args ...any) error {
		return fmt.Errorf("%w %q: %s", ErrExecutor, e.Name, fmt.Sprintf(format, args...))
	}
	if e.Name == "" {
		return e, fmt.Errorf("%w: Executor.Name is empty, want a name", ErrExecutor)
	}
	kinds := 0
	for _, is := range []bool{e.Runner != nil, e.Submitter != nil, e.Source != nil} {
		if is {
			kinds++
		}
	}
	if kinds != 1 {
		return e, wrong("want exactly one of Runner, Submitter and Source, has %d", kinds)
	}
	if e.MaxJobs < 0 {
		return e, wrong("MaxJobs is %d, want 0 or more", e.MaxJobs)
	}
	for _, f := range []struct {
		name string
		v    time.Duration
	}{{"PollInterval", e.PollInterval}, {"MaxPollInterval", e.MaxPollInterval}, {"UnknownTimeout", e.UnknownTimeout},
		{"CancelTimeout", e.CancelTimeout}, {"CallTimeout", e.CallTimeout}} {
		if f.v < 0 {
			return e, wrong("%s is %v, want 0 or more", f.name, f.v)
		}
	}
	preset(&e.PollInterval, DefaultPollInterval)
	preset(&e.MaxPollInterval, max(DefaultMaxPollInterval, e.PollInterval))
	preset(&e.MaxPendTime, DefaultPendingLimit)
	preset(&e.UnknownTimeout, DefaultUnknownTimeout)
	preset(&e.CancelTimeout, DefaultCancelTimeout)
	preset(&e.CallTimeout, DefaultCallTimeout)
	if e.MaxPollInterval < e.PollInterval {
		return e, wrong("MaxPollInterval is %v, want PollInterval (%v) or more", e.MaxPollInterval, e.PollInterval)
	}
	if name, has := e.Labels[ExecutorLabel]; has && name != e.Name {
		return e, wrong("Labels[%q] is %q, want its name or nothing", ExecutorLabel, name)
	}
	e.Labels = maps.Clone(e.Labels)
	if e.Labels == nil {
		e.Labels = make(map[string]string)
	}
	e.Labels[ExecutorLabel] = e.Name
	return e, nil
}

// lacks says what of the wanted labels an executor has not; empty: it fits. What
// an executor with a source does not say, the source may have.
func (e *Executor[J, R]) lacks(wanted map[string]string) string {
	var parts []string
	for _, p := range sortedPairs(wanted) {
		if has, is := e.Labels[p.key]; !is && e.Source != nil {
			continue
		} else if !is {
			parts = append(parts, "it has no label "+p.key)
		} else if has != p.value {
			parts = append(parts, fmt.Sprintf("its %s is %s, not %s", p.key, has, p.value))
		}
	}
	return strings.Join(parts, ", ")
}
