package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/bullpen-vm/bullpen/pool"
)

// desk gives builds their places on workers: a free place on a machine that is up
// already (max_builds), or else the pool's next machine.
type desk struct {
	workers map[string]workerConfig
	serves  map[string][]string // worker to builders

	mu      sync.Mutex
	up      []*session // machines in use with places, the oldest first
	waiting []*asker   // by arrival
}

// session is a machine from its hand-out until it is given back.
type session struct {
	guest  *pool.Guest
	free   []int // numbers of free places: each is a job disk
	inUse  int
	broken error // no more builds
}

// place is where one build runs.
type place struct {
	desk    *desk
	session *session
	number  int
	shared  bool // the machine was up for another build
}

// asker is a build that waits for a place.
type asker struct {
	builder string
	given   chan *place // has room for one
	news    []string    // what happened to its workers meanwhile
}

// mostNews bounds what one build hears while it waits.
const mostNews = 50

func newDesk(c *config) *desk {
	d := &desk{workers: map[string]workerConfig{}, serves: map[string][]string{}}
	for _, w := range c.Workers {
		d.workers[w.Name] = w
	}
	for _, b := range c.Builds {
		for _, w := range b.Workers {
			d.serves[w] = append(d.serves[w], b.Name)
		}
	}
	return d
}

// take waits for a place for a build of the builder. news are what happened to its
// workers in the meantime.
func (d *desk) take(ctx context.Context, p *pool.Pool, builder string, want pool.Want) (*place, []string, error) {
	a := &asker{builder: builder, given: make(chan *place, 1)}
	d.mu.Lock()
	for _, s := range d.up {
		if s.broken == nil && len(s.free) > 0 && slices.Contains(d.serves[s.guest.Template()], builder) {
			defer d.mu.Unlock()
			return d.sit(s, true), nil, nil
		}
	}
	d.waiting = append(d.waiting, a)
	d.mu.Unlock()

	type got struct {
		guest *pool.Guest
		err   error
	}
	asked, cancel := context.WithCancel(ctx)
	defer cancel()
	answer := make(chan got, 1)
	go func() {
		g, err := p.Acquire(asked, want)
		answer <- got{g, err}
	}()
	var first *place
	var answered got
	select {
	case first = <-a.given:
		cancel()
		answered = <-answer
	case answered = <-answer:
	}
	d.mu.Lock()
	d.waiting = slices.DeleteFunc(d.waiting, func(x *asker) bool { return x == a })
	news := a.news
	if first == nil {
		select { // it was given at this very moment
		case first = <-a.given:
		default:
		}
	}
	if first == nil && answered.err == nil {
		first = d.open(answered.guest)
		answered.guest = nil
	}
	d.mu.Unlock()
	if answered.guest != nil { // both came: one is enough
		if err := answered.guest.Release(ctx, errors.New("the build has a place on another machine")); err != nil {
			news = append(news, "giving back "+answered.guest.Name()+": "+err.Error())
		}
	}
	if first == nil {
		return nil, news, answered.err
	}
	return first, news, nil
}

// open begins a session with its first place, and offers the others. The caller
// holds mu.
func (d *desk) open(g *pool.Guest) *place {
	s := &session{guest: g}
	for n := range max(d.workers[g.Template()].MaxBuilds, 1) {
		s.free = append(s.free, n)
	}
	d.up = append(d.up, s)
	first := d.sit(s, false)
	d.offer(s)
	return first
}

// sit takes a place of the session. The caller holds mu.
func (d *desk) sit(s *session, shared bool) *place {
	n := s.free[0]
	s.free = s.free[1:]
	s.inUse++
	return &place{desk: d, session: s, number: n, shared: shared}
}

// offer gives free places to those who wait, in their order. The caller holds mu.
func (d *desk) offer(s *session) {
	for i := 0; i < len(d.waiting) && len(s.free) > 0 && s.broken == nil; {
		a := d.waiting[i]
		if !slices.Contains(d.serves[s.guest.Template()], a.builder) {
			i++
			continue
		}
		d.waiting = slices.Delete(d.waiting, i, i+1)
		a.given <- d.sit(s, true)
	}
}

// leave gives the place back. The last one to leave gives the machine back.
func (p *place) leave(ctx context.Context, reason error) error {
	d, s := p.desk, p.session
	d.mu.Lock()
	s.inUse--
	s.free = append(s.free, p.number)
	s.broken = errors.Join(s.broken, reason)
	if s.broken == nil {
		if s.inUse > 0 {
			d.offer(s)
		}
	}
	over := s.inUse == 0
	if over {
		d.up = slices.DeleteFunc(d.up, func(x *session) bool { return x == s })
	}
	why := s.broken
	d.mu.Unlock()
	if !over {
		return nil
	}
	return s.guest.Release(ctx, why)
}

// heard takes the pool's events to those who wait for the worker: they are told
// what their start went through.
func (d *desk) heard(e pool.Event) {
	switch e.Kind {
	case pool.EventBusy, pool.EventFailed, pool.EventQuarantine, pool.EventReady:
	default:
		return
	}
	if e.Template == "" {
		return
	}
	line := fmt.Sprintf("%s %s", e.Kind, e.Template)
	if e.Host != "" {
		line += " on " + e.Host
	}
	if e.Took > 0 {
		line += fmt.Sprintf(" after %v", e.Took.Round(1e6))
	}
	if e.Err != nil {
		line += ": " + e.Err.Error()
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, a := range d.waiting {
		if len(a.news) < mostNews && slices.Contains(d.serves[e.Template], a.builder) {
			a.news = append(a.news, line)
		}
	}
}
