package scheduler

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"
)

// script is what a model run does, drawn before it.
type script struct {
	conf     Config
	tasks    []Task[string]
	late     []Task[string] // added while it runs
	lateAt   time.Duration
	info     WorkerInfo
	boots    []time.Duration // per demand, in turn
	refuse   []bool          // per demand, in turn
	faults   []string        // per batch, in turn
	verdicts []Verdict       // per attempt, in turn
	lengths  []time.Duration // per task, in turn
	cancelAt time.Duration   // 0: never
	leave    int             // leave the loop after so many outcomes; 0: never
}

func drawScript(t *rapid.T) script {
	var s script
	r := func(name string, n int) int { return rapid.IntRange(0, n).Draw(t, name) }
	s.conf = Config{Workers: 1 + r("workers", 5), Attempts: 1 + r("attempts", 3), PoisonAfter: 1 + r("poison", 2),
		Respawns: 1 + r("respawns", 9), Backoff: time.Millisecond, Grace: 3 * time.Second, GraceMargin: time.Second,
		Accounts: map[string]int{"x": 1, "y": 2}, Executors: map[string]int{"e": 2},
		Rotate: rapid.SampledFrom([]time.Duration{0, -1, time.Millisecond, time.Second, 3 * time.Second}).Draw(t, "rotate"),
		Order:  rapid.SampledFrom([]Order{ByDuration, ByDuration, Random, Given}).Draw(t, "order"), Seed: uint64(r("seed", 99))}
	if r("most failures", 3) == 0 {
		s.conf.MostFailures = 1 + r("failures", 4)
	}
	if r("switch", 1) == 0 {
		s.conf.Switch = time.Second
	}
	if r("idle", 3) == 0 {
		s.conf.Idle = -1
	}
	s.info = WorkerInfo{MaxTasks: r("max tasks", 3), Batches: r("batches", 4) - 1}
	n := 1 + r("tasks", 30)
	for i := range n {
		task := Task[string]{ID: fmt.Sprint("t", i), Priority: r("priority", 2) - 1}
		task.Estimate = rapid.SampledFrom([]time.Duration{0, 0, -5, 1, time.Second, 5 * time.Second, 1 << 62}).Draw(t, "estimate")
		task.Group = rapid.SampledFrom([]string{"", "", "g", "h"}).Draw(t, "group")
		task.Affinity = rapid.SampledFrom([]string{"", "", "a", "a/b", "c"}).Draw(t, "affinity")
		task.Account = rapid.SampledFrom([]string{"", "", "", "x", "y", "z"}).Draw(t, "account")
		switch r("labels", 4) {
		case 0:
			task.Labels = map[string]string{"os": "linux"}
		case 1:
			task.Labels = map[string]string{"os": "linux", "cpu": "arm"}
		case 2:
			task.Labels = map[string]string{"os": "bsd"}
		}
		task.Apart = rapid.SampledFrom([]string{"", "", "", "p", "q"}).Draw(t, "apart")
		if r("executor", 5) == 0 {
			if task.Labels == nil {
				task.Labels = make(map[string]string)
			}
			task.Labels[ExecutorLabel] = "e"
		}
		task.Serial = r("serial", 9) == 0
		task.Exclusive = r("exclusive", 14) == 0
		if r("timeout", 9) == 0 {
			task.Timeout = time.Minute
		}
		if r("limit", 9) == 0 {
			task.PendingLimit = rapid.SampledFrom([]time.Duration{time.Millisecond, 3 * time.Second, -1}).Draw(t, "pending")
		}
		for range r("deps", 2) {
			if i == 0 {
				break
			}
			d := Dependency{Task: fmt.Sprint("t", r("dep", i-1))}
			switch r("dep kind", 5) {
			case 0:
				d.Ended = true
			case 1:
				d.Statuses = []string{Failed, Skipped}
			case 2:
				d.Exits = []int{0, 2}
			}
			task.After = append(task.After, d)
		}
		s.tasks = append(s.tasks, task)
	}
	if r("late", 2) == 0 {
		cut := r("cut", n)
		s.late, s.tasks = s.tasks[cut:], s.tasks[:cut]
		s.lateAt = time.Duration(r("late at", 20)) * 500 * time.Millisecond
	}
	list := func(name string, f func()) {
		for range 1 + r(name, 5) {
			f()
		}
	}
	list("boots", func() {
		s.boots = append(s.boots, time.Duration(r("boot", 8))*700*time.Millisecond)
		s.refuse = append(s.refuse, r("refuse", 5) == 0)
	})
	list("faults", func() {
		s.faults = append(s.faults, rapid.SampledFrom([]string{"", "", "", "", "dies", "dies before", "dies after", "returns", "panics", "twice", "infra", "hangs"}).Draw(t, "fault"))
	})
	list("verdicts", func() {
		s.verdicts = append(s.verdicts, rapid.SampledFrom([]Verdict{{Status: Passed}, {Status: Passed}, {Status: Passed}, {Status: Failed, Exit: 2},
			{Status: Skipped}, {Status: TimedOut}, {Status: "?"}, {Infra: errors.New("no disk")}}).Draw(t, "verdict"))
		s.lengths = append(s.lengths, time.Duration(r("length", 9))*300*time.Millisecond)
	})
	switch r("ends", 4) {
	case 0:
		s.cancelAt = time.Duration(1+r("cancel at", 30)) * 350 * time.Millisecond
	case 1:
		s.leave = 1 + r("leave", n)
	}
	return s
}

