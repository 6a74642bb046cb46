//go:build linux && cgo && (libvirt || libvirt_dlopen)

package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"
)

// realBars compare machines that were restored with a tuned cold boot of the same
// kernel: ramdisk of a few files, quiet, no device but the disk and the channel.
// Each round measures all of them, one after the other and beginning with another
// each time, so that what disturbs one disturbs its pair too.
func realBars() []bar {
	s := &samples{}
	one := func(name string, most, stretch float64, unit string, value func() (float64, string)) bar {
		return bar{pkg: "vm", name: name, most: most, stretch: stretch, unit: unit, measure: func(ctx context.Context, full bool) (float64, string, error) {
			if err := s.collect(ctx, full); err != nil {
				return 0, "", err
			}
			v, note := value()
			if note == "" {
				return 0, "", s.late
			}
			return v, note, nil
		}}
	}
	bars := []bar{
		one("restore to ready, to a tuned cold boot", 0.14, 0.11, "", func() (float64, string) { return compared(s.restore, s.cold) }),
		one("warm spare to a task's first line, to a cold boot", 0.09, 0, "", func() (float64, string) { return compared(s.line, s.cold) }),
		one("a job on two machines, to cold boots", 0.4, 0, "", func() (float64, string) { return compared(s.warmRate, s.coldRate) }),
		one("what a job costs over a script of the same, ms", 15, 0, " ms", func() (float64, string) { return over(s.cycle, s.script) }),
		one("restore and a job, to hugelgupf/vmtest", 0.4, 0, "", func() (float64, string) { return compared(s.whole, s.peer) }),
	}
	bars[0].end = s.close
	return bars
}

// samples are measured once for all of these bars.
type samples struct {
	world *world
	done  bool
	err   error
	late  error // of the last part

	cold, restore, whole, peer []time.Duration
	line, cycle, script        []time.Duration
	warmRate, coldRate         []time.Duration // of one job
}

func (s *samples) close() error {
	if s.world == nil {
		return nil
	}
	w := s.world
	s.world = nil
	return w.close()
}

// reserve is how many rounds long the last part is: jobs on two machines.
const reserve = 5

func (s *samples) collect(ctx context.Context, full bool) error {
	if !s.done {
		s.done = true
		s.err = s.measure(ctx, full)
	}
	return s.err
}

// measure stops after a few rounds, or when there is no time for another.
func (s *samples) measure(ctx context.Context, full bool) error {
	w, err := newWorld(ctx)
	if err != nil {
		return err
	}
	s.world = w
	rounds, jobs, repeats := 3, 2, 1
	if full {
		rounds, jobs, repeats = 20, 10, 3
	}
	deadline, bounded := ctx.Deadline()
	for i := range rounds + 1 { // the first to warm up
		began := time.Now()
		if err := s.round(ctx, w, i); err != nil {
			return err
		}
		if took := time.Since(began); bounded && i > 0 && time.Until(deadline) < (1+reserve)*took {
			break
		}
	}
	// Without the time for these the others are still worth telling.
	if bounded {
		var cancel context.CancelFunc
		ctx, cancel = context.WithDeadlineCause(ctx, deadline.Add(-3*time.Second), errors.New("there was no time for it"))
		defer cancel()
	}
	for range repeats {
		if s.late = s.rates(ctx, w, jobs); s.late != nil {
			break
		}
	}
	return nil
}

// round measures each side once.
func (s *samples) round(ctx context.Context, w *world, i int) error {
	parts := []func(context.Context, *world) (func(), error){s.oneCold, s.oneRestore, s.onePool, s.oneScript, s.onePeer}
	for j := range parts {
		if err := context.Cause(ctx); err != nil {
			return err
		}
		note, err := parts[(i+j)%len(parts)](ctx, w)
		if err != nil {
			return err
		}
		if i > 0 {
			note()
		}
	}
	return nil
}

func (s *samples) oneCold(ctx context.Context, w *world) (func(), error) {
	began := time.Now()
	if err := w.bares[1].boot(ctx); err != nil {
		return nil, err
	}
	took := time.Since(began)
	_, err := w.bares[1].job(ctx, rand.Text())
	return func() { s.cold = append(s.cold, took) }, errors.Join(err, w.bares[1].destroy())
}

