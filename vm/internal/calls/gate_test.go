package calls

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/bullpen-vm/bullpen/vm"
)

func TestCloseEndsContextsOfCallsAndWaitsForThemAndForWhatTheyLeft(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := New()
		var mu sync.Mutex
		var order []string
		note := func(what string) {
			mu.Lock()
			defer mu.Unlock()
			order = append(order, what)
		}
		ctx, leave, err := g.Enter(t.Context())
		require.NoError(t, err)
		g.Keep()
		go func() {
			<-ctx.Done()
			assert.ErrorIs(t, context.Cause(ctx), ErrClosing)
			assert.ErrorIs(t, context.Cause(ctx), vm.ErrClosed)
			assert.True(t, g.Closing())
			time.Sleep(time.Second)
			note("call")
			leave()
			time.Sleep(time.Second)
			note("what it left")
			g.Done()
		}()
		assert.False(t, g.Closing())
		one, two := errors.New("one"), errors.New("two")
		again := make(chan error)
		go func() {
			time.Sleep(time.Millisecond)
			again <- g.Close(nil, nil)
		}()
		err = g.Close(func() error { note("first"); return one }, func() error { note("last"); return two })
		require.ErrorIs(t, err, one)
		require.ErrorIs(t, err, two)
		assert.Equal(t, []string{"first", "call", "what it left", "last"}, order)
		assert.Equal(t, err, <-again, "who closes again gets the same")
		_, _, err = g.Enter(t.Context())
		require.ErrorIs(t, err, vm.ErrClosed)
		assert.Error(t, g.Context().Err())
	})
}

func TestACallEndsWithItsOwnContextToo(t *testing.T) {
	t.Parallel()
	g := New()
	reason := errors.New("enough")
	ctx, cancel := context.WithCancelCause(t.Context())
	in, leave, err := g.Enter(ctx)
	require.NoError(t, err)
	cancel(reason)
	<-in.Done()
	require.ErrorIs(t, context.Cause(in), reason)
	leave()
	_, _, err = g.Enter(ctx)
	require.ErrorIs(t, err, reason, "who comes with an ended context")
	require.NoError(t, g.Close(func() error { return nil }, func() error { return nil }))
}
