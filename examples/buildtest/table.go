package main

import (
	"fmt"
	"io"
	"strings"
	"sync"
	"text/tabwriter"
	"time"

	"github.com/bullpen-vm/bullpen/scheduler"
)

// polled notes that a batch job was polled; when all of them were, there is a table.
func (e *BuildExecutor) polled(j scheduler.JobInfo) {
	e.mu.Lock()
	defer e.mu.Unlock()
	r := e.run
	r.fresh[j.Task] = true
	for _, other := range e.executors.Jobs() {
		if other.Polls > 0 && !other.State.Final() && !r.fresh[other.Task] {
			return
		}
	}
	clear(r.fresh)
	select {
	case r.tables <- struct{}{}:
	default: // one is wanted already
	}
}

// printTables prints a table whenever one is wanted, until it is stopped.
func (e *BuildExecutor) printTables(r *run) (stop func()) {
	if e.options.Table == nil {
		return func() {}
	}
	done := make(chan struct{})
	var printer sync.WaitGroup
	printer.Go(func() {
		for {
			select {
			case <-r.tables:
				_, _ = io.WriteString(e.options.Table, e.jobDetails(r)) // it is for people
			case <-done:
				return
			}
		}
	})
	return func() {
		close(done)
		printer.Wait()
	}
}

// jobDetails is the table: builders that are pending, suspended, running or wait for
// others, and those that are complete.
func (e *BuildExecutor) jobDetails(r *run) string {
	jobs := map[string]scheduler.JobInfo{}
	for _, j := range e.executors.Jobs() {
		jobs[j.Task] = j
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	var active, completed strings.Builder
	a := tabwriter.NewWriter(&active, 0, 0, 2, ' ', 0)
	c := tabwriter.NewWriter(&completed, 0, 0, 2, ' ', 0)
	fmt.Fprintln(a, "builder\texecutor\taccount\tjob\tstate\tsince\tsays")
	fmt.Fprintln(c, "builder\texecutor\tjob\tstate\tresult\treturncode\truntime")
	line := func(w io.Writer, cells ...any) {
		for i, cell := range cells {
			if text := fmt.Sprint(cell); text == "" {
				cells[i] = "-"
			}
		}
		fmt.Fprintf(w, strings.Repeat("%v\t", len(cells)-1)+"%v\n", cells...)
	}
	now := time.Now()
	open, ended := 0, 0
	for _, b := range r.builders {
		if r.ended[b.Name] {
			ended++
			line(c, b.Name, b.Executor, b.Where, b.State, b.Result, b.ReturnCode, b.Duration.Round(time.Millisecond))
			continue
		}
		open++
		j, is := jobs[b.Name]
		if is {
			where := j.ID
			if where == "" {
				where = j.Worker
			}
			line(a, b.Name, b.Executor, j.Account, where, strings.ToUpper(string(j.State)), now.Sub(j.Since).Round(time.Second), j.Reason)
			continue
		}
		state := StatePending
		for _, n := range b.Needs {
			if !r.ended[n.Builder] {
				state = StateWaiting
			}
		}
		says, _ := r.schedule.Explain(b.Name) // all builders are its tasks
		line(a, b.Name, b.Executor, "", "", state, "", strings.TrimPrefix(says, b.Name+" "))
	}
	_ = a.Flush() // into memory
	_ = c.Flush()
	return fmt.Sprintf("\n%d pending, suspended, running or waiting after %v\n%s%d completed\n%s", open, now.Sub(r.begun).Round(time.Second), active.String(), ended, completed.String())
}
