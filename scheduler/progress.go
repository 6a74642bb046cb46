package scheduler

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// Snapshot is the state of a run at one moment.
type Snapshot struct {
	At                             time.Time
	Waiting, Ready, Running, Ended int            // tasks: for others, for a worker, on one, over
	Statuses                       map[string]int // of those that ended
	Retries                        int            // attempts beyond the first
	// Switch is what a switch costs: Config.Switch, or what was measured; zero:
	// not known.
	Switch time.Duration
	// Percent of the estimated work that is done, what runs counted in part.
	Percent float64
	// End is when the run ends as far as the estimates know; zero before the
	// run and when nothing is left.
	End     time.Time
	Tasks   []RunningTask // what runs where since when, the longest first
	Workers []WorkerState
	Demands []DemandState // what the source was asked for, the oldest first
	// Cancelled says why no more is started; empty: it goes on.
	Cancelled string
}

// RunningTask is a task that a worker was given.
type RunningTask struct {
	Task, Group, Worker string
	Started             bool // else behind another of its batch
	Since               time.Time
	Attempt             int
	Estimate            time.Duration
}

// WorkerState is a worker that arrived and is not released yet.
type WorkerState struct {
	Name    string
	State   string // "idle", "busy", "releasing"
	Since   time.Time
	Batches int // under way
	Keys    []string
}

// DemandState is a worker that the source was asked for.
type DemandState struct {
	Task      string
	Labels    map[string]string
	Since     time.Time
	Withdrawn bool
}

// Snapshot returns the state of the run. It costs as much as there are workers
// and running tasks, however many tasks there are.
func (s *Scheduler[J, R]) Snapshot() Snapshot {
	s.mu.Lock()
	defer s.unlock()
	return s.m.snapshot(s.epoch, time.Since(s.epoch))
}

func (m *machine) snapshot(epoch time.Time, now time.Duration) Snapshot {
	moment := func(at int64) time.Time { return epoch.Add(time.Duration(at)) }
	out := Snapshot{At: epoch.Add(now), Waiting: m.waiting, Ready: m.ready, Running: m.active,
		Ended: len(m.tasks) - m.unfinished, Statuses: make(map[string]int), Retries: m.retries, Switch: fromSeconds(m.switchCost()), Cancelled: m.cancelled}
	for s, n := range m.byStatus {
		if n > 0 {
			out.Statuses[status(s).String()] = n
		}
	}
	left, path, part := m.work, 0.0, 0.0
	for w := range m.workers {
		k := &m.workers[w]
		if k.state == workerGone {
			continue
		}
		ws := WorkerState{Name: k.name, State: "busy", Since: moment(k.since), Batches: len(k.batches)}
		switch {
		case k.state == workerReleasing:
			ws.State = "releasing"
		case len(k.batches) == 0:
			ws.State = "idle"
		}
		for _, key := range k.known {
			ws.Keys = append(ws.Keys, m.keys.text(key))
		}
		out.Workers = append(out.Workers, ws)
		for _, id := range k.batches {
			for _, t := range m.batches[id].tasks {
				task := &m.tasks[t]
				if task.batch != id || task.state != stateGiven && task.state != stateStarted {
					continue
				}
				r := RunningTask{Task: m.ids[t], Worker: k.name, Started: task.state == stateStarted,
					Since: moment(task.at), Attempt: int(task.tries) + 1, Estimate: fromSeconds(task.est)}
				if g := m.batches[id].group; g >= 0 {
					r.Group = m.groups[g]
				}
				out.Tasks = append(out.Tasks, r)
				rest := task.est
				if r.Started {
					rest = max(0, task.est-(now-time.Duration(task.at)).Seconds())
				}
				part += task.est - rest
				left += rest
				path = max(path, rest+task.tail-task.est)
			}
		}
	}
	slices.SortFunc(out.Tasks, func(a, b RunningTask) int { return a.Since.Compare(b.Since) })
	for c := range m.classes {
		if u := m.classUrgency(int32(c)); !u.none() && m.conf.Order == ByDuration {
			path = max(path, u.lo)
		}
	}
	if m.total > 0 {
		out.Percent = min(100, 100*(m.done+part)/m.total)
	}
	if m.unfinished == 0 && len(m.tasks) > 0 {
		out.Percent = 100
	}
	if m.started && m.unfinished > 0 {
		out.End = out.At.Add(fromSeconds(max(left/float64(m.conf.Workers), path)))
	}
	for _, id := range m.asked {
		d := &m.demands[id]
		out.Demands = append(out.Demands, DemandState{Task: m.ids[d.task], Labels: m.kinds[m.classes[d.class].kind].labels,
			Since: moment(d.at), Withdrawn: d.state == demandWithdrawn})
	}
	slices.SortStableFunc(out.Demands, func(a, b DemandState) int { return a.Since.Compare(b.Since) })
	return out
}

func fromSeconds(s float64) time.Duration {
	return time.Duration(min(max(0, s), mostSeconds) * float64(time.Second))
}

// text of a key, as it was given.
func (k *keyTree) text(id int32) string {
	var parts []string
	for n := id; n > 0; n = k.nodes[n].parent {
		parts = append(parts, strings.TrimPrefix(k.nodes[n].segment, "\x00"))
	}
	slices.Reverse(parts)
	return strings.Join(parts, "/")
}

// String returns a line of counts and a table of what runs.
func (s Snapshot) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%.0f %%: %d of %d ended, %d running, %d ready, %d waiting", s.Percent, s.Ended,
		s.Ended+s.Running+s.Ready+s.Waiting, s.Running, s.Ready, s.Waiting)
	for _, w := range statusWords[1:] {
		if n := s.Statuses[w]; n > 0 {
			fmt.Fprintf(&b, ", %d %s", n, w)
		}
	}
	if !s.End.IsZero() {
		fmt.Fprintf(&b, ", about %v left", s.End.Sub(s.At).Round(time.Second))
	}
	if s.Cancelled != "" {
		fmt.Fprintf(&b, " (%s)", s.Cancelled)
	}
	b.WriteByte('\n')
	for _, t := range s.Tasks {
		word := "since"
		if !t.Started {
			word = "given"
		}
		fmt.Fprintf(&b, "  %-20s on %-12s %s %v of %v, attempt %d\n", t.Task, t.Worker, word,
			s.At.Sub(t.Since).Round(time.Second), t.Estimate.Round(time.Millisecond), t.Attempt)
	}
	for _, d := range s.Demands {
		fmt.Fprintf(&b, "  a worker for %s asked for since %v\n", d.Task, s.At.Sub(d.Since).Round(time.Second))
	}
	return b.String()
}
