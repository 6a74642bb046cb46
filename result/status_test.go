package result_test

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/bullpen-vm/bullpen/result"
)

func TestStatusesAreOrderedWorstLast(t *testing.T) {
	all := result.Statuses()
	require.Len(t, all, 7)
	for i, s := range all {
		assert.Equal(t, i, s.Rank())
		assert.True(t, s.Valid())
		for j, other := range all {
			assert.Equal(t, i > j, s.Worse(other), "%s worse than %s", s, other)
		}
	}
	assert.Equal(t, result.Failed, all[6])
	assert.Equal(t, -1, result.Status("").Rank())
	assert.False(t, result.Status("ok").Valid())
	assert.True(t, result.Passed.Worse(""))
}

func TestParseTakesTheWordsInTheWaysPeopleWriteThem(t *testing.T) {
	for text, want := range map[string]result.Status{
		"passed": result.Passed, " Failed ": result.Failed, "timed out": result.TimedOut, "timed-out": result.TimedOut, "TIMED_OUT": result.TimedOut,
	} {
		got, err := result.Parse(text)
		require.NoError(t, err, text)
		assert.Equal(t, want, got)
	}
	_, err := result.Parse("ok")
	require.EqualError(t, err, `result: status "ok" is not one of passed, skipped, blocked, aborted, errored, timed out, failed`)
	_, err = result.Parse("")
	require.Error(t, err)
}

// The whole table of what a next attempt makes of an earlier verdict.
func TestALaterAttemptIsCombinedByTheStatedRules(t *testing.T) {
	P, S, B, A, E, T, F := result.Passed, result.Skipped, result.Blocked, result.Aborted, result.Errored, result.TimedOut, result.Failed
	nexts := []result.Status{P, S, B, A, E, T, F}
	table := map[result.Status][]result.Status{
		// next:  P  S  B  A  E  T  F
		"": {P, S, B, A, E, T, F},
		P:  {P, P, P, A, E, T, F},
		S:  {P, S, B, A, E, T, F},
		B:  {P, B, B, A, E, T, F},
		A:  {P, A, A, A, E, T, F},
		E:  {P, E, E, E, E, T, F},
		T:  {P, T, T, T, T, T, F},
		F:  {P, F, F, F, F, T, F},
	}
	for first, row := range table {
		for i, next := range nexts {
			assert.Equal(t, row[i], result.Combine(first, next), "%q then %q", first, next)
		}
		assert.Equal(t, first, result.Combine(first, ""))
	}
}
