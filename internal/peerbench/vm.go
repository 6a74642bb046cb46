package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"time"

	"github.com/bullpen-vm/bullpen/vm"
	"github.com/bullpen-vm/bullpen/vm/fake"
)

func vmBars() []bar {
	return append([]bar{
		{pkg: "vm", name: "what a guard adds to a call, ns", most: 100, stretch: 40, unit: " ns", measure: vmGuard},
		{pkg: "vm", name: "allocations that a guard adds", most: 1, stretch: 0.01, measure: vmGuardAllocations},
		{pkg: "vm", name: "channel round trip, to a pipe's", most: 4, stretch: 2, measure: vmChannel},
	}, realBars()...)
}

// still is a machine that does nothing: what is left is the guard.
type still struct{}

func (still) ID() vm.ID                             { return "m" }
func (still) Info(context.Context) (vm.Info, error) { return vm.Info{}, nil }
func (still) Start(context.Context) error           { return nil }
func (still) Stop(context.Context) error            { return nil }
func (still) Kill(context.Context) error            { return nil }
func (still) Destroy(context.Context) error         { return nil }

func vmGuard(ctx context.Context, _ bool) (float64, string, error) {
	const n = 200_000
	var bare vm.Machine = still{}
	guarded := vm.GuardMachine(bare, func() error { return nil })
	var differences []float64
	for range 15 {
		var took [2]time.Duration
		for i, m := range []vm.Machine{guarded, bare} {
			start := time.Now()
			for range n {
				if err := m.Stop(ctx); err != nil {
					return 0, "", err
				}
			}
			took[i] = time.Since(start)
		}
		differences = append(differences, float64(took[0]-took[1])/n)
	}
	return max(median(differences), 0), "over the machine's own Stop", nil
}

func vmGuardAllocations(ctx context.Context, _ bool) (float64, string, error) {
	guarded := vm.GuardMachine(still{}, func() error { return nil })
	n, err := allocations(10_000, func() error { return guarded.Stop(ctx) })
	return n, "", err
}

func vmChannel(ctx context.Context, full bool) (value float64, note string, err error) {
	driver := fake.New(fake.Config{})
	defer func() { err = keep(err, driver.Hypervisor().Close()) }()
	m, err := driver.Create(ctx, vm.Spec{Name: "m", Template: "t", Owner: vm.Owner{Incarnation: "1"}})
	if err != nil {
		return 0, "", err
	}
	if err := m.Start(ctx); err != nil {
		return 0, "", err
	}
	messenger, ok := vm.As[vm.Messenger](m)
	if !ok {
		return 0, "", fmt.Errorf("the fake machine has no channel")
	}
	channel, err := messenger.Channel(ctx)
	if err != nil {
		return 0, "", err
	}
	if _, err := channel.Ready(ctx); err != nil {
		return 0, "", err
	}
	host, guest := net.Pipe()
	defer host.Close()
	go func() { // ends with the pipe
		defer guest.Close()
		_, _ = io.Copy(guest, guest)
	}()
	n, rounds := 5_000, 15
	if full {
		n, rounds = 50_000, 31
	}
	frame := make([]byte, 24)
	return pairs(ctx, rounds, func(ctx context.Context) (time.Duration, error) {
		return each(n, func() error {
			_, err := channel.Ping(ctx)
			return err
		})
	}, func(context.Context) (time.Duration, error) {
		return each(n, func() error {
			if _, err := host.Write(frame); err != nil {
				return err
			}
			_, err := io.ReadFull(host, frame)
			return err
		})
	})
}