func (s *samples) oneRestore(ctx context.Context, w *world) (func(), error) {
	ready, done, err := w.restored(ctx)
	return func() { s.restore, s.whole = append(s.restore, ready), append(s.whole, done) }, err
}

func (s *samples) onePeer(ctx context.Context, w *world) (func(), error) {
	took, err := w.theirs(ctx)
	return func() { s.peer = append(s.peer, took) }, err
}

// onePool measures a job on a warm machine, and all that comes with it until the
// next is ready.
func (s *samples) onePool(ctx context.Context, w *world) (note func(), err error) {
	p, err := w.pool(ctx, 1)
	if err != nil {
		return nil, err
	}
	defer func() { err = keep(err, p.Close(context.WithoutCancel(ctx))) }()
	began := time.Now()
	first, err := pooled(ctx, p)
	if err != nil {
		return nil, err
	}
	if err := allReady(ctx, p, 1); err != nil {
		return nil, err
	}
	cycle := time.Since(began)
	return func() { s.line, s.cycle = append(s.line, first.Sub(began)), append(s.cycle, cycle) }, nil
}

// oneScript does what a pool does for a job: the job, then a clean machine in the
// place of the used one.
func (s *samples) oneScript(ctx context.Context, w *world) (func(), error) {
	b := w.bares[0]
	if err := b.restore(ctx); err != nil {
		return nil, err
	}
	began := time.Now()
	_, err := b.job(ctx, rand.Text())
	if err = errors.Join(err, b.destroy()); err != nil {
		return nil, err
	}
	if err := b.restore(ctx); err != nil {
		return nil, err
	}
	took := time.Since(began)
	return func() { s.script = append(s.script, took) }, b.destroy()
}

// rates measures jobs on two machines at once: ours from two ready machines until
// there are two again, and cold boots.
func (s *samples) rates(ctx context.Context, w *world, jobs int) (err error) {
	p, err := w.pool(ctx, 2)
	if err != nil {
		return err
	}
	defer func() { err = keep(err, p.Close(context.WithoutCancel(ctx))) }()
	two := func(jobs int, job func(ctx context.Context, machine int) error) (time.Duration, error) {
		began := time.Now()
		g, both := errgroup.WithContext(ctx)
		for i := range 2 {
			g.Go(func() error {
				for range jobs / 2 {
					if err := job(both, i); err != nil {
						return err
					}
				}
				return nil
			})
		}
		err := g.Wait()
		if err == nil {
			err = allReady(ctx, p, 2)
		}
		return time.Since(began) / time.Duration(jobs), err
	}
	ours, err := two(3*jobs, func(ctx context.Context, _ int) error {
		_, err := pooled(ctx, p)
		return err
	})
	if err != nil {
		return err
	}
	cold, err := two(jobs, func(ctx context.Context, i int) error {
		if err := w.bares[i].boot(ctx); err != nil {
			return err
		}
		_, err := w.bares[i].job(ctx, rand.Text())
		return errors.Join(err, w.bares[i].destroy())
	})
	if err != nil {
		return err
	}
	s.warmRate, s.coldRate = append(s.warmRate, ours), append(s.coldRate, cold)
	return nil
}

// compared gives the median of the pairs' ratios.
func compared(ours, theirs []time.Duration) (float64, string) {
	if len(ours) == 0 {
		return 0, ""
	}
	var ratios []float64
	for i := range ours {
		ratios = append(ratios, float64(ours[i])/float64(theirs[i]))
	}
	return median(ratios), fmt.Sprintf("%v to %v, %d pairs", short(median(ours)), short(median(theirs)), len(ours))
}

// over gives the median of the pairs' differences, in milliseconds.
func over(ours, theirs []time.Duration) (float64, string) {
	var extra []float64
	for i := range ours {
		extra = append(extra, float64(ours[i]-theirs[i])/float64(time.Millisecond))
	}
	return median(extra), fmt.Sprintf("%v to %v, %d pairs, the renewal included", short(median(ours)), short(median(theirs)), len(ours))
}
