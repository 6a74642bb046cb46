package pool

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"
)

// Ticket is a request for a machine that is asked after and collected later. It
// is safe for concurrent use.
type Ticket struct {
	id   string
	pool *Pool
	wait *wait
	ctx  context.Context
	// stop ends the watch over the context that the ticket lives by.
	stop func() bool
}

// Progress is where a request stands.
type Progress struct {
	// Place is how many go before it; 0 when it is next or has its machine.
	Place int
	// Percent is an estimate of how far its machine is: of a boot by what
	// boots of the template took before. 100: it is there to be collected.
	Percent int
	// Reason says what it waits for, or why it failed.
	Reason string
	// Over: the machine is there, or Err says why there will be none.
	Over bool
	Err  error
}

// Request asks for a machine and returns at once. The ticket has its place in
// the queue from now on; it lives until Wait or Cancel, or until ctx ends, which
// gives everything back: a ticket that nobody collects leaks nothing. Refused at
// once is what Acquire refuses at once.
func (p *Pool) Request(ctx context.Context, want Want) (*Ticket, error) {
	w := &wait{want: want, ready: make(chan struct{})}
	p.mu.Lock()
	if err := p.admit(ctx, w, 1); err != nil {
		p.unlock()
		return nil, err
	}
	now := time.Now()
	w.since = now
	t := &Ticket{id: uuid.NewString(), pool: p, wait: w, ctx: ctx}
	w.ticket = t
	p.tickets[t] = struct{}{}
	if p.enter(w) {
		p.grant(w, now)
	}
	p.stats.waits++
	p.plan(now)
	p.unlock()
	t.stop = context.AfterFunc(ctx, func() { t.end(context.Cause(ctx)) })
	return t, nil
}

// ID names the request; no other has it.
func (t *Ticket) ID() string { return t.id }

// Progress says where the request stands now.
func (t *Ticket) Progress() Progress {
	p, w := t.pool, t.wait
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	switch {
	case w.err != nil:
		return Progress{Reason: w.err.Error(), Over: true, Err: w.err}
	case len(w.granted) > 0 || len(w.handed) > 0:
		return Progress{Percent: 100, Over: true, Reason: "it is there"}
	}
	return Progress{Place: max(p.q.Place(&w.q), 0), Percent: p.percent(w, now), Reason: p.whyLocked(w, now)}
}

// percent estimates how far the machine is that w will get: of those on their
// way, the one that is as far down as w is in the queue.
func (p *Pool) percent(w *wait, now time.Time) int {
	place := p.q.Place(&w.q)
	var best []int
	for u := range p.units {
		if (u.state != booting && u.state != renewing) || !w.q.Demand.Accepts(u.place.class) {
			continue
		}
		n := 50
		if took := u.template.took; took > 0 {
			n = int(100 * now.Sub(u.since) / took)
		}
		best = append(best, min(max(n, 1), 99))
	}
	slices.SortFunc(best, func(a, b int) int { return b - a })
	if place < 0 || place >= len(best) {
		return 0
	}
	return best[place]
}

// Wait waits for the machine and hands it out, once. When ctx ends first the
// request goes on, and Wait may be called again.
func (t *Ticket) Wait(ctx context.Context) (*Guest, error) {
	p, w := t.pool, t.wait
	for {
		p.mu.Lock()
		ready := w.ready
		p.mu.Unlock()
		select {
		case <-ready:
		case <-ctx.Done():
			p.mu.Lock()
			defer p.mu.Unlock()
			now := time.Now()
			return nil, &OpError{Op: opWait, What: p.what(w), Waited: now.Sub(w.since), Why: p.whyLocked(w, now), Err: context.Cause(ctx)}
		}
		p.mu.Lock()
		now := time.Now()
		if w.err == nil && p.closing && len(w.handed) == 0 {
			w.err = ErrClosed
			p.giveBack(w, now)
		}
		switch {
		case w.err != nil:
			err := &OpError{Op: opWait, What: p.what(w), Waited: now.Sub(w.since), Err: w.err}
			p.unlock()
			return nil, err
		case len(w.handed) > 0:
			p.unlock()
			return nil, &OpError{Op: "collect", What: "request " + t.id, Err: fmt.Errorf("it was collected before")}
		case p.handOut(t.ctx, w, now):
			delete(p.tickets, t)
			p.stats.waited += now.Sub(w.since)
			p.unlock()
			t.stop()
			return w.handed[0], nil
		}
		// Its lease was lost between the grant and now.
		w.ready = make(chan struct{})
		if p.add(w) {
			p.grant(w, now)
		}
		p.plan(now)
		p.unlock()
	}
}

// Cancel gives the request up: what it has, others get. It is idempotent, and
// nothing to a guest that was collected.
func (t *Ticket) Cancel() {
	t.stop()
	t.end(context.Canceled)
}

func (t *Ticket) end(cause error) {
	t.pool.mu.Lock()
	t.pool.endTicket(t, cause, time.Now())
	t.pool.unlock()
}

// endTicket ends a request with a reason. The caller holds p.mu.
func (p *Pool) endTicket(t *Ticket, cause error, now time.Time) {
	w := t.wait
	delete(p.tickets, t)
	if w.err != nil || len(w.handed) > 0 {
		return
	}
	w.err = cause
	p.stats.refused++
	if w.q.Queued() {
		p.abandon(w, now)
		w.over()
	} else if p.outside(w) != "" {
		w.over()
	}
	p.giveBack(w, now)
	p.refund(w, now)
	p.plan(now)
}
