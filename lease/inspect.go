package lease

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Holding is one key as it is seen from a Manager.
type Holding struct {
	Key string
	// Record is the lease; zero when the key is only waited for.
	Record Record
	// Mine: held by this Manager.
	Mine bool
	// Held is how long, by the wall clocks of the holder and of this machine.
	Held time.Duration
	// Seen is how long this Manager saw no sign of life of the holder; zero
	// for its own leases and for what it sees for the first time.
	Seen time.Duration
	// Orphan: the session that it refers to is gone, so the next one who asks
	// gets it.
	Orphan bool
	// Dead: its owner is proven dead; Known: it could be told.
	Dead, Known bool
	// Waiting are the waiters of this Manager, the next one first.
	Waiting []Waiting
	// Last are the holders before, the last one first, as far as this Manager knows;
	// see Ending. Keys that are free and not waited for have no Holding.
	Last []Ending
}

// Waiting is one waiter.
type Waiting struct {
	Note     string
	Priority int
	Waited   time.Duration
}

// String is one line, such as
//
//	host/h1/slot/0: held by TestUpgrade on ci-3 (pid 4711) since 12m3s, token 42; 2 waiting: TestInstall 40s, TestBoot 3s
func (h Holding) String() string {
	var b strings.Builder
	b.WriteString(h.Key)
	switch {
	case h.Record.Zero():
		b.WriteString(": free")
	default:
		b.WriteString(": ")
		b.WriteString(holderText(h.Record, h.Record.Since.Add(h.Held)))
	}
	switch {
	case h.Mine:
		b.WriteString(", here")
	case h.Orphan:
		b.WriteString(", orphaned: its session is gone")
	case h.Known && h.Dead:
		b.WriteString(", its owner is dead")
	case h.Seen > 0:
		fmt.Fprintf(&b, ", no sign of life for %v", roundForPeople(h.Seen))
	}
	if n := len(h.Waiting); n > 0 {
		const most = 4
		fmt.Fprintf(&b, "; %d waiting: ", n)
		for i, w := range h.Waiting {
			if i == most {
				b.WriteString(", ...")
				break
			}
			if i > 0 {
				b.WriteString(", ")
			}
			name := w.Note
			if name == "" {
				name = "one without a name"
			}
			fmt.Fprintf(&b, "%s %v", name, roundForPeople(w.Waited))
			if w.Priority != 0 {
				fmt.Fprintf(&b, " (priority %d)", w.Priority)
			}
		}
	}
	if len(h.Last) > 0 {
		b.WriteString("; before: ")
		b.WriteString(h.Last[0].text(time.Now()))
	}
	return b.String()
}

// Inspect tells who holds the keys under prefix, since when, who waits for them
// here, and who held them before, in the order of the keys. It changes nothing; the sightings that
// it takes count as Sweep's do.
func (m *Manager) Inspect(ctx context.Context, prefix string) ([]Holding, error) {
	records, err := m.list(ctx, prefix)
	if err != nil {
		return nil, &OpError{Op: "inspect", Key: prefix, Err: err}
	}
	list, err := m.list(ctx, sessionPrefix)
	if err != nil {
		return nil, &OpError{Op: "inspect", Key: prefix, Err: err}
	}
	now, wall := m.clock.mono(), time.Now()
	sessions := make(map[string]Record, len(list))
	seen := make(map[string]int64, len(list))
	for _, s := range list {
		sessions[s.Key] = s
		seen[s.Key] = m.sightings.note(s, now)
	}
	waiting := m.waiting(prefix, now)
	m.mu.Lock()
	last := m.last.under(prefix, now, wall)
	m.mu.Unlock()
	var out []Holding
	for _, rec := range records {
		if strings.HasPrefix(rec.Key, sessionPrefix) {
			continue
		}
		h := Holding{Key: rec.Key, Record: rec, Held: wall.Sub(rec.Since), Waiting: waiting[rec.Key], Last: last[rec.Key]}
		delete(waiting, rec.Key)
		if h.Mine = m.holds(rec); h.Mine {
			out = append(out, h)
			continue
		}
		if rec.Session == "" {
			h.Seen = time.Duration(now - m.sightings.note(rec, now))
		} else if srec, ok := sessions[rec.Session]; !ok {
			h.Orphan = true
		} else {
			h.Seen = time.Duration(now - seen[rec.Session])
			h.Dead, h.Known = Dead(srec)
		}
		out = append(out, h)
	}
	for key, w := range waiting {
		out = append(out, Holding{Key: key, Waiting: w, Last: last[key]})
	}
	slices.SortFunc(out, func(a, b Holding) int { return strings.Compare(a.Key, b.Key) })
	return out, nil
}

// holds tells whether rec is a lease of this Manager.
func (m *Manager) holds(rec Record) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	l := m.held[rec.Key]
	return l != nil && !l.over() && l.token.Load() == rec.Token
}

// waiting lists those who wait here.
func (m *Manager) waiting(prefix string, now int64) map[string][]Waiting {
	m.mu.Lock()
	defer m.mu.Unlock()
	out := make(map[string][]Waiting)
	for key, q := range m.queues {
		if !strings.HasPrefix(key, prefix) {
			continue
		}
		ws := slices.Clone(q.heap)
		slices.SortFunc(ws, func(a, b *waiter) int {
			if a.before(b) {
				return -1
			}
			return 1
		})
		for _, w := range ws {
			out[key] = append(out[key], Waiting{Note: w.note, Priority: w.priority, Waited: time.Duration(now - w.since)})
		}
	}
	return out
}
