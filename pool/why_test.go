package pool

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// FIELD P4: what was there when a request for several failed is told, to the
// caller and to the trace; then others have it.
func TestTheErrorOfARequestForSeveralNamesThoseThatItHad(t *testing.T) {
	bubble(t, func(t *testing.T) {
		var s seen
		w := start(t, Config{Templates: one("a"), Hosts: []Host{{Slots: 3}}, Trace: s.trace()}, hypervisor("h"))
		defer w.over()
		held := w.acquire(Want{Job: "TestLong"})
		_, err := w.AcquireAll(t.Context(), 3, Want{Template: "a", Job: "TestAll", Timeout: time.Minute})
		require.ErrorIs(t, err, ErrTimeout)
		synctest.Wait()
		var had []string
		for _, g := range w.Guests() {
			if g.State == "ready" {
				require.ErrorContains(t, err, g.Name+" on h")
				had = append(had, g.Name)
			}
		}
		require.Len(t, had, 2)
		require.ErrorContains(t, err, "it has 2 of 3: ")
		require.ErrorContains(t, err, "held: TestLong 1m0s")
		refused := s.of(EventRefused)
		require.Len(t, refused, 1)
		require.Contains(t, refused[0].Reason, "it has 2 of 3: ")
		next, err := w.TryAcquire(t.Context(), Want{})
		require.NoError(t, err, "nothing is kept back")
		require.Contains(t, had, next.Name())
		w.release(held)
	})
}
