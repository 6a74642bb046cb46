// Command minimal runs eight jobs on three machines: the template to start a
// harness from. Copy it, and change the jobs.
//
//	go run ./examples/minimal           # all pass, although one job loses its machine half-way
//	go run ./examples/minimal -break    # how a failure, a hang and dying machines are told apart
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/bullpen-vm/bullpen/diskio"
	"github.com/bullpen-vm/bullpen/pool"
	"github.com/bullpen-vm/bullpen/pool/runner"
	"github.com/bullpen-vm/bullpen/result"
	"github.com/bullpen-vm/bullpen/result/junit"
	"github.com/bullpen-vm/bullpen/scheduler"
	"github.com/bullpen-vm/bullpen/vm"
	"github.com/bullpen-vm/bullpen/vm/local"
)

func main() {
	local.Main() // a process that was started as a machine's agent runs it here
	driver := flag.String("driver", "local", "what machines are made of: local")
	broken := flag.Bool("break", false, "add a job that fails, one that hangs, and one that loses every machine")
	report := flag.String("junit", filepath.Join(os.TempDir(), "bullpen-minimal.xml"), "where to write the JUnit file")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code, err := run(ctx, *driver, *broken, *report)
	if stop(); err != nil {
		fmt.Fprintln(os.Stderr, "minimal:", err)
	}
	os.Exit(code)
}

func run(ctx context.Context, driverName string, broken bool, junitFile string) (int, error) {
	driver, spec, err := open(driverName)
	if err != nil {
		return 2, err
	}
	defer driver.Close()
	machines, err := pool.New(pool.Config{
		Name:      "minimal",
		Hosts:     []pool.Host{{Name: "here", Driver: driver, Slots: 3}},
		Templates: []pool.Template{{Name: "base", Spec: spec, Ready: 3}},
	})
	if err != nil {
		return 2, err
	}
	defer machines.Close(context.WithoutCancel(ctx))

	dir, err := os.MkdirTemp("", "x")
	if err != nil {
		return 2, err
	}
	words, err := diskio.Pack(ctx, dir+"/w", diskio.Tree{Files: []diskio.File{{Path: "words.txt", Data: []byte("warm\nclean\nfair\n")}}}, nil)
	if err != nil {
		return 2, err
	}
	defer words.Close()

	schedule, err := scheduler.New(runner.Source(machines), scheduler.Config{Workers: 3})
	if err != nil {
		return 2, err
	}
	if err := schedule.Add(tasks(words, broken)...); err != nil {
		return 2, err
	}
	var report result.Report
	for outcome := range schedule.Run(ctx) {
		report.Add(runner.Cases(outcome)...)
	}
	fmt.Print(&report)
	fmt.Println("JUnit:", junitFile)
	return report.ExitCode(), junit.WriteFile(junitFile, &report, nil)
}

// open is the only place that knows which driver it is.
func open(name string) (vm.Driver, vm.Spec, error) {
	switch name {
	case "local":
		driver, err := local.Open(local.Config{})
		return driver, vm.Spec{}, err
	default:
		return nil, vm.Spec{}, fmt.Errorf("-driver is %q, want local", name)
	}
}

// tasks are eight jobs, each with a file of its own and the same input disk.
func tasks(words *diskio.Image, broken bool) []runner.Task {
	add := func(all []runner.Task, id string, lines ...string) []runner.Task {
		return append(all, runner.Task{ID: id, Payload: diskio.Job{
			Steps:   diskio.Commands(lines...),
			Files:   []diskio.File{{Path: "wanted.txt", Data: []byte("warm\nfair\nclean\n")}},
			Inputs:  []diskio.Input{{Name: "words", Image: words}},
			Timeout: 5 * time.Second, // in the guest; the harness's own deadline follows it
		}})
	}
	const work = "sort -r $BULLPEN_IN/words/words.txt | tee $BULLPEN_OUT/sorted | cmp - wanted.txt"
	const die = `eval "$BULLPEN_CRASH"` // the machine ends at once, without a word
	var all []runner.Task
	for i := range 7 {
		all = add(all, fmt.Sprintf("sort-%d", i+1), work, "wc -l $BULLPEN_OUT/sorted")
	}
	all = add(all, "unlucky", work, "test $BULLPEN_ATTEMPT -gt 1 || "+die)
	if broken {
		all = add(all, "fails", work, "echo found nothing >&2; exit 3")
		all = add(all, "hangs", work, "sleep 1000")
		all = add(all, "deadly", work, die)
	}
	return all
}
