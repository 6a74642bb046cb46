package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"github.com/bullpen-vm/bullpen/scheduler"
)

// options are what the command line says.
type options struct {
	driver   string
	uri      string
	machines int
	attempts int
	memory   int64 // MiB of a machine
	patterns []string
	dir      string // that packages are looked for from

	run     string
	short   bool
	verbose bool
	timeout time.Duration

	build    []string // further flags of go test -c
	trimpath bool
	module   bool // whole module instead of the package's own files

	out   string // folder of reports
	cache string // folder of inputs and history

	watch func(*session) // told of the session before it runs; nil: nobody is
}

// parse reads the command line. flag.ErrHelp is no mistake.
func parse(args []string, stderr io.Writer) (options, error) {
	var o options
	var build, files string
	f := flag.NewFlagSet("gotest", flag.ContinueOnError)
	f.SetOutput(stderr)
	f.Usage = func() {
		_, _ = fmt.Fprintln(stderr, "usage: gotest [flags] packages")
		f.PrintDefaults()
	}
	f.StringVar(&o.driver, "driver", "local", "what machines are made of: local or libvirt")
	f.StringVar(&o.uri, "uri", "qemu:///embed?root="+filepath.Join(ownTemp(), "embed"), "the hypervisor of -driver libvirt")
	f.StringVar(&o.dir, "C", "", "folder that packages are looked for from, as of go; empty: the current one")
	f.IntVar(&o.machines, "n", runtime.NumCPU(), "how many machines")
	f.IntVar(&o.attempts, "attempts", scheduler.DefaultAttempts, "how many machines a binary may lose")
	f.Int64Var(&o.memory, "memory", 1024, "memory of a machine in MiB")
	f.StringVar(&o.run, "run", "", "regular expression of tests to run, as of go test")
	f.BoolVar(&o.short, "short", false, "tell tests to be short")
	f.BoolVar(&o.verbose, "v", false, "print the output of tests that pass, too")
	f.DurationVar(&o.timeout, "timeout", 10*time.Minute, "bound on one test binary's run, as of go test")
	f.StringVar(&build, "build", "", "further flags for go test -c, with blanks between them")
	f.BoolVar(&o.trimpath, "trimpath", true, "build with -trimpath, so that no path of this computer is in the binaries")
	f.StringVar(&files, "files", "package", "what tests find around them: package (its folder without sub-packages, testdata folders above it) or module (all of its module)")
	f.StringVar(&o.out, "out", filepath.Join(ownTemp(), "out"), "folder for junit.xml, cases.jsonl and test2json.jsonl")
	f.StringVar(&o.cache, "cache", defaultCache(), "folder for input disks and history")
	if err := f.Parse(args); err != nil {
		return o, err
	}
	o.patterns, o.build, o.module = f.Args(), strings.Fields(build), files == "module"
	switch {
	case len(o.patterns) == 0:
		return o, errors.New("no packages are named, want at least one, such as strings or ./...")
	case o.machines < 1:
		return o, fmt.Errorf("-n is %d, want 1 or more", o.machines)
	case o.attempts < 1:
		return o, fmt.Errorf("-attempts is %d, want 1 or more", o.attempts)
	case o.memory < 128:
		return o, fmt.Errorf("-memory is %d, want 128 or more", o.memory)
	case o.timeout <= 0:
		return o, fmt.Errorf("-timeout is %v, want more than 0: a test that hangs ends by it", o.timeout)
	case !o.module && files != "package":
		return o, fmt.Errorf("-files is %q, want package or module", files)
	}
	return o, nil
}

// ownTemp is this user's folder for what is not worth keeping.
func ownTemp() string {
	return filepath.Join(os.TempDir(), fmt.Sprintf("bullpen-gotest-%d", os.Getuid()))
}

func defaultCache() string {
	dir, err := os.UserCacheDir()
	if err != nil {
		dir = os.TempDir()
	}
	return filepath.Join(dir, "bullpen-gotest")
}
