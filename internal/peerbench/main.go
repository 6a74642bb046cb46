// Command peerbench measures Bullpen against its peers and its own bars:
//
//	cd internal/peerbench && go run . [-only diskio,lease,pool,scheduler,vm,result] [-full] [-list]
//	BULLPEN_KERNEL=.../boot/vmlinuz-... go run -tags libvirt_dlopen . -only vm
//
// The second also measures real machines, through libvirt's embedded driver.
//
// It prints one line a bar: name, value, bar, ok or short, and a note. Smaller is
// better in all of them. Ratios are medians of pairs that were measured by turns
// in this process, so that a busy machine moves both sides. It ends with 1 if a
// bar is short, with 2 if one could not be measured or another peerbench runs.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// patience bounds a run of one package's bars without -full.
const patience = 50 * time.Second

func main() {
	if settings := os.Getenv(crowdVariable); settings != "" {
		os.Exit(crowdMember(settings))
	}
	os.Exit(start())
}

func run(args []string, out, errs io.Writer) int {
	flags := flag.NewFlagSet("peerbench", flag.ContinueOnError)
	flags.SetOutput(errs)
	only := flags.String("only", "", "packages, separated by commas: "+strings.Join(packages(), ", "))
	name := flags.String("name", "", "only the bars whose name has this in it")
	full := flags.Bool("full", false, "full counts and the bars that take long")
	list := flags.Bool("list", false, "print the bars only")
	if err := flags.Parse(args); err != nil {
		return 2
	}
	chosen, err := choose(table(), *only, *full || *list)
	if err != nil {
		fmt.Fprintln(errs, err)
		return 2
	}
	chosen = slices.DeleteFunc(chosen, func(b bar) bool { return !strings.Contains(b.name, *name) })
	if len(chosen) == 0 {
		fmt.Fprintf(errs, "peerbench: -name is %q, want a part of a name that -list prints\n", *name)
		return 2
	}
	if *list {
		for _, b := range chosen {
			fmt.Fprintln(out, b)
		}
		return 0
	}
	lock, err := take(filepath.Join(os.TempDir(), "bullpen-peerbench.lock"))
	if err != nil {
		fmt.Fprintln(errs, err)
		return 2
	}
	defer lock.Close()
	if word := busy("/proc/loadavg"); word != "" {
		fmt.Fprintln(out, word)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	return measureAll(ctx, out, chosen, *full)
}

// measureAll runs the bars one after the other and gives the exit code.
func measureAll(ctx context.Context, out io.Writer, chosen []bar, full bool) (code int) {
	defer func() {
		for _, b := range chosen {
			if b.end == nil {
				continue
			}
			if err := b.end(); err != nil {
				fmt.Fprintf(out, "%s: %v\n", b.fullName(), err)
				code = 2
			}
		}
	}()
	var until time.Time
	last := ""
	for _, b := range chosen {
		if b.pkg != last {
			until, last = time.Now().Add(patience), b.pkg
		}
		one, cancel := context.WithCancel(ctx)
		if !full {
			one, cancel = context.WithDeadlineCause(ctx, until, fmt.Errorf("the bars of %s took longer than %v", b.pkg, patience))
		}
		value, note, err := b.measure(one, full)
		if err == nil {
			err = context.Cause(one)
		}
		cancel()
		if err != nil {
			fmt.Fprintf(out, "%-54s %10s %10s error  %v\n", b.fullName(), "-", number(b.most), err)
			code = 2
			if errors.Is(err, context.Canceled) && ctx.Err() != nil {
				return code
			}
			continue
		}
		fmt.Fprintln(out, b.line(value, note))
		if !b.reached(value) && code == 0 {
			code = 1
		}
	}
	return code
}
