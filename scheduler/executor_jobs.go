package scheduler

import (
	"cmp"
	"slices"
	"sync"
	"time"
)

// JobInfo is a job that an executor has under way.
type JobInfo struct {
	Task, Executor, Account string
	// Worker is the place or the machine that it is on.
	Worker  string
	Attempt int // from one
	// ID is the job's in the queueing system; empty until Submit has returned,
	// and for jobs that an executor runs itself.
	ID string
	// State is what was told last: JobPending until something was. Reason is
	// the queueing system's own word, or why its state is not known.
	State  JobState
	Reason string
	// Begun is when the executor got it, Since when its state changed last.
	Begun, Since time.Time
	// Polls is how often its state was asked for.
	Polls int
}

// Jobs lists what the executors have under way, for all schedulers that share
// the registry, those that began first in front. A job that has ended is not
// among them: its end is an Outcome.
func (r *Registry[J, R]) Jobs() []JobInfo {
	r.jobs.mu.Lock()
	defer r.jobs.mu.Unlock()
	all := make([]JobInfo, 0, len(r.jobs.under))
	for j := range r.jobs.under {
		all = append(all, *j)
	}
	slices.SortFunc(all, func(a, b JobInfo) int { return cmp.Or(a.Begun.Compare(b.Begun), cmp.Compare(a.Task, b.Task)) })
	return all
}

// jobTable has the jobs under way.
type jobTable struct {
	mu    sync.Mutex
	under map[*JobInfo]struct{}
}

func (t *jobTable) begin(j JobInfo) *JobInfo {
	j.Begun = time.Now()
	j.Since = j.Begun
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.under == nil {
		t.under = make(map[*JobInfo]struct{})
	}
	t.under[&j] = struct{}{}
	return &j
}

// tell notes a state and returns how the job is now.
func (t *jobTable) tell(j *JobInfo, state JobState, reason string, polls int) JobInfo {
	t.mu.Lock()
	defer t.mu.Unlock()
	if j.State != state {
		j.State, j.Since = state, time.Now()
	}
	j.Reason = reason
	j.Polls += polls
	return *j
}

func (t *jobTable) submitted(j *JobInfo, id string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	j.ID = id
}

func (t *jobTable) end(j *JobInfo) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.under, j)
}
