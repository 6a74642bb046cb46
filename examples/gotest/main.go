// Command gotest runs the tests of Go packages in clean machines:
//
//	go run ./examples/gotest -n 2 strings bytes sort golang.org/x/sync/...
//
// There is no go command in the machines, and no network need be: the test binaries are
// compiled here, static, and go in on input disks with the files that the tests
// read. See README.md.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/bullpen-vm/bullpen/vm/local"
)

func main() {
	local.Main() // a process that was started as a machine's agent runs it here
	o, err := parse(os.Args[1:], os.Stderr)
	if errors.Is(err, flag.ErrHelp) {
		os.Exit(0)
	}
	code := 2
	if err == nil {
		ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
		code, err = run(ctx, o, os.Stdout)
		stop()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "gotest:", err)
		if code == 0 {
			code = 2
		}
	}
	os.Exit(code)
}
