// Command pyti tests Python distributions in virtual machines: the slave of a
// master and slaves, on Bullpen. See README.md, where the original's lines and this
// program's are side by side.
//
//	pyti slave --config F               take requests from the queue pyti_requests
//	pyti vm-run --target J --config F   do one request and print its record
//
// Called as pyti-slave or pyti-vm-run, by a link of that name, it is that
// subcommand.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/bullpen-vm/bullpen/examples/internal/machines"
	"github.com/bullpen-vm/bullpen/vm/local"
)

func main() {
	local.Main() // a process that was started as a machine's agent runs it here
	// The first signal ends in good order, the second at once.
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	stop, abort := make(chan struct{}), make(chan struct{})
	go func() { // as long as the process
		<-signals
		close(stop)
		<-signals
		close(abort)
	}()
	args := os.Args[1:]
	if sub, ok := strings.CutPrefix(filepath.Base(os.Args[0]), "pyti-"); ok {
		args = append([]string{sub}, args...)
	}
	os.Exit(run(ends{stop, abort}, args, os.Stdout, os.Stderr))
}

// ends are how a run is told to end: in good order, or at once.
type ends struct{ stop, abort <-chan struct{} }

const usage = `usage:
  pyti slave [--config F] [-driver local|libvirt] [-uri U]
  pyti vm-run --target J [--config F] [-driver local|libvirt] [-uri U]
`

// run is the program. It answers with the exit code: 0 when all passed, 1 when
// something failed or timed out, 2 when nothing can be said.
func run(e ends, args []string, stdout, stderr io.Writer) int {
	if len(args) == 0 || args[0] != "slave" && args[0] != "vm-run" {
		fmt.Fprint(stderr, usage)
		return 2
	}
	var on machines.Options
	var configPath, target string
	flags := flag.NewFlagSet("pyti "+args[0], flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.StringVar(&configPath, "config", "", "the configuration, an INI file (default: none)")
	if args[0] == "vm-run" {
		flags.StringVar(&target, "target", "", "the request, a JSON file")
	}
	verbose := flags.Bool("v", false, "log what the machines do")
	on.Register(flags)
	err := flags.Parse(args[1:])
	switch {
	case errors.Is(err, flag.ErrHelp):
		return 0
	case err != nil:
		return 2
	case flags.NArg() > 0:
		fmt.Fprintf(stderr, "pyti %s: %q is left over\n%s", args[0], flags.Arg(0), usage)
		return 2
	case args[0] == "vm-run" && target == "":
		fmt.Fprintf(stderr, "pyti vm-run: --target is missing\n%s", usage)
		return 2
	}
	level := slog.LevelWarn
	if *verbose {
		level = slog.LevelInfo
	}
	log := slog.New(slog.NewTextHandler(stderr, &slog.HandlerOptions{Level: level}))
	code := 2
	switch conf, configErr := readConfig(configPath, os.Getenv, on); {
	case configErr != nil:
		err = configErr
	case args[0] == "slave":
		code, err = slaveMain(e, conf, stdout, log)
	default:
		code, err = vmRunMain(e, conf, target, stdout, log)
	}
	if err != nil {
		fmt.Fprintf(stderr, "pyti %s: %v\n", args[0], err)
		code = max(code, 2)
	}
	return code
}

// vmRunMain does one request and prints its record.
func vmRunMain(e ends, c config, target string, stdout io.Writer, log *slog.Logger) (code int, err error) {
	text, err := os.ReadFile(target)
	if err != nil {
		return 2, err
	}
	req, err := parseRequest(text)
	if err != nil {
		return 2, fmt.Errorf("%s: %w", target, err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	go func() { // a single run has nothing to finish in good order
		select {
		case <-e.stop:
			cancel()
		case <-ctx.Done():
		}
	}()
	b, err := openBench(ctx, c, log)
	if err != nil {
		return 2, err
	}
	defer func() { err = errors.Join(err, b.close()) }()
	r := b.perform(ctx, req, runFolder())
	out, err := json.MarshalIndent(r, "", " ")
	if err != nil {
		return 2, err
	}
	_, err = fmt.Fprintf(stdout, "%s\n", out)
	return r.ExitCode, err
}
