package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"time"
)

// crowdVariable makes this program one of the crowd: folder, key, count.
const crowdVariable = "PEERBENCH_CROWD"

// crowdMember acquires and releases its key when its parent says so, and prints how
// long each acquire took.
func crowdMember(settings string) int {
	fail := func(err error) int {
		fmt.Fprintln(os.Stderr, "peerbench:", err)
		return 1
	}
	dir, rest, _ := strings.Cut(settings, "|")
	key, count, _ := strings.Cut(rest, "|")
	n, err := strconv.Atoi(count)
	if err != nil {
		return fail(err)
	}
	ctx := context.Background()
	m, _, end, err := durable(ctx, dir, 0)
	if err != nil {
		return fail(err)
	}
	if _, err := acquired(ctx, m, key, 5); err != nil {
		return fail(err)
	}
	fmt.Println("ready")
	if _, err := os.Stdin.Read(make([]byte, 1)); err != nil {
		return fail(err)
	}
	all, err := acquired(ctx, m, key, n)
	if err = errors.Join(err, json.NewEncoder(os.Stdout).Encode(all), end()); err != nil {
		return fail(err)
	}
	return 0
}

// durableCrowd has eight processes at one file.
func durableCrowd(ctx context.Context, full bool) (value float64, note string, err error) {
	dir, err := scratch()
	if err != nil {
		return 0, "", err
	}
	defer func() { err = keep(err, os.RemoveAll(dir)) }()
	self, err := os.Executable()
	if err != nil {
		return 0, "", err
	}
	n := 150
	if full {
		n = 1000
	}
	const processes = 8
	type member struct {
		*exec.Cmd
		out *json.Decoder
		say func() error
	}
	var crowd []member
	ctx, cancel := context.WithCancel(ctx)
	defer func() {
		cancel() // ends those that are left after an error
		for _, c := range crowd {
			if ended := c.Wait(); err == nil {
				err = ended
			}
		}
	}()
	for p := range processes {
		c := exec.CommandContext(ctx, self)
		c.Env = append(os.Environ(), fmt.Sprintf("%s=%s|s/%d|%d", crowdVariable, dir, p, n))
		c.Stderr = os.Stderr
		in, err := c.StdinPipe()
		if err != nil {
			return 0, "", err
		}
		out, err := c.StdoutPipe()
		if err != nil {
			return 0, "", err
		}
		if err := c.Start(); err != nil {
			return 0, "", err
		}
		crowd = append(crowd, member{c, json.NewDecoder(out), func() error { _, err := in.Write([]byte("!")); return err }})
		if _, err := fmt.Fscanln(out, new(string)); err != nil {
			return 0, "", fmt.Errorf("process %d: %w", p, err)
		}
	}
	began := time.Now()
	for _, c := range crowd {
		if err := c.say(); err != nil {
			return 0, "", err
		}
	}
	var took []time.Duration
	for _, c := range crowd {
		var all []time.Duration
		if err := c.out.Decode(&all); err != nil {
			return 0, "", err
		}
		took = append(took, all...)
	}
	rate := float64(2*len(took)) / time.Since(began).Seconds()
	for _, c := range crowd {
		if err := c.Wait(); err != nil {
			return 0, "", err
		}
	}
	crowd = nil
	slices.Sort(took)
	p50, p99 := took[len(took)/2], took[len(took)*99/100]
	return float64(p99) / float64(p50), fmt.Sprintf("p50 %v, p99 %v, longest %v; %.0f commits a second of all", short(p50), short(p99), short(took[len(took)-1]), rate), nil
}
