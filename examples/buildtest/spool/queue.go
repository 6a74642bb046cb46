package spool

import (
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"sync"
	"time"
)

// The states of a job; complete, failed and cancelled are final.
const (
	Pending   = "pending"
	Suspended = "suspended" // stopped, keeps its slot
	Running   = "running"
	Complete  = "complete"  // ran to its end, whatever its exit code
	Failed    = "failed"    // could not be started, or was ended by a signal
	Cancelled = "cancelled" // by Cancel, or by the end of the queue
)

// DefaultGrace is how long a cancelled job has between SIGTERM and SIGKILL.
const DefaultGrace = 5 * time.Second

// ErrUnknown: no job has this id.
var ErrUnknown = errors.New("no such job")

// ErrClosed: the queue takes no more jobs.
var ErrClosed = errors.New("the queue is closed")

// Request is what to run.
type Request struct {
	Name    string
	Account string   // kept for people
	Argv    []string // at least the program
	Dir     string   // absolute; the job's working folder
	Env     []string // added to the queue's own
	Stdout  string   // files, made anew
	Stderr  string
}

// Job is how a job is.
type Job struct {
	ID, Name, Account, State string
	Exit                     int    // of a final one; 128 and the signal's number for one that a signal ended
	Reason                   string // why it failed, or who cancelled it
	// Lost: it failed before the script could run, through no fault of its own.
	Lost                     bool
	Submitted, Started, Done time.Time
}

// Queue runs jobs. Make one with New; its methods are safe for concurrent use.
type Queue struct {
	slots int
	grace time.Duration
	log   *slog.Logger

	mu     sync.Mutex
	closed bool
	last   int
	jobs   map[string]*job
	line   []*job // pending, in order
	busy   int
	all    sync.WaitGroup // of the processes
}

type job struct {
	Job
	request   Request
	process   *process
	cancelled string // by whom
	killing   *time.Timer
}

// New makes a queue that runs as many jobs at once as it has slots, one or more.
// A grace of zero is DefaultGrace; a nil logger discards.
func New(slots int, grace time.Duration, log *slog.Logger) (*Queue, error) {
	if slots < 1 {
		return nil, fmt.Errorf("spool: slots is %d, want 1 or more", slots)
	}
	if grace < 0 {
		return nil, fmt.Errorf("spool: grace is %v, want 0 or more", grace)
	}
	if grace == 0 {
		grace = DefaultGrace
	}
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return &Queue{slots: slots, grace: grace, log: log, jobs: map[string]*job{}}, nil
}

// Submit puts a job at the end of the line and returns its id.
func (q *Queue) Submit(r Request) (string, error) {
	switch {
	case len(r.Argv) == 0:
		return "", errors.New("spool: argv is empty, want a program")
	case !filepath.IsAbs(r.Dir):
		return "", fmt.Errorf("spool: dir is %q, want an absolute path", r.Dir)
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed {
		return "", ErrClosed
	}
	q.last++
	j := &job{request: r, Job: Job{ID: fmt.Sprint(q.last), Name: r.Name, Account: r.Account, State: Pending, Submitted: time.Now()}}
	q.jobs[j.ID] = j
	q.line = append(q.line, j)
	q.log.Info("submitted", "job", j.ID, "name", j.Name, "account", j.Account)
	q.next()
	return j.ID, nil
}

// next starts what there are slots for.
func (q *Queue) next() {
	for q.busy < q.slots && len(q.line) > 0 {
		j := q.line[0]
		q.line = q.line[1:]
		p, err := start(j.request)
		j.Started = time.Now()
		if err != nil {
			j.Lost = true
			q.final(j, Failed, -1, "cannot be started: "+err.Error())
			continue
		}
		j.process, j.State = p, Running
		q.busy++
		q.log.Info("started", "job", j.ID, "pid", p.pid())
		q.all.Go(func() { q.await(j) })
	}
}

// await waits for the end of a job's process.
func (q *Queue) await(j *job) {
	j.process.exited()
	q.mu.Lock()
	defer q.mu.Unlock()
	// Until it is reaped its number, by which signals are sent, is nobody else's;
	// and signals are sent under the lock.
	j.process.kill()
	exit, signal, err := j.process.reap()
	if j.killing != nil {
		j.killing.Stop()
	}
	q.busy--
	switch {
	case j.cancelled != "" && (signal != "" || exit != 0):
		q.final(j, Cancelled, exit, j.cancelled)
	case err != nil:
		j.Lost = true
		q.final(j, Failed, exit, err.Error())
	case signal != "":
		q.final(j, Failed, exit, "ended by "+signal)
	default:
		q.final(j, Complete, exit, "")
	}
	q.next()
}

func (q *Queue) final(j *job, state string, exit int, reason string) {
	j.State, j.Exit, j.Reason, j.Done = state, exit, reason, time.Now()
	q.log.Info(state, "job", j.ID, "exit", exit, "reason", reason)
}

// find gives a job; q.mu is held.
func (q *Queue) find(id string) (*job, error) {
	if j := q.jobs[id]; j != nil {
		return j, nil
	}
	return nil, fmt.Errorf("%w: %q", ErrUnknown, id)
}

// Poll tells how a job is.
func (q *Queue) Poll(id string) (Job, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	j, err := q.find(id)
	if err != nil {
		return Job{}, err
	}
	return j.Job, nil
}

// Jobs lists all jobs that there were, in the order of their arrival.
func (q *Queue) Jobs() []Job {
	q.mu.Lock()
	defer q.mu.Unlock()
	all := make([]Job, 0, len(q.jobs))
	for n := 1; n <= q.last; n++ {
		all = append(all, q.jobs[fmt.Sprint(n)].Job)
	}
	return all
}

// Cancel ends a job: a pending one at once, a running or suspended one by SIGTERM
// and, after the grace, SIGKILL. Of one that has ended it does nothing.
func (q *Queue) Cancel(id string) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	j, err := q.find(id)
	if err != nil {
		return err
	}
	q.cancel(j, "cancelled")
	return nil
}

func (q *Queue) cancel(j *job, by string) {
	switch j.State {
	case Pending:
		q.line = slices.DeleteFunc(q.line, func(other *job) bool { return other == j })
		q.final(j, Cancelled, -1, by)
	case Running, Suspended:
		if j.cancelled != "" {
			return
		}
		j.cancelled = by
		j.process.terminate()
		j.killing = time.AfterFunc(q.grace, func() {
			q.mu.Lock()
			defer q.mu.Unlock()
			if j.State == Running || j.State == Suspended {
				j.process.kill()
			}
		})
	}
}

// Suspend stops a running job where it is, Resume lets it go on. It keeps its slot.
func (q *Queue) Suspend(id string) error { return q.turn(id, Running, Suspended) }

// Resume is the opposite of Suspend.
func (q *Queue) Resume(id string) error { return q.turn(id, Suspended, Running) }

func (q *Queue) turn(id, from, to string) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	j, err := q.find(id)
	if err != nil {
		return err
	}
	if j.State != from || j.cancelled != "" {
		return fmt.Errorf("spool: job %s is %s, want %s", id, j.State, from)
	}
	if err := j.process.stop(to == Suspended); err != nil {
		return fmt.Errorf("spool: job %s: %w", id, err)
	}
	j.State = to
	q.log.Info(to, "job", id)
	return nil
}

// Close cancels all jobs and waits until no process of theirs is left; a second
// Close waits too.
func (q *Queue) Close() {
	q.mu.Lock()
	q.closed = true
	for _, j := range q.jobs {
		q.cancel(j, "the queue was closed")
	}
	q.mu.Unlock()
	q.all.Wait()
}
