package main

import (
	"io"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/bullpen-vm/bullpen/scheduler"
)

func TestTheRegistryWinsOverAStart(t *testing.T) {
	t.Parallel()
	r := &registry{}
	id := r.add(appliance{Name: "m", URL: "https://10.0.0.1/"})
	other := r.add(appliance{Name: "silent"})
	never := func(appliance) (executor, error) { t.Error("it was started"); return nil, nil }

	_, _, err := r.start(other, never)
	assert.ErrorIs(t, err, errNotStarted, "no URL, no worker")

	// It is taken out while somebody starts it: the fresh one is ended.
	ended := false
	x, fresh, err := r.start(id, func(appliance) (executor, error) {
		r.remove(id)
		return &scripted{id: id, stopped: func() { ended = true }}, nil
	})
	assert.ErrorIs(t, err, errNotStarted)
	assert.ErrorContains(t, err, "it was taken out")
	assert.Nil(t, x)
	assert.False(t, fresh)
	assert.True(t, ended, "nobody would end it")

	// It was taken out before.
	_, _, err = r.start(id, never)
	assert.ErrorIs(t, err, errNotStarted)
	spawned, _ := r.counts()
	assert.Zero(t, spawned)

	third := r.add(appliance{Name: "n", URL: "https://10.0.0.3/"})
	r.forbid()
	_, _, err = r.start(third, never)
	assert.ErrorIs(t, err, errNotStarted, "a session that ends starts no more")
}

func TestAWorkerThatWasTakenOutIsNotGivenToTheScheduler(t *testing.T) {
	t.Parallel()
	b := newBench(2, modules(1), nil)
	b.collection = modules(1)
	b.registry.remove("slave00")
	w, err := b.Worker(t.Context(), scheduler.Demand{})
	require.NoError(t, err)
	assert.Equal(t, "slave01", w.Info().Name)
	require.NoError(t, w.Release(t.Context(), nil))
	b.registry.remove("slave01")
	_, err = b.Worker(t.Context(), scheduler.Demand{})
	assert.ErrorIs(t, err, scheduler.ErrImpossible, "none is left")
}

func TestOneThatIsToBeAvoidedIsTakenWhenThereIsNoOther(t *testing.T) {
	t.Parallel()
	b := newBench(2, modules(1), nil)
	b.collection = modules(1)
	w, err := b.Worker(t.Context(), scheduler.Demand{Avoid: []string{"slave00"}})
	require.NoError(t, err)
	assert.Equal(t, "slave01", w.Info().Name)
	w, err = b.Worker(t.Context(), scheduler.Demand{Avoid: []string{"slave00"}})
	require.NoError(t, err)
	assert.Equal(t, "slave00", w.Info().Name)
}

func TestMessagesHaveTheWorkersNameAndAColorOnATerminal(t *testing.T) {
	t.Parallel()
	var out output
	term := &terminal{w: &out, color: true}
	term.message("slave00", green, "using appliance %s", "https://10.0.0.1/")
	assert.Equal(t, "(slave00) \x1b[32musing appliance https://10.0.0.1/\x1b[0m\n", out.String())
	assert.False(t, newTerminal(io.Discard).color)
}
