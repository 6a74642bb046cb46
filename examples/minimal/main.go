// Command minimal runs eight jobs on three machines: the template to start a
// harness from. Copy it, and change the jobs.
//
//	go run ./examples/minimal           # all pass, although one job loses its machine half-way
//	go run ./examples/minimal -break    # how a failure, a hang and dying machines are told apart
//	go run -tags libvirt_dlopen ./examples/minimal -driver libvirt -uri qemu:///session
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
	"github.com/bullpen-vm/bullpen/vm/local"
)

func main() {
	local.Main() // a process that was started as a machine's agent runs it here
	driver := flag.String("driver", "local", "what machines are made of: local or libvirt")
	uri := flag.String("uri", "qemu:///embed?root="+filepath.Join(home(), "libvirt"), "the hypervisor of -driver libvirt")
	broken := flag.Bool("break", false, "add a job that fails, one that hangs, and one that loses every machine")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code, err := run(ctx, *driver, *uri, *broken)
	if stop(); err != nil {
		fmt.Fprintln(os.Stderr, "minimal:", err)
	}
	os.Exit(code)
}

func run(ctx context.Context, driverName, uri string, broken bool) (int, error) {
	driver, spec, err := open(ctx, driverName, uri)
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

	cache, err := diskio.NewCache(filepath.Join(home(), "cache"), nil)
	if err != nil {
		return 2, err
	}
	words, err := cache.Pack(ctx, diskio.Tree{Files: []diskio.File{{Path: "words.txt", Data: []byte("warm\nclean\nfair\n")}}}, nil)
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
	file := filepath.Join(home(), "junit.xml")
	fmt.Printf("%sJUnit: %s\n", &report, file)
	return report.ExitCode(), junit.WriteFile(file, &report, nil)
}

// home is where the program keeps its files; several users may run it.
func home() string {
	return filepath.Join(os.TempDir(), fmt.Sprintf("bullpen-minimal-%d", os.Getuid()))
}

// tasks are eight jobs, each with a file of its own and the same input disk.
func tasks(words *diskio.Image, broken bool) (all []runner.Task) {
	add := func(id string, lines ...string) {
		all = append(all, runner.Task{ID: id, Payload: diskio.Job{
			Steps:   diskio.Commands(lines...),
			Files:   []diskio.File{{Path: "wanted.txt", Data: []byte("warm\nfair\nclean\n")}},
			Inputs:  []diskio.Input{{Name: "words", Image: words}},
			Timeout: 5 * time.Second, // in the guest; the harness's own deadline follows it
		}})
	}
	const work = `sort -r "$BULLPEN_IN/words/words.txt" | tee "$BULLPEN_OUT/sorted" | cmp - wanted.txt`
	const die = `eval "$BULLPEN_CRASH"` // the machine ends at once, without a word
	for i := range 7 {
		add(fmt.Sprintf("sort-%d", i+1), work, `wc -l "$BULLPEN_OUT/sorted"`)
	}
	add("unlucky", work, "test $BULLPEN_ATTEMPT -gt 1 || "+die)
	if broken {
		add("fails", work, "echo found nothing >&2; exit 3")
		add("hangs", work, "sleep 1000")
		add("deadly", work, die)
	}
	return all
}
