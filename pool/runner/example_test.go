package runner_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"github.com/bullpen-vm/bullpen/diskio"
	"github.com/bullpen-vm/bullpen/pool"
	"github.com/bullpen-vm/bullpen/pool/runner"
	"github.com/bullpen-vm/bullpen/result"
	"github.com/bullpen-vm/bullpen/scheduler"
	"github.com/bullpen-vm/bullpen/vm/local"
)

// The whole of it: a driver, a pool, a schedule, a report. A program's main, and
// TestMain in a test, begins with local.Main.
func Example() {
	ctx := context.Background()
	dir, err := os.MkdirTemp("", "example")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer os.RemoveAll(dir)
	driver, err := local.Open(local.Config{Root: filepath.Join(dir, "machines")})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer driver.Close()
	machines, err := pool.New(pool.Config{
		Hosts:     []pool.Host{{Name: "here", Driver: driver, Slots: 3}},
		Templates: []pool.Template{{Name: "base", Ready: 2}},
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer machines.Close(ctx)
	schedule, err := scheduler.New(runner.Source(machines), scheduler.Config{Workers: 3})
	if err != nil {
		fmt.Println(err)
		return
	}
	if err := schedule.Add(runner.Task{ID: "hello", Payload: diskio.Job{Steps: diskio.Commands("echo hello")}}); err != nil {
		fmt.Println(err)
		return
	}
	var report result.Report
	for outcome := range schedule.Run(ctx) {
		report.Add(runner.Cases(outcome)...)
	}
	for _, c := range report.Cases() {
		fmt.Print(c.Name, " ", c.Status, ": ", c.Output)
	}
	fmt.Println("exit code", report.ExitCode())
	// Output:
	// hello passed: hello
	// exit code 0
}
