package need

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"
)

// Variable is the environment variable that names the things that must be there,
// separated by commas; "all" names every thing.
const Variable = "BULLPEN_REQUIRE"

// Patience bounds all probes of one thing together.
const Patience = 10 * time.Second

// TB is what is used of a test: *testing.T and *testing.B fit.
type TB interface {
	Helper()
	Skipf(format string, args ...any)
	Fatalf(format string, args ...any)
}

// Probe finds out whether a thing is there. Its error says what is missing. It
// should respect the context, which ends after Patience.
type Probe func(ctx context.Context) error

// Thing returns when the thing is there: when its own probe, which the known
// things have, and then the given ones, all succeed. Otherwise it skips the
// test, or fails it when BULLPEN_REQUIRE names the thing; neither returns on a
// *testing.T. A name that is not one of Names needs at least one probe.
func Thing(t TB, name string, probes ...Probe) {
	t.Helper()
	required, err := Required(name, os.Getenv(Variable))
	if err != nil {
		t.Fatalf("%v", err)
		return
	}
	known, ok := find(name)
	switch {
	case ok:
		probes = append([]Probe{known.probe}, probes...)
	case len(probes) == 0:
		t.Fatalf("need: no thing is called %q and no probe is given; known: %s", name, strings.Join(Names(), ", "))
		return
	}
	ctx, cancel := context.WithTimeoutCause(context.Background(), Patience, fmt.Errorf("no answer within %v", Patience))
	defer cancel()
	for _, probe := range probes {
		err := probe(ctx)
		if err == nil {
			continue
		}
		if errors.Is(err, context.DeadlineExceeded) && context.Cause(ctx) != nil {
			err = fmt.Errorf("%w (%w)", err, context.Cause(ctx))
		}
		message := fmt.Sprintf("needs %s: %v", name, err)
		if known.provide != "" {
			message += "; provide it with: " + known.provide
		}
		if required {
			t.Fatalf("%s (%s demands it)", message, Variable)
		} else {
			t.Skipf("%s (%s=%s makes this a failure)", message, Variable, name)
		}
		return
	}
}

// Tool is Thing for a program: it gives the program's path. The folders for the
// administrator's programs are searched too, as PATH often lacks them.
func Tool(t TB, name string) string {
	t.Helper()
	path, lookErr := lookPath(name)
	Thing(t, name, func(context.Context) error { return lookErr })
	return path
}

// Required reports whether demands, the value of BULLPEN_REQUIRE, names the
// thing; an error names the words in it that are neither a known thing nor this
// one.
func Required(name, demands string) (bool, error) {
	required := false
	var odd []string
	for word := range strings.SplitSeq(demands, ",") {
		word = strings.TrimSpace(word)
		switch {
		case word == "":
		case word == name || word == "all":
			required = true
		case !slices.Contains(Names(), word):
			odd = append(odd, word)
		}
	}
	if len(odd) > 0 {
		return required, fmt.Errorf("need: %s names %s, want some of: all, %s", Variable, strings.Join(odd, ", "), strings.Join(Names(), ", "))
	}
	return required, nil
}
