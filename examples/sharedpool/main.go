// Command sharedpool is a harness that shares its hosts with others like it: start
// it several times at once, and together they never have more machines than the
// hosts have slots. See README.md.
//
//	go run . -store /tmp/leases.db & go run . -store /tmp/leases.db & wait
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
	"github.com/bullpen-vm/bullpen/lease"
	"github.com/bullpen-vm/bullpen/pool"
	"github.com/bullpen-vm/bullpen/pool/runner"
	"github.com/bullpen-vm/bullpen/result"
	"github.com/bullpen-vm/bullpen/scheduler"
	"github.com/bullpen-vm/bullpen/vm/local"
)

func main() {
	local.Main() // a process that was started as a machine's agent runs it here
	where := flag.String("store", filepath.Join(os.TempDir(), "bullpen-shared.db"), "a file, postgres://..., or etcd://host:port")
	root := flag.String("machines", filepath.Join(os.TempDir(), "bullpen-shared-machines"), "the host that is shared: a folder of machines")
	slots := flag.Int("slots", 2, "how many machines there may be, in all harnesses together")
	jobs := flag.Int("jobs", 4, "how many jobs this harness runs")
	command := flag.String("command", "echo done by $$", "what each job runs")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code, err := run(ctx, *where, *root, *slots, *jobs, *command)
	if stop(); err != nil {
		fmt.Fprintln(os.Stderr, "sharedpool:", err)
	}
	os.Exit(code)
}

func run(ctx context.Context, where, root string, slots, jobs int, command string) (code int, err error) {
	// The line to change: openSQLite(ctx, file), openPostgres(ctx, url) or
	// openEtcd(ctx, endpoint). openStore chooses by what where looks like.
	store, closeStore, err := openStore(ctx, where)
	if err != nil {
		return 2, err
	}
	defer keep(&err, closeStore)
	leases, err := lease.New(lease.Config{Store: store, Owner: "sharedpool", TTL: 15 * time.Second, Poll: 200 * time.Millisecond})
	if err != nil {
		return 2, err
	}
	driver, err := local.Open(local.Config{Root: root})
	if err != nil {
		return 2, err
	}
	// In this order: the pool, its leases, the driver, the store.
	defer keep(&err, driver.Close)
	defer keep(&err, func() error { return leases.Close(context.WithoutCancel(ctx)) })
	machines, err := pool.New(pool.Config{
		Name:   "sharedpool",
		Leases: leases,
		Hosts:  []pool.Host{{Name: "shared", Driver: driver, Slots: slots}},
		// No machine is kept when nobody here needs it: others wait for its slot.
		Templates: []pool.Template{{Name: "base", Idle: pool.IdleFor(0)}},
	})
	if err != nil {
		return 2, err
	}
	defer keep(&err, func() error { return machines.Close(context.WithoutCancel(ctx)) })

	schedule, err := scheduler.New(runner.Source(machines), scheduler.Config{Workers: slots})
	if err != nil {
		return 2, err
	}
	for n := range jobs {
		job := diskio.Job{Steps: diskio.Commands(command), Timeout: time.Minute}
		if err := schedule.Add(runner.Task{ID: fmt.Sprintf("job-%d", n+1), Payload: job}); err != nil {
			return 2, err
		}
	}
	var report result.Report
	for outcome := range schedule.Run(ctx) {
		report.Add(runner.Cases(outcome)...)
	}
	fmt.Print(&report)
	return report.ExitCode(), nil
}

// keep calls end, and keeps its error where there is none yet.
func keep(err *error, end func() error) {
	if ended := end(); *err == nil {
		*err = ended
	}
}
