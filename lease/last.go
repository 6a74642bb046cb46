package lease

import (
	"fmt"
	"strings"
	"time"
)

// Ending is a holding that is over, as far as this Manager knows: its own leases, and
// those of others that it took over or freed. What another process gave back in good
// order leaves no trace.
type Ending struct {
	Key, Owner, Note string
	Token            uint64
	// Since and Ended are wall clock times for people.
	Since, Ended time.Time
	// Why is "released", "lost", or why it was free for others.
	Why string
}

// mostEndings is how many a Manager remembers, of all keys together.
const mostEndings = 256

// endings is a ring of the last ones. Guarded by Manager.mu.
type endings struct {
	ring []pastHolding
	next int
}

// pastHolding is what a release has the time to write down.
type pastHolding struct {
	lease *Lease  // of this Manager
	other *Ending // or another's
	at    int64   // monotonic
	why   string
}

func (e *endings) add(one pastHolding) {
	if len(e.ring) < mostEndings {
		e.ring = append(e.ring, one)
		return
	}
	e.ring[e.next] = one
	e.next = (e.next + 1) % mostEndings
}

// under gives those of keys that start with prefix, by key, the last one first.
func (e *endings) under(prefix string, now int64, wall time.Time) map[string][]Ending {
	out := make(map[string][]Ending)
	for i := range e.ring {
		at := &e.ring[(e.next+len(e.ring)-1-i)%len(e.ring)]
		var one Ending
		if l := at.lease; l != nil {
			one = Ending{Key: l.key, Owner: l.m.owner, Note: l.note, Token: l.token.Load(), Since: time.Unix(0, l.since)}
		} else {
			one = *at.other
		}
		if strings.HasPrefix(one.Key, prefix) {
			one.Ended, one.Why = wall.Add(time.Duration(at.at-now)), at.why
			out[one.Key] = append(out[one.Key], one)
		}
	}
	return out
}

// ended notes the end of a lease of this Manager. Called with mu held.
func (m *Manager) ended(l *Lease, why string) {
	m.last.add(pastHolding{lease: l, at: m.clock.mono(), why: why})
}

// succeeded notes the end of another's.
func (m *Manager) succeeded(rec Record, why string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	one := &Ending{Key: rec.Key, Owner: rec.Owner, Note: rec.Note, Token: rec.Token, Since: rec.Since}
	m.last.add(pastHolding{other: one, at: m.clock.mono(), why: why})
}

// text is such as "TestInstall on ci-2 (pid 5), token 41, until 3m ago: released".
func (e Ending) text(now time.Time) string {
	return fmt.Sprintf("%s, token %d, until %v ago: %s", e.Owner, e.Token, roundForPeople(now.Sub(e.Ended)), e.Why)
}
