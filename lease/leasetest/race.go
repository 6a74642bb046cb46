package leasetest

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"sync"
	"time"

	"github.com/bullpen-vm/bullpen/lease"
)

func raceRules() []rule {
	return []rule{
		{"OneOfManyFirstSwapsWins", "two holders of one key", oneWins},
		{"NoUpdateIsLost", "a swap that is acknowledged has happened", noLostUpdate},
		{"OperationsHaveOneOrder", "each operation takes effect at one instant between its start and its end", oneOrder},
	}
}

// together runs f in n goroutines and gives the first error.
func together(n int, f func(worker int) error) error {
	var wg sync.WaitGroup
	errs := make([]error, n)
	for i := range n {
		wg.Go(func() { errs[i] = f(i) })
	}
	wg.Wait()
	return errors.Join(errs...)
}

func oneWins(ctx context.Context, s *suite) error {
	for round := range 10 {
		key := "k" + strconv.Itoa(round)
		won := make([]lease.Record, s.h.Writers)
		err := together(s.h.Writers, func(w int) error {
			next := record(key)
			next.Owner = strconv.Itoa(w)
			got, err := s.Swap(ctx, lease.Record{}, next, true)
			if err == nil {
				won[w] = got
				return nil
			}
			return conflict(err, "a first swap that came second")
		})
		if err != nil {
			return err
		}
		winners := 0
		for _, r := range won {
			if !r.Zero() {
				winners++
				if err := s.stored(ctx, r); err != nil {
					return err
				}
			}
		}
		if winners != 1 {
			return fmt.Errorf("%d of %d first swaps won, want 1", winners, s.h.Writers)
		}
	}
	return nil
}

func noLostUpdate(ctx context.Context, s *suite) error {
	first := record("counter")
	first.Note = "0"
	if _, err := s.Swap(ctx, lease.Record{}, first, true); err != nil {
		return err
	}
	each := max(s.h.Swaps/6, 1)
	err := together(s.h.Writers, func(w int) error {
		for range each {
			for {
				rec, err := s.Load(ctx, "counter")
				if err != nil {
					return err
				}
				n, err := strconv.Atoi(rec.Note)
				if err != nil {
					return err
				}
				next := rec
				next.Note = strconv.Itoa(n + 1)
				_, err = s.Swap(ctx, rec, next, w%2 == 0)
				if err == nil {
					break
				}
				if err := conflict(err, "a swap that lost"); err != nil {
					return err
				}
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	rec, err := s.Load(ctx, "counter")
	if err != nil {
		return err
	}
	if want := strconv.Itoa(s.h.Writers * each); rec.Note != want {
		return fmt.Errorf("the counter is %s after %s acknowledged increments", rec.Note, want)
	}
	return nil
}

// oneOrder lets workers swap, delete and load at random and looks at what they
// were told with history.
func oneOrder(ctx context.Context, s *suite) error {
	var h history
	began := time.Now()
	keys := []string{"x", "y"}
	err := together(s.h.Writers, func(w int) error {
		r := rand.New(rand.NewPCG(uint64(w), 1))
		known := make(map[string]lease.Record)
		for range s.h.Swaps {
			key := keys[r.IntN(len(keys))]
			e := event{key: key, prev: known[key], start: time.Since(began)}
			var err error
			switch n := r.IntN(10); {
			case n < 3:
				e.kind = load
				e.got, err = s.Load(ctx, key)
				known[key] = e.got
			case n < 5 && !e.prev.Zero():
				e.kind = remove
				err = s.Delete(ctx, e.prev)
				known[key] = lease.Record{}
			default:
				e.kind, e.newToken = swap, e.prev.Zero() || n < 8
				e.got, err = s.Swap(ctx, e.prev, record(key), e.newToken)
				known[key] = e.got
			}
			e.end = time.Since(began)
			e.conflict = errors.Is(err, lease.ErrConflict)
			if err != nil && !e.conflict {
				return err
			}
			h.add(e)
		}
		return nil
	})
	if err != nil {
		return err
	}
	return h.check()
}
