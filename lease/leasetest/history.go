package leasetest

import (
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/bullpen-vm/bullpen/lease"
)

// history is what concurrent users of a store were told.
//
// A store whose swaps name what they replace needs no search for an order of
// the operations: each state of a key has a name of its own, (token, renewals),
// so the acknowledged swaps form the only chain there can be. What is left to
// check is that it is a chain, that everybody saw only states of it, and
// nobody one that had already been replaced before he asked, or that came to be
// after he was answered.
type history struct {
	mu     sync.Mutex
	events []event
}

type kind uint8

const (
	load kind = iota
	swap
	remove
)

type event struct {
	kind       kind
	key        string
	prev, got  lease.Record
	newToken   bool
	conflict   bool
	start, end time.Duration
}

func (h *history) add(e event) {
	h.mu.Lock()
	h.events = append(h.events, e)
	h.mu.Unlock()
}

// version names a state of a key.
type version struct {
	key             string
	token, renewals uint64
}

func versionOf(key string, r lease.Record) version { return version{key, r.Token, r.Renewals} }

// life is when a state can have been there: it began within made, and ended
// within gone if anybody replaced it.
type life struct {
	made, gone *event
}

// check gives the first contradiction.
func (h *history) check() error {
	lives := make(map[version]*life)
	at := func(v version) *life {
		if lives[v] == nil {
			lives[v] = new(life)
		}
		return lives[v]
	}
	var changes []*event
	for i := range h.events {
		if e := &h.events[i]; e.kind != load && !e.conflict {
			changes = append(changes, e)
		}
	}
	for _, e := range changes {
		if e.kind == swap {
			v := versionOf(e.key, e.got)
			if e.got.Key != e.key || v.token == 0 {
				return fmt.Errorf("a swap of %q returned %+v", e.key, e.got)
			}
			if l := at(v); l.made != nil {
				return fmt.Errorf("two swaps were both told that they made %+v", v)
			}
			at(v).made = e
			if e.newToken != (e.got.Token != e.prev.Token) {
				return fmt.Errorf("a swap (new token: %v) of token %d gave token %d", e.newToken, e.prev.Token, e.got.Token)
			}
		}
		if !e.prev.Zero() && e.kind == swap {
			l := at(versionOf(e.key, e.prev))
			if l.gone != nil {
				return fmt.Errorf("%+v was replaced twice: an update is lost", versionOf(e.key, e.prev))
			}
			l.gone = e
		}
	}
	// Deletes that found nothing are acknowledged too, so one counts as the
	// end of a state only where no swap does.
	for _, e := range changes {
		if e.kind == remove {
			l := at(versionOf(e.key, e.prev))
			if l.gone == nil {
				l.gone = e
			} else if l.gone.kind == remove && e.end < l.gone.end {
				l.gone = e
			}
		}
	}
	for v, l := range lives {
		if l.made == nil {
			return fmt.Errorf("%+v was replaced, but nobody made it", v)
		}
		if l.gone != nil && l.gone.end < l.made.start {
			return fmt.Errorf("%+v was replaced before it was made", v)
		}
	}
	for i := range h.events {
		if err := sawLiving(&h.events[i], lives); err != nil {
			return err
		}
	}
	return tokensInOrder(changes)
}

// sawLiving checks what an operation that changed nothing saw.
func sawLiving(e *event, lives map[version]*life) error {
	if e.kind != load && !(e.conflict && e.kind == swap) {
		return nil
	}
	if e.conflict && e.got.Token == e.prev.Token && e.got.Renewals == e.prev.Renewals {
		return fmt.Errorf("a swap of %+v conflicted with itself", versionOf(e.key, e.prev))
	}
	if e.got.Zero() {
		return nil
	}
	v := versionOf(e.key, e.got)
	l := lives[v]
	if l == nil || l.made == nil {
		return fmt.Errorf("%+v was seen, but nobody made it", v)
	}
	if e.end < l.made.start {
		return fmt.Errorf("%+v was seen before it was made", v)
	}
	if l.gone != nil && l.gone.end < e.start {
		return fmt.Errorf("%+v was seen %v after it had been replaced", v, e.start-l.gone.end)
	}
	return nil
}

// tokensInOrder: who asks after another was answered gets the higher token.
func tokensInOrder(changes []*event) error {
	var given []*event
	for _, e := range changes {
		if e.kind == swap && e.newToken {
			given = append(given, e)
		}
	}
	slices.SortFunc(given, func(a, b *event) int { return int(a.start - b.start) })
	ends := slices.Clone(given)
	slices.SortFunc(ends, func(a, b *event) int { return int(a.end - b.end) })
	var highest uint64
	for _, e := range given {
		for len(ends) > 0 && ends[0].end < e.start {
			highest = max(highest, ends[0].got.Token)
			ends = ends[1:]
		}
		if e.got.Token <= highest {
			return fmt.Errorf("token %d was given after %d had been", e.got.Token, highest)
		}
	}
	return nil
}
