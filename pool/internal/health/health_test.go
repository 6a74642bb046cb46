package health

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"pgregory.net/rapid"
)

var t0 = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

func TestQuarantineDoublesFromTenSecondsToAnHour(t *testing.T) {
	t.Parallel()
	var b Breaker
	now := t0
	want := []time.Duration{10, 20, 40, 80, 160, 320, 640, 1280, 2560, 3600, 3600}
	for i, w := range want {
		assert.True(t, b.Allow(now))
		b.Begin(now)
		b.Failure(now, "no boot")
		until, ok := b.Until()
		assert.True(t, ok)
		assert.Equal(t, w*time.Second, until.Sub(now), "quarantine %d", i)
		assert.False(t, b.Allow(until.Add(-1)))
		assert.Equal(t, Quarantined, b.State(until.Add(-1)))
		now = until
	}
	assert.Equal(t, len(want), b.Fails())
	assert.Equal(t, "no boot", b.Reason())
	b.Success()
	assert.Equal(t, Healthy, b.State(now))
	b.Failure(now, "again")
	until, _ := b.Until()
	assert.Equal(t, 10*time.Second, until.Sub(now), "success begins anew")
}

func TestOnlyOneProbeGoesWhenQuarantineEnds(t *testing.T) {
	t.Parallel()
	var b Breaker
	assert.False(t, b.Begin(t0), "healthy attempts are no probes")
	b.Failure(t0, "x")
	now := t0.Add(10 * time.Second)
	assert.Equal(t, HalfOpen, b.State(now))
	assert.True(t, b.Begin(now))
	assert.False(t, b.Allow(now), "the probe is out")
	assert.Equal(t, Probing, b.State(now))
	_, ok := b.Until()
	assert.False(t, ok)
	b.Withdraw() // busy is no failure
	assert.True(t, b.Allow(now))
	assert.Equal(t, 1, b.Fails())
}

func TestLateFailuresDoNotLengthenAQuarantine(t *testing.T) {
	t.Parallel()
	var b Breaker
	for range 5 { // five boots began together and fail together
		b.Failure(t0, "x")
	}
	until, _ := b.Until()
	assert.Equal(t, 10*time.Second, until.Sub(t0))
}

func TestThresholdFailuresBeginAQuarantine(t *testing.T) {
	t.Parallel()
	b := Breaker{Policy: Policy{Threshold: 3, First: time.Second, Most: 2 * time.Second}}
	b.Failure(t0, "x")
	b.Failure(t0, "x")
	assert.True(t, b.Allow(t0))
	b.Failure(t0, "x")
	assert.False(t, b.Allow(t0))
	b.Success()
	b.Failure(t0, "x")
	assert.True(t, b.Allow(t0), "success resets the count")
}

func TestBusyPausesGrowAndEnd(t *testing.T) {
	t.Parallel()
	p := Pause{Policy: Policy{First: time.Second, Most: 4 * time.Second}}
	assert.True(t, p.Over(t0))
	now := t0
	for _, w := range []time.Duration{1, 2, 4, 4} {
		p.Busy(now)
		p.Busy(now)
		assert.Equal(t, w*time.Second, p.Until().Sub(now))
		assert.False(t, p.Over(now))
		now = p.Until()
		assert.True(t, p.Over(now))
	}
	p.Reset()
	assert.True(t, p.Over(t0))
	assert.Equal(t, "half-open", HalfOpen.String())
	assert.Equal(t, "unknown", State(99).String())
}

// Whatever happens, a quarantine ends: it lasts at most Most, and after it one
// attempt is allowed, never two.
func TestEveryQuarantineEnds(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		b := Breaker{Policy: Policy{Threshold: rapid.IntRange(0, 3).Draw(t, "threshold")}}
		now, out := t0, 0
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			switch rapid.IntRange(0, 4).Draw(t, "step") {
			case 0:
				if b.Allow(now) && b.Begin(now) {
					out++
				}
			case 1:
				b.Failure(now, "x")
				if b.State(now) != Probing {
					out = 0
				}
			case 2:
				b.Success()
				out = 0
			case 3:
				if out > 0 {
					b.Withdraw()
					out = 0
				}
			case 4:
				now = now.Add(time.Duration(rapid.Int64Range(0, int64(2*time.Hour)).Draw(t, "dt")))
			}
			if out > 1 {
				t.Fatalf("%d probes are out", out)
			}
			if until, ok := b.Until(); ok {
				if until.Sub(now) > Most {
					t.Fatalf("quarantine lasts %v", until.Sub(now))
				}
				if !b.Allow(until) {
					t.Fatalf("not allowed at its end")
				}
			}
		}
	})
}
