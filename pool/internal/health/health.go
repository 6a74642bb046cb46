package health

import "time"

// The defaults of Policy.
const (
	First = 10 * time.Second
	Most  = time.Hour
)

// Policy says when quarantine begins and how long it lasts.
type Policy struct {
	First time.Duration // the first quarantine; zero: First
	Most  time.Duration // the longest; zero: Most
	// Threshold is how many failures in a row begin a quarantine; zero: 1.
	Threshold int
}

func (p Policy) wait(round int) time.Duration {
	first, most := p.First, p.Most
	if first <= 0 {
		first = First
	}
	if most <= 0 {
		most = Most
	}
	d := first
	for i := 1; i < round && d < most; i++ {
		d *= 2
	}
	return min(d, most)
}

// State is whether something may be used.
type State uint8

// The states.
const (
	Healthy     State = iota
	Quarantined       // not to be used until a time
	HalfOpen          // the time has come: one probe may go
	Probing           // the probe is out
)

var names = [...]string{"healthy", "quarantined", "half-open", "probing"}

// String is the state's name.
func (s State) String() string {
	if int(s) < len(names) {
		return names[s]
	}
	return "unknown"
}

// Breaker is the health of one thing. The zero value is healthy.
type Breaker struct {
	Policy Policy

	fails   int // in a row
	round   int // quarantines in a row
	until   time.Time
	open    bool
	probing bool
	reason  string
}

// State says how it stands at the time now.
func (b *Breaker) State(now time.Time) State {
	switch {
	case !b.open:
		return Healthy
	case b.probing:
		return Probing
	case now.Before(b.until):
		return Quarantined
	default:
		return HalfOpen
	}
}

// Allow reports whether an attempt may begin.
func (b *Breaker) Allow(now time.Time) bool {
	s := b.State(now)
	return s == Healthy || s == HalfOpen
}

// Begin notes that an attempt begins: out of quarantine it is the one probe.
// It reports whether it is, so that the caller can tell End.
func (b *Breaker) Begin(now time.Time) (probe bool) {
	if b.State(now) == HalfOpen {
		b.probing = true
		return true
	}
	return false
}

// Success ends all quarantine.
func (b *Breaker) Success() {
	*b = Breaker{Policy: b.Policy}
}

// Failure counts a failure. Failures of attempts that began before the
// quarantine did, and end within it, do not make it longer: they tell nothing
// new.
func (b *Breaker) Failure(now time.Time, reason string) {
	b.fails++
	b.reason = reason
	if b.open && !b.probing && now.Before(b.until) {
		return
	}
	threshold := max(b.Policy.Threshold, 1)
	if !b.open && b.fails < threshold {
		return
	}
	b.round++
	b.open, b.probing = true, false
	b.until = now.Add(b.Policy.wait(b.round))
}

// Withdraw notes that the probe ended without an answer: it was refused as
// busy, or was called off. Nothing is counted and the next may go at once.
func (b *Breaker) Withdraw() { b.probing = false }

// Fails is how many failures there were in a row, and Reason the last one's.
func (b *Breaker) Fails() int { return b.fails }

// Reason is the last failure's reason; empty when healthy.
func (b *Breaker) Reason() string { return b.reason }

// Until is when the quarantine ends; ok is false when there is none, or a
// probe is out, so that no time will change anything.
func (b *Breaker) Until() (until time.Time, ok bool) {
	return b.until, b.open && !b.probing
}

// Pause is a back-off that counts no failure: for hosts that are busy. The zero
// value waits for nothing.
type Pause struct {
	Policy Policy // Threshold is not used
	// For is what is waited for, for whoever begins a pause to keep.
	For string

	round int
	until time.Time
}

// Busy begins a pause, longer than the last unless Reset was called between.
// Being told so again during a pause changes nothing.
func (p *Pause) Busy(now time.Time) {
	if now.Before(p.until) {
		return
	}
	p.round++
	p.until = now.Add(p.Policy.wait(p.round))
}

// Reset ends the pause: something was accepted.
func (p *Pause) Reset() { p.round, p.until = 0, time.Time{} }

// Over reports whether there is no pause at the time now.
func (p *Pause) Over(now time.Time) bool { return !now.Before(p.until) }

// Until is when the pause ends; zero when there is none.
func (p *Pause) Until() time.Time { return p.until }
