package result

import (
	"fmt"
	"maps"
	"slices"
)

// normal gives the case as a report keeps it: at least one attempt, numbered
// from one, only known statuses, and a verdict that its attempts allow.
func normal(c Case) Case {
	c = c.clone()
	if len(c.Attempts) == 0 {
		c.Attempts = []Attempt{{
			Status: c.Status, Message: c.Message, Machine: c.Properties["machine"], Host: c.Properties["host"],
			Start: c.Start, Duration: c.Duration,
		}}
	} else if c.Status != "" {
		c.Status, c.Message = known(c.Status, c.Message)
	}
	var verdict Status
	for i := range c.Attempts {
		a := &c.Attempts[i]
		a.Number = i + 1
		a.Status, a.Message = known(a.Status, a.Message)
		verdict = Combine(verdict, a.Status)
	}
	// A caller may know of something worse than its attempts say, such as a
	// teardown that failed. Better than they say it cannot be.
	if verdict.Worse(c.Status) {
		c.Status, c.Message = verdict, ""
	}
	for _, a := range slices.Backward(c.Attempts) {
		if a.Status != c.Status {
			continue
		}
		if c.Message == "" && a.Status != Passed {
			c.Message = a.Message
		}
		if c.Start.IsZero() {
			c.Start = a.Start
		}
		if c.Duration == 0 {
			c.Duration = a.Took()
		}
		break
	}
	c.Flaky = c.Flaky || disagree(c.Attempts)
	return c
}

// known turns what is not a status into an error of the environment, so that it
// can never count as passed.
func known(s Status, message string) (Status, string) {
	if s.Valid() {
		return s, message
	}
	why := fmt.Sprintf("result: status %q is not one of %s", string(s), statusNames())
	if message != "" {
		why += ": " + message
	}
	return Errored, why
}

func disagree(attempts []Attempt) bool {
	passed := slices.ContainsFunc(attempts, func(a Attempt) bool { return a.Status == Passed })
	bad := slices.ContainsFunc(attempts, func(a Attempt) bool { return a.Status.Bad() })
	return passed && bad
}

// merge joins two normal cases of the same suite and name, next being the later
// one. What describes the verdict (message, times, exit code, output, metrics)
// comes from the side whose verdict counts; the other side's output stays with
// its last attempt, and its properties and artifacts stay where nothing of the
// same name replaces them.
func merge(first, next Case) Case {
	first, next = first.clone(), next.clone()
	verdict := Combine(first.Status, next.Status)
	out, rest := &next, &first
	if verdict == first.Status && verdict != next.Status {
		out, rest = &first, &next
	}
	if last := &rest.Attempts[len(rest.Attempts)-1]; last.Output.Empty() {
		last.Output = rest.Output
	}
	attempts := slices.Concat(first.Attempts, next.Attempts)
	for i := range attempts {
		attempts[i].Number = i + 1
	}
	artifacts := slices.Clone(first.Artifacts)
	for _, a := range next.Artifacts {
		if !slices.Contains(artifacts, a) {
			artifacts = append(artifacts, a)
		}
	}
	properties := maps.Clone(rest.Properties)
	if properties == nil {
		properties = map[string]string{}
	}
	maps.Copy(properties, out.Properties)
	if len(properties) == 0 {
		properties = nil
	}
	c := *out
	c.Status, c.Attempts, c.Artifacts, c.Properties = verdict, attempts, artifacts, properties
	c.Flaky = first.Flaky || next.Flaky || disagree(attempts)
	return c
}
