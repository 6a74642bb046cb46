package pool

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/bullpen-vm/bullpen/pool/internal/queue"
)

// Acquire waits for a machine and hands it out. The error of a wait that ended
// says for how long, for one of how many machines, and who holds them.
// Cancelling the wait leaves a machine that is being made to the next one. The
// context counts for the wait only, its values go on in Guest.Context.
func (p *Pool) Acquire(ctx context.Context, want Want) (*Guest, error) {
	w := &wait{want: want}
	if err := p.acquire(ctx, w, 1); err != nil {
		return nil, err
	}
	return w.handed[0], nil
}

// AcquireAll is Acquire for n machines, all or none. At its turn it reserves
// what comes free and waits for the rest; nobody who comes later gets in
// between, and two such calls never wait for each other.
func (p *Pool) AcquireAll(ctx context.Context, n int, want Want) ([]*Guest, error) {
	if n < 1 {
		return nil, &OpError{Op: "acquire", What: fmt.Sprintf("%d machines", n), Err: errors.New("the number is too small, want 1 or more")}
	}
	w := &wait{want: want}
	if err := p.acquire(ctx, w, n); err != nil {
		return nil, err
	}
	return w.handed, nil
}

// TryAcquire hands out a machine that is free now; ErrBusy when none is. It
// never waits, and overtakes nobody.
func (p *Pool) TryAcquire(ctx context.Context, want Want) (*Guest, error) {
	w := &wait{want: want}
	p.mu.Lock()
	if err := p.admit(ctx, w, 1); err != nil {
		p.unlock()
		return nil, err
	}
	now := time.Now()
	if !p.charge(w) {
		p.unlock()
		return nil, &OpError{Op: "acquire", What: p.what(w), Why: "account " + want.Account, Err: fmt.Errorf("%w: %w", ErrBusy, ErrQuota)}
	}
	if p.try(w) {
		p.grant(w, now)
		p.plan(now)
	}
	if len(w.granted) == 0 {
		if w.q.Queued() { // its machine was lost at this instant
			p.abandon(w, now)
		}
		why := p.whyLocked(w, now)
		p.refund(w, now)
		p.unlock()
		return nil, &OpError{Op: "acquire", What: p.what(w), Why: why, Err: ErrBusy}
	}
	p.handOut(ctx, w, now)
	p.unlock()
	return w.handed[0], nil
}

// admit refuses what can be refused at once and prepares the wait. The caller
// holds p.mu.
func (p *Pool) admit(ctx context.Context, w *wait, n int) error {
	if err := ctx.Err(); err != nil {
		return &OpError{Op: "acquire", What: describe(w.want, n), Err: context.Cause(ctx)}
	}
	if p.closing {
		return &OpError{Op: "acquire", What: describe(w.want, n), Err: ErrClosed}
	}
	if err := p.newest(&w.want, n); err != nil {
		p.stats.refused++
		return err
	}
	w.q.Value, w.q.Need, w.q.Priority = w, n, w.want.Priority
	w.q.Demand = p.q.Demand(w.want.Template, w.want.Labels)
	if !p.reaches(w.q.Demand) || n > 1 && n > p.most(w.q.Demand) {
		p.stats.refused++
		return &OpError{Op: "acquire", What: describe(w.want, n), Err: fmt.Errorf("%w: %s", ErrImpossible, p.near(w.want, w.q.Demand, n))}
	}
	if most, ok := p.quota(w); ok && n > most {
		p.stats.refused++
		return &OpError{Op: "acquire", What: describe(w.want, n), Err: fmt.Errorf("%w: the quota of account %s is %d", ErrImpossible, w.want.Account, most)}
	}
	if len(w.want.Avoid) > 0 {
		avoid := w.want.Avoid
		w.q.Avoid = func(u *unit) bool { return slices.Contains(avoid, u.host.Name) || slices.Contains(avoid, u.name) }
	}
	return nil
}

// acquire waits for n machines; after nil they are in w.handed.
func (p *Pool) acquire(ctx context.Context, w *wait, n int) error {
	p.mu.Lock()
	if err := p.admit(ctx, w, n); err != nil {
		p.unlock()
		return err
	}
	now := time.Now()
	w.since = now
	if p.enter(w) {
		p.grant(w, now)
	}
	if len(w.granted) > 0 {
		p.handOut(ctx, w, now)
		p.plan(now)
		p.unlock()
		return nil
	}
	if w.ready == nil {
		w.ready = make(chan struct{})
	}
	if p.watched {
		p.note(Event{Kind: EventWait, Template: w.want.Template, Job: w.want.Job, Reason: p.whyLocked(w, now)})
	}
	p.stats.waits++
	p.plan(now)
	p.unlock()
	return p.await(ctx, w)
}

