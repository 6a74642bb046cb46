package scheduler_test

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/bullpen-vm/bullpen/scheduler"
)

// printer is the smallest source: each worker runs what it is given at once.
type printer struct{}

func (printer) Worker(context.Context, scheduler.Demand) (scheduler.Worker[string, int], error) {
	return printer{}, nil
}

func (printer) Info() scheduler.WorkerInfo { return scheduler.WorkerInfo{Name: "here"} }

func (printer) Run(_ context.Context, b scheduler.Batch[string], emit func(scheduler.Event[int])) error {
	for _, t := range b.Tasks {
		emit(scheduler.Event[int]{Task: t.ID, Started: true})
		v := scheduler.Verdict{Status: scheduler.Passed}
		if t.Payload == "false" {
			v = scheduler.Verdict{Status: scheduler.Failed, Exit: 1}
		}
		emit(scheduler.Event[int]{Task: t.ID, Verdict: v, Result: len(t.Payload)})
	}
	return nil
}

func (printer) Release(context.Context, error) error { return nil }

func ExampleScheduler_Run() {
	schedule, err := scheduler.New[string, int](printer{}, scheduler.Config{})
	if err != nil {
		fmt.Println(err)
		return
	}
	err = schedule.Add(
		scheduler.Task[string]{ID: "build", Payload: "make"},
		scheduler.Task[string]{ID: "unit", Payload: "false", After: []scheduler.Dependency{{Task: "build"}}},
		scheduler.Task[string]{ID: "deploy", Payload: "deploy", After: []scheduler.Dependency{{Task: "unit"}}},
	)
	if err != nil {
		fmt.Println(err)
		return
	}
	for o := range schedule.Run(context.Background()) {
		fmt.Println(strings.TrimSpace(o.Task + " " + o.Verdict.Status + " " + o.Cause))
	}
	// Output:
	// build passed
	// unit failed
	// deploy blocked needs unit to pass, which failed (exit 1)
}

func ExampleScheduler_Add() {
	schedule, _ := scheduler.New[string, int](printer{}, scheduler.Config{})
	fmt.Println(schedule.Add(
		scheduler.Task[string]{ID: "install"},
		scheduler.Task[string]{ID: "upgrade", After: []scheduler.Dependency{{Task: "instal"}}},
	))
	// Output:
	// scheduler: add "upgrade": depends on "instal": unknown task, did you mean "install"?
}

func ExampleSimulate() {
	tasks := []scheduler.Task[string]{
		{ID: "a", Estimate: 3 * time.Second}, {ID: "b", Estimate: 3 * time.Second},
		{ID: "c", Estimate: 2 * time.Second}, {ID: "d", Estimate: 4 * time.Second},
	}
	s, err := scheduler.Simulate(tasks, scheduler.SimConfig{Config: scheduler.Config{Workers: 2}})
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(s.Makespan, s.Bound)
	// Output:
	// 6s 6s
}

func ExampleShard() {
	tasks := []scheduler.Task[string]{
		{ID: "a", Estimate: 3 * time.Second}, {ID: "b", Estimate: 3 * time.Second}, {ID: "c", Estimate: 6 * time.Second},
	}
	for i := range 2 {
		mine, _ := scheduler.Shard(tasks, i, 2, nil)
		for _, t := range mine {
			fmt.Println(i, t.ID)
		}
	}
	// Output:
	// 0 c
	// 1 a
	// 1 b
}
