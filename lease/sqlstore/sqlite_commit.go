package sqlstore

import (
	"context"
	"errors"
	"fmt"
	"runtime"

	"github.com/bullpen-vm/bullpen/lease"
)

// op is one operation that waits for the committer.
type op struct {
	ctx   context.Context
	apply func(*batch) error // its results are the caller's only if done says so
	done  chan error         // room for one: the committer never waits
}

const (
	mostBatch = 512 // operations in one transaction
	gathering = 3   // how often others get the chance to join a transaction
)

// do has the committer run apply within a transaction, and returns when that is
// on the disk. When ctx ends first it is unknown whether it was done.
func (b *sqlite) do(ctx context.Context, apply func(*batch) error) error {
	if ctx.Err() != nil {
		return ended(ctx)
	}
	o := &op{ctx: ctx, apply: apply, done: make(chan error, 1)}
	select {
	case <-b.closing:
		return ErrClosed
	default:
	}
	select {
	case b.queue <- o:
	case <-ctx.Done():
		return fmt.Errorf("sqlstore: %s: %d operations are queued: %w", b.path, cap(b.queue), ended(ctx))
	case <-b.closing:
		return ErrClosed
	}
	select {
	case err := <-o.done:
		return err
	case <-ctx.Done():
	case <-b.stopped: // it came too late, unless it was the last
	}
	select {
	case err := <-o.done:
		return err
	default:
	}
	if ctx.Err() == nil {
		return ErrClosed
	}
	if b.waits.Load() {
		return fmt.Errorf("sqlstore: %s: %w: held by %s: %w", b.path, ErrBusy, b.gate.holder(), ended(ctx))
	}
	return fmt.Errorf("sqlstore: %s: the transaction has not ended: %w", b.path, ended(ctx))
}

// commit is the committer: the one goroutine that writes.
func (b *sqlite) commit() {
	defer close(b.stopped)
	for {
		select {
		case o := <-b.queue:
			b.serve(b.gather(o))
		case <-b.closing:
			for {
				select {
				case o := <-b.queue:
					b.serve(b.gather(o))
				default:
					return
				}
			}
		}
	}
}

// gather adds what else is queued. Those who were served by the last transaction
// are about to queue again: they get the chance to.
func (b *sqlite) gather(first *op) []*op {
	ops := []*op{first}
	for range gathering {
		before := len(ops)
		for more := true; more && len(ops) < mostBatch; {
			select {
			case o := <-b.queue:
				ops = append(ops, o)
			default:
				more = false
			}
		}
		if len(ops) == mostBatch || before == len(ops) && before > 1 {
			break
		}
		runtime.Gosched()
	}
	return ops
}

// serve runs ops in one transaction and tells each how it ended.
func (b *sqlite) serve(ops []*op) {
	errs := make([]error, len(ops))
	err := b.transaction(ops, errs)
	for i, o := range ops {
		if err != nil {
			errs[i] = err
		}
		o.done <- errs[i]
	}
}

func (b *sqlite) transaction(ops []*op, errs []error) error {
	waiting, cancel := context.WithTimeoutCause(context.Background(), b.config.GateWait, fmt.Errorf("GateWait is %v", b.config.GateWait))
	defer cancel()
	b.waits.Store(true)
	err := b.gate.lock(waiting)
	b.waits.Store(false)
	if err != nil {
		return b.told("write", err)
	}
	// Without a limit: a transaction waits for nobody but the disk, those who wait
	// for it have limits of their own, and drivers watch each statement's context.
	ctx := context.Background()
	err = b.locked(ctx, ops, errs)
	if err != nil {
		b.drop()
		err = b.told("write", because(ctx, err))
	}
	if unlocked := b.gate.unlock(); err == nil {
		// The transaction is through; the lock would be tried again and be ours.
		if unlocked != nil {
			b.log.Error("sqlstore: the gate cannot be opened", "path", b.path, "err", unlocked)
		}
	}
	return err
}

// locked is called with the gate held.
func (b *sqlite) locked(ctx context.Context, ops []*op, errs []error) error {
	if err := b.inPlace(); err != nil {
		return err
	}
	if b.conn == nil {
		var err error
		if b.conn, err = openSession(ctx, b.db, b.setupWriter); err != nil {
			return err
		}
	}
	x, err := b.begin(ctx)
	if err != nil {
		return err
	}
	for i, o := range ops {
		if o.ctx.Err() != nil {
			errs[i] = ended(o.ctx)
			continue
		}
		errs[i] = o.apply(x)
		if errs[i] != nil && !errors.Is(errs[i], lease.ErrConflict) && x.broken != nil {
			return x.broken
		}
	}
	return x.end()
}

// inPlace tells whether the files are still those that were opened.
func (b *sqlite) inPlace() error {
	if now, err := identify(b.path); err != nil || now != b.file {
		return fmt.Errorf("%w: the database was removed or replaced while it was in use: close the store and open it again", ErrDamaged)
	}
	return b.gate.inPlace()
}
