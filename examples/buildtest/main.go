// Command buildtest runs the tests of buildspecs on the executors of a configuration:
// machines of a pool, and batch queues. See README.md.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"syscall"
	"text/tabwriter"

	"github.com/bullpen-vm/bullpen/examples/buildtest/spool"
	"github.com/bullpen-vm/bullpen/result/junit"
	"github.com/bullpen-vm/bullpen/vm/local"
)

func main() {
	local.Main() // a process that was started as a machine's agent runs it here
	os.Exit(command(os.Args[1:]))
}

// command runs until it is done or interrupted.
func command(args []string) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	do := build
	if len(args) > 0 {
		switch args[0] {
		case "spooler":
			do, args = spoolerCommand, args[1:]
		case "queue":
			do, args = queueCommand, args[1:]
		}
	}
	return do(ctx, args, os.Stdout, os.Stderr)
}

// The exit codes.
const (
	exitPassed = 0
	exitFailed = 1 // a test failed, or was not run
	exitBroken = 2 // nothing could be run
)

// build runs buildspecs.
func build(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	flags := flag.NewFlagSet("buildtest", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.Usage = func() {
		fmt.Fprint(stderr, "buildtest [flags] buildspec.yml...\nbuildtest spooler -socket PATH -slots N\nbuildtest queue -socket PATH [suspend|resume|cancel ID]\n\n")
		flags.PrintDefaults()
	}
	var o Options
	config := flags.String("config", "buildtest.yml", "the configuration of the executors")
	list := flags.Bool("list", false, "list the executors, and run nothing")
	report := flags.String("junit", "", "write a JUnit report to this file")
	logFile := flags.String("log", "", "write a log to this file")
	flags.StringVar(&o.Var, "var", "var", "the folder for scripts and outputs")
	flags.StringVar(&o.Account, "account", "", "the account to charge batch jobs to")
	for _, f := range []struct {
		name, usage string
		to          **int
	}{
		{"maxpendtime", "cancel a job that does not run after so many seconds", &o.MaxPendTime},
		{"pollinterval", "poll batch jobs every so many seconds", &o.PollInterval},
		{"timeout", "end a test that runs for so many seconds", &o.Timeout},
		{"max-jobs", "run so many tests at once, at the most", &o.MaxJobs},
	} {
		flags.Func(f.name, f.usage, func(s string) error {
			n, err := strconv.Atoi(s)
			*f.to = &n
			return err
		})
	}
	o.Machines.Register(flags)
	if err := flags.Parse(args); err != nil {
		return exitBroken
	}
	broken := func(err error) int {
		fmt.Fprintln(stderr, "buildtest:", err)
		return exitBroken
	}
	if *logFile != "" {
		f, err := os.OpenFile(*logFile, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
		if err != nil {
			return broken(err)
		}
		defer f.Close()
		o.Logger = slog.New(slog.NewTextHandler(f, nil)).With("module", "executors")
	}
	site, err := LoadConfiguration(*config)
	if err != nil {
		return broken(err)
	}
	var builders []*Builder
	if !*list {
		if flags.NArg() == 0 {
			flags.Usage()
			return exitBroken
		}
		if builders, err = LoadBuilders(flags.Args()...); err != nil {
			return broken(err)
		}
	}
	o.Table = stdout
	o.Done = func(b *Builder) {
		fmt.Fprintln(stdout, b)
		if b.Cause != "" {
			fmt.Fprintf(stdout, "  %s\n", b.Cause)
		}
	}
	return execute(ctx, site, o, builders, *report, stdout, stderr)
}

// execute makes the executors, runs the builders on them, and gives all back.
func execute(ctx context.Context, site *SiteConfiguration, o Options, builders []*Builder, report string, stdout, stderr io.Writer) (code int) {
	broken := func(err error) {
		fmt.Fprintln(stderr, "buildtest:", err)
		code = exitBroken
	}
	e, err := NewBuildExecutor(ctx, site, o)
	if err != nil {
		broken(err)
		return code
	}
	defer func() {
		if err := e.Close(context.WithoutCancel(ctx)); err != nil {
			broken(err)
		}
	}()
	if len(builders) == 0 {
		fmt.Fprint(stdout, e)
		return exitPassed
	}
	valid, err := e.Run(ctx, builders)
	if err != nil {
		broken(err)
	}
	passed := 0
	for _, b := range valid {
		if b.Result == "PASS" {
			passed++
		}
	}
	fmt.Fprintf(stdout, "\n%d of %d passed, %d have a return code\n", passed, len(builders), len(valid))
	if passed < len(builders) && code == exitPassed {
		code = exitFailed
	}
	if report != "" {
		if err := junit.WriteFile(report, e.Report(), nil); err != nil {
			broken(err)
		}
	}
	return code
}

// spoolerCommand is a batch queue: it serves clients until it is interrupted.
func spoolerCommand(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	flags := flag.NewFlagSet("buildtest spooler", flag.ContinueOnError)
	flags.SetOutput(stderr)
	socket := flags.String("socket", "", "the socket to listen on; who can open it can run programs")
	slots := flags.Int("slots", 1, "how many jobs run at once")
	attached := flags.Bool("attached", false, "end when the standard input ends")
	if err := flags.Parse(args); err != nil {
		return exitBroken
	}
	broken := func(err error) int {
		fmt.Fprintln(stderr, "buildtest spooler:", err)
		return exitBroken
	}
	if !filepath.IsAbs(*socket) {
		return broken(fmt.Errorf("-socket is %q, want an absolute path", *socket))
	}
	q, err := spool.New(*slots, 0, slog.New(slog.NewTextHandler(stderr, nil)))
	if err != nil {
		return broken(err)
	}
	l, err := new(net.ListenConfig).Listen(ctx, "unix", *socket)
	if errors.Is(err, syscall.EADDRINUSE) && abandoned(ctx, *socket) { // by a spooler that was killed
		if err = os.Remove(*socket); err == nil {
			l, err = new(net.ListenConfig).Listen(ctx, "unix", *socket)
		}
	}
	if err == nil {
		err = os.Chmod(*socket, 0o600)
	}
	if err != nil {
		return broken(err)
	}
	// Whoever reads what is logged may be killed: the jobs are to be ended then, by
	// one who lives.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE)
	if *attached {
		var cancel context.CancelFunc
		ctx, cancel = context.WithCancel(ctx)
		go func() { // ends with the process at the latest
			_, _ = io.Copy(io.Discard, os.Stdin)
			cancel()
		}()
	}
	fmt.Fprintf(stdout, "%d slots at %s\n", *slots, *socket)
	if err := q.Serve(ctx, l); err != nil {
		return broken(err)
	}
	return exitPassed
}

// abandoned says whether nobody listens on a socket.
func abandoned(ctx context.Context, socket string) bool {
	c, err := new(net.Dialer).DialContext(ctx, "unix", socket)
	if err == nil {
		_ = c.Close() // nothing was said
	}
	return errors.Is(err, syscall.ECONNREFUSED)
}

// queueCommand lists the jobs of a queue, or does something to one of them.
func queueCommand(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	flags := flag.NewFlagSet("buildtest queue", flag.ContinueOnError)
	flags.SetOutput(stderr)
	socket := flags.String("socket", "", "the socket of the queue")
	if err := flags.Parse(args); err != nil {
		return exitBroken
	}
	c := spool.NewClient(*socket)
	defer c.Close()
	var err error
	var jobs []spool.Job
	switch verb := flags.Arg(0); {
	case flags.NArg() == 2 && (verb == "suspend" || verb == "resume" || verb == "cancel"):
		err = c.Do(ctx, verb, flags.Arg(1))
	case flags.NArg() > 0:
		err = fmt.Errorf("%q: want nothing, or suspend, resume or cancel and a job's id", flags.Args())
	default:
		jobs, err = c.Jobs(ctx)
		w := tabwriter.NewWriter(stdout, 0, 0, 2, ' ', 0)
		for _, j := range jobs {
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%d\t%s\n", j.ID, j.Name, j.Account, j.State, j.Exit, j.Reason)
		}
		err = errors.Join(err, w.Flush())
	}
	if err != nil {
		fmt.Fprintln(stderr, "buildtest queue:", err)
		return exitBroken
	}
	return exitPassed
}
