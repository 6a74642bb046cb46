package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
)

// listTimeout bounds the listing of one binary's tests, which runs its inits and
// its TestMain.
const listTimeout = time.Minute

// compile builds the test binaries, static, below dir and lists their tests. What
// is wrong with a package is written down in it; an error is not its fault.
func compile(ctx context.Context, dir string, packs []*pack, o options) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(runtime.NumCPU())
	for i, p := range packs {
		if p.broken != "" {
			continue
		}
		g.Go(func() error {
			if err := p.build(ctx, filepath.Join(dir, fmt.Sprint(i)), o); err != nil {
				return fmt.Errorf("%s: %w", p.name, err)
			}
			return nil
		})
	}
	return g.Wait()
}

func (p *pack) build(ctx context.Context, dir string, o options) error {
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	binary := filepath.Join(dir, p.program())
	args := append([]string{"test", "-c", "-o", binary, fmt.Sprintf("-trimpath=%v", o.trimpath)}, o.build...)
	c := exec.CommandContext(ctx, "go", append(args, p.name)...)
	c.Dir, c.Env = o.dir, append(os.Environ(), "CGO_ENABLED=0")
	out, err := c.CombinedOutput()
	var exit *exec.ExitError
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case errors.As(err, &exit):
		p.broken, p.output = "build", string(out)
		return nil
	case err != nil:
		return err
	}
	if _, err := os.Stat(binary); errors.Is(err, fs.ErrNotExist) {
		return nil // it has no tests
	} else if err != nil {
		return err
	}
	p.binary = binary
	return p.listTests(ctx, o)
}

// program is the binary's name, as go test calls it.
func (p *pack) program() string { return filepath.Base(p.dir) + ".test" }

// listTests asks the binary for its tests, in the order in which it runs them.
// Benchmarks are not run.
func (p *pack) listTests(ctx context.Context, o options) error {
	first, _ := splitRun(o.run)
	if first == "" {
		first = "."
	}
	bounded, cancel := context.WithTimeout(ctx, listTimeout)
	defer cancel()
	c := exec.CommandContext(bounded, p.binary, "-test.list", first)
	c.Dir = p.dir
	c.WaitDelay = time.Second
	out, err := c.CombinedOutput()
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	for line := range strings.Lines(string(out)) {
		if name := strings.TrimSpace(line); testName.MatchString(name) {
			p.tests = append(p.tests, name)
		}
	}
	switch {
	case bounded.Err() != nil:
		p.broken, p.output = "list tests", fmt.Sprintf("no end after %v\n%s", listTimeout, out)
	case err != nil && len(p.tests) == 0: // else a TestMain that fails after the list, and will say so again
		p.broken, p.output = "list tests", fmt.Sprintf("%v\n%s", err, out)
	}
	return nil
}

var testName = regexp.MustCompile(`^(Test|Example|Fuzz)[\pL\pN_]*$`)

// splitRun cuts a -run expression into what top-level tests match and the rest,
// which begins with a slash. A slash within brackets is no border.
func splitRun(run string) (first, rest string) {
	round, square := 0, 0
	for i := 0; i < len(run); i++ {
		switch run[i] {
		case '[':
			square++
		case ']':
			square = max(square-1, 0)
		case '(':
			if square == 0 {
				round++
			}
		case ')':
			if square == 0 {
				round--
			}
		case '\\':
			i++
		case '/':
			if round == 0 && square == 0 {
				return run[:i], run[i:]
			}
		}
	}
	return run, ""
}
