package runner

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/bullpen-vm/bullpen/diskio"
	"github.com/bullpen-vm/bullpen/pool"
	"github.com/bullpen-vm/bullpen/result"
	"github.com/bullpen-vm/bullpen/vm"
)

// Result is how one attempt at one task went.
type Result struct {
	Status  result.Status
	Message string // why it is not passed
	// Exit is the exit code of the step that decided: the first that failed,
	// else zero; -1 where there is none to tell.
	Exit  int
	Steps []diskio.StepResult
	// Partial: the records are not closed by a completion record. What is
	// there is shown, but proves nothing.
	Partial   bool
	Artifacts []result.Artifact
	// Infra is set when the environment failed and the task may be tried
	// elsewhere.
	Infra error
	// Release is the reason to release the guest with: nil when the machine
	// is healthy.
	Release error
	End     vm.End

	Machine, Host, Template string
	Token                   uint64
	Properties              map[string]string
	Phases                  result.Phases
	Start                   time.Time
	Duration                time.Duration // of the run in the guest, with its way there and back
}

// Step gives a step's result, counted from zero; a zero StepResult when there
// is none, which is neither started nor OK.
func (r Result) Step(i int) diskio.StepResult {
	if i < 0 || i >= len(r.Steps) {
		return diskio.StepResult{}
	}
	return r.Steps[i]
}

// evidence is what is known when a run is over.
type evidence struct {
	end       vm.End
	runErr    error
	cause     cause
	results   *diskio.Results
	readErr   error
	ran, read time.Duration
}

// record is what the disk proves about a part.
func (e evidence) record(id string) (record, diskio.PartResult) {
	if e.results == nil {
		return recordNone, diskio.PartResult{}
	}
	var found diskio.PartResult
	for _, p := range e.results.Parts {
		if p.ID == id {
			found = p
		}
	}
	switch {
	case found.ID == "":
		return recordNone, found
	case e.results.Needed > 0:
		return recordOverflow, found
	case !e.results.Complete || found.Partial || !found.Ended:
		return recordPartial, found
	case found.OK():
		return recordPassed, found
	}
	for _, s := range found.Steps {
		if s.TimedOut {
			return recordTimedOut, found
		}
	}
	return recordFailed, found
}

// base is a Result that names its machine.
func base(g *pool.Guest, p part) Result {
	return Result{
		Exit: -1, Machine: g.Name(), Host: g.Host(), Template: g.Template(), Token: g.Token(),
		Properties: g.Properties(), Start: time.Now(),
	}
}

// conclude judges one part.
func conclude(g *pool.Guest, p part, e evidence) Result {
	r := base(g, p)
	rec, found := e.record(p.id)
	j := judge(rec, e.cause, e.end.Kind)
	r.Status, r.Steps, r.End = j.status, found.Steps, e.end
	r.Partial = rec == recordPartial
	r.Phases.Run, r.Phases.Read = e.ran, e.read
	r.Duration = e.ran + e.read
	r.Start = r.Start.Add(-r.Duration)
	for i, s := range found.Steps {
		if s.Started && (i == 0 || r.Exit == 0) {
			r.Exit = s.Exit
		}
	}
	r.Message = strings.Join(nonEmpty(j.message, stepMessage(rec, found), e.detail(rec)), ": ")
	if j.infra {
		r.Infra = fmt.Errorf("runner: %s on %s: %w", p.id, g.Name(), e.cause.orErr(j, e))
	}
	if j.broken {
		r.Release = pool.Broken(errors.New(r.Message))
	}
	return r
}

// stepMessage says which step decided.
func stepMessage(rec record, p diskio.PartResult) string {
	if rec != recordFailed && rec != recordTimedOut && rec != recordPartial {
		return ""
	}
	for i, s := range p.Steps {
		name := fmt.Sprintf("step %d (%s)", i, shorten(s.Name, 60))
		switch {
		case s.Skipped || s.Started && s.OK():
			continue
		case !s.Started:
			return name + " was not started"
		case !s.Ended:
			return name + " was cut short"
		case s.TimedOut:
			return fmt.Sprintf("%s timed out after %v", name, s.Duration.Round(time.Millisecond))
		case s.Error != "":
			return name + ": " + s.Error
		case s.Signal != "":
			return name + " was ended by " + s.Signal
		default:
			return fmt.Sprintf("%s exited with code %d", name, s.Exit)
		}
	}
	return ""
}

// detail adds what the harness saw.
func (e evidence) detail(rec record) string {
	switch {
	case rec == recordOverflow:
		return fmt.Sprintf("a job disk of %d bytes is needed: set Job.Results or the template's JobDisks", e.results.Needed)
	case rec != recordNone && rec != recordPartial:
		return ""
	}
	var parts []string
	if e.end.Detail != "" {
		parts = append(parts, e.end.Detail)
	}
	if e.runErr != nil {
		parts = append(parts, e.runErr.Error())
	}
	if e.readErr != nil {
		parts = append(parts, e.readErr.Error())
	} else if e.results != nil && e.results.Damage != nil {
		parts = append(parts, e.results.Damage.Error())
	}
	return strings.Join(parts, "; ")
}

// orErr gives the error to wrap: what was seen, or else the table's words.
func (c cause) orErr(j judgement, e evidence) error {
	for _, err := range []error{e.runErr, e.readErr} {
		if err != nil {
			return fmt.Errorf("%s: %w", j.message, err)
		}
	}
	return errors.New(j.message)
}

func nonEmpty(list ...string) []string {
	var out []string
	for _, s := range list {
		if s != "" {
			out = append(out, s)
		}
	}
	return out
}

func shorten(s string, n int) string {
	if r := []rune(s); len(r) > n {
		return string(r[:n-1]) + "…"
	}
	return s
}
