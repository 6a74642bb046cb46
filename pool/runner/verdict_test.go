package runner

import (
	"fmt"
	"slices"
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/bullpen-vm/bullpen/result"
	"github.com/bullpen-vm/bullpen/vm"
)

var allEnds = []vm.EndKind{vm.EndUnknown, vm.EndDone, vm.EndPoweredOff, vm.EndCrashed, vm.EndKilled, vm.EndHung, vm.EndHostLost}

// Each row of the table is stated here a second time, by hand, so that a change
// of one of them must be meant.
func TestEachWayThatARunCanEndHasItsVerdict(t *testing.T) {
	t.Parallel()
	type want struct {
		status        result.Status
		infra, broken bool
	}
	rows := []struct {
		record  record
		cause   cause
		ends    []vm.EndKind
		want    want
		message string
	}{
		{recordPassed, causeNone, []vm.EndKind{vm.EndDone}, want{result.Passed, false, false}, ""},
		{recordPassed, causeNone, []vm.EndKind{vm.EndCrashed, vm.EndKilled, vm.EndPoweredOff, vm.EndHung, vm.EndHostLost, vm.EndUnknown}, want{result.Passed, false, true}, ""},
		{recordPassed, causeTimeout, []vm.EndKind{vm.EndDone}, want{result.Passed, false, false}, ""},
		{recordPassed, causeAborted, []vm.EndKind{vm.EndDone}, want{result.Passed, false, false}, ""},
		{recordFailed, causeNone, []vm.EndKind{vm.EndDone}, want{result.Failed, false, false}, ""},
		{recordFailed, causeNone, []vm.EndKind{vm.EndCrashed}, want{result.Failed, false, true}, ""},
		{recordFailed, causeTimeout, []vm.EndKind{vm.EndDone}, want{result.TimedOut, false, false}, "timeout"},
		{recordFailed, causeTimeout, []vm.EndKind{vm.EndHung}, want{result.TimedOut, false, true}, "timeout"},
		{recordFailed, causeAborted, []vm.EndKind{vm.EndDone}, want{result.Aborted, false, false}, "aborted"},
		{recordFailed, causeAborted, []vm.EndKind{vm.EndKilled}, want{result.Aborted, false, true}, "aborted"},
		{recordTimedOut, causeNone, []vm.EndKind{vm.EndDone}, want{result.TimedOut, false, false}, ""},
		{recordTimedOut, causeTimeout, []vm.EndKind{vm.EndHung}, want{result.TimedOut, false, true}, ""},
		{recordTimedOut, causeAborted, []vm.EndKind{vm.EndDone}, want{result.TimedOut, false, false}, ""},
		{recordOverflow, causeNone, []vm.EndKind{vm.EndDone}, want{result.Errored, false, false}, "do not fit"},
		{recordOverflow, causeTimeout, []vm.EndKind{vm.EndHung}, want{result.Errored, false, true}, "do not fit"},
		{recordPartial, causeNone, []vm.EndKind{vm.EndDone}, want{result.Errored, true, true}, "said done"},
		{recordNone, causeNone, []vm.EndKind{vm.EndDone}, want{result.Errored, true, true}, "said done"},
		{recordPartial, causeNone, []vm.EndKind{vm.EndPoweredOff}, want{result.Errored, true, true}, "powered off"},
		{recordPartial, causeNone, []vm.EndKind{vm.EndCrashed}, want{result.Errored, true, true}, "crashed"},
		{recordPartial, causeNone, []vm.EndKind{vm.EndKilled}, want{result.Errored, true, true}, "killed"},
		{recordNone, causeNone, []vm.EndKind{vm.EndHung}, want{result.Errored, true, true}, "hung"},
		{recordNone, causeNone, []vm.EndKind{vm.EndHostLost}, want{result.Errored, true, true}, "host"},
		{recordNone, causeNone, []vm.EndKind{vm.EndUnknown}, want{result.Errored, true, true}, "could not be run"},
		{recordPartial, causeTimeout, allEnds, want{result.TimedOut, false, true}, "timeout"},
		{recordNone, causeTimeout, allEnds, want{result.TimedOut, false, true}, "timeout"},
		{recordPartial, causeAborted, allEnds, want{result.Aborted, false, true}, "aborted"},
		{recordNone, causeAborted, allEnds, want{result.Aborted, false, true}, "aborted"},
		{recordPassed, causeLost, allEnds, want{result.Errored, true, true}, "lease"},
		{recordFailed, causeLost, allEnds, want{result.Errored, true, true}, "lease"},
		{recordNone, causeLost, allEnds, want{result.Errored, true, true}, "lease"},
	}
	for _, r := range rows {
		for _, end := range r.ends {
			t.Run(fmt.Sprintf("record %d cause %d %v", r.record, r.cause, end), func(t *testing.T) {
				t.Parallel()
				got := judge(r.record, r.cause, end)
				assert.Equal(t, r.want, want{got.status, got.infra, got.broken})
				assert.Contains(t, got.message, r.message)
			})
		}
	}
}

func TestNothingUnprovenPassesAndEveryCombinationHasARow(t *testing.T) {
	t.Parallel()
	for _, r := range anyRecord {
		for _, c := range anyCause {
			for _, e := range allEnds {
				got := judge(r, c, e)
				name := fmt.Sprintf("record %d, cause %d, end %v", r, c, e)
				if got.status == result.Passed {
					assert.Equal(t, recordPassed, r, name)
					assert.NotEqual(t, causeLost, c, name)
				}
				if got.infra {
					assert.Equal(t, result.Errored, got.status, name)
				}
				if e != vm.EndDone && c != causeLost {
					assert.True(t, got.broken, "a machine that did not end its job in order is used again: "+name)
				}
				if got.status == result.Failed {
					assert.Equal(t, causeNone, c, name)
				}
			}
		}
	}
}

func TestEachRowOfTheTableIsReached(t *testing.T) {
	t.Parallel()
	for i, row := range table {
		reached := false
		for _, r := range anyRecord {
			for _, c := range anyCause {
				for _, e := range allEnds {
					first := -1
					for j, other := range table {
						if slices.Contains(other.record, r) && slices.Contains(other.cause, c) && (other.end == nil || slices.Contains(other.end, e)) {
							first = j
							break
						}
					}
					reached = reached || first == i
				}
			}
		}
		assert.True(t, reached, "row %d can never match: %+v", i, row)
	}
}
