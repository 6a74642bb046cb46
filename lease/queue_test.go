package lease

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// With ten thousand waiters one release must not wake ten thousand goroutines.
func TestARightThatIsFreeWakesOneWaiterTheFirst(t *testing.T) {
	m, err := New(Config{Store: NewMemStore(), NoLock: true})
	require.NoError(t, err)
	defer m.Close(t.Context())
	var all []*waiter
	m.mu.Lock()
	for n := range 50 {
		all = append(all, m.enqueue("k", uint64(n), Options{}))
	}
	m.mu.Unlock()
	onlyFirst := func() {
		t.Helper()
		for n, w := range all {
			require.Len(t, w.wake, map[bool]int{true: 1}[n == 0], "waiter %d of %d", n, len(all))
		}
	}
	m.wakeUp("k")
	onlyFirst()
	for len(all) > 1 { // each gives the turn to the next
		<-all[0].wake
		m.leave("k", all[0])
		all = all[1:]
		onlyFirst()
	}
	m.leave("k", all[0])
	require.Empty(t, m.queues)
	m.wakeUp("k")
}
