package main

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// bar is one measured promise. Smaller values are better.
type bar struct {
	pkg, name string
	most      float64 // the bar: a value above it is short
	stretch   float64 // what would be better still; zero: none
	unit      string  // empty: a ratio
	fullOnly  bool
	measure   func(ctx context.Context, full bool) (value float64, note string, err error)
	end       func() error // of what several bars share; nil: nothing
}

// table is all bars, by package.
func table() []bar {
	return slices.Concat(diskioBars(), leaseBars(), poolBars(), schedulerBars(), vmBars(), resultBars())
}

func packages() []string { return []string{"diskio", "lease", "pool", "scheduler", "vm", "result"} }

// choose gives the bars of the packages that only names; all when it is empty.
func choose(all []bar, only string, full bool) ([]bar, error) {
	var wanted []string
	for name := range strings.SplitSeq(only, ",") {
		if name = strings.TrimSpace(name); name == "" {
			continue
		}
		if !slices.Contains(packages(), name) {
			return nil, fmt.Errorf("peerbench: -only names %q, want some of %s", name, strings.Join(packages(), ", "))
		}
		wanted = append(wanted, name)
	}
	var chosen []bar
	for _, b := range all {
		if (len(wanted) == 0 || slices.Contains(wanted, b.pkg)) && (full || !b.fullOnly) {
			chosen = append(chosen, b)
		}
	}
	return chosen, nil
}

func (b bar) fullName() string { return b.pkg + "/" + b.name }

func (b bar) reached(value float64) bool { return value <= b.most } // NaN is not

func (b bar) line(value float64, note string) string {
	word := "ok"
	switch {
	case !b.reached(value):
		word = "short"
	case b.stretch > 0 && value <= b.stretch:
		word = "ok+" // the stretch is reached too
	}
	line := fmt.Sprintf("%-54s %10s %10s %-6s", b.fullName(), number(value)+b.unit, number(b.most)+b.unit, word)
	return strings.TrimRight(line+" "+note, " ")
}

func (b bar) String() string {
	line := fmt.Sprintf("%-54s %10s", b.fullName(), number(b.most)+b.unit)
	if b.stretch > 0 {
		line += " stretch " + number(b.stretch) + b.unit
	}
	if b.fullOnly {
		line += " (-full)"
	}
	return line
}

// number writes four digits that matter, and whole numbers as they are.
func number(v float64) string {
	if v >= 1000 || v == float64(int(v)) {
		return strconv.FormatFloat(v, 'f', 0, 64)
	}
	return strconv.FormatFloat(v, 'g', 4, 64)
}
