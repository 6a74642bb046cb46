// Command sprout requests appliances from a pool of machines, waits for them, and runs
// a suite of tests on them: on one in its own process, on several in workers.
//
//	sprout -config sprout.json -use-sprout -sprout-group downstream-511 -sprout-appliances 2 -sprout-desc "Jenkins cfme-511 #42"
//
// See README.md.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/bullpen-vm/bullpen/vm/local"
)

func main() {
	local.Main() // a process that was started as a machine's agent runs it here
	if code, is := workerMain(); is {
		os.Exit(code)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	code := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// run is the program: 0 all tests passed, 1 some failed, 2 the rest.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	code, err := runSession(ctx, args, stdout, stderr)
	if errors.Is(err, flag.ErrHelp) {
		return 0
	}
	if err != nil {
		fmt.Fprintln(stderr, "sprout:", err)
	}
	return code
}

func runSession(ctx context.Context, args []string, stdout, stderr io.Writer) (int, error) {
	o, err := parseOptions(args, stderr)
	if err != nil {
		return 2, err
	}
	c, err := loadConfig(o.Config)
	if err != nil {
		return 2, err
	}
	s := &session{options: o, config: c, term: newTerminal(stdout)}
	return s.run(ctx)
}
