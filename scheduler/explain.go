package scheduler

import (
	"fmt"
	"strings"
	"time"
)

// Explain says in words what a task does or waits for, and why; ErrUnknown,
// with the names that are near, for one that there is not.
func (s *Scheduler[J, R]) Explain(task string) (string, error) {
	s.mu.Lock()
	defer s.unlock()
	return s.m.explain(task, time.Since(s.epoch))
}

// mostNamed is how many tasks an explanation names.
const mostNamed = 5

func (m *machine) explain(name string, now time.Duration) (string, error) {
	t, is := m.byID[name]
	if !is {
		return "", &OpError{Op: "explain", Task: name, Err: fmt.Errorf("%w%s", ErrUnknown, suggest(name, func(yield func(string) bool) {
			for id := range m.byID {
				if !yield(id) {
					return
				}
			}
		}))}
	}
	k := &m.tasks[t]
	since := func(at int64) time.Duration { return (now - time.Duration(at)).Round(time.Millisecond) }
	switch k.state {
	case stateEnded:
		text := fmt.Sprintf("%s %s after %d attempts", name, m.ended(t), k.tries)
		if why, _ := m.explainEnd(t, nil); why != "" {
			text += ": " + why
		}
		return text, nil
	case stateGiven, stateStarted:
		w := m.workers[m.batches[k.batch].worker].name
		if k.state == stateGiven {
			return fmt.Sprintf("%s is in a batch on %s for %v and not started yet", name, w, since(k.at)), nil
		}
		return fmt.Sprintf("%s runs on %s for %v, expected to take %v, attempt %d", name, w, since(k.at),
			fromSeconds(k.est).Round(time.Millisecond), k.tries+1), nil
	case stateWaiting:
		return m.explainWait(t), nil
	}
	return m.explainReady(t, since(k.ready)), nil
}

func (m *machine) explainWait(t int32) string {
	var parts []string
	more := 0
	for e := m.tasks[t].pred; e >= 0; e = m.edges[e].nextIn {
		ed := &m.edges[e]
		if ed.met {
			continue
		}
		if len(parts) == mostNamed {
			more++
			continue
		}
		state := [...]string{"waits itself", "waits for a worker", "is in a batch", "runs", "has ended"}[m.tasks[ed.from].state]
		parts = append(parts, fmt.Sprintf("%s%s (%s)", m.ids[ed.from], m.conds[ed.cond].String(), state))
	}
	if len(parts) == 0 {
		return m.ids[t] + " could run; the run has not begun"
	}
	text := m.ids[t] + " waits for " + strings.Join(parts, ", ")
	if more > 0 {
		text += fmt.Sprintf(" and %d more", more)
	}
	return text
}

func (m *machine) explainReady(t int32, since time.Duration) string {
	k := &m.tasks[t]
	c := &m.classes[k.class]
	kd := &m.kinds[c.kind]
	var why []string
	if len(kd.pairs) > 0 {
		var labels []string
		for _, p := range kd.pairs {
			labels = append(labels, p.key+"="+p.value)
		}
		why = append(why, "wants a worker with "+strings.Join(labels, ", "))
	}
	if m.exclusively > 0 {
		why = append(why, "an exclusive task has the fleet for itself")
	}
	if c.exclusive && m.running > 0 {
		why = append(why, fmt.Sprintf("it is exclusive and %d batches run", m.running))
	}
	for _, a := range c.accounts {
		acc := &m.accounts[a]
		if acc.used >= acc.limit {
			if acc.name == serialAccount {
				why = append(why, "it is serial and another serial task runs")
			} else if name, is := strings.CutPrefix(acc.name, executorAccount); is {
				why = append(why, fmt.Sprintf("executor %s is at its limit of %d", name, acc.limit))
			} else {
				why = append(why, fmt.Sprintf("account %s is at its limit of %d", acc.name, acc.limit))
			}
		}
	}
	if len(c.avoiding) > 0 {
		why = append(why, "it failed on and stays away from "+strings.Join(c.avoiding, ", "))
	}
	if c.apart != "" {
		why = append(why, "it runs on no worker that was given another task to be kept apart from, key "+c.apart)
	}
	if kd.fails > 0 {
		text := fmt.Sprintf("workers failed %d times of %d, last: %s", kd.fails, m.conf.Respawns, kd.lastFail)
		if kd.notBefore > m.now {
			text += fmt.Sprintf("; the next is asked for in %v", time.Duration(kd.notBefore-m.now).Round(time.Millisecond))
		}
		why = append(why, text)
	}
	if n := len(c.demands); n > 0 {
		why = append(why, fmt.Sprintf("the source is asked for %d of the %d workers that its like would use", n, c.units))
	} else if m.alive+len(m.asked) >= m.conf.Workers {
		why = append(why, fmt.Sprintf("all %d workers are in use or asked for, and others are more urgent", m.conf.Workers))
	}
	if m.idle > 0 {
		why = append(why, fmt.Sprintf("%d workers have room but do not fit it now", m.idle))
	}
	text := fmt.Sprintf("%s could run for %v", m.ids[t], since)
	if len(why) > 0 {
		text += ": " + strings.Join(why, "; ")
	}
	return text
}
