package scheduler

import (
	"math"
	"time"
)

// switching measures what it costs a worker to be given a key that it does not
// know: how much longer tasks took that came first in a batch that switched than
// others with the like estimate. Estimates may be off by any factor, and those that
// are chosen for their length are rather too long; both is the same for tasks of
// the same estimate, and so drops out. What all batches need, such as the way to
// a machine, drops out where there are batches enough that did not switch.
type switching struct {
	switched, first, rest [switchBins]taken // first tasks of batches that switched, of those that did not; all others
	n, due                int
	cost                  float64 // seconds; 0: not known
}

// taken is how long tasks took, in seconds.
type taken struct{ n, sum, squares float64 }

func (a *taken) add(y float64) {
	a.n++
	a.sum += y
	a.squares += y * y
}

// variance of the mean.
func (a *taken) variance() float64 {
	mean := a.sum / a.n
	return max(0, a.squares/a.n-mean*mean) / a.n
}

const (
	switchBins  = 80 // half octaves of the estimate, from a millisecond on
	switchLeast = 8  // tasks of each kind, before anything is said
	switchSigma = 2  // standard errors that a cost is above zero at the least
)

func switchBin(estimate float64) int {
	part, exponent := math.Frexp(estimate * 1000)
	bin := 2 * exponent
	if part >= math.Sqrt2/2 {
		bin++
	}
	return max(0, min(bin, switchBins-1))
}

// note takes in that a task ended; estimate and took are in seconds.
func (s *switching) note(first, switched bool, estimate, took float64) {
	bin := switchBin(estimate)
	switch {
	case !first:
		s.rest[bin].add(took)
	case switched:
		s.switched[bin].add(took)
	default:
		s.first[bin].add(took)
	}
	if s.n++; s.n >= s.due { // a sixteenth more says something new
		s.due = s.n + 1 + s.n/16
		cost, known := compare(&s.switched, &s.first)
		if !known {
			cost, _ = compare(&s.switched, &s.rest)
		}
		s.cost = min(cost, mostSeconds)
	}
}

// compare returns how much longer the ones took than the others of the like
// estimate, 0 where that may be chance; known says that there are enough of both.
func compare(ones, others *[switchBins]taken) (cost float64, known bool) {
	n, like, sum, variance := 0.0, 0.0, 0.0, 0.0
	for i := range ones {
		a, b := &ones[i], &others[i]
		if a.n == 0 || b.n < 2 {
			continue
		}
		n += a.n
		like += min(a.n, b.n)
		sum += a.n * (a.sum/a.n - b.sum/b.n)
		v := b.variance()
		if a.n > 1 {
			v += a.variance()
		} else {
			v *= 1 + b.n // one alone is as uncertain as one of the others
		}
		variance += a.n * a.n * v
	}
	if n < switchLeast || like < switchLeast {
		return 0, false
	}
	if cost = sum / n; cost <= switchSigma*math.Sqrt(variance)/n {
		return 0, true
	}
	return cost, true
}

// switchCost is what a switch costs in seconds, as it was given or as it is
// measured; 0: not known.
func (m *machine) switchCost() float64 {
	if m.conf.Switch > 0 {
		return m.conf.Switch.Seconds()
	}
	return m.switching.cost
}

// noteSwitch measures by a task that ended with a verdict of its own.
func (m *machine) noteSwitch(t, batch int32) {
	k, b := &m.tasks[t], &m.batches[batch]
	took := time.Duration(m.now - b.last).Seconds()
	b.last = m.now
	if m.conf.Switch == 0 && k.key != 0 && !k.unseen && k.est > 0 {
		m.switching.note(b.left == len(b.tasks), b.switched, k.est, took)
	}
}
