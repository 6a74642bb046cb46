// Command latent is a small build master: builders on workers that are started on
// demand, on workers that were started by hand and connect by themselves, and on
// workers in the master's own process. See README.md.
//
//	latent master  -config F [-once builder,...]   until SIGTERM, or until the named builds (or "all") have ended
//	latent build   -config F [-property k=v] builder...   asks the master for builds
//	latent worker  -master host:port -name N -password-file P
//	latent leaks   -config F    exit code 1 when a machine exists that nobody holds
//	latent check   -config F
//	latent backends
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"os"
	"os/signal"
	"slices"
	"strings"
	"sync"
	"syscall"

	"github.com/bullpen-vm/bullpen/diskio/guest"
	"github.com/bullpen-vm/bullpen/result"
	"github.com/bullpen-vm/bullpen/vm/local"
)

func main() {
	local.Main() // a process that was started as a machine's agent runs it here
	guest.HearSignals()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

const usage = "latent: want one of master, build, worker, leaks, check, backends; each has -h"

// run is main without the process. Exit codes: 0 all is well, 1 a build did not
// pass, a worker was refused or a machine leaked, 2 it could not be done.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	if len(args) == 0 {
		fmt.Fprintln(stderr, usage)
		return 2
	}
	command, args := args[0], args[1:]
	switch command {
	case "worker":
		return runWorker(ctx, args, stdout, stderr)
	case "backends":
		if err := runBackends(stdout); err != nil {
			return 2
		}
		return 0
	}
	flags := flag.NewFlagSet("latent "+command, flag.ContinueOnError)
	flags.SetOutput(stderr)
	file := flags.String("config", "latent.json", "the configuration")
	verbose := flags.Bool("v", false, "log what happens to machines")
	once := flags.String("once", "", "master: run these builds, or all, and end")
	properties := map[string]string{}
	flags.Func("property", "build: key=value; may be repeated", func(s string) error {
		k, v, ok := strings.Cut(s, "=")
		if !ok {
			return errors.New("want key=value")
		}
		properties[k] = v
		return nil
	})
	if err := flags.Parse(args); err != nil {
		return 2
	}
	level := slog.LevelInfo
	if *verbose {
		level = slog.LevelDebug
	}
	log := slog.New(slog.NewTextHandler(stderr, &slog.HandlerOptions{Level: level}))
	code := 2
	c, err := load(*file)
	switch {
	case err != nil:
	case command == "check":
		code = 0
		fmt.Fprintf(stdout, "%s: %d workers, %d builders\n", *file, len(c.Workers), len(c.Builds))
	case command == "leaks":
		code, err = runLeaks(ctx, c, stdout, log)
	case command == "build" && c.Control == "":
		err = bad("control", "", "the file of the master's socket")
	case command == "build":
		code, err = askMaster(ctx, c.path(c.Control), request{Builders: flags.Args(), Properties: properties}, stdout)
	case command == "master":
		code, err = runMaster(ctx, c, *once, stdout, log)
	default:
		err = errors.New(usage)
	}
	if err != nil {
		fmt.Fprintln(stderr, "latent:", err)
	}
	return code
}

// runMaster is the command master.
func runMaster(ctx context.Context, c *config, once string, stdout io.Writer, log *slog.Logger) (code int, err error) {
	if once == "" && c.Control == "" {
		return 2, bad("control", "", "the file of a socket where builds are asked for, or -once")
	}
	m, end, err := openMaster(ctx, c, log)
	if err != nil {
		return 2, err
	}
	defer func() {
		if ended := end(ctx); ended != nil {
			code, err = max(code, 2), errors.Join(err, ended)
		}
	}()
	if m.address != nil {
		fmt.Fprintln(stdout, "workers connect to", m.address)
	}
	if once == "" {
		fmt.Fprintln(stdout, "builds are asked for at", c.path(c.Control))
		if err := m.control(ctx, c.path(c.Control)); err != nil {
			return 2, err
		}
		return 0, nil
	}
	builders := strings.Split(once, ",")
	if once == "all" {
		builders = nil
		for _, b := range c.Builds {
			builders = append(builders, b.Name)
		}
	}
	return m.once(ctx, builders, stdout)
}

// once runs one build of each builder at the same time, and reports.
func (m *master) once(ctx context.Context, builders []string, stdout io.Writer) (int, error) {
	var report result.Report
	var mu sync.Mutex // of stdout and errs
	var errs []error
	var work sync.WaitGroup
	for _, b := range builders {
		work.Go(func() {
			done, err := m.build(ctx, b, nil)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				errs = append(errs, err)
				return
			}
			show(stdout, done)
			report.Add(done.Case)
		})
	}
	work.Wait()
	fmt.Fprint(stdout, &report)
	if err := errors.Join(errs...); err != nil {
		return 2, err
	}
	return report.ExitCode(), nil
}

func sorted(m map[string]string) []string { return slices.Sorted(maps.Keys(m)) }
