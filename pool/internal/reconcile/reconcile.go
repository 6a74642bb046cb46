package reconcile

import (
	"fmt"

	"github.com/bullpen-vm/bullpen/vm"
)

// Verdict is what becomes of a listed machine.
type Verdict uint8

// The verdicts.
const (
	Foreign Verdict = iota // nothing says that it is ours to touch
	Ours                   // a machine that this pool has or makes now
	Leave                  // its owner lives, or nobody can tell
	Wait                   // an orphan at first sight: wait for the second
	Claim                  // destroy it once its slot's lease is taken, and its ownership re-read under it
	Destroy                // destroy it, its ownership re-read first
)

var names = [...]string{"foreign", "ours", "leave", "wait", "claim", "destroy"}

// String is the verdict in a word.
func (v Verdict) String() string {
	if int(v) < len(names) {
		return names[v]
	}
	return "unknown"
}

// View is what the pool knows.
type View struct {
	Store string // the id of the lease store
	Pool  string // the pool's name
	// Live reports whether the pool has, or is making, the machine of this
	// incarnation. It must be asked after the listing was made, so that a
	// machine which came into being before the listing is known by then.
	Live func(id vm.ID, incarnation string) bool
	// Held gives the token of a slot key that this pool holds the lease of.
	Held func(slot string) (token uint64, ok bool)
	// Alive says whether the holder of a lock file lives; known is false when
	// that cannot be told from here. Unknown is not dead.
	Alive func(lock string) (alive, known bool)
}

// Finding is the verdict on one machine.
type Finding struct {
	Info    vm.Info
	Verdict Verdict
	Rule    string // "a", "b" or empty
	Reason  string
}

// Sightings remembers the orphans of one host from one listing to the next.
// The zero value has seen nothing. A listing that failed must not be given to
// Judge: what was seen is kept.
type Sightings struct {
	seen map[vm.ID]string // incarnation
}

// Judge gives a finding for each listed machine, in the listing's order.
func (s *Sightings) Judge(listing []vm.Info, v View) []Finding {
	next := make(map[vm.ID]string)
	out := make([]Finding, 0, len(listing))
	for _, i := range listing {
		f := judge(i, v)
		if f.Verdict == Wait {
			next[i.ID] = i.Owner.Incarnation
			if was, ok := s.seen[i.ID]; ok && was == i.Owner.Incarnation {
				f.Verdict = Claim
				f.Reason += "; seen twice"
			}
		}
		out = append(out, f)
	}
	s.seen = next
	return out
}

func judge(i vm.Info, v View) Finding {
	o := i.Owner
	is := func(d Verdict, rule, format string, args ...any) Finding {
		return Finding{Info: i, Verdict: d, Rule: rule, Reason: fmt.Sprintf(format, args...)}
	}
	if o.Zero() {
		return is(Foreign, "", "no owner is written on it")
	}
	if v.Live(i.ID, o.Incarnation) {
		return is(Ours, "", "slot %s", o.Slot)
	}
	alive, known := false, false
	if o.Lock != "" {
		alive, known = v.Alive(o.Lock)
	}
	dead := known && !alive
	if o.Store != "" && o.Store == v.Store && o.Slot != "" {
		if token, ok := v.Held(o.Slot); ok {
			if token > o.Token {
				return is(Destroy, "a", "an older incarnation (token %d) in slot %s, leased here with token %d", o.Token, o.Slot, token)
			}
			return is(Leave, "", "its token %d is not below the lease's token %d of slot %s", o.Token, token, o.Slot)
		}
		if dead {
			return is(Claim, "a", "its owner (run %s, %s) is dead", o.Run, o.Lock)
		}
		return is(Wait, "a", "this pool holds no lease of slot %s", o.Slot)
	}
	if o.Pool != v.Pool {
		return is(Foreign, "", "pool %q, store %q", o.Pool, o.Store)
	}
	switch {
	case dead:
		return is(Destroy, "b", "pool %q, and its owner (run %s, %s) is dead", o.Pool, o.Run, o.Lock)
	case known:
		return is(Leave, "", "its owner (run %s) lives", o.Run)
	default:
		return is(Leave, "", "whether its owner (run %s) lives cannot be told from here", o.Run)
	}
}