// model runs a script and keeps the rules in view.
type model struct {
	mu        sync.Mutex
	s         script
	byID      map[string]Task[string]
	wrong     []string
	demands   int
	out       int
	batches   int
	attempts  int
	workers   []*modelWorker
	running   map[string]int    // tasks in batches that run now
	accounts  map[string]int    // batches
	final     map[string]string // what workers said last
	exits     map[string]int
	cancelled time.Time
	gone      bool
}

type modelWorker struct {
	m        *model
	info     WorkerInfo
	now      int
	released int
	apart    map[string]bool
}

func (m *model) complain(format string, args ...any) {
	m.wrong = append(m.wrong, fmt.Sprintf(format, args...))
}

func (m *model) Worker(ctx context.Context, d Demand) (Worker[string, string], error) {
	m.mu.Lock()
	n := m.demands
	m.demands++
	m.out++
	if m.out > m.s.conf.Workers {
		m.complain("%d workers held or asked for", m.out)
	}
	m.mu.Unlock()
	if n == 3000 {
		m.mu.Lock()
		m.complain("%d demands for %d tasks", n, len(m.byID))
		m.mu.Unlock()
	}
	if n >= 3000 {
		return nil, ErrImpossible
	}
	stubborn := n%7 == 3 // gives the worker although the demand was withdrawn
	select {
	case <-time.After(m.s.boots[n%len(m.s.boots)]):
	case <-ctx.Done():
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if ctx.Err() != nil && !stubborn {
		m.out--
		return nil, ctx.Err()
	}
	if m.s.refuse[n%len(m.s.refuse)] {
		m.out--
		return nil, errors.New("host is down")
	}
	w := &modelWorker{m: m, info: m.s.info}
	w.info.Name = fmt.Sprint("vm-", n%9)
	w.info.Labels = map[string]string{"os": "linux", "cpu": "arm", "junk": fmt.Sprint(n), ExecutorLabel: "e"}
	if d.Labels["os"] == "bsd" {
		w.info.Labels["os"] = "bsd"
	}
	m.workers = append(m.workers, w)
	return w, nil
}

func (w *modelWorker) Info() WorkerInfo { return w.info }

func (w *modelWorker) Release(ctx context.Context, reason error) error {
	w.m.mu.Lock()
	defer w.m.mu.Unlock()
	w.m.out--
	w.released++
	if w.released > 1 {
		w.m.complain("%s released twice", w.info.Name)
	}
	if ctx.Err() != nil {
		w.m.complain("%s released with an ended context", w.info.Name)
	}
	if w.now > 0 {
		w.m.complain("%s released while it runs", w.info.Name)
	}
	return nil
}

// begin notes a batch and holds it against the rules.
func (w *modelWorker) begin(b Batch[string]) string {
	m := w.m
	w.now++
	if w.now > max(1, w.info.MaxTasks) {
		m.complain("%s runs %d batches", w.info.Name, w.now)
	}
	if w.released > 0 {
		m.complain("%s runs after its release", w.info.Name)
	}
	if !m.cancelled.IsZero() && time.Now().After(m.cancelled) || m.gone {
		m.complain("a batch was begun after the cancellation")
	}
	for _, x := range m.workers {
		if x != w && x.now > 0 && x.info.Name == w.info.Name {
			m.complain("two workers of the name %s run", w.info.Name)
		}
	}
	first := m.byID[b.Tasks[0].ID]
	for _, task := range b.Tasks {
		task = m.byID[task.ID]
		if task.Group != first.Group || len(b.Tasks) > 1 && task.Group == "" || b.Group != first.Group {
			m.complain("batch of group %q has %s of group %q", b.Group, task.ID, task.Group)
		}
		for k, v := range task.Labels {
			if w.info.Labels[k] != v {
				m.complain("%s wants %s=%s, got %s", task.ID, k, v, w.info.Labels[k])
			}
		}
		if task.Apart != "" {
			if w.apart[task.Apart] {
				m.complain("%s runs on %s, which ran another of %s", task.ID, w.info.Name, task.Apart)
			}
			if w.apart == nil {
				w.apart = make(map[string]bool)
			}
			w.apart[task.Apart] = true
		}
		if m.running[task.ID]++; m.running[task.ID] > 1 {
			m.complain("%s runs twice at once", task.ID)
		}
		if b.Attempt[task.ID] > m.s.conf.Attempts || b.Attempt[task.ID] < 1 {
			m.complain("%s has attempt %d of %d", task.ID, b.Attempt[task.ID], m.s.conf.Attempts)
		}
		if f := m.final[task.ID]; f != "" {
			m.complain("%s is run again after %s", task.ID, f)
		}
		for _, d := range task.After {
			f, ended := m.final[d.Task]
			ran := f == Passed || f == Failed || f == Skipped || f == TimedOut
			switch {
			case d.Ended: // it may have been blocked: seen at the end
			case len(d.Statuses) > 0:
				if !ended || !slices.Contains(d.Statuses, f) {
					m.complain("%s began after %s was %q", task.ID, d.Task, f)
				}
			case len(d.Exits) > 0:
				if !ran || !slices.Contains(d.Exits, m.exits[d.Task]) {
					m.complain("%s began after %s was %q exit %d", task.ID, d.Task, f, m.exits[d.Task])
				}
			case f != Passed:
				m.complain("%s began after %s was %q", task.ID, d.Task, f)
			}
		}
	}
	m.accounts[first.Account]++
	if first.Serial {
		m.accounts["serial"]++
	}
	if first.Exclusive {
		m.accounts["exclusive"]++
	}
	if first.Labels[ExecutorLabel] != "" {
		m.accounts["executor"]++
	}
	m.accounts["all"]++
	if m.accounts["x"] > 1 || m.accounts["y"] > 2 || m.accounts["executor"] > 2 || m.accounts["serial"] > 1 || m.accounts["exclusive"] > 0 && m.accounts["all"] > 1 {
		m.complain("limits: %v", m.accounts)
	}
	n := m.batches
	m.batches++
	return m.s.faults[n%len(m.s.faults)]
}

func (w *modelWorker) end(b Batch[string], ended map[string]bool) {
	m := w.m
	w.now--
	first := m.byID[b.Tasks[0].ID]
	for _, task := range b.Tasks {
		if !ended[task.ID] {
			m.running[task.ID]--
		}
	}
	m.accounts[first.Account]--
	m.accounts["all"]--
	if first.Labels[ExecutorLabel] != "" {
		m.accounts["executor"]--
	}
	if first.Serial {
		m.accounts["serial"]--
	}
	if first.Exclusive {
		m.accounts["exclusive"]--
	}
}

func (w *modelWorker) Run(ctx context.Context, b Batch[string], emit func(Event[string])) error {
	m := w.m
	m.mu.Lock()
	fault := w.begin(b)
	m.mu.Unlock()
	ended := make(map[string]bool)
	defer func() {
		m.mu.Lock()
		w.end(b, ended)
		m.mu.Unlock()
	}()
	if fault == "dies before" {
		time.Sleep(time.Second)
		return Infra(errors.New("died before"))
	}
	for i, task := range b.Tasks {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		emit(Event[string]{Task: task.ID, Started: true})
		m.mu.Lock()
		n := m.attempts
		m.attempts++
		m.mu.Unlock()
		if fault == "hangs" {
			if task.Timeout > 0 && len(b.Tasks) == 1 || m.s.cancelAt > 0 {
				<-ctx.Done()
				return ctx.Err()
			}
			fault = ""
		}
		select {
		case <-time.After(m.s.lengths[n%len(m.s.lengths)]):
		case <-ctx.Done():
			time.Sleep(time.Second) // the grace
			return ctx.Err()
		}
		if i == len(b.Tasks)-1 {
			switch fault {
			case "dies":
				return errors.New("died")
			case "returns":
				return nil
			case "panics":
				panic("oops")
			}
		}
		v := m.s.verdicts[n%len(m.s.verdicts)]
		if fault == "infra" {
			v = Verdict{Infra: errors.New("no network")}
		}
		// Said before it is emitted: what depends on it begins at once.
		m.mu.Lock()
		if v.Infra == nil {
			m.final[task.ID], m.exits[task.ID] = v.Status, v.Exit
		}
		ended[task.ID] = true
		m.running[task.ID]--
		m.mu.Unlock()
		emit(Event[string]{Task: task.ID, Verdict: v, Result: task.ID})
		if fault == "twice" {
			emit(Event[string]{Task: task.ID, Verdict: Verdict{Status: Failed}})
		}
	}
	if fault == "dies after" {
		return errors.New("died after")
	}
	return nil
}

func (m *model) check(outcomes []Outcome[string], s *Scheduler[string, string]) {
	seen := make(map[string]Outcome[string])
	for _, o := range outcomes {
		if _, twice := seen[o.Task]; twice {
			m.complain("%s is in the outcome twice", o.Task)
		}
		seen[o.Task] = o
		if statusOf(o.Verdict.Status) == statusNone {
			m.complain("%s ended as %q", o.Task, o.Verdict.Status)
		}
		if f := m.final[o.Task]; f != "" && f != "?" && f != o.Verdict.Status {
			m.complain("%s is %s, its worker said %s", o.Task, o.Verdict.Status, f)
		}
		if o.Verdict.Status == Errored && o.Verdict.Infra == nil {
			m.complain("%s errored without a reason", o.Task)
		}
		if (o.Verdict.Status == Blocked || o.Verdict.Status == Errored || o.Verdict.Status == Aborted && len(o.Attempts) == 0) && o.Cause == "" {
			m.complain("%s is %s without a cause", o.Task, o.Verdict.Status)
		}
		for i, a := range o.Attempts[:max(0, len(o.Attempts)-1)] {
			if a.Verdict.Infra == nil {
				m.complain("%s was tried again after attempt %d, %s", o.Task, i, a.Verdict.Status)
			}
		}
	}
	if m.s.leave == 0 && len(seen) != len(m.byID) {
		m.complain("%d of %d tasks in the outcome", len(seen), len(m.byID))
	}
	for id, task := range m.byID {
		o, is := seen[id]
		if !is {
			continue
		}
		bad := false
		for _, d := range task.After {
			dep, is := seen[d.Task]
			if !is {
				continue
			}
			c := s.m.conds[s.m.condition(&d)]
			bad = bad || !c.met(statusOf(dep.Verdict.Status), int32(dep.Verdict.Exit))
		}
		if blocked := o.Verdict.Status == Blocked; bad != blocked && o.Verdict.Status != Aborted {
			m.complain("%s is %s, its dependencies bad: %v", id, o.Verdict.Status, bad)
		}
	}
	for _, w := range m.workers {
		if w.released != 1 || w.now != 0 {
			m.complain("%s released %d times, runs %d", w.info.Name, w.released, w.now)
		}
	}
	if m.out != 0 {
		m.complain("%d workers held at the end", m.out)
	}
	if _, err := Replay(s.conf.Log); err != nil {
		m.complain("replay: %v", err)
	}
	var buf bytes.Buffer
	if _, err := s.conf.Log.WriteTo(&buf); err != nil {
		m.complain("log: %v", err)
	}
	if l, err := ReadLog(&buf); err != nil {
		m.complain("log: %v", err)
	} else if _, err := Replay(l); err != nil {
		m.complain("replay of the file: %v", err)
	}
	if n := s.m.unfinished + s.m.waiting + s.m.ready + s.m.active + s.m.alive + len(s.m.asked) + s.m.running + s.m.idle + s.m.late + s.m.releasing; n != 0 {
		m.complain("counts do not end at zero: unfinished %d waiting %d ready %d active %d alive %d asked %d running %d idle %d late %d releasing %d",
			s.m.unfinished, s.m.waiting, s.m.ready, s.m.active, s.m.alive, len(s.m.asked), s.m.running, s.m.idle, s.m.late, s.m.releasing)
	}
	for c := range s.m.classes {
		if k := &s.m.classes[c]; k.units != 0 || k.waiting != 0 || len(k.demands) != 0 {
			m.complain("class %d ends with %d units, %d waiting, %d demands", c, k.units, k.waiting, len(k.demands))
		}
	}
	for a := range s.m.accounts {
		if s.m.accounts[a].used != 0 {
			m.complain("account %s ends with %d used", s.m.accounts[a].name, s.m.accounts[a].used)
		}
	}
}

func runModel(t *testing.T, s script) (wrong []string) {
	s.conf.Log = &Log{}
	m := &model{s: s, byID: make(map[string]Task[string]), running: make(map[string]int), accounts: make(map[string]int),
		final: make(map[string]string), exits: make(map[string]int)}
	for _, task := range slices.Concat(s.tasks, s.late) {
		m.byID[task.ID] = task
	}
	sch, err := New[string, string](m, s.conf)
	if err != nil {
		return []string{err.Error()}
	}
	if err := sch.Add(s.tasks...); err != nil {
		return []string{err.Error()}
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	if s.cancelAt > 0 {
		defer time.AfterFunc(s.cancelAt, func() {
			m.mu.Lock()
			m.cancelled = time.Now()
			m.mu.Unlock()
			cancel()
		}).Stop()
	}
	added := make(chan struct{})
	close(added)
	if len(s.late) > 0 {
		added = make(chan struct{})
		release := sch.Hold()
		go func() {
			defer close(added)
			defer release()
			time.Sleep(s.lateAt)
			if err := sch.Add(s.late...); err != nil {
				m.mu.Lock()
				for _, task := range s.late {
					delete(m.byID, task.ID)
				}
				if !errors.Is(err, ErrEnded) {
					m.complain("add: %v", err)
				}
				m.mu.Unlock()
			}
		}()
	}
	var outcomes []Outcome[string]
	for o := range sch.Run(ctx) {
		outcomes = append(outcomes, o)
		_ = sch.Snapshot().String()
		if _, err := sch.Explain(sch.tasks[len(sch.tasks)-1].ID); err != nil {
			m.complain("explain: %v", err)
		}
		if len(outcomes) == s.leave {
			break
		}
	}
	m.mu.Lock()
	m.gone = true
	m.mu.Unlock()
	<-added
	synctest.Wait()
	m.mu.Lock()
	defer m.mu.Unlock()
	m.check(outcomes, sch)
	return m.wrong
}

func TestModelOfRandomRunsKeepsEveryRule(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		s := drawScript(rt)
		var wrong []string
		synctest.Test(t, func(t *testing.T) { wrong = runModel(t, s) })
		if len(wrong) > 0 {
			rt.Fatalf("%d rules broken, first: %v", len(wrong), wrong[:min(5, len(wrong))])
		}
	})
}
