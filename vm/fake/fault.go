package fake

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"path"
	"sync"
	"time"

	"github.com/bullpen-vm/bullpen/vm"
)

// Fault is one thing that goes wrong. It hits the calls that Op, Machine, From,
// Times and Chance all select; of several faults that hit a call, the delays add
// up and the first error counts.
type Fault struct {
	Op      string  // such as vm.OpStart; empty: every operation
	Machine string  // pattern of path.Match for the machine's ID; empty: every one
	From    int     // the first selected call that is hit, counted from one; zero: 1
	Times   int     // how many calls are hit from there on; zero: all
	Chance  float64 // of being hit, by Config.Seed; zero: always

	Delay time.Duration // before anything else
	// Hang: the call does nothing and waits for its context to end.
	// Operations without a context fail at once instead.
	Hang bool
	Err  error // what the call answers, wrapped; nil: what it would
	// Late: Err is answered after the call was done, like an answer that is
	// lost on its way.
	Late bool
	Lie  func(*vm.Info) // changes what Info and List tell
	// Lose leaves that many machines out of a listing. True drivers never do.
	Lose int
	// Guest is what goes wrong in a guest that is booted by the call (OpStart,
	// OpFork, OpRevert). Only the fake's own guests can do that, not those
	// behind Wrap.
	Guest Guest
}

// Guest is what goes wrong in one boot of a guest. The zero value is nothing.
type Guest struct {
	Fail       bool          // the boot fails: Start answers an error with the console's last lines
	Slow       time.Duration // added to Times.Boot
	Silent     bool          // it never says hello
	Deaf       bool          // once it is ready it answers nothing and starts nothing
	WrongHello bool          // its hello carries a wrong secret
	OtherHello bool          // its hello names another incarnation
	SecondBoot bool          // it says another hello as soon as it is ready
	Dirty      string        // it says that it bears this mark: a rollback that did not happen
	Noise      int           // it writes that many bytes of rubbish before each hello
	Crash      bool          // it crashes, CrashAfter after the boot began
	CrashAfter time.Duration
	PowerOff   time.Duration // it powers off after that long; zero: it does not
}

// injector decides which faults hit a call.
type injector struct {
	host string
	seed uint64

	mu sync.Mutex
	// mu protects the following fields.
	rules []*rule
	calls map[string]int
}

type rule struct {
	Fault
	n    uint64 // which rule it is
	seen int
	per  map[call]uint64 // of rules with a Chance: calls so far
}

type call struct {
	op string
	id vm.ID
}

func newInjector(host string, seed uint64, faults []Fault) *injector {
	j := &injector{host: host, seed: seed, calls: map[string]int{}}
	j.add(faults)
	return j
}

func (j *injector) add(faults []Fault) {
	j.mu.Lock()
	defer j.mu.Unlock()
	for _, f := range faults {
		j.rules = append(j.rules, &rule{Fault: f, n: uint64(len(j.rules)), per: map[call]uint64{}})
	}
}

func (j *injector) clear() {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.rules = nil
}

func (j *injector) count(op string) int {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.calls[op]
}

// pick counts a call and selects the faults that hit it.
func (j *injector) pick(op string, id vm.ID) []Fault {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.calls[op]++
	var hit []Fault
	for _, r := range j.rules {
		if r.Op != "" && r.Op != op {
			continue
		}
		if r.Machine != "" {
			if ok, err := path.Match(r.Machine, string(id)); err != nil || !ok {
				continue
			}
		}
		r.seen++
		from := max(r.From, 1)
		if r.seen < from || r.Times > 0 && r.seen >= from+r.Times {
			continue
		}
		if r.Chance > 0 && !r.lucky(j.seed, call{op, id}) {
			continue
		}
		hit = append(hit, r.Fault)
	}
	return hit
}

// lucky draws from the seed, the rule, the operation, the machine and how often
// it was called, so that a run is the same whatever its goroutines do.
func (r *rule) lucky(seed uint64, c call) bool {
	r.per[c]++
	h := fnv.New64a()
	var b [24]byte
	binary.LittleEndian.PutUint64(b[0:], seed)
	binary.LittleEndian.PutUint64(b[8:], r.n)
	binary.LittleEndian.PutUint64(b[16:], r.per[c])
	h.Write(b[:])
	fmt.Fprintf(h, "%s\x00%s", c.op, c.id)
	x := h.Sum64()
	// FNV's high bits are weak for short texts: mix as splitmix64 does.
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	x ^= x >> 31
	return float64(x>>11)/(1<<53) < r.Chance
}

// errHung is the answer of a call without a context that was to hang.
var errHung = errors.New("the call hung")

// guestKey carries the faults of the guest that a call boots.
type guestKey struct{}

// do is the Call of a vm.Interceptor.
func (j *injector) do(ctx context.Context, op string, id vm.ID, result any, do func(context.Context) error) error {
	hit := j.pick(op, id)
	if len(hit) == 0 {
		return do(ctx)
	}
	fail := func(err error) error { return &vm.OpError{Op: op, Driver: j.host, ID: id, Err: err} }
	var guest Guest
	for _, f := range hit {
		if err := pause(ctx, f.Delay); err != nil {
			return fail(err)
		}
		if f.Hang {
			if ctx.Done() == nil {
				return fail(errHung)
			}
			<-ctx.Done()
			return fail(context.Cause(ctx))
		}
		if f.Err != nil && !f.Late {
			return fail(f.Err)
		}
		if f.Guest != (Guest{}) {
			guest = f.Guest
		}
	}
	if guest != (Guest{}) {
		ctx = context.WithValue(ctx, guestKey{}, guest)
	}
	if err := do(ctx); err != nil {
		return err
	}
	for _, f := range hit {
		switch r := result.(type) {
		case *vm.Info:
			if f.Lie != nil {
				f.Lie(r)
			}
		case *[]vm.Info:
			if f.Lie != nil {
				for i := range *r {
					f.Lie(&(*r)[i])
				}
			}
			*r = (*r)[:max(len(*r)-f.Lose, 0)]
		}
		if f.Err != nil {
			return fail(f.Err)
		}
	}
	return nil
}

// pause waits, or answers why the context ended.
func pause(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return nil
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
