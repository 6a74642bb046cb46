package scheduler

import (
	"errors"
	"fmt"
	"math"
	"strings"
	"time"
)

// spec is a Task without its payload.
type spec struct {
	ID        string            `json:"id"`
	Group     string            `json:"group,omitempty"`
	Affinity  string            `json:"affinity,omitempty"`
	Apart     string            `json:"apart,omitempty"`
	Account   string            `json:"account,omitempty"`
	Labels    map[string]string `json:"labels,omitempty"`
	After     []Dependency      `json:"after,omitempty"`
	Priority  int               `json:"priority,omitempty"`
	Estimate  time.Duration     `json:"estimate,omitempty"` // negative: never seen
	Timeout   time.Duration     `json:"timeout,omitempty"`
	Pending   time.Duration     `json:"pending,omitempty"`
	Attempts  int               `json:"attempts,omitempty"`
	Serial    bool              `json:"serial,omitempty"`
	Exclusive bool              `json:"exclusive,omitempty"`
}

func specOf[J any](t *Task[J], estimate func(string) (Estimate, bool)) spec {
	s := spec{
		ID: t.ID, Group: t.Group, Affinity: t.Affinity, Apart: t.Apart, Account: t.Account, Labels: t.Labels,
		After: t.After, Priority: t.Priority, Estimate: t.Estimate, Timeout: t.Timeout,
		Pending: t.PendingLimit, Attempts: t.Attempts, Serial: t.Serial, Exclusive: t.Exclusive,
	}
	if s.Estimate <= 0 {
		s.Estimate = -1
		if estimate != nil {
			if e, ok := estimate(t.ID); ok && e.Duration >= 0 {
				s.Estimate = e.Duration
			}
		}
	}
	return s
}

// mostErrors is how many mistakes one Add tells of.
const mostErrors = 10

// add takes all of the tasks or, with an error, none.
func (m *machine) add(specs []spec) error {
	first := int32(len(m.tasks))
	if len(m.tasks)+len(specs) > math.MaxInt32/2 {
		return &OpError{Op: "add", Err: fmt.Errorf("%d tasks are more than a run can hold", len(m.tasks)+len(specs))}
	}
	if m.cancelled != "" {
		return &OpError{Op: "add", Err: fmt.Errorf("%w: %s", ErrEnded, m.cancelled)}
	}
	var wrong []error
	complain := func(task string, err error) {
		if len(wrong) < mostErrors {
			wrong = append(wrong, &OpError{Op: "add", Task: task, Err: err})
		}
	}
	named := 0
	for i := range specs {
		s := &specs[i]
		if s.ID == "" {
			complain("", fmt.Errorf("Task.ID of the task at %d is empty, want a name", i))
			break
		}
		if _, is := m.byID[s.ID]; is {
			complain(s.ID, ErrDuplicate)
			break
		}
		m.byID[s.ID] = first + int32(i)
		named++
	}
	if len(wrong) == 0 {
		m.checkSpecs(specs, complain)
	}
	var order []int32
	if len(wrong) == 0 {
		var cycle []int32
		if order, cycle = m.topological(specs, first); cycle != nil {
			var path strings.Builder
			for i, t := range cycle {
				switch {
				case i == 8 && len(cycle) > 12:
					fmt.Fprintf(&path, " -> ... %d more", len(cycle)-10)
				case i >= 8 && i < len(cycle)-2 && len(cycle) > 12:
				default:
					if i > 0 {
						path.WriteString(" -> ")
					}
					path.WriteString(specs[t-first].ID)
				}
			}
			complain(specs[cycle[0]-first].ID, fmt.Errorf("%w: %s (each waits for the next)", ErrCycle, path.String()))
		}
	}
	if len(wrong) > 0 {
		for i := range specs[:named] {
			delete(m.byID, specs[i].ID)
		}
		return errors.Join(wrong...)
	}
	m.insert(specs, first, order)
	return nil
}

func (m *machine) checkSpecs(specs []spec, complain func(string, error)) {
	for i := range specs {
		s := &specs[i]
		switch {
		case s.Attempts < 0 || s.Attempts > math.MaxInt32:
			complain(s.ID, fmt.Errorf("Task.Attempts is %d, want 0 or more", s.Attempts))
		case s.Timeout < 0:
			complain(s.ID, fmt.Errorf("Task.Timeout is %v, want 0 or more", s.Timeout))
		}
		for _, d := range s.After {
			if _, is := m.byID[d.Task]; !is {
				complain(s.ID, fmt.Errorf("depends on %q: %w%s", d.Task, ErrUnknown, suggest(d.Task, func(yield func(string) bool) {
					for id := range m.byID {
						if id != s.ID && !yield(id) {
							return
						}
					}
				})))
			}
			for _, w := range d.Statuses {
				if statusOf(w) == statusNone {
					complain(s.ID, fmt.Errorf("depends on %q with the unknown status %q, want one of %s", d.Task, w,
						strings.Join(statusWords[1:], ", ")))
				}
			}
		}
	}
}

// topological orders new tasks behind what they depend on (Kahn), or returns a
// cycle, its first task repeated at its end. Older tasks cannot depend on newer.
func (m *machine) topological(specs []spec, first int32) (order, cycle []int32) {
	order = make([]int32, 0, len(specs))
	inOrder := true
	for i := range specs {
		for _, d := range specs[i].After {
			inOrder = inOrder && m.byID[d.Task] < first+int32(i)
		}
		order = append(order, first+int32(i))
	}
	if inOrder {
		return order, nil
	}
	order = order[:0]
	waits := make([]int32, len(specs))
	heads := make([]int32, len(specs))
	for i := range heads {
		heads[i] = -1
	}
	type link struct{ to, next int32 }
	var links []link
	for i := range specs {
		for _, d := range specs[i].After {
			if p := m.byID[d.Task]; p >= first {
				waits[i]++
				links = append(links, link{int32(i), heads[p-first]})
				heads[p-first] = int32(len(links) - 1)
			}
		}
	}
	for i, w := range waits {
		if w == 0 {
			order = append(order, first+int32(i))
		}
	}
	for k := 0; k < len(order); k++ {
		for l := heads[order[k]-first]; l >= 0; l = links[l].next {
			to := links[l].to
			if waits[to]--; waits[to] == 0 {
				order = append(order, first+to)
			}
		}
	}
	if len(order) == len(specs) {
		return order, nil
	}
	// Every task that is left has a dependency that is left: walk along those
	// until one comes again.
	at := int32(0)
	for waits[at] == 0 {
		at++
	}
	seen := make(map[int32]int)
	var path []int32
	for {
		if k, again := seen[at]; again {
			for _, t := range path[k:] {
				cycle = append(cycle, first+t)
			}
			return nil, append(cycle, first+at)
		}
		seen[at] = len(path)
		path = append(path, at)
		for _, d := range specs[at].After {
			if p := m.byID[d.Task]; p >= first && waits[p-first] > 0 {
				at = p - first
				break
			}
		}
	}
}
