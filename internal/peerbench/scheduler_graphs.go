package main

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/bullpen-vm/bullpen/scheduler"
)

// graphFolder names another folder with graphs; without it those of the scheduler's
// tests are taken, which has their origins beside them.
const graphFolder = "BULLPEN_DAGS"

type graph = []scheduler.Task[struct{}]

// graphs reads Standard Task Graphs (.stg: a count, then lines of id, seconds,
// number of predecessors, predecessors) and workflow traces (.tsv: id, seconds,
// predecessors, name).
func graphs() (all []graph, err error) {
	dir := os.Getenv(graphFolder)
	if dir == "" {
		dir = filepath.Join("..", "..", "scheduler", "testdata")
	}
	for _, form := range []struct {
		ext  string
		line func(string) (id, seconds string, after []string)
	}{{".stg", standardTask}, {".tsv", tracedTask}} {
		files, err := filepath.Glob(filepath.Join(dir, "*"+form.ext))
		if err != nil {
			return nil, err
		}
		for _, f := range files {
			text, err := os.ReadFile(f)
			if err != nil {
				return nil, err
			}
			g, err := readGraph(string(text), form.line)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", f, err)
			}
			all = append(all, g)
		}
	}
	if len(all) == 0 {
		return nil, fmt.Errorf("no graph in %s: run it in internal/peerbench, or set %s", dir, graphFolder)
	}
	return all, nil
}

func readGraph(text string, read func(string) (id, seconds string, after []string)) (g graph, err error) {
	for line := range strings.Lines(text) {
		line = strings.TrimRight(line, "\n")
		if line == "" || line[0] == '#' {
			continue
		}
		id, seconds, after := read(line)
		if id == "" {
			continue
		}
		s, err := strconv.ParseFloat(seconds, 64)
		if err != nil {
			return nil, fmt.Errorf("task %s: %w", id, err)
		}
		t := scheduler.Task[struct{}]{ID: id, Estimate: time.Duration(s*float64(time.Second)) + 1} // none is unknown
		for _, a := range after {
			t.After = append(t.After, scheduler.Dependency{Task: a})
		}
		g = append(g, t)
	}
	if len(g) == 0 {
		return nil, errors.New("no task in it")
	}
	return g, nil
}

func standardTask(line string) (id, seconds string, after []string) {
	f := strings.Fields(line)
	if len(f) < 3 {
		return "", "", nil // the count
	}
	return f[0], f[1], f[3:]
}

func tracedTask(line string) (id, seconds string, after []string) {
	f := strings.Split(line, "\t")
	if len(f) < 3 {
		return "", "", nil
	}
	if f[2] != "" {
		after = strings.Split(f[2], ",")
	}
	return f[0], f[1], after
}

func inGraphs(ratio func(g graph, workers int, ours float64, full bool) (float64, error), of func([]float64) float64) func(context.Context, bool) (float64, string, error) {
	return func(ctx context.Context, full bool) (float64, string, error) {
		all, err := graphs()
		if err != nil {
			return 0, "", err
		}
		var cells []float64
		for _, g := range all {
			for _, workers := range []int{2, 4, 8, 16, 32, 64, 128} {
				if err := context.Cause(ctx); err != nil {
					return 0, "", err
				}
				s, err := scheduler.Simulate(g, scheduler.SimConfig{Config: scheduler.Config{Workers: workers}})
				if err != nil {
					return 0, "", err
				}
				v, err := ratio(g, workers, float64(s.Makespan), full)
				if err != nil {
					return 0, "", err
				}
				cells = append(cells, v)
			}
		}
		return of(cells), fmt.Sprintf("%d graphs on 2 to 128 machines, %d cells", len(all), len(cells)), nil
	}
}

func toWindow(g graph, workers int, ours float64, _ bool) (float64, error) {
	bound, err := scheduler.WindowBound(g, func(i int) time.Duration { return g[i].Estimate }, workers, 0)
	return ours / float64(bound), err
}

// notUnder gives the part of the cells that are not under a limit.
func notUnder(limit float64) func([]float64) float64 {
	return func(cells []float64) float64 {
		over := 0
		for _, v := range cells {
			if v >= limit {
				over++
			}
		}
		return float64(over) / float64(len(cells))
	}
}

// toPerturbed compares with the best of list schedules by estimates that are off at
// random: 60 with -full, else 10.
func toPerturbed(g graph, workers int, ours float64, full bool) (float64, error) {
	best, tries := math.Inf(1), uint64(10)
	if full {
		tries = 60
	}
	for seed := range tries {
		s, err := scheduler.Simulate(g, scheduler.SimConfig{Config: scheduler.Config{Workers: workers}, Noise: 0.2, Seed: seed, Duration: func(i int) time.Duration { return g[i].Estimate }})
		if err != nil {
			return 0, err
		}
		best = min(best, float64(s.Makespan))
	}
	return ours / best, nil
}

// toUnits compares with the critical path that counts tasks, not seconds.
func toUnits(g graph, workers int, ours float64, _ bool) (float64, error) {
	units := append(graph(nil), g...)
	for i := range units {
		units[i].Estimate = time.Second
	}
	s, err := scheduler.Simulate(units, scheduler.SimConfig{Config: scheduler.Config{Workers: workers}, Duration: func(i int) time.Duration { return g[i].Estimate }})
	if err != nil {
		return 0, err
	}
	return ours / float64(s.Makespan), nil
}
