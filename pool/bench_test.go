package pool

import (
	"context"
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
