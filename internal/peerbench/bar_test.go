package main

import (
	"bytes"
	"context"
	"errors"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func fixed(pkg, name string, value float64, err error) bar {
	return bar{pkg: pkg, name: name, most: 2, stretch: 1, measure: func(context.Context, bool) (float64, string, error) { return value, "note", err }}
}

func TestOneLineABarAndTheExitCodeOfTheWorst(t *testing.T) {
	for _, row := range []struct {
		bars []bar
		want string
		code int
	}{
		{[]bar{fixed("vm", "a", 1.5, nil)}, "vm/a 1.5 2 ok note", 0},
		{[]bar{fixed("vm", "a", 1, nil)}, "vm/a 1 2 ok+ note", 0},
		{[]bar{fixed("vm", "a", 2.001, nil), fixed("vm", "b", 2, nil)}, "vm/a 2.001 2 short note\nvm/b 2 2 ok note", 1},
		{[]bar{fixed("vm", "a", math.NaN(), nil)}, "vm/a NaN 2 short note", 1},
		{[]bar{fixed("vm", "a", 3, nil), fixed("vm", "b", 0, errors.New("no tar"))}, "vm/a 3 2 short note\nvm/b - 2 error no tar", 2},
	} {
		var out bytes.Buffer
		code := measureAll(t.Context(), &out, row.bars, false)
		var lines []string
		for line := range strings.Lines(out.String()) {
			lines = append(lines, strings.Join(strings.Fields(line), " "))
		}
		if got := strings.Join(lines, "\n"); got != row.want || code != row.code {
			t.Errorf("got %q and %d, want %q and %d", got, code, row.want, row.code)
		}
	}
}

func TestThePackagesBarsEndAfterTheirTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		slow := bar{pkg: "vm", name: "slow", most: 1, measure: func(ctx context.Context, _ bool) (float64, string, error) {
			<-ctx.Done()
			return 0, "", context.Cause(ctx)
		}}
		var out bytes.Buffer
		start := time.Now()
		if code := measureAll(t.Context(), &out, []bar{slow, slow}, false); code != 2 || time.Since(start) != patience {
			t.Errorf("code %d after %v: %s", code, time.Since(start), &out)
		}
		if !strings.Contains(out.String(), "the bars of vm took longer than 50s") {
			t.Error(out.String())
		}
	})
}

func TestChooseTakesPackagesAndRefusesOthers(t *testing.T) {
	all := []bar{{pkg: "vm", name: "a"}, {pkg: "pool", name: "b"}, {pkg: "vm", name: "c", fullOnly: true}}
	for only, want := range map[string]int{"": 2, "vm": 1, "pool, vm": 2, "lease": 0} {
		got, err := choose(all, only, false)
		if err != nil || len(got) != want {
			t.Errorf("%q: %d bars and %v, want %d", only, len(got), err, want)
		}
	}
	if got, _ := choose(all, "vm", true); len(got) != 2 {
		t.Errorf("-full: %d bars", len(got))
	}
	if _, err := choose(all, "vn", false); err == nil || !strings.Contains(err.Error(), `-only names "vn"`) {
		t.Error(err)
	}
}

func TestEveryBarIsNamedOnceAndHasABar(t *testing.T) {
	seen := map[string]bool{}
	for _, b := range table() {
		if seen[b.fullName()] || b.most <= 0 || b.stretch > b.most || b.measure == nil || len(b.fullName()) > 54 {
			t.Errorf("%+v", b)
		}
		seen[b.fullName()] = true
	}
	for _, p := range packages() {
		if got, _ := choose(table(), p, true); len(got) == 0 {
			t.Errorf("%s has no bar", p)
		}
	}
	var out, errs bytes.Buffer
	if code := run([]string{"-list"}, &out, &errs); code != 0 || strings.Count(out.String(), "\n") != len(seen) {
		t.Errorf("-list: %d: %s%s", code, &out, &errs)
	}
	for _, args := range [][]string{{"-only", "x"}, {"-nothing"}} {
		if code := run(args, &out, &errs); code != 2 {
			t.Errorf("%v: %d", args, code)
		}
	}
}

func TestTwoNeverRunAtOnce(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	first, err := take(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := take(path); err == nil || !strings.Contains(err.Error(), "another peerbench runs (pid ") {
		t.Error(err)
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	again, err := take(path)
	if err != nil {
		t.Fatal(err)
	}
	_ = again.Close()
	if _, err := take(filepath.Join(path, "x")); err == nil {
		t.Error("a lock below a file")
	}
}

func TestABusyMachineIsSaid(t *testing.T) {
	path := filepath.Join(t.TempDir(), "loadavg")
	for text, want := range map[string]bool{"0.00 0.1 0.2 1/2 3\n": false, "900.5 1 1 1/2 3\n": true, "nonsense": false} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if got := busy(path); (got != "") != want {
			t.Errorf("%q: %q", text, got)
		}
	}
	if busy(path+".none") != "" {
		t.Error("what cannot be told is said")
	}
}

func TestPairsAreMeasuredByTurnsAndTheMedianCounts(t *testing.T) {
	var order strings.Builder
	n := 0
	ours := func(context.Context) (time.Duration, error) {
		order.WriteByte('a')
		n++
		return []time.Duration{900, 20, 30, 90}[(n-1)%4] * time.Millisecond, nil
	}
	peer := func(context.Context) (time.Duration, error) {
		order.WriteByte('b')
		return 10 * time.Millisecond, nil
	}
	got, note, err := pairs(t.Context(), 4, ours, peer)
	if err != nil || got != 3 || order.String() != "abbaabba" || note != "30ms to 10ms, 3 pairs" {
		t.Errorf("%v %q %q %v", got, order.String(), note, err)
	}
	wrong := errors.New("broken")
	if _, _, err := pairs(t.Context(), 3, ours, func(context.Context) (time.Duration, error) { return 0, wrong }); !errors.Is(err, wrong) {
		t.Error(err)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(wrong)
	if _, _, err := pairs(ctx, 3, ours, peer); !errors.Is(err, wrong) {
		t.Error(err)
	}
}
