package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/bullpen-vm/bullpen/pool"
	"github.com/bullpen-vm/bullpen/vm"
	"github.com/bullpen-vm/bullpen/vm/fake"
)

const (
	slowRenewals = 100
	slowRevert   = 300 * time.Millisecond // of the fake, in real time
	samplePhase  = 300 * time.Millisecond // so that each of them ends and begins once in it
)

// besideRenewals compares how long one in a hundred Acquires takes at least, in one
// pool, with and without 100 renewals behind it that take 300 ms each. They are of
// another template, on a fake host, and go the whole way: revert, hello, proof of
// cleanness. Whoever uses those machines gives them back at once and waits for the
// next.
func besideRenewals(ctx context.Context, full bool) (value float64, note string, err error) {
	m, end, err := manager()
	if err != nil {
		return 0, "", err
	}
	defer func() { err = keep(err, end()) }()
	hypervisor := fake.NewHypervisor(fake.Config{HostID: "slow", Times: fake.Times{Revert: slowRevert}})
	defer func() { err = keep(err, hypervisor.Close()) }()
	const slots = 8
	revert := []vm.Rung{vm.RungRevert, vm.RungCold}
	p, err := pool.New(pool.Config{
		Leases: m,
		Hosts: []pool.Host{
			{Name: "quick", Driver: newIdleDriver(), Slots: slots},
			{Name: "slow", Driver: hypervisor.Driver(), Slots: slowRenewals},
		},
		Templates: []pool.Template{
			{
				Name: "quick", Hosts: []string{"quick"}, Ready: slots, Snapshot: "clean", Rungs: revert,
				Clean: func(context.Context, vm.Machine) error { return nil },
			},
			{Name: "slow", Hosts: []string{"slow"}, Ready: slowRenewals, Snapshot: "clean", Rungs: revert, Probe: snapshotOnce},
		},
	})
	if err != nil {
		return 0, "", err
	}
	defer func() { err = keep(err, p.Close(context.WithoutCancel(ctx))) }()
	if err := until(ctx, p, func(s pool.Stats) bool { return s.Ready == slots+slowRenewals }); err != nil {
		return 0, "", err
	}
	rounds := 9
	if full {
		rounds = 31
	}
	value, note, err = pairs(ctx, rounds, func(ctx context.Context) (time.Duration, error) {
		stop := churn(ctx, p)
		err := until(ctx, p, func(s pool.Stats) bool { return s.Renewing >= slowRenewals })
		var took time.Duration
		if err == nil {
			took, err = slowest(ctx, p)
		}
		if stopped := stop(); err == nil {
			err = stopped
		}
		return took, err
	}, func(ctx context.Context) (time.Duration, error) {
		if err := until(ctx, p, func(s pool.Stats) bool { return s.Ready == slots+slowRenewals }); err != nil {
			return 0, err
		}
		return slowest(ctx, p)
	})
	if s := p.Stats(); err == nil && (s.Destroyed > 0 || s.Failures > 0) {
		err = fmt.Errorf("machines were not renewed in place: %+v", s)
	}
	return value, note + fmt.Sprintf(", renewals of %v", slowRevert), err
}

func snapshotOnce(ctx context.Context, m vm.Machine) error {
	s, ok := vm.As[vm.Snapshotter](m)
	if !ok {
		return errors.New("the fake has no snapshots")
	}
	if err := s.Snapshot(ctx, "clean"); err != nil && !errors.Is(err, vm.ErrExists) {
		return err
	}
	return nil
}

// until looks at the pool until it is as wanted.
func until(ctx context.Context, p *pool.Pool, as func(pool.Stats) bool) error {
	end := time.Now().Add(20 * time.Second)
	for !as(p.Stats()) {
		if err := context.Cause(ctx); err != nil {
			return err
		}
		if time.Now().After(end) {
			return fmt.Errorf("the pool is not as wanted after 20 s: %+v", p.Stats())
		}
		time.Sleep(time.Millisecond)
	}
	return nil
}

// churn uses all slow machines without end, and stop waits for those who do.
func churn(ctx context.Context, p *pool.Pool) (stop func() error) {
	busy, cancel := context.WithCancel(ctx)
	errs := make([]error, slowRenewals)
	var wait sync.WaitGroup
	for i := range slowRenewals {
		wait.Go(func() {
			timer := time.NewTimer(time.Duration(i) * slowRevert / slowRenewals) // spread over the time of one
			defer timer.Stop()
			select {
			case <-timer.C:
			case <-busy.Done():
			}
			for busy.Err() == nil {
				g, err := p.Acquire(busy, pool.Want{Template: "slow"})
				if err == nil {
					err = g.Release(ctx, nil)
				}
				if err != nil && busy.Err() == nil {
					errs[i] = err
					return
				}
			}
		})
	}
	return func() error {
		cancel()
		wait.Wait()
		return errors.Join(errs...)
	}
}

// slowest gives the 99th percentile of Acquire, by one caller, for samplePhase.
func slowest(ctx context.Context, p *pool.Pool) (time.Duration, error) {
	samples := make([]time.Duration, 0, 1<<17)
	for end := time.Now().Add(samplePhase); time.Now().Before(end); {
		start := time.Now()
		g, err := p.Acquire(ctx, pool.Want{Template: "quick"})
		if err != nil {
			return 0, err
		}
		samples = append(samples, time.Since(start))
		if err := g.Release(ctx, nil); err != nil {
			return 0, err
		}
	}
	slices.Sort(samples)
	return samples[len(samples)*99/100], nil
}
