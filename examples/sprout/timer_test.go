package main

import (
	"context"
	"io"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestTheLeaseTimerIsProlongedAgainAndAgain(t *testing.T) {
	t.Parallel()
	c := newProject(t, func(c *config) { c.Store = "memory" }).client()
	r := asked(1)
	r.lease = 6 * time.Second
	p, err := c.requestAppliances(t.Context(), r, newTerminal(io.Discard))
	require.NoError(t, err)
	defer func() { require.NoError(t, p.Destroy(t.Context())) }()
	require.NoError(t, p.Prolong(t.Context(), r.lease))
	ctx, cancel := context.WithCancelCause(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); p.runTimer(ctx, time.Hour, newTerminal(io.Discard), cancel) }()
	require.Eventually(t, func() bool {
		held, err := c.leases.Inspect(t.Context(), poolKey+p.ID)
		return err == nil && len(held) == 1 && held[0].Record.Renewals >= 3 // one at the reset, and two
	}, time.Minute, 20*time.Millisecond)
	assert.NoError(t, p.term.Check())
	cancel(nil)
	<-done
}

func TestAPoolThatSomebodyDestroysEndsTheRun(t *testing.T) {
	t.Parallel()
	p := newProject(t, nil)
	c := p.client()
	mine, err := c.requestAppliances(t.Context(), asked(1), newTerminal(io.Discard))
	require.NoError(t, err)
	defer func() { require.NoError(t, mine.Destroy(t.Context())) }()
	other := p.client()
	found, err := other.findPoolsByDescription(t.Context(), "cfme")
	require.NoError(t, err)
	require.Len(t, found, 1)
	var out output
	ctx, cancel := context.WithCancelCause(t.Context())
	defer cancel(nil)
	done := make(chan struct{})
	go func() { defer close(done); mine.runTimer(ctx, 10*time.Millisecond, lines(&out), cancel) }()
	require.NoError(t, other.destroyPool(t.Context(), found[0]))
	<-done
	assert.ErrorIs(t, context.Cause(ctx), errPoolGone)
	inOrder(t, out.String(), "Pool "+mine.ID+" does not exist any more, disabling the timer.", "> The exception was: ")
}

func TestALeaseThatIsNotProlongedIsTheEndOfThePool(t *testing.T) {
	t.Parallel()
	c := newProject(t, func(c *config) { c.Store = "memory" }).client()
	p, err := c.requestAppliances(t.Context(), asked(1), newTerminal(io.Discard))
	require.NoError(t, err)
	defer func() { require.NoError(t, p.Destroy(t.Context())) }()
	require.NoError(t, p.Prolong(t.Context(), time.Second)) // and the timer would prolong it in half an hour
	ctx, cancel := context.WithCancelCause(t.Context())
	defer cancel(nil)
	p.runTimer(ctx, time.Hour, newTerminal(io.Discard), cancel)
	assert.ErrorIs(t, context.Cause(ctx), errPoolGone)
	_, err = p.Check(t.Context())
	assert.Error(t, err, "it is not fulfilled any more either")
}
