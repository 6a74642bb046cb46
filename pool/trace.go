package pool

import (
	"context"
	"fmt"
	"log/slog"
	"time"
)

// Trace is told what happens. Calls come one at a time, in the order of the
// changes, from goroutines of the pool or of its callers, and never with a lock
// of the pool held: a callback may call the pool. It should be quick.
type Trace struct {
	// Event is called for every change.
	Event func(Event)
}

// EventKind says what an Event is about.
type EventKind string

// The kinds of events.
const (
	EventBoot       EventKind = "boot"       // a machine is being made
	EventReady      EventKind = "ready"      // a machine was proven clean and ready
	EventGranted    EventKind = "granted"    // a machine was handed out
	EventReleased   EventKind = "released"   // a guest was given back
	EventRenew      EventKind = "renew"      // a used machine is being renewed
	EventDestroy    EventKind = "destroy"    // a machine is being destroyed
	EventGone       EventKind = "gone"       // a slot was given up
	EventLost       EventKind = "lost"       // the lease of a slot was lost
	EventFailed     EventKind = "failed"     // an operation on a machine or a host failed
	EventBusy       EventKind = "busy"       // a host refused for now
	EventQuarantine EventKind = "quarantine" // a host or template is left alone for a time
	EventRecovered  EventKind = "recovered"  // a quarantine ended with a success
	EventWait       EventKind = "wait"       // a caller waits
	EventRefused    EventKind = "refused"    // a wait ended without a machine
	EventReconciled EventKind = "reconciled" // a host was listed and its leftovers seen to
	EventLeftover   EventKind = "leftover"   // a leftover was destroyed, or could not be
	EventAdopted    EventKind = "adopted"    // a machine that survived its run is taken over
	EventKept       EventKind = "kept"       // a machine is kept for a person
	EventDetached   EventKind = "detached"   // a machine left the pool for good
	EventRetired    EventKind = "retired"    // the last machine of a removed host is gone
	EventClosing    EventKind = "closing"    // the pool closes
)

// Event is one change.
type Event struct {
	Time     time.Time
	Kind     EventKind
	Host     string
	Template string
	Machine  string
	Job      string        // who asked, see Want.Job
	Reason   string        // why, in words
	Place    string        // of EventBoot and EventGranted: why on this host, where more than load counts
	Took     time.Duration // how long what ended with this took
	Err      error
}

// note records an event, to be emitted by unlock. The caller holds p.mu.
func (p *Pool) note(e Event) {
	if !p.watched {
		return
	}
	e.Time = time.Now()
	p.events = append(p.events, e)
}

func (p *Pool) noteUnit(kind EventKind, u *unit, reason string, took time.Duration, err error) {
	if !p.watched {
		return
	}
	job := ""
	if u.guest != nil {
		job = u.guest.want.Job
	}
	p.note(Event{Kind: kind, Host: u.host.Name, Template: u.template.Name, Machine: u.name, Job: job, Reason: reason, Took: took, Err: err})
}

// noteBoot tells that a machine is being made, and why where it is.
func (p *Pool) noteBoot(u *unit) {
	if !p.watched {
		return
	}
	p.note(Event{Kind: EventBoot, Host: u.host.Name, Template: u.template.Name, Machine: u.name, Reason: u.key, Place: u.why})
}

// noteGranted tells that a machine was handed out.
func (p *Pool) noteGranted(u *unit, want *Want, waited time.Duration) {
	if !p.watched {
		return
	}
	place := ""
	if n := len(want.Inputs); n > 0 {
		place = fmt.Sprintf("its host has %d of %d inputs", u.host.holds(want.Inputs), n)
	}
	p.note(Event{Kind: EventGranted, Host: u.host.Name, Template: u.template.Name, Machine: u.name, Job: want.Job, Place: place, Took: waited})
}

// unlock gives p.mu back and tells of what happened under it. One goroutine
// tells at a time; others leave their events to it.
func (p *Pool) unlock() {
	if len(p.events) == 0 || p.telling {
		p.mu.Unlock()
		return
	}
	p.telling = true
	for len(p.events) > 0 {
		events := p.events
		p.events = nil
		p.mu.Unlock()
		for _, e := range events {
			p.tell(e)
		}
		p.mu.Lock()
	}
	p.telling = false
	p.mu.Unlock()
}

func (p *Pool) tell(e Event) {
	if t := p.config.Trace; t != nil && t.Event != nil {
		t.Event(e)
	}
	level := slog.LevelDebug
	switch e.Kind {
	case EventFailed, EventLost, EventQuarantine:
		level = slog.LevelWarn
	case EventRecovered, EventLeftover, EventAdopted, EventKept, EventClosing:
		level = slog.LevelInfo
	}
	ctx := context.Background()
	log := p.config.Logger
	if !log.Enabled(ctx, level) {
		return
	}
	attrs := make([]slog.Attr, 0, 9)
	for _, a := range []slog.Attr{
		slog.String("pool", p.config.Name), slog.String("host", e.Host), slog.String("template", e.Template),
		slog.String("machine", e.Machine), slog.String("job", e.Job), slog.String("reason", e.Reason), slog.String("place", e.Place),
	} {
		if a.Value.String() != "" {
			attrs = append(attrs, a)
		}
	}
	if e.Took > 0 {
		attrs = append(attrs, slog.Duration("took", e.Took))
	}
	if e.Err != nil {
		attrs = append(attrs, slog.Any("error", e.Err))
	}
	log.LogAttrs(ctx, level, "pool: "+string(e.Kind), attrs...)
}
