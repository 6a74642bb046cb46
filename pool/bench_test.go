package pool

import (
	"context"
	"sync"
	"testing"

	"github.com/bullpen-vm/bullpen/vm/fake"
)

// The whole way of a hand-out on the fake: what a caller pays. The renewal runs
// behind it and is waited for off the clock.
func BenchmarkAcquireRelease(b *testing.B) {
	h := fake.NewHypervisor(fake.Config{HostID: "h"})
	p, err := New(Config{Hosts: []Host{{Driver: h.Driver(), Slots: 1}}, Templates: one("a")})
	if err != nil {
		b.Fatal(err)
	}
	ctx := context.Background()
	g, err := p.Acquire(ctx, Want{})
	if err != nil {
		b.Fatal(err)
	}
	u := g.unit
	b.ReportAllocs()
	b.ResetTimer()
	for range b.N {
		// The renewal is made a no-op: the unit goes back as it is.
		p.mu.Lock()
		u.guest = nil
		p.offer(u, u.since)
		p.unlock()
		if g, err = p.Acquire(ctx, Want{Template: "a"}); err != nil {
			b.Fatal(err)
		}
	}
	b.StopTimer()
	_ = g.Release(ctx, nil)
	if err := p.Close(ctx); err != nil {
		b.Fatal(err)
	}
	_ = h.Close()
}

// Many waiters, with true renewals behind each release.
func BenchmarkTenThousandWaiters(b *testing.B) {
	for b.Loop() {
		h := fake.NewHypervisor(fake.Config{HostID: "h"})
		p, err := New(Config{Hosts: []Host{{Driver: h.Driver(), Slots: 64}}, Templates: one("a")})
		if err != nil {
			b.Fatal(err)
		}
		ctx := context.Background()
		var wg sync.WaitGroup
		for range 10_000 {
			wg.Go(func() {
				g, err := p.Acquire(ctx, Want{})
				if err != nil {
					b.Error(err)
					return
				}
				_ = g.Release(ctx, nil)
			})
		}
		wg.Wait()
		if err := p.Close(ctx); err != nil {
			b.Fatal(err)
		}
		_ = h.Close()
	}
}
