// Command reaper destroys the machines that dead harnesses left behind. A pool does
// so itself at its start; this is for a host where none starts soon, as a job of
// cron.
//
//	go run ./examples/reaper                                # says what it would do
//	go run ./examples/reaper -dry-run=false -name minimal   # does it
//	go run -tags libvirt_dlopen ./examples/reaper -driver libvirt -uri qemu:///system
//
// It has no lease store of its own, so it takes for leftovers only what bears the
// pool's name and whose owner's lock is seen free on this machine. Harnesses that
// share a store are reaped by a program that opens it: see pool.Reaper.Leases.
//
// The exit code is 0 when nothing is left, 1 when something is that could not be
// destroyed, or with -dry-run would be, and 2 when a host could not be looked at.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/bullpen-vm/bullpen/examples/internal/machines"
	"github.com/bullpen-vm/bullpen/pool"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code, err := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "reaper:", err)
	}
	os.Exit(code)
}

func run(ctx context.Context, args []string, out, help io.Writer) (int, error) {
	flags := flag.NewFlagSet("reaper", flag.ContinueOnError)
	flags.SetOutput(help)
	var on machines.Options
	on.Register(flags)
	name := flags.String("name", "", "the pool whose leftovers are looked for (default bullpen)")
	dry := flags.Bool("dry-run", true, "only say what would be done")
	between := flags.Duration("between", pool.DefaultBetween, "how long after the first look the second one is")
	limit := flags.Duration("timeout", 10*time.Minute, "how long all of it may take")
	switch err := flags.Parse(args); {
	case errors.Is(err, flag.ErrHelp):
		return 0, nil
	case err != nil:
		return 2, nil //nolint:nilerr // the flags said it
	case flags.NArg() > 0:
		return 2, fmt.Errorf("%q is no flag", flags.Arg(0))
	}
	ctx, cancel := context.WithTimeout(ctx, *limit)
	defer cancel()
	driver, err := on.Connect(ctx)
	if err != nil {
		return 2, err
	}
	defer driver.Close()
	found, err := pool.Reconcile(ctx, pool.Reaper{
		Name: *name, Hosts: []pool.Host{{Driver: driver}}, Between: *between, DryRun: *dry,
	})
	left := table(out, found, *dry)
	switch {
	case err != nil && left == 0:
		return 2, err
	case left > 0:
		return 1, err
	}
	return 0, nil
}

// table prints what was found, and tells how many leftovers there are still.
func table(out io.Writer, found []pool.Finding, dry bool) (left int) {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	destroyed := 0
	for _, f := range found {
		what := f.Verdict
		switch condemned := f.Verdict == "claim" || f.Verdict == "destroy"; {
		case f.Destroyed:
			what = "destroyed"
			destroyed++
		case f.Err != nil:
			what, left = "failed", left+1
			f.Reason += ": " + f.Err.Error()
		case condemned && dry:
			what, left = "would destroy", left+1
		case condemned:
			what = "leave" // somebody else had its lease
		}
		o := f.Machine.Owner
		fmt.Fprintf(w, "%s\t%s\tpool %s\tjob %s\t%s\n", what, f.Machine.ID, orDash(o.Pool), orDash(o.Job), f.Reason)
	}
	_ = w.Flush()
	verb := "destroyed"
	if dry {
		verb, destroyed = "would be destroyed", left
	}
	fmt.Fprintf(out, "%d machines, %d %s\n", len(found), destroyed, verb)
	return left
}

func orDash(s string) string {
	if strings.TrimSpace(s) == "" {
		return "-"
	}
	return s
}
