package queue

import (
	"runtime"
	"strconv"
	"sync"
	"testing"
)

// locked is the least that makes a pool of a queue: a lock, and a channel for
// each waiter. The benchmarks below are compared with other pools by
// internal/peerbench, which cannot import this package and runs them instead.
type locked struct {
	mu sync.Mutex
	q  *Queue[int, chan struct{}]
	d  *Demand[int, chan struct{}]
}

type client struct {
	w    Waiter[int, chan struct{}]
	item *Item[int, chan struct{}]
}

func newLocked(machines int) *locked {
	l := &locked{q: New[int, chan struct{}]()}
	class := l.q.Class("a", nil)
	l.d = l.q.Demand("a", nil)
	for i := range machines {
		l.q.Offer(&Item[int, chan struct{}]{Value: i, Class: class})
	}
	return l
}

func newClient() *client {
	return &client{w: Waiter[int, chan struct{}]{Value: make(chan struct{}, 1), Need: 1}}
}

func (l *locked) acquire(c *client) {
	l.mu.Lock()
	c.w.Demand, c.w.seq = l.q.Demand("a", nil), 0
	granted := l.q.Add(&c.w)
	l.mu.Unlock()
	if !granted {
		<-c.w.Value
	}
	c.item = c.w.Got[0]
	c.w.Leave()
}

func (l *locked) release(c *client) {
	l.mu.Lock()
	next := l.q.Offer(c.item)
	l.mu.Unlock()
	if next != nil {
		next.Value <- struct{}{}
	}
}

// BenchmarkHandOff is one acquire and release among as many clients as the name
// says, who share eight machines.
func BenchmarkHandOff(b *testing.B) {
	for _, clients := range []int{1, 72, 520, 10_008} {
		b.Run(strconv.Itoa(clients), func(b *testing.B) {
			l := newLocked(8)
			each := max(1, b.N/clients)
			var wait sync.WaitGroup
			runtime.GC()
			b.ReportAllocs()
			b.ResetTimer()
			for range clients {
				wait.Go(func() {
					c := newClient()
					for range each {
						l.acquire(c)
						if clients > 1 {
							runtime.Gosched() // so that the others come and wait
						}
						l.release(c)
					}
				})
			}
			wait.Wait()
			b.StopTimer()
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(each*clients), "ns/handoff")
		})
	}
}
