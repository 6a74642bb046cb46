package tsc

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
)

// counter counts at a rate in kHz by the bubble's clock.
func counter(khz float64) func() uint64 {
	began := time.Now()
	return func() uint64 { return 1<<40 + uint64(time.Since(began).Seconds()*khz*1000) }
}

func TestTheRateIsThatOfTheCounter(t *testing.T) {
	for _, khz := range []float64{100_000, 1_900_000, 2_596_103, 5_000_000} {
		synctest.Test(t, func(t *testing.T) {
			assert.InDelta(t, khz, rate(t.Context(), counter(khz)), khz*1e-6)
		})
	}
}

func TestWhatCannotBeTheRateOfACounterIsNotGiven(t *testing.T) {
	for _, khz := range []float64{0, 50, 99_000, 2e7, -1e6} {
		synctest.Test(t, func(t *testing.T) {
			assert.Zero(t, rate(t.Context(), counter(khz)))
		})
	}
}

// A look that was slow says nothing about when the counter was read.
func TestARateFromSlowLooksIsNotGivenUntilTheyAreFarApart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		ticks := counter(2_000_000)
		slow := func() uint64 { time.Sleep(3 * time.Microsecond); return ticks() }
		assert.InDelta(t, 2_000_000, rate(t.Context(), slow), 2_000_000*worst)
		assert.Greater(t, time.Since(began), 2*span, "10 ms are too short for looks of 3 µs")
		worse := func() uint64 { time.Sleep(time.Millisecond); return ticks() }
		assert.Zero(t, rate(t.Context(), worse))
	})
}

func TestTheMeasurementEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	assert.Zero(t, rate(ctx, counter(2_000_000)))
}

// The real counter's rate does not change from one measurement to the next.
func TestThisComputersRateIsTheSameEachTime(t *testing.T) {
	first, second := Rate(t.Context()), Rate(t.Context())
	if !present {
		assert.Zero(t, first)
		return
	}
	if first == 0 || second == 0 {
		t.Skip("this computer is too busy to tell")
	}
	assert.InEpsilon(t, first, second, 3*worst)
	t.Logf("%d kHz", first)
}
