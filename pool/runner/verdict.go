package runner

import (
	"errors"
	"fmt"
	"slices"

	"github.com/bullpen-vm/bullpen/result"
	"github.com/bullpen-vm/bullpen/vm"
)

// record is what a job disk proves about one part.
type record uint8

const (
	recordNone     record = iota // nothing of the part could be read
	recordPartial                // some of it, without the completion record
	recordOverflow               // complete, but the results did not fit on the disk
	recordPassed                 // complete: every step did what it should
	recordFailed                 // complete: a step failed
	recordTimedOut               // complete: a step or the job ran out of its time in the guest
)

// cause is why the harness ended a run before the guest did.
type cause uint8

const (
	causeNone    cause = iota
	causeTimeout       // the task's own time was up, seen from outside
	causeAborted       // the run was cancelled
	causeLost          // the lease of the machine was lost
)

// judgement is what follows from how a run ended.
type judgement struct {
	status result.Status
	// infra: the environment failed, so the task may be tried elsewhere.
	infra bool
	// broken: the machine must not be used again as it is; it is destroyed and
	// counted against its host and template. Otherwise it is rolled back.
	broken  bool
	message string // for people; completed by the run's own details
}

// row is one line of the table: the first whose three columns match counts.
type row struct {
	record []record
	cause  []cause
	end    []vm.EndKind // nil: any
	judgement
}

var (
	anyRecord  = []record{recordNone, recordPartial, recordOverflow, recordPassed, recordFailed, recordTimedOut}
	unproven   = []record{recordNone, recordPartial}
	anyCause   = []cause{causeNone, causeTimeout, causeAborted, causeLost}
	stillOurs  = []cause{causeNone, causeTimeout, causeAborted}
	wordOfDone = []vm.EndKind{vm.EndDone}
)

// table is the one place that maps how a run ended to a verdict. The records on
// the disk are the truth; the way the machine ended only says what became of the
// machine, and why there are no records. Nothing unproven ever passes.
var table = []row{
	// Who lost the lease knows nothing: somebody else may have used the machine meanwhile.
	{anyRecord, []cause{causeLost}, nil,
		judgement{result.Errored, true, true, "the lease of the machine was lost while the job ran"}},

	// The disk tells, whatever became of the machine afterwards.
	{[]record{recordPassed}, stillOurs, wordOfDone, judgement{status: result.Passed}},
	{[]record{recordPassed}, stillOurs, nil, judgement{status: result.Passed, broken: true}},
	{[]record{recordOverflow}, stillOurs, wordOfDone, judgement{result.Errored, false, false, "the results do not fit on the job disk"}},
	{[]record{recordOverflow}, stillOurs, nil, judgement{result.Errored, false, true, "the results do not fit on the job disk"}},
	{[]record{recordTimedOut}, stillOurs, wordOfDone, judgement{status: result.TimedOut}},
	{[]record{recordTimedOut}, stillOurs, nil, judgement{status: result.TimedOut, broken: true}},
	{[]record{recordFailed}, []cause{causeNone}, wordOfDone, judgement{status: result.Failed}},
	{[]record{recordFailed}, []cause{causeNone}, nil, judgement{status: result.Failed, broken: true}},

	// A step that failed because it was interrupted did not fail by itself.
	{[]record{recordFailed}, []cause{causeTimeout}, wordOfDone, judgement{result.TimedOut, false, false, "ended by the timeout"}},
	{[]record{recordFailed}, []cause{causeTimeout}, nil, judgement{result.TimedOut, false, true, "ended by the timeout"}},
	{[]record{recordFailed}, []cause{causeAborted}, wordOfDone, judgement{result.Aborted, false, false, "the run was aborted"}},
	{[]record{recordFailed}, []cause{causeAborted}, nil, judgement{result.Aborted, false, true, "the run was aborted"}},

	// Without proof: the one who ended it, or else the environment.
	{unproven, []cause{causeTimeout}, nil, judgement{result.TimedOut, false, true, "ended by the timeout, without complete records"}},
	{unproven, []cause{causeAborted}, nil, judgement{result.Aborted, false, true, "the run was aborted"}},
	{unproven, []cause{causeNone}, wordOfDone, judgement{result.Errored, true, true, "the guest said done but its records are not complete"}},
	{unproven, []cause{causeNone}, []vm.EndKind{vm.EndPoweredOff}, judgement{result.Errored, true, true, "the machine powered off without a word"}},
	{unproven, []cause{causeNone}, []vm.EndKind{vm.EndCrashed}, judgement{result.Errored, true, true, "the machine crashed"}},
	{unproven, []cause{causeNone}, []vm.EndKind{vm.EndKilled}, judgement{result.Errored, true, true, "the machine was killed"}},
	{unproven, []cause{causeNone}, []vm.EndKind{vm.EndHung}, judgement{result.Errored, true, true, "the machine hung"}},
	{unproven, []cause{causeNone}, []vm.EndKind{vm.EndHostLost}, judgement{result.Errored, true, true, "the host was lost"}},
	{unproven, []cause{causeNone}, nil, judgement{result.Errored, true, true, "the job could not be run on the machine"}},
}

// judge finds the row. There is one for each combination; a test tries all.
func judge(r record, c cause, e vm.EndKind) judgement {
	for _, row := range table {
		if slices.Contains(row.record, r) && slices.Contains(row.cause, c) && (row.end == nil || slices.Contains(row.end, e)) {
			return row.judgement
		}
	}
	panic(fmt.Sprintf("bug: runner: no row for record %d, cause %d, end %v", r, c, e))
}

// errTimeout is the cause of a context that ended because the task's time was up.
var errTimeout = errors.New("the task's timeout")
