package main

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/bullpen-vm/bullpen/internal/need"
)

// Of two machines one is killed again and again, from outside, while it runs
// tests; but none of them twice, for who loses three machines is held to be the
// reason. Nobody's verdict may change.
func TestVerdictsInMachinesThatAreKilledAreThoseOfTheHost(t *testing.T) {
	if !strings.Contains(os.Getenv(driverFlags), "libvirt") {
		t.Skipf("QEMU's processes are killed: run with %s=\"-driver libvirt\"", driverFlags)
	}
	need.Thing(t, "libvirt")
	need.Thing(t, "qemu")
	const most = 10
	kills := need.Soak(t, 1, most)
	patterns, flags := standard[:5], "-short"
	if kills == most {
		patterns, flags = standard, ample
	}
	k := &killer{most: kills, hit: map[string]bool{}, stop: make(chan struct{})}
	var work sync.WaitGroup
	var once sync.Once
	end := func() {
		once.Do(func() { close(k.stop) })
		work.Wait()
	}
	defer end()
	var s *session
	sameAsHost(t, func(running *session) {
		s = running
		work.Go(func() { k.run(s) })
	}, flags+" -n 2", patterns...)
	end()
	require.NotNil(t, s)
	require.NoError(t, k.err)
	assert.Len(t, k.hit, kills, "machines killed during different shards")
	assert.Equal(t, kills, s.schedule.Snapshot().Retries, "each kill cost a shard one attempt")
	t.Logf("killed during %v", k.said)
}

// killer kills the machine of the first slot.
type killer struct {
	most int
	stop chan struct{}
	hit  map[string]bool // by shard
	said []string
	err  error
}

func (k *killer) run(s *session) {
	first := poolName + "-0-"
	for len(k.hit) < k.most {
		task, worker := running(s, first)
		if task == "" || k.hit[task] {
			if !k.pause(10 * time.Millisecond) {
				return
			}
			continue
		}
		// Anywhere in what it runs, if it lasts.
		if !k.pause(rand.N(1500 * time.Millisecond)) {
			return
		}
		if now, same := running(s, first); now != task || same != worker {
			continue
		}
		n, err := killMachine(worker)
		if err != nil || n == 0 {
			continue // it has just ended by itself
		}
		// It may have had its verdict just before: then there is no second attempt,
		// and it was no kill of a test.
		if !k.lost(s, task) {
			if k.stopped() {
				return
			}
			continue
		}
		k.hit[task] = true
		k.said = append(k.said, task)
	}
}

// lost waits until the killed task is somewhere else than in its attempt.
func (k *killer) lost(s *session, task string) bool {
	before := s.schedule.Snapshot().Retries
	for {
		now := s.schedule.Snapshot()
		if now.Retries > before {
			return true
		}
		on := false
		for _, r := range now.Tasks {
			on = on || r.Task == task
		}
		if !on && len(now.Demands) == 0 || !k.pause(5*time.Millisecond) {
			return s.schedule.Snapshot().Retries > before
		}
	}
}

func (k *killer) stopped() bool {
	select {
	case <-k.stop:
		return true
	default:
		return false
	}
}

func (k *killer) pause(d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-k.stop:
		return false
	}
}

// running gives what the machine whose name begins so runs, in its first
// attempt.
func running(s *session, machine string) (task, worker string) {
	for _, r := range s.schedule.Snapshot().Tasks {
		if r.Started && r.Attempt <= 1 && strings.HasPrefix(r.Worker, machine) {
			return r.Task, r.Worker
		}
	}
	return "", ""
}

// killMachine kills the QEMU of the machine, as kill -9 does.
func killMachine(name string) (n int, err error) {
	files, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		return 0, err
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil || !bytes.Contains(text, []byte("\x00guest="+name+",")) {
			continue // another, or gone
		}
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(file)))
		if err != nil {
			return n, err
		}
		p, err := os.FindProcess(pid)
		if err != nil {
			return n, err
		}
		if err := p.Kill(); err != nil {
			return n, fmt.Errorf("kill %s (%d): %w", name, pid, err)
		}
		n++
	}
	return n, nil
}
