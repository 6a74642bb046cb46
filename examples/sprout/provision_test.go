package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"regexp"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/bullpen-vm/bullpen/lease"
	"github.com/bullpen-vm/bullpen/pool"
)

// client opens the project's store and hosts, as a harness of its own.
func (p *project) client() *client {
	p.t.Helper()
	c, err := openClient(p.t.Context(), p.conf)
	require.NoError(p.t, err)
	p.t.Cleanup(func() { assert.NoError(p.t, c.Close(context.Background())) })
	return c
}

func asked(count int) request {
	return request{group: "downstream-511", count: count, lease: time.Hour, provision: time.Minute, description: "Jenkins cfme #1"}
}

func lines(out *output) *terminal { return newTerminal(out) }

// guests are the machines that there are, by a Check.
func ready(t *testing.T, p *appliancePool) []appliance {
	t.Helper()
	s, err := p.waitFulfilled(t.Context(), 20*time.Millisecond, newTerminal(io.Discard))
	require.NoError(t, err)
	return s.Appliances
}

func TestAPoolHasItsIDAndItsRecordBeforeItsMachines(t *testing.T) {
	t.Parallel()
	p := newProject(t, nil)
	first := p.client()
	busy, err := first.requestAppliances(t.Context(), asked(4), newTerminal(io.Discard)) // all slots
	require.NoError(t, err)
	assert.Len(t, ready(t, busy), 4)

	c := p.client()
	r := asked(2)
	r.description = "Jenkins other #7"
	waiting, err := c.requestAppliances(t.Context(), r, newTerminal(io.Discard))
	require.NoError(t, err)
	assert.NotEmpty(t, waiting.ID)
	s, err := waiting.Check(t.Context())
	require.NoError(t, err)
	assert.False(t, s.Fulfilled)
	assert.Zero(t, s.Progress)
	found, err := first.findPoolsByDescription(t.Context(), "other")
	require.NoError(t, err)
	require.Len(t, found, 1, "it can be found before it has a machine")
	assert.Equal(t, waiting.ID, found[0].ID)

	require.NoError(t, busy.Destroy(t.Context()))
	assert.Len(t, ready(t, waiting), 2, "and gets machines when others give theirs back")
	for _, a := range ready(t, waiting) {
		assert.Equal(t, "vsphere55", a.Provider)
		assert.Equal(t, "cfme-5.11.4-20261118", a.Template)
		assert.Equal(t, applianceURL(a.Address), a.URL)
	}
	require.NoError(t, waiting.Destroy(t.Context()))
	require.NoError(t, waiting.Destroy(t.Context()), "again")
	p.noMachines()
	found, err = first.findPoolsByDescription(t.Context(), "")
	require.NoError(t, err)
	assert.Empty(t, found)
}

func TestWhatCanNeverBeHadIsRefusedAtOnce(t *testing.T) {
	t.Parallel()
	c := newProject(t, nil).client()
	_, err := c.requestAppliances(t.Context(), asked(5), newTerminal(io.Discard))
	assert.EqualError(t, err, "5 appliances are asked for, and the hosts of template cfme-5.11.4-20261118 have 4 slots")
	r := asked(1)
	r.group = "none"
	_, err = c.requestAppliances(t.Context(), r, newTerminal(io.Discard))
	assert.ErrorContains(t, err, `no template is of group "none"`)
}

// full takes all slots of the project's host until the test ends.
func (p *project) full() {
	p.t.Helper()
	c := p.client()
	r := asked(4)
	r.description = "somebody else"
	all, err := c.requestAppliances(p.t.Context(), r, newTerminal(io.Discard))
	require.NoError(p.t, err)
	p.t.Cleanup(func() { assert.NoError(p.t, all.Destroy(context.Background())) })
	ready(p.t, all)
}

func TestAWaitThatTakesTooLongEndsWithTheDumpAndWithoutThePool(t *testing.T) {
	t.Parallel()
	p := newProject(t, nil)
	p.full()
	c := p.client()
	r := asked(2)
	r.provision = 3 * time.Second
	var out output
	_, _, err := provision(t.Context(), c, r, false, lines(&out))
	assert.ErrorContains(t, err, "requesting appliances was fulfilled: not within 3s; waited for: ")
	inOrder(t, out.String(), "Requesting 2 appliances from Sprout at "+p.conf.Store, "Pool ", "fulfilled at  0%", "fulfilled at  0%",
		"Fulfilled: false", "Progress: 0%", "Waiting: ", "Appliances:", "Destroying the pool on error.")
	found, ferr := p.client().findPoolsByDescription(t.Context(), "Jenkins")
	require.NoError(t, ferr)
	assert.Empty(t, found)
	assert.Len(t, p.machines(), 4, "those of the other are not touched")
}

