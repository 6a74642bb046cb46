package local

import (
	"errors"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bullpen-vm/bullpen/vm"
)

func TestCloseEndsTheMachinesAndEveryCall(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	root := t.TempDir()
	d, err := Open(Config{Root: root})
	require.NoError(t, err)
	m, paused := running(t, d), running(t, d)
	require.NoError(t, paused.Suspend(ctx))
	marks := []string{markOf(t, m), markOf(t, paused)}
	waited := make(chan error, 1)
	go func() {
		_, err := m.Wait(ctx)
		waited <- err
	}()
	require.NoError(t, d.Close())
	require.NoError(t, d.Close())
	if err := <-waited; err != nil {
		require.ErrorIs(t, err, vm.ErrClosed)
	}
	for _, mark := range marks {
		nobodyLeft(t, mark)
	}
	_, err = d.List(ctx)
	require.ErrorIs(t, err, vm.ErrClosed)
	_, err = d.Create(ctx, testSpec(t))
	require.ErrorIs(t, err, vm.ErrClosed)
	require.ErrorIs(t, m.Destroy(ctx), vm.ErrClosed)
	next := testDriver(t, Config{Root: root})
	infos, err := next.List(ctx)
	require.NoError(t, err)
	require.Len(t, infos, 2)
	for _, info := range infos {
		require.Equal(t, vm.StateStopped, info.State)
		require.Equal(t, "the driver was closed", info.End.Detail)
		require.Equal(t, "test", info.Owner.Pool)
	}
}

func TestCloseDuringStartsLeavesNobody(t *testing.T) {
	t.Parallel()
	for range 5 {
		d, err := Open(Config{Root: t.TempDir()})
		require.NoError(t, err)
		var all sync.WaitGroup
		var marks []string
		for range 4 {
			m := create(t, d)
			marks = append(marks, markOf(t, m))
			all.Go(func() {
				if err := m.Start(testContext(t)); err != nil && !errors.Is(err, vm.ErrClosed) {
					t.Errorf("%v", err)
				}
			})
		}
		require.NoError(t, d.Close())
		all.Wait()
		for _, mark := range marks {
			nobodyLeft(t, mark)
		}
	}
}
