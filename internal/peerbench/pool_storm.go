package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/bullpen-vm/bullpen/pool"
	"github.com/bullpen-vm/bullpen/vm"
)

// poolStorm has 10,000 callers wait in Acquire of a whole pool whose machines are all
// held, and cancels them in no order while machines come free. Whoever gets one keeps
// it until it is cancelled. What is counted are the machines that nobody can get
// afterwards.
func poolStorm(ctx context.Context, full bool) (value float64, note string, err error) {
	m, end, err := manager()
	if err != nil {
		return 0, "", err
	}
	defer func() { err = keep(err, end()) }()
	const slots, waiters = 8, 10_000
	p, err := pool.New(pool.Config{
		Leases: m,
		Hosts:  []pool.Host{{Name: "h", Driver: newIdleDriver(), Slots: slots}},
		Templates: []pool.Template{{
			Name: "t", Ready: slots, Snapshot: "clean", Rungs: []vm.Rung{vm.RungRevert, vm.RungCold},
			Clean: func(context.Context, vm.Machine) error { return nil },
		}},
	})
	if err != nil {
		return 0, "", err
	}
	defer func() { err = keep(err, p.Close(context.WithoutCancel(ctx))) }()
	rounds := 3
	if full {
		rounds = 20
	}
	lost, grants := 0, int64(0)
	var took []time.Duration
	for round := range rounds {
		held, err := p.AcquireAll(ctx, slots, pool.Want{Template: "t"})
		if err != nil {
			return 0, "", err
		}
		one, n, err := cancelStorm(ctx, p, held, waiters, uint64(round))
		if err != nil {
			return 0, "", err
		}
		took, grants = append(took, one), grants+n
		missing, err := unreachable(ctx, p, slots)
		if err != nil {
			return 0, "", err
		}
		lost += missing
	}
	return float64(lost), fmt.Sprintf("%d storms of %v, %d grants met them", rounds, short(median(took)), grants), nil
}

func cancelStorm(ctx context.Context, p *pool.Pool, held []*pool.Guest, waiters int, seed uint64) (took time.Duration, granted int64, err error) {
	cancels := make([]context.CancelFunc, waiters)
	errs := make([]error, waiters)
	var grants atomic.Int64
	var wait sync.WaitGroup
	for i := range waiters {
		one, cancel := context.WithCancel(ctx)
		cancels[i] = cancel
		wait.Go(func() {
			g, err := p.Acquire(one, pool.Want{Template: "t"})
			if err != nil {
				if !errors.Is(err, context.Canceled) {
					errs[i] = err
				}
				return
			}
			grants.Add(1)
			<-one.Done()
			errs[i] = g.Release(ctx, nil)
		})
	}
	for p.Stats().Waiting < waiters && ctx.Err() == nil {
		time.Sleep(time.Millisecond)
	}
	start := time.Now()
	for at, i := range rand.New(rand.NewPCG(seed, 0)).Perm(waiters) {
		if at%(waiters/len(held)) == 0 {
			err = errors.Join(err, held[at/(waiters/len(held))].Release(ctx, nil))
		}
		cancels[i]()
	}
	wait.Wait()
	return time.Since(start), grants.Load(), errors.Join(err, errors.Join(errs...))
}

// unreachable gives how many of the pool's machines cannot be had.
func unreachable(ctx context.Context, p *pool.Pool, slots int) (missing int, err error) {
	soon, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	var got []*pool.Guest
	for range slots {
		g, err := p.Acquire(soon, pool.Want{Template: "t"})
		switch {
		case err == nil:
			got = append(got, g)
		case ctx.Err() != nil:
			return 0, err
		default:
			missing++
		}
	}
	if waiting := p.Stats().Waiting; waiting > 0 {
		err = fmt.Errorf("%d callers are still counted as waiting", waiting)
	}
	for _, g := range got {
		err = errors.Join(err, g.Release(ctx, nil))
	}
	return missing, err
}
