package local

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"syscall"
	"time"
)

// herd is all the processes of one machine.
type herd struct {
	roots []procID // keeper and agent, as far as known
	env   []byte   // KEY=value in their environment
	limit uint64   // in their limits
	since uint64   // none is older; in ticks like procID.Start
	spare procID   // not to be touched although it belongs: the keeper, or zero
}

// newHerd describes the processes of a machine by its mark and its last run,
// which may be zero.
func newHerd(mark string, run runRecord) herd {
	h := herd{env: []byte(markVar + "=" + mark), limit: limitMark(mark)}
	if run.Keeper.PID != 0 {
		h.roots = []procID{run.Keeper, run.Agent}
		h.since = run.Keeper.Start
	}
	return h
}

// find looks once. Processes that have ended are left out, so is this process.
func (h herd) find() ([]process, error) {
	all, err := table()
	if err != nil {
		return nil, err
	}
	children := make(map[int][]int, len(all)) // parent's id -> places in all
	ours := make([]bool, len(all))
	var found []process
	var take func(i int)
	take = func(i int) {
		if ours[i] {
			return
		}
		ours[i] = true
		if p := all[i]; p.procID != h.spare && p.PID != os.Getpid() && !p.dead() {
			found = append(found, p)
		}
		for _, c := range children[all[i].PID] {
			take(c)
		}
	}
	for i, p := range all {
		children[p.parent] = append(children[p.parent], i)
	}
	for i, p := range all {
		for _, r := range h.roots {
			if r.PID != 0 && p.procID == r {
				take(i)
			}
		}
	}
	for i, p := range all {
		if ours[i] || p.Start < h.since || p.dead() || p.PID == os.Getpid() {
			continue
		}
		is, err := marked(p.PID, h.limit, h.env)
		if err != nil {
			return nil, err
		}
		if is {
			take(i)
		}
	}
	return found, nil
}

// signal sends a signal to exactly this process: the pidfd is taken first, then
// the start time is compared, so that a new process with an old id is never
// hit. A process that is gone is no error.
func (p procID) signal(sig syscall.Signal) error {
	h, err := os.FindProcess(p.PID)
	if err != nil {
		return err
	}
	defer h.Release()
	now, err := lookup(p.PID)
	if errors.Is(err, fs.ErrNotExist) || err == nil && now.Start != p.Start {
		return nil
	}
	if err != nil {
		return err
	}
	err = h.Signal(sig)
	if errors.Is(err, os.ErrProcessDone) || errors.Is(err, syscall.ESRCH) {
		return nil
	}
	return err
}

// alive reports whether this very process still runs.
func (p procID) alive() (bool, error) {
	now, err := lookup(p.PID)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil && now.Start == p.Start && !now.dead(), err
}

// end kills until two looks in a row find nobody, for a process that forks as
// another is listed may be missed by one look. Only ctx bounds it: a process
// in an uninterruptible wait of the kernel cannot be ended by anyone.
func (h herd) end(ctx context.Context) error {
	clean := 0
	for wait := time.Millisecond; ; wait = min(2*wait, 50*time.Millisecond) {
		found, err := h.find()
		if err != nil {
			return err
		}
		var refused error
		for _, p := range found {
			if err := p.signal(syscall.SIGKILL); err != nil {
				refused = fmt.Errorf("kill process %d: %w", p.PID, err)
			}
		}
		if len(found) == 0 {
			if clean++; clean == 2 {
				return nil
			}
			continue
		}
		clean = 0
		if err := sleep(ctx, wait); err != nil {
			return errors.Join(fmt.Errorf("%d processes are still there (%s): %w", len(found), describe(found), err), refused)
		}
	}
}

// freeze stops all until a look finds nobody who runs.
func (h herd) freeze(ctx context.Context) error {
	return h.all(ctx, syscall.SIGSTOP, process.halted, "do not stop")
}

// thaw lets all go on.
func (h herd) thaw(ctx context.Context) error {
	return h.all(ctx, syscall.SIGCONT, func(p process) bool { return !p.halted() }, "do not go on")
}

func (h herd) all(ctx context.Context, sig syscall.Signal, done func(process) bool, not string) error {
	for wait := time.Millisecond; ; wait = min(2*wait, 50*time.Millisecond) {
		found, err := h.find()
		if err != nil {
			return err
		}
		var left []process
		for _, p := range found {
			if done(p) {
				continue
			}
			left = append(left, p)
			if err := p.signal(sig); err != nil {
				return fmt.Errorf("signal %v to process %d: %w", sig, p.PID, err)
			}
		}
		if len(left) == 0 {
			return nil
		}
		if err := sleep(ctx, wait); err != nil {
			return fmt.Errorf("%d processes %s (%s): %w", len(left), not, describe(left), err)
		}
	}
}

// describe names at most eight processes and their states.
func describe(ps []process) string {
	var b strings.Builder
	for i, p := range ps {
		if i == 8 {
			b.WriteString(", ...")
			break
		}
		if i > 0 {
			b.WriteString(", ")
		}
		fmt.Fprintf(&b, "%d in state %c", p.PID, p.state)
	}
	return b.String()
}
