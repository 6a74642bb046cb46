package lease

import (
	"sync/atomic"
	"time"
)

// clock counts nanoseconds since it was started: the monotonic time, which
// testing/synctest fakes, and the time that the machine was suspended, which
// the monotonic clock of Linux leaves out and for which other machines went on.
type clock struct {
	base   time.Time
	asleep atomic.Int64 // suspended since base
	looked atomic.Int64 // monotonic reading at the last look at the suspends
	ahead  atomic.Int64 // the wall clock, less the monotonic reading, at that look

	offset func() (time.Duration, bool) // suspended since boot; false: cannot tell
	first  time.Duration                // offset at base
	can    bool
}

const (
	// lookEvery is how old what is known of suspends may be. A suspend freezes
	// processes, then devices, and undoes both: several milliseconds in which
	// the monotonic clock runs, so none fits between two readings closer than
	// this.
	lookEvery = int64(time.Millisecond)
	// leastSleep tells a suspend from the noise of reading two clocks.
	leastSleep = 5 * time.Millisecond
)

func (c *clock) start() {
	c.startWith(suspended)
}

func (c *clock) startWith(offset func() (time.Duration, bool)) {
	c.base = time.Now()
	c.offset = offset
	c.first, c.can = offset()
	c.asleep.Store(0)
	c.looked.Store(0)
	c.ahead.Store(c.base.UnixNano())
}

// now is the time for holders: it runs while the machine sleeps.
func (c *clock) now() int64 { return c.at(c.mono()) }

// mono is the time for observers: it stands still while the machine sleeps, so
// that they wait rather longer.
func (c *clock) mono() int64 { return int64(time.Since(c.base)) }

// at gives the holder's time for a monotonic reading that was just taken.
func (c *clock) at(mono int64) int64 {
	if mono-c.looked.Load() >= lookEvery {
		c.look(mono)
	}
	return mono + c.asleep.Load()
}

// wall gives the time for people at a monotonic reading for which at was just
// called, in nanoseconds since 1970. A wall clock that was set since the last look
// is seen at the next one.
func (c *clock) wall(mono int64) int64 { return mono + c.ahead.Load() }

func (c *clock) look(mono int64) {
	c.looked.Store(mono)
	now := time.Now()
	c.ahead.Store(now.UnixNano() - int64(now.Sub(c.base)))
	if !c.can {
		return
	}
	if o, ok := c.offset(); ok {
		if slept := o - c.first; slept >= leastSleep {
			raise(&c.asleep, int64(slept))
		}
	}
}

// raise makes v at least to.
func raise(v *atomic.Int64, to int64) {
	for old := v.Load(); old < to; old = v.Load() {
		if v.CompareAndSwap(old, to) {
			return
		}
	}
}
