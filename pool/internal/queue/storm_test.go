package queue

import (
	"context"
	"math/rand/v2"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sync/semaphore"
)

// acquireUntil is acquire that gives up when the context ends. What was granted at
// that instant goes to the next.
func (l *locked) acquireUntil(ctx context.Context, c *client) error {
	l.mu.Lock()
	c.w.Demand, c.w.seq = l.q.Demand("a", nil), 0
	granted := l.q.Add(&c.w)
	l.mu.Unlock()
	var err error
	if !granted {
		select {
		case <-c.w.Value:
		case <-ctx.Done():
			err = context.Cause(ctx)
			l.mu.Lock()
			if c.w.Queued() {
				l.q.Remove(&c.w) // it wants one machine, so it has nothing in hand
				l.mu.Unlock()
				return err
			}
			l.mu.Unlock()
		}
	}
	c.item = c.w.Got[0]
	c.w.Leave()
	if err != nil {
		l.release(c)
	}
	return err
}

// storm has n callers wait for machines that are all taken, then cancels them in
// no order while the machines come free, so that grants meet cancellations. Who
// is granted one keeps it until it is cancelled. It gives the time from the first
// cancellation to the end of the last wait, and how many were granted and lost.
func storm(n, machines int, acquire func(context.Context) (func(), error)) (took time.Duration, granted, lost int) {
	ctx := context.Background()
	var held []func()
	for range machines {
		release, err := acquire(ctx)
		if err != nil {
			return 0, 0, machines
		}
		held = append(held, release)
	}
	cancels := make([]context.CancelFunc, n)
	var wait sync.WaitGroup
	var entered, grants atomic.Int64
	for i := range n {
		one, cancel := context.WithCancel(ctx)
		cancels[i] = cancel
		wait.Go(func() {
			entered.Add(1)
			release, err := acquire(one)
			if err != nil {
				return
			}
			grants.Add(1)
			<-one.Done()
			release()
		})
	}
	for entered.Load() < int64(n) {
		runtime.Gosched()
	}
	for range 100 {
		runtime.Gosched() // the last ones are about to wait
	}
	runtime.GC() // none is under way in what is timed
	order := rand.New(rand.NewPCG(1, 2)).Perm(n)
	start := time.Now()
	for at, i := range order {
		if at%(n/machines) == 0 && len(held) > 0 {
			held[0]()
			held = held[1:]
		}
		cancels[i]()
	}
	wait.Wait()
	took = time.Since(start)
	for _, release := range held {
		release()
	}
	// All machines are there again, at once.
	for range machines {
		soon, cancel := context.WithTimeout(ctx, 10*time.Second)
		if _, err := acquire(soon); err != nil {
			lost++
		}
		cancel()
	}
	return took, int(grants.Load()), lost
}

func queueGate(machines int) func(context.Context) (func(), error) {
	l := newLocked(machines)
	return func(ctx context.Context) (func(), error) {
		c := newClient()
		if err := l.acquireUntil(ctx, c); err != nil {
			return nil, err
		}
		return func() { l.release(c) }, nil
	}
}

func semaphoreGate(machines int) func(context.Context) (func(), error) {
	s := semaphore.NewWeighted(int64(machines))
	release := func() { s.Release(1) }
	return func(ctx context.Context) (func(), error) { return release, s.Acquire(ctx, 1) }
}

func TestAStormOfCancellationsLosesNoMachine(t *testing.T) {
	t.Parallel()
	for range 20 {
		if _, _, lost := storm(500, 8, queueGate(8)); lost != 0 {
			t.Fatalf("%d of 8 machines were lost", lost)
		}
	}
}

// BenchmarkCancelStorm is 10,000 waiters who are all cancelled, of the queue and of
// a semaphore by turns, the other one first each time: what else the machine does
// meets both. It reports the median of the pairs' ratios beside both times.
func BenchmarkCancelStorm(b *testing.B) {
	const waiters, machines = 10_000, 8
	gates := [2]func(int) func(context.Context) (func(), error){queueGate, semaphoreGate}
	var took [2][]float64
	var grants [2]int
	var ratios []float64
	for round := range b.N {
		var pair [2]float64
		for turn := range 2 {
			side := (round + turn) % 2
			acquire := gates[side](machines)
			runtime.GC()
			time, granted, lost := storm(waiters, machines, acquire)
			if lost > 0 {
				b.Fatalf("%d of %d machines were lost", lost, machines)
			}
			pair[side] = float64(time.Nanoseconds())
			took[side] = append(took[side], pair[side])
			grants[side] += granted
		}
		ratios = append(ratios, pair[0]/pair[1])
	}
	b.ReportMetric(median(ratios), "ratio")
	b.ReportMetric(median(took[0]), "ns/storm")
	b.ReportMetric(median(took[1]), "ns/peer")
	b.ReportMetric(float64(grants[0])/float64(b.N), "grants/storm")
	b.ReportMetric(float64(grants[1])/float64(b.N), "grants/peer")
}

func median(values []float64) float64 {
	slices.Sort(values)
	return values[len(values)/2]
}