func TestAnInterruptWhileWaitingDestroysThePoolToo(t *testing.T) {
	t.Parallel()
	p := newProject(t, nil)
	p.full()
	c := p.client()
	var out output
	ctx, cancel := context.WithCancelCause(t.Context())
	interrupted := errors.New("interrupted by a person")
	ended := make(chan error, 1)
	go func() {
		_, _, err := provision(ctx, c, asked(1), true, lines(&out))
		ended <- err
	}()
	require.Eventually(t, func() bool { return regexp.MustCompile("fulfilled at").MatchString(out.String()) }, time.Minute, 5*time.Millisecond)
	cancel(interrupted)
	err := <-ended
	assert.ErrorIs(t, err, interrupted, "the first error is the one that is told")
	assert.ErrorContains(t, err, "requesting appliance was fulfilled: waited ")
	inOrder(t, out.String(), "Appliance pool ", "Fulfilled: false", "Destroying the pool on error.")
	found, err := p.client().findPoolsByDescription(t.Context(), "Jenkins")
	require.NoError(t, err)
	assert.Empty(t, found)
}

func TestARequestThatCannotBeFulfilledSaysSo(t *testing.T) {
	t.Parallel()
	p := newProject(t, nil)
	p.full()
	c, other := p.client(), p.client()
	var out output
	ended := make(chan error, 1)
	go func() {
		_, _, err := provision(t.Context(), c, asked(1), true, lines(&out))
		ended <- err
	}()
	var found []previousPool
	require.Eventually(t, func() bool {
		var err error
		found, err = other.findPoolsByDescription(t.Context(), "Jenkins")
		return err == nil && len(found) == 1
	}, time.Minute, 5*time.Millisecond)
	require.NoError(t, other.destroyPool(t.Context(), found[0]))
	err := <-ended
	assert.ErrorIs(t, err, errPoolGone)
	inOrder(t, out.String(), "sprout pool could not be fulfilled\n", "its record was taken away", "Destroying the pool on error.")
}

// stubborn is a store that deletes nothing.
type stubborn struct {
	*lease.MemStore
	deletes atomic.Bool
}

func (s *stubborn) Delete(ctx context.Context, r lease.Record) error {
	if !s.deletes.Load() {
		return errors.New("the store is read-only today")
	}
	return s.MemStore.Delete(ctx, r)
}

func TestDestroyingOnErrorNeverHidesTheFirstError(t *testing.T) {
	t.Parallel()
	p := newProject(t, func(c *config) { c.Store = "memory" })
	c := p.client()
	require.NoError(t, c.leases.Close(t.Context()))
	store := &stubborn{MemStore: lease.NewMemStore()}
	var err error
	c.leases, err = lease.New(lease.Config{Store: store})
	require.NoError(t, err)
	c.hosts[0].Driver = mute{c.hosts[0].Driver} // no address: the first error
	var out output
	_, _, err = provision(t.Context(), c, asked(1), true, lines(&out))
	assert.ErrorContains(t, err, `for which neither host nor template has the property "address"`)
	assert.NotContains(t, err.Error(), "read-only")
	inOrder(t, out.String(), "sprout pool could not be fulfilled\n", "Destroying the pool on error.", "> It could not be destroyed whole: ", "the store is read-only today")
	p.noMachines()
	store.deletes.Store(true)
}

func TestTheDumpGoesThroughALineSink(t *testing.T) {
	t.Parallel()
	var got []string
	dumpPoolInfo(func(format string, args ...any) { got = append(got, fmt.Sprintf(format, args...)) }, status{
		Fulfilled: true, Progress: 100, Appliances: []appliance{{Name: "m", Address: "1.2.3.4", URL: "https://1.2.3.4/", Template: "t", Provider: "p", Host: "h"}},
	})
	assert.Equal(t, []string{
		"Fulfilled: true", "Progress: 100%", "Appliances:", "\tm:",
		"\t\thost: h", "\t\tip_address: 1.2.3.4", "\t\tprovider: p", "\t\ttemplate_name: t", "\t\turl: https://1.2.3.4/",
	}, got)
	assert.Equal(t, "https://[fe80::1]/", applianceURL("fe80::1"))
}

