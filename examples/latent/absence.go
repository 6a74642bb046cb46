package main

import (
	"fmt"
	"sync"
	"time"

	"github.com/bullpen-vm/bullpen/pool"
)

// absences tells, once for each loss, that a worker has been missing for too long:
// a standard one that is not connected, a latent one that could not be started.
type absences struct {
	mail *mailer

	mu      sync.Mutex
	closed  bool
	workers map[string]*absence
}

// absence is one worker with somebody to be told.
type absence struct {
	config workerConfig
	after  time.Duration
	since  time.Time   // when it was lost; zero: it is there
	why    string      // why, where that is known
	timer  *time.Timer // until somebody is told; nil: it is there, or was told
}

// newAbsences takes workers that connect as lost from now on: one that never comes
// is missing too.
func newAbsences(c *config, mail *mailer) *absences {
	a := &absences{mail: mail, workers: map[string]*absence{}}
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, w := range c.Workers {
		if len(w.Notify) == 0 {
			continue
		}
		one := &absence{config: w, after: w.Missing.or(defaultMissing)}
		a.workers[w.Name] = one
		if w.Type != typeLatent {
			a.lost(one, "it has not connected since the master was started")
		}
	}
	return a
}

// changed is told by package dialin who comes and goes.
func (a *absences) changed(name string, up bool, why error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	switch one := a.workers[name]; {
	case one == nil:
	case up:
		one.there()
	default:
		a.lost(one, why.Error())
	}
}

// heard is told by the pool which latent workers could be started.
func (a *absences) heard(e pool.Event) {
	if e.Kind != pool.EventReady && e.Kind != pool.EventFailed {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	one := a.workers[e.Template]
	if one == nil || one.config.Type != typeLatent {
		return
	}
	if e.Kind == pool.EventReady {
		one.there()
		return
	}
	why := "it could not be started"
	if e.Err != nil {
		why += ": " + e.Err.Error()
	}
	a.lost(one, why)
}

// lost begins a loss, unless one is on. The caller holds mu.
func (a *absences) lost(one *absence, why string) {
	if a.closed || !one.since.IsZero() {
		return
	}
	one.since, one.why = time.Now(), why
	one.timer = time.AfterFunc(one.after, func() { a.tell(one) })
}

// there ends a loss. The caller holds mu.
func (one *absence) there() {
	if one.timer != nil {
		one.timer.Stop()
	}
	one.since, one.timer = time.Time{}, nil
}

// tell sends the one mail of a loss.
func (a *absences) tell(one *absence) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.closed || one.timer == nil || time.Since(one.since) < one.after { // it came back at this moment
		return
	}
	one.timer = nil
	a.mail.send(message{
		to:      one.config.Notify,
		subject: fmt.Sprintf("worker %s is missing", one.config.Name),
		body: fmt.Sprintf("The worker %s has been missing since %s, for %v.\n\n%s\n\nThis is the only mail about this loss.\n",
			one.config.Name, one.since.Format(time.RFC1123Z), one.after, one.why),
	})
}

// close tells nobody any more.
func (a *absences) close() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.closed = true
	for _, one := range a.workers {
		one.there()
	}
}
