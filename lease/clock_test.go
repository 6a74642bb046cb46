package lease

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
)

func TestTheTimeForPeopleFollowsTheWallClock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var c clock
		c.start()
		time.Sleep(time.Hour)
		mono := c.mono()
		assert.Equal(t, int64(time.Hour), mono)
		assert.Equal(t, time.Now().UnixNano(), c.wall(mono), "also before the first look")
		c.ahead.Add(int64(24 * time.Hour)) // as if somebody had set the clock back by a day
		time.Sleep(time.Duration(lookEvery))
		mono = c.mono()
		c.at(mono)
		assert.Equal(t, time.Now().UnixNano(), c.wall(mono))
	})
}

func TestALeaseSaysSinceWhenItIsHeld(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := NewMemStore()
		m := newManager(t, s)
		for range 3 {
			time.Sleep(90 * time.Minute)
			for _, o := range []*Options{nil, {Term: time.Minute}} {
				l, err := m.Acquire(t.Context(), "k", o)
				assert.NoError(t, err)
				assert.True(t, l.Since().Equal(time.Now()), "since %v, it is %v", l.Since(), time.Now())
				got, err := s.Load(t.Context(), "k")
				assert.NoError(t, err)
				assert.True(t, got.Since.Equal(time.Now()) && got.Renewed.Equal(time.Now()))
				assert.NoError(t, l.Release(t.Context()))
			}
		}
		assert.NoError(t, m.Close(t.Context()))
	})
}
