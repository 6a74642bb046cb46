package tsc

import (
	"context"
	"math"
	"time"
)

const (
	// span is how long the counter is looked at, and tries how often more, each
	// time twice as long, when the looks were too slow to tell.
	span  = 10 * time.Millisecond
	tries = 4
	// worst is the largest error of a rate that is given, as a part of it. A Linux
	// guest mends up to a hundredth by itself.
	worst = 2e-4
)

// look is one look at counter and clock. The counter was read within slack
// after the clock.
type look struct {
	at    time.Time
	ticks uint64
	slack time.Duration
}

// Rate gives the counter's rate in kHz, or 0 where there is no such counter, or
// its rate cannot be told. It takes some 10 ms, or less when the context ends.
func Rate(ctx context.Context) int {
	if !present {
		return 0
	}
	return rate(ctx, read)
}

func rate(ctx context.Context, read func() uint64) int {
	wait := span
	for range tries {
		from := best(read)
		t := time.NewTimer(wait)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return 0
		}
		if khz, ok := between(from, best(read)); ok {
			return khz
		}
		wait *= 2
	}
	return 0
}

// best is the fastest of some looks: one during which this thread was put off
// says little.
func best(read func() uint64) look {
	var b look
	for i := range 32 {
		l := look{at: time.Now()}
		l.ticks = read()
		if l.slack = time.Since(l.at); i == 0 || l.slack < b.slack {
			b = l
		}
	}
	return b
}

// between gives the rate from one look to a later one, unless it is too vague or
// no counter's.
func between(from, to look) (khz int, ok bool) {
	took := to.at.Sub(from.at)
	if took <= 0 || to.ticks <= from.ticks || float64(from.slack+to.slack) > worst*float64(took) {
		return 0, false
	}
	// The middle of what is possible.
	took += (to.slack - from.slack) / 2
	exact := float64(to.ticks-from.ticks) / took.Seconds() / 1000
	if exact < 1e5 || exact > 1e7 { // 100 MHz to 10 GHz
		return 0, false
	}
	return int(math.Round(exact)), true
}