func (p *Pool) await(ctx context.Context, w *wait) error {
	var timeout <-chan time.Time
	if w.want.Timeout > 0 {
		timer := time.NewTimer(w.want.Timeout)
		defer timer.Stop()
		timeout = timer.C
	}
	var cause error
	select {
	case <-w.ready:
	case <-ctx.Done():
		cause = context.Cause(ctx)
	case <-timeout:
		cause = ErrTimeout
	}
	p.mu.Lock()
	defer p.unlock()
	now := time.Now()
	if cause == nil && ctx.Err() != nil {
		cause = context.Cause(ctx) // both at once: the caller is gone
	}
	if cause == nil && w.err == nil && p.closing {
		cause = ErrClosed
	}
	if cause == nil && w.err == nil {
		if p.handOut(ctx, w, now) {
			p.stats.waited += now.Sub(w.since)
			return nil
		}
		// A lease was lost between the grant and now.
		w.ready = make(chan struct{})
		return p.again(ctx, w, now)
	}
	if cause == nil {
		cause = w.err
	}
	err := &OpError{Op: opWait, What: p.what(w), Waited: now.Sub(w.since), Why: p.whyLocked(w, now), Err: cause} // before its machines are others'
	if w.q.Queued() {
		p.abandon(w, now)
	}
	p.giveBack(w, now)
	p.refund(w, now)
	p.plan(now)
	p.stats.refused++
	p.note(Event{Kind: EventRefused, Template: w.want.Template, Job: w.want.Job, Took: now.Sub(w.since), Reason: err.Why, Err: cause})
	return err
}

// again queues a wait with its old place after what it was granted was lost. The
// caller holds p.mu, which is given up and taken again.
func (p *Pool) again(ctx context.Context, w *wait, now time.Time) error {
	if p.add(w) {
		p.grant(w, now)
	}
	p.plan(now)
	p.unlock()
	err := p.await(ctx, w)
	p.mu.Lock()
	return err
}

// handOut makes the guests of a granted wait. Where a lease was lost since the
// grant it makes none, keeps the other machines for others, and answers false.
// The caller holds p.mu.
func (p *Pool) handOut(ctx context.Context, w *wait, now time.Time) bool {
	whole := true
	for _, u := range w.granted {
		if u.lostErr != nil || u.state != held {
			whole = false
		}
	}
	if !whole {
		p.giveBack(w, now)
		return false
	}
	w.handed = w.guest1[:0]
	for _, u := range w.granted {
		w.handed = append(w.handed, newGuest(ctx, u, w, now))
		p.noteGranted(u, &w.want, now.Sub(w.since))
		u.host.given(w.want.Inputs)
	}
	w.granted, w.charged = nil, 0 // the guests are charged now
	return true
}

// most is how many machines of the demand there can be at once.
func (p *Pool) most(d *queue.Demand[*unit, *wait]) int {
	bySlots := 0
	hosts := make(map[*host]int)
	templates := make(map[*template]int)
	for _, c := range d.Classes() {
		pl := p.places[c.Index()]
		for _, h := range pl.hosts {
			n := h.room(pl.template)
			if pl.template.existing() {
				bySlots += n
			} else {
				hosts[h] = max(hosts[h], n)
			}
			templates[pl.template] += n
		}
	}
	byMost := 0
	for _, n := range hosts {
		bySlots += n
	}
	for t, n := range templates {
		if t.Most > 0 {
			n = min(n, t.Most)
		}
		for _, l := range t.Locks {
			n = min(n, p.config.Locks[l])
		}
		byMost += n
	}
	return min(bySlots, byMost)
}

// near says what there is, for one who wants what there is not.
func (p *Pool) near(want Want, d *queue.Demand[*unit, *wait], n int) string {
	if p.reaches(d) {
		return fmt.Sprintf("%d machines are wanted and there can be at most %d at once", n, p.most(d))
	}
	if want.Template != "" && p.byName[want.Template] == nil {
		return fmt.Sprintf("there is no template %q; there is %s", want.Template, quoted(slices.Sorted(maps.Keys(p.byName))))
	}
	values := map[string]map[string]bool{}
	for _, pl := range p.places {
		if len(pl.hosts) == 0 || want.Template != "" && pl.template.Name != want.Template {
			continue
		}
		for k, v := range pl.labels {
			if values[k] == nil {
				values[k] = map[string]bool{}
			}
			values[k][v] = true
		}
	}
	var lacks []string
	for _, k := range slices.Sorted(maps.Keys(want.Labels)) {
		v := want.Labels[k]
		switch {
		case values[k] == nil:
			lacks = append(lacks, fmt.Sprintf("no machine has label %q", k))
		case !values[k][v]:
			lacks = append(lacks, fmt.Sprintf("label %q is %q, there is %s", k, v, quoted(slices.Sorted(maps.Keys(values[k])))))
		}
	}
	if len(lacks) == 0 {
		return "each label is there, but not all on one machine"
	}
	if values := slices.Sorted(maps.Keys(values)); len(values) > 0 && strings.HasPrefix(lacks[0], "no machine") {
		lacks = append(lacks, "labels are "+quoted(values))
	}
	return strings.Join(lacks, "; ")
}

func quoted(names []string) string {
	const most = 8
	out := make([]string, 0, most)
	for i, n := range names {
		if i == most {
			return strings.Join(out, ", ") + fmt.Sprintf(" and %d more", len(names)-most)
		}
		out = append(out, fmt.Sprintf("%q", n))
	}
	return strings.Join(out, ", ")
}

func describe(w Want, n int) string {
	s := "a machine"
	if n != 1 {
		s = fmt.Sprintf("%d machines", n)
	}
	switch {
	case w.Template != "":
		s += " of " + w.Template
	case w.Group != "":
		s += " of group " + w.Group
	}
	if len(w.Labels) > 0 {
		s += fmt.Sprintf(" with %v", w.Labels)
	}
	if w.Job != "" {
		s += " for " + w.Job
	}
	return s
}
