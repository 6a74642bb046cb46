package scheduler_test

import (
	"context"
	"fmt"
	"time"

	"github.com/bullpen-vm/bullpen/scheduler"
)

// shell runs a job here and now.
type shell struct{}

func (shell) Run(_ context.Context, j scheduler.Job[string]) (scheduler.Verdict, string) {
	return scheduler.Verdict{Status: scheduler.Passed}, "ran " + j.BeforeScript + "; " + j.Task.Payload
}

// cluster is a queueing system whose jobs are done as soon as they are asked for.
type cluster struct{}

func (cluster) Submit(_ context.Context, j scheduler.Job[string]) (string, error) {
	return j.Account + "/17", nil
}

func (cluster) Poll(_ context.Context, id string) (scheduler.JobStatus[string], error) {
	return scheduler.JobStatus[string]{State: scheduler.JobComplete, Result: "job " + id}, nil
}

func (cluster) Cancel(context.Context, string) error { return nil }

func ExampleRegistry() {
	var executors scheduler.Registry[string, string]
	for _, e := range []scheduler.Executor[string, string]{
		{Name: "local", Runner: shell{}, BeforeScript: "ulimit -c 0"},
		{Name: "cluster", Submitter: cluster{}, MaxJobs: 10, Account: "physics", PollInterval: time.Millisecond},
	} {
		if err := executors.Register(e); err != nil {
			fmt.Println(err)
			return
		}
	}
	fmt.Print(&executors)
	_, err := executors.Get("clustre")
	fmt.Println(err)

	tasks := []scheduler.Task[string]{
		{ID: "build", Payload: "make", Labels: map[string]string{scheduler.ExecutorLabel: "local"}},
		{ID: "simulate", Payload: "mpirun sim", Labels: map[string]string{scheduler.ExecutorLabel: "cluster"},
			After: []scheduler.Dependency{{Task: "build"}}},
	}
	if err := executors.Assign(tasks); err != nil {
		fmt.Println(err)
		return
	}
	schedule, err := scheduler.New[string, string](&executors, scheduler.Config{Workers: 20, Executors: executors.Limits()})
	if err != nil {
		fmt.Println(err)
		return
	}
	if err := schedule.Add(tasks...); err != nil {
		fmt.Println(err)
		return
	}
	for o := range schedule.Run(context.Background()) {
		fmt.Println(o.Task, o.Verdict.Status, "on", o.Worker+":", o.Result)
	}
	// Output:
	// cluster: submits, polls every 1ms, 0 jobs of 10, account physics
	// local: runs, 0 jobs of any number, before script
	// scheduler: executor: executor "clustre" is not registered, did you mean "cluster"? (there are cluster, local)
	// build passed on local/1: ran ulimit -c 0; make
	// simulate passed on cluster/1: job physics/17
}
