package main

import (
	"github.com/bullpen-vm/bullpen/pool/runner"
	"github.com/bullpen-vm/bullpen/result"
)

// What is kept of a binary's output, in bytes. What is cut out has no verdict.
const (
	outputHead = 48 << 20
	outputTail = 8 << 20
)

// conclude makes the cases of a shard's end. again are the tests that another
// one kept from running.
func (s *shard) conclude(o runner.Outcome) (cases []result.Case, again []string) {
	base := runner.Cases(o)[0]
	verdicts, again := s.verdicts(o, base)
	for _, v := range verdicts {
		c := base
		c.Suite, c.Name, c.Status, c.Message = s.pack.name, v.name, v.status, v.message
		c.Duration, c.Output, c.ExitCode = v.took, v.output, 0
		if v.status.Bad() {
			c.ExitCode = base.ExitCode
		}
		c.Attempts = attempts(base, v)
		cases = append(cases, c)
	}
	return cases, again
}

func (s *shard) verdicts(o runner.Outcome, base result.Case) ([]verdict, []string) {
	test := o.Result.Step(stepTest)
	e := ending{exit: test.Exit, signal: test.Signal, timedOut: test.TimedOut}
	t := readTranscript(test.Stdout)
	complete := test.Started && test.Ended && !o.Result.Partial
	switch {
	case complete && test.StdoutCut > 0 && base.Status != result.Aborted:
		return s.cutShort(t, e)
	case complete && base.Status.Own():
		return judge(t, s.tests, e)
	case test.Started && (base.Status == result.Errored || base.Status == result.TimedOut):
		return s.lost(t, base)
	}
	return s.same(s.tests, base.Status, base.Message, t.rest.Output()), nil
}

// lost is for a process whose end nobody knows: nothing that it said is proven,
// but who was running when it was lost is the one to be kept away from others.
func (s *shard) lost(t *transcript, base result.Case) ([]verdict, []string) {
	blamed := t.blame(ending{timedOut: base.Status == result.TimedOut})
	done := map[string]bool{}
	var verdicts []verdict
	for _, r := range t.tests {
		if blamed[r.name] {
			t.dump(r, blamed)
			done[r.name] = true
			verdicts = append(verdicts, verdict{name: r.name, status: base.Status, message: base.Message, output: r.output.Output()})
		}
	}
	missing := unsaid(s.tests, done)
	if len(missing) < len(s.tests) {
		return verdicts, missing
	}
	return s.same(s.tests, base.Status, base.Message, t.rest.Output()), nil
}

// cutShort is for a binary that wrote too much: what stands before and behind the
// cut is not enough to tell who ended it.
func (s *shard) cutShort(t *transcript, e ending) ([]verdict, []string) {
	const message = "its shard wrote more than is kept"
	verdicts, again := judge(t, s.tests, e)
	kept := verdicts[:0]
	for _, v := range verdicts {
		if v.status == result.Skipped && v.message == neverRun {
			again = append(again, v.name)
			continue
		}
		kept = append(kept, v)
	}
	if len(again) < len(s.tests) {
		return kept, again
	}
	return append(kept, s.same(again, result.Errored, message, result.Output{})...), nil
}

// same gives all of the tests one verdict.
func (s *shard) same(tests []string, status result.Status, message string, o result.Output) []verdict {
	verdicts := make([]verdict, len(tests))
	for i, name := range tests {
		verdicts[i] = verdict{name: name, status: status, message: message, output: o}
	}
	return verdicts
}

// attempts are those of the shard; the last one is the test's own. Earlier ones
// say something about a test only where it has a word of its own in the end.
func attempts(base result.Case, v verdict) []result.Attempt {
	if len(base.Attempts) == 0 {
		return nil
	}
	last := base.Attempts[len(base.Attempts)-1]
	last.Status, last.Message, last.Duration = v.status, v.message, v.took
	if !v.status.Own() {
		last.Number = 1
		return []result.Attempt{last}
	}
	return append(append([]result.Attempt(nil), base.Attempts[:len(base.Attempts)-1]...), last)
}