func TestAMachineWithoutAnAddressOfItsOwnHasTheOneOfItsHost(t *testing.T) {
	t.Parallel()
	p := newProject(t, nil)
	c := p.client()
	c.hosts[0].Driver = mute{c.hosts[0].Driver}
	pl, err := c.requestAppliances(t.Context(), asked(1), newTerminal(io.Discard))
	require.NoError(t, err)
	_, err = pl.waitFulfilled(t.Context(), 20*time.Millisecond, newTerminal(io.Discard))
	assert.ErrorContains(t, err, `for which neither host nor template has the property "address"`)
	require.NoError(t, pl.Destroy(t.Context()))
	c.hosts[0].Properties["address"] = "192.0.2.9"
	pl, err = c.requestAppliances(t.Context(), asked(1), newTerminal(io.Discard))
	require.NoError(t, err)
	assert.Equal(t, "https://192.0.2.9/", ready(t, pl)[0].URL)
	require.NoError(t, pl.Destroy(t.Context()))
}

func TestOldPoolsOfTheSameJobAreDestroyedFirst(t *testing.T) {
	t.Parallel()
	p := newProject(t, nil)
	old := p.client()
	abandoned, err := old.requestAppliances(t.Context(), asked(1), newTerminal(io.Discard))
	require.NoError(t, err)
	other := asked(1)
	other.description = "Jenkins another #1"
	others, err := old.requestAppliances(t.Context(), other, newTerminal(io.Discard))
	require.NoError(t, err)

	c := p.client()
	found, err := c.findPoolsByDescription(t.Context(), "Jenkins cfme")
	require.NoError(t, err)
	require.Len(t, found, 1)
	r := asked(1)
	r.description = "Jenkins cfme #2"
	var out output
	mine, _, err := provision(t.Context(), c, r, true, lines(&out))
	require.NoError(t, err)
	inOrder(t, out.String(), "Check if pool already exists for this 'Jenkins cfme #' Jenkins job",
		"Destroying the old pool "+found[0].ID+" for 'Jenkins cfme #' job.", "Requesting a single appliance")
	left, err := c.findPoolsByDescription(t.Context(), "")
	require.NoError(t, err)
	require.Len(t, left, 1, "mine is not among them, and that of the other job is not touched")
	assert.Equal(t, others.ID, left[0].ID)
	require.NoError(t, mine.Destroy(t.Context()))
	require.NoError(t, others.Destroy(t.Context()))
	require.NoError(t, abandoned.Destroy(t.Context()), "one that somebody else destroyed")
}

func TestTheJobIsWhatTheExpressionOfTheTextFinds(t *testing.T) {
	t.Parallel()
	for description, want := range map[string]string{
		"Jenkins cfme-511 #42":   "Jenkins cfme-511 #",
		"by Jenkins job-12+3$":   "Jenkins job-",
		"Jenkins build 7 failed": "Jenkins build 7 failed",
		"Jenkins7":               "",
		"nightly":                "",
	} {
		got, ok := jobName(description)
		assert.Equal(t, want != "", ok, description)
		assert.Equal(t, want, got, description)
	}
}

func TestAnErrorWithOldPoolsIsToldAndIgnored(t *testing.T) {
	t.Parallel()
	p := newProject(t, nil)
	c := p.client()
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	var out output
	c.destroyPrevious(gone, "Jenkins cfme #2", lines(&out))
	inOrder(t, out.String(), "Check if pool already exists", "Exception occurred during old pool deletion, this can be ignored, proceeding to Request new pool", "> The exception was: ", "context canceled")
	var none output
	c.destroyPrevious(gone, "nightly", lines(&none))
	assert.Empty(t, none.String(), "without a job nothing is looked for")
}

func TestAMachineThatBrokeIsReplaced(t *testing.T) {
	t.Parallel()
	p := newProject(t, nil)
	c := p.client()
	pl, err := c.requestAppliances(t.Context(), asked(2), newTerminal(io.Discard))
	require.NoError(t, err)
	before := ready(t, pl)
	other, err := pl.Replace(t.Context(), before[0], errors.New("it does not answer"))
	require.NoError(t, err)
	after := ready(t, pl)
	assert.Equal(t, other.Name, after[0].Name)
	assert.NotEqual(t, before[0].Name, after[0].Name)
	assert.Equal(t, before[1].Name, after[1].Name)
	assert.ErrorIs(t, context.Cause(before[0].guest.Context()), pool.ErrReleased)
	require.NoError(t, pl.Destroy(t.Context()))
	p.noMachines()
}
