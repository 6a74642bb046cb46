package main

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/bullpen-vm/bullpen/pool"
	"github.com/bullpen-vm/bullpen/vm"
)

func poolBars() []bar {
	return slices.Concat(queueBars(), []bar{
		{pkg: "pool", name: "Acquire and Release, no-op renewal, ns", most: 10_000, stretch: 3000, unit: " ns", measure: wholePool(false)},
		{pkg: "pool", name: "allocations of that", most: 20, stretch: 8, measure: wholePool(true)},
		// A whole number: below one means none.
		{pkg: "pool", name: "machines lost by 10k cancelled Acquires", most: 0.5, measure: poolStorm},
		{pkg: "pool", name: "p99 of Acquire beside 100 slow renewals, to none", most: 2, stretch: 1.2, measure: besideRenewals},
	})
}

// wholePool measures Acquire and Release of a real pool whose machines need
// nothing: time, or allocations, with the renewal behind it.
func wholePool(allocs bool) func(context.Context, bool) (float64, string, error) {
	return func(ctx context.Context, full bool) (value float64, note string, err error) {
		m, end, err := manager()
		if err != nil {
			return 0, "", err
		}
		defer func() { err = keep(err, end()) }()
		const slots = 8
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
		once := func() error {
			g, err := p.Acquire(ctx, pool.Want{Template: "t"})
			if err != nil {
				return err
			}
			return g.Release(ctx, nil)
		}
		if _, err := each(1000, once); err != nil {
			return 0, "", err
		}
		n := 5_000
		if full {
			n = 50_000
		}
		if allocs {
			value, err = allocations(n, once)
			return value, "with the renewal", err
		}
		var samples []time.Duration
		for range 15 {
			took, err := each(n, once)
			if err != nil {
				return 0, "", err
			}
			samples = append(samples, took)
		}
		if s := p.Stats(); s.Destroyed > 0 || s.Failures > 0 {
			return 0, "", fmt.Errorf("machines were not renewed in place: %+v", s)
		}
		return float64(median(samples)), fmt.Sprintf("1 caller, %d machines, the renewal behind it included", slots), nil
	}
}
