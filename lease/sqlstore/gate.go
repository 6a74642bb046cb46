package sqlstore

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"syscall"
	"time"
)

// gate is held by the one process that writes, by flock, which ends with the
// process whatever happens to it. Before it stands a turnstile: who wants the gate
// holds the turnstile while waiting, so who has just had the gate cannot have it
// again before the one who waits. The turnstile is a courtesy: who is stuck in it
// is passed by.
//
// Who came through has a turn: until it ends by time, the gate may be taken again
// without the turnstile. So a change of hands, which costs a poll, is paid once for
// several transactions where the disk is fast, and no turn is longer than its time
// and one transaction.
//
// The locks are polled for, not waited for: a blocking flock cannot be given up.
// The longer somebody waits at the turnstile, the more often it is tried, which
// makes a line of those who wait, roughly; the other way around, who comes late
// would be first.
type gate struct {
	path       string
	file, turn *os.File
	is         identity  // of file
	turnUntil  time.Time // the turnstile is left out until then: it is our turn
	stuckUntil time.Time // and until then: somebody is stuck in it

	// Of who holds the gate.
	lines [2 * gateLine]byte // what the file had when the gate was taken
	mine  []byte             // our second line
	known reached            // what the first line of before says
	last  []byte             // that line
}

const (
	turnPatience = 100 * time.Millisecond
	turnHoliday  = time.Second
	turn         = time.Millisecond
)

// gatePause is the time between two tries at the gate, for who waited that long: one
// process polls for it, and a turn should not be followed by idleness.
func gatePause(waited time.Duration) time.Duration {
	return min(max(waited/4, 50*time.Microsecond), time.Millisecond)
}

// turnPause is the same at the turnstile.
func turnPause(waited time.Duration) time.Duration {
	return max(6*time.Millisecond-waited/2, 100*time.Microsecond)
}

func openGate(database string, mode fs.FileMode) (*gate, error) {
	g := &gate{path: database + "-gate"}
	var err error
	if g.file, err = os.OpenFile(g.path, os.O_RDWR|os.O_CREATE|syscall.O_NOFOLLOW, mode); err == nil {
		g.turn, err = os.OpenFile(database+"-turn", os.O_RDWR|os.O_CREATE|syscall.O_NOFOLLOW, mode)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("sqlstore: the gate beside the database cannot be used: %w", err), g.close())
	}
	if g.is, err = identityOf(g.file, g.path); err != nil {
		return nil, errors.Join(err, g.close())
	}
	host, _ := os.Hostname() // a word more in a message
	g.mine = lineOf(fmt.Sprintf("pid %d on %s", os.Getpid(), host))
	return g, nil
}

func (g *gate) close() error {
	var errs []error
	for _, f := range []*os.File{g.file, g.turn} {
		if f != nil {
			errs = append(errs, f.Close())
		}
	}
	return errors.Join(errs...)
}

// lock takes the gate, or gives ErrBusy with the holder when ctx ends first.
func (g *gate) lock(ctx context.Context) error {
	start := time.Now()
	if start.Before(g.turnUntil) && flock(g.file, syscall.LOCK_EX|syscall.LOCK_NB) == nil {
		return g.taken()
	}
	if start.After(g.stuckUntil) {
		err := flock(g.turn, syscall.LOCK_EX|syscall.LOCK_NB)
		if errors.Is(err, syscall.EWOULDBLOCK) {
			patient, cancel := context.WithTimeout(ctx, turnPatience)
			err = poll(patient, g.turn, turnPause)
			cancel()
		}
		switch {
		case err == nil:
			defer func() { _ = flock(g.turn, syscall.LOCK_UN) }() // it goes with the file otherwise
		case errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil:
			g.stuckUntil = time.Now().Add(turnHoliday)
		case ctx.Err() == nil:
			return fmt.Errorf("sqlstore: flock %s: %w", g.turn.Name(), err)
		}
	}
	err := poll(ctx, g.file, gatePause)
	if err == nil {
		g.turnUntil = time.Now().Add(turn)
		return g.taken()
	}
	if ctx.Err() == nil {
		return fmt.Errorf("sqlstore: flock %s: %w", g.path, err)
	}
	return fmt.Errorf("%w: waited %v for %s, held by %s: %w", ErrBusy, time.Since(start).Round(time.Millisecond), g.path, g.holder(), ended(ctx))
}

// taken is called when the lock of the gate was got.
func (g *gate) taken() error {
	if err := g.read(); err != nil {
		return errors.Join(err, g.unlock())
	}
	g.sign()
	return nil
}

func (g *gate) unlock() error {
	if err := flock(g.file, syscall.LOCK_UN); err != nil {
		return fmt.Errorf("sqlstore: unlock %s: %w", g.path, err)
	}
	return nil
}

// poll tries for an exclusive lock until ctx ends, with pauses by how long it waited.
func poll(ctx context.Context, f *os.File, pauseAfter func(waited time.Duration) time.Duration) error {
	for start := time.Now(); ; {
		err := flock(f, syscall.LOCK_EX|syscall.LOCK_NB)
		if !errors.Is(err, syscall.EWOULDBLOCK) {
			return err
		}
		pause := pauseAfter(time.Since(start))
		timer := time.NewTimer(pause/2 + rand.N(pause)) //nolint:gosec // not a secret
		select {
		case <-ctx.Done():
			timer.Stop()
			return ctx.Err()
		case <-timer.C:
		}
	}
}

func flock(f *os.File, how int) error {
	for {
		err := syscall.Flock(int(f.Fd()), how)
		if !errors.Is(err, syscall.EINTR) {
			return err
		}
	}
}

// inPlace tells whether the path still names the file that is locked: a lock on
// one that was removed keeps nobody out.
func (g *gate) inPlace() error {
	if now, err := identify(g.path); err != nil || now != g.is {
		return fmt.Errorf("%w: %s was removed or replaced while it was in use: close the store and open it again", ErrDamaged, g.path)
	}
	return nil
}
