package main

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// errPoolGone: the pool ended while its appliances were in use.
var errPoolGone = errors.New("the pool of appliances is gone")

// Prolong sets the lease timer anew: the pool has this long from now on.
func (p *appliancePool) Prolong(ctx context.Context, by time.Duration) error {
	if p.term == nil {
		return nil
	}
	_, err := p.term.Extend(ctx, by)
	return err
}

// runTimer prolongs the lease each time when half of it is over, and looks whether
// somebody took the pool away, until ctx ends. When the pool is gone it says why, and
// lost is called: its machines are then destroyed.
func (p *appliancePool) runTimer(ctx context.Context, look time.Duration, term *terminal, lost context.CancelCauseFunc) {
	if p.term == nil {
		return
	}
	half := time.NewTicker(max(p.asked.lease/2, time.Millisecond))
	defer half.Stop()
	looks := time.NewTicker(look)
	defer looks.Stop()
	for {
		var err error
		select {
		case <-ctx.Done():
			return
		case <-p.term.Done():
			err = p.term.Err()
		case <-half.C:
			err = p.Prolong(ctx, p.asked.lease)
		case <-looks.C:
			err = p.recorded(ctx)
		}
		if ctx.Err() != nil {
			return
		}
		if err == nil {
			continue
		}
		if p.term.Err() == nil && !errors.Is(err, errPoolGone) {
			continue // the store does not answer: the lease goes on until it is over
		}
		term.println("Pool %s does not exist any more, disabling the timer.", p.ID)
		term.println("This can happen when another build of the job destroys it, or when the lease could not be prolonged.")
		term.println("> The exception was: %v", err)
		lost(fmt.Errorf("%w: %w", errPoolGone, err))
		return
	}
}

// recorded looks whether the pool's record is still there: others destroy a pool by
// taking that away.
func (p *appliancePool) recorded(ctx context.Context) error {
	if err := p.term.Check(); err != nil {
		return fmt.Errorf("%w: %w", errPoolGone, err)
	}
	held, err := p.client.leases.Inspect(ctx, p.term.Key())
	if err != nil {
		return err
	}
	for _, h := range held {
		if h.Key == p.term.Key() && h.Record.Token == p.term.Token() {
			return nil
		}
	}
	return fmt.Errorf("%w: its record was taken away", errPoolGone)
}
