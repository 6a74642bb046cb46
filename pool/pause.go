package pool

import (
	"errors"
	"fmt"
	"time"
)

// errNoHost is the cause for hosts that the pool does not have.
var errNoHost = errors.New("the pool has no host of that name")

// Pause keeps new machines off a host until Resume: nothing is made on it, and
// machines that are given back are destroyed. Guests keep theirs, and machines
// that are ready are still handed out; see Drain.
func (p *Pool) Pause(host string) error { return p.pause(host, true, false) }

// Drain is Pause, and destroys the host's machines that nobody holds: when
// guests have given theirs back there is none left.
func (p *Pool) Drain(host string) error { return p.pause(host, true, true) }

// Resume ends Pause and Drain.
func (p *Pool) Resume(host string) error { return p.pause(host, false, false) }

func (p *Pool) pause(name string, paused, drain bool) error {
	p.mu.Lock()
	defer p.unlock()
	for _, h := range p.hosts {
		if h.Name != name || h.retired {
			continue
		}
		h.paused = paused
		now := time.Now()
		if drain {
			h.each(func(u *unit) {
				if u.state == ready {
					p.discard(u, "its host is drained")
				}
			})
		}
		p.plan(now)
		return nil
	}
	return &OpError{Op: "pause", What: fmt.Sprintf("host %q", name), Err: errNoHost}
}
