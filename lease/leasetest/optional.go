package leasetest

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/bullpen-vm/bullpen/lease"
)

func durableRules() []rule {
	return []rule{
		{"ReopenedIsTheSame", "an acknowledged lease outlives the process that asked for it", reopened},
		{"TokensRiseAcrossReopens", "a token that is used again after a restart fences nothing", reopenedTokens},
	}
}

// reopen gives the second way in.
func (s *suite) reopen(ctx context.Context) (lease.Store, func(), error) {
	if s.h.Reopen == nil {
		return nil, nil, errNotApplicable
	}
	store, closeStore, err := s.h.Reopen(ctx)
	return store, func() {
		if closeStore != nil {
			_ = closeStore() // what counts is what the first one sees
		}
	}, err
}

func reopened(ctx context.Context, s *suite) error {
	a, err := s.create(ctx, "k")
	if err != nil {
		return err
	}
	id, err := s.ID(ctx)
	if err != nil {
		return err
	}
	again, done, err := s.reopen(ctx)
	if err != nil {
		return err
	}
	defer done()
	if second, err := again.ID(ctx); err != nil || second != id {
		return fmt.Errorf("its id is %q, %w, want %q", second, err, id)
	}
	got, err := again.Load(ctx, "k")
	if err != nil {
		return err
	}
	if err := same(a, got); err != nil {
		return err
	}
	b, err := again.Swap(ctx, got, got, false)
	if err != nil {
		return err
	}
	return s.stored(ctx, b)
}

func reopenedTokens(ctx context.Context, s *suite) error {
	a, err := s.create(ctx, "k")
	if err != nil {
		return err
	}
	if err := s.Delete(ctx, a); err != nil {
		return err
	}
	again, done, err := s.reopen(ctx)
	if err != nil {
		return err
	}
	defer done()
	b, err := again.Swap(ctx, lease.Record{}, record("k"), true)
	if err != nil {
		return err
	}
	if b.Token <= a.Token {
		return fmt.Errorf("token %d after %d", b.Token, a.Token)
	}
	return nil
}

func optionalRules() []rule {
	return []rule{
		{"WatchTellsOfEachChange", "waiters that are not woken wait for a poll", watchTells},
		{"WatchEndsWithItsContext", "a watch that stays leaks", watchEnds},
		{"SwapAllDoesEachForItself", "one conflict must not stop the others, nor be hidden by them", swapAll},
		{"ClaimTakesTheFirstFree", "keys are given in order of preference", claimFirst},
		{"ClaimsGoOnInOrder", "a store that has learnt the keys must not choose among them by other rules", claimAgain},
		{"ClaimsNeverCollide", "two waiters picking the same member", claimRace},
	}
}

func watchTells(ctx context.Context, s *suite) error {
	w, ok := s.Store.(lease.Watcher)
	if !ok {
		return errNotApplicable
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	first, err := w.Watch(ctx, "a/")
	if err != nil {
		return err
	}
	second, err := w.Watch(ctx, "a/k")
	if err != nil {
		return err
	}
	told := func(what string) error {
		for n, ch := range []<-chan struct{}{first, second} {
			select {
			case _, ok := <-ch:
				if !ok {
					return fmt.Errorf("watch %d was closed before its context ended", n)
				}
			case <-ctx.Done():
				return fmt.Errorf("watch %d was not told of %s", n, what)
			}
		}
		return nil
	}
	rec, err := s.create(ctx, "a/k")
	if err != nil {
		return err
	}
	if err := told("a first swap"); err != nil {
		return err
	}
	if rec, err = s.Swap(ctx, rec, rec, false); err != nil {
		return err
	}
	if err := told("a renewal"); err != nil {
		return err
	}
	if err := s.Delete(ctx, rec); err != nil {
		return err
	}
	return told("a delete")
}

func watchEnds(ctx context.Context, s *suite) error {
	w, ok := s.Store.(lease.Watcher)
	if !ok {
		return errNotApplicable
	}
	watchCtx, cancel := context.WithCancel(ctx)
	ch, err := w.Watch(watchCtx, "")
	if err != nil {
		cancel()
		return err
	}
	cancel()
	for {
		select {
		case _, ok := <-ch:
			if !ok {
				if _, err := w.Watch(watchCtx, ""); !errors.Is(err, context.Canceled) {
					return fmt.Errorf("a watch with a context that has ended gave %w", err)
				}
				return nil
			}
		case <-ctx.Done():
			return errors.New("the channel was not closed after the context ended")
		}
	}
}

func swapAll(ctx context.Context, s *suite) error {
	b, ok := s.Store.(lease.Batcher)
	if !ok {
		return errNotApplicable
	}
	held, err := s.create(ctx, "held")
	if err != nil {
		return err
	}
	old, err := s.create(ctx, "old")
	if err != nil {
		return err
	}
	got, err := b.SwapAll(ctx, []lease.Swapping{
		{Next: record("a"), NewToken: true},
		{Next: record("held"), NewToken: true},
		{Prev: old, Next: old},
		{Next: record("b"), NewToken: true},
	})
	if err != nil {
		return err
	}
	if len(got) != 4 {
		return fmt.Errorf("%d answers to 4 swaps", len(got))
	}
	for _, n := range []int{0, 2, 3} {
		if got[n].Err != nil {
			return fmt.Errorf("swap %d: %w", n, got[n].Err)
		}
		if err := s.stored(ctx, got[n].Record); err != nil {
			return err
		}
	}
	if err := conflict(got[1].Err, "a swap of nothing where there is a record"); err != nil {
		return err
	}
	if err := same(held, got[1].Record); err != nil {
		return err
	}
	if got[2].Record.Renewals != 1 || got[0].Record.Token >= got[3].Record.Token {
		return fmt.Errorf("tokens and counts: %+v", got)
	}
	late, cancel := context.WithCancel(ctx)
	cancel()
	if _, err := b.SwapAll(late, []lease.Swapping{{Next: record("late"), NewToken: true}}); !errors.Is(err, context.Canceled) {
		return fmt.Errorf("with a context that has ended: %w", err)
	}
	return nil
}

func claimFirst(ctx context.Context, s *suite) error {
	c, ok := s.Store.(lease.Claimer)
	if !ok {
		return errNotApplicable
	}
	if _, err := s.create(ctx, "a"); err != nil {
		return err
	}
	var last uint64
	for _, want := range []string{"c", "b"} {
		got, err := c.Claim(ctx, []string{"a", "c", "b"}, record(""))
		if err != nil {
			return err
		}
		if got.Key != want || got.Token <= last || got.Renewals != 0 {
			return fmt.Errorf("claimed %q with token %d, want %q with one above %d", got.Key, got.Token, want, last)
		}
		last = got.Token
		if err := s.stored(ctx, got); err != nil {
			return err
		}
	}
	_, err := c.Claim(ctx, []string{"a", "c", "b"}, record(""))
	return conflict(err, "a claim of keys that all have a record")
}

// claimAgain claims from the same lists again and again, with keys that have to be
// quoted in most languages.
func claimAgain(ctx context.Context, s *suite) error {
	c, ok := s.Store.(lease.Claimer)
	if !ok {
		return errNotApplicable
	}
	sorted := []string{` a`, `NULL`, `a"b\c`, `a'b`, `a,b`, `b/{}`, `c $1 %s`, `ü/☃`}
	last := uint64(0)
	for _, keys := range [][]string{sorted, {sorted[5], sorted[0], sorted[7], sorted[2]}} {
		held := make(map[string]lease.Record)
		for n := range 5 * len(keys) {
			at := 0
			for held[keys[at]].Token != 0 {
				at++
			}
			got, err := c.Claim(ctx, keys, record(""))
			if err != nil {
				return fmt.Errorf("claim %d: %w", n, err)
			}
			if got.Key != keys[at] || got.Token <= last || got.Renewals != 0 {
				return fmt.Errorf("claim %d gave %q with token %d, want %q with one above %d", n, got.Key, got.Token, keys[at], last)
			}
			last, held[got.Key] = got.Token, got
			if err := s.stored(ctx, got); err != nil {
				return err
			}
			if len(held) < len(keys) {
				continue
			}
			if _, err := c.Claim(ctx, keys, record("")); conflict(err, "a claim of keys that all have a record") != nil {
				return conflict(err, "a claim of keys that all have a record")
			}
			for i, key := range keys {
				if i%3 == n%3 {
					continue
				}
				if err := conflict(s.Delete(ctx, lease.Record{Key: key, Token: held[key].Token + 1}), "a delete of a later claim"); err != nil {
					return err
				}
				if err := s.Delete(ctx, held[key]); err != nil {
					return err
				}
				delete(held, key)
			}
		}
		for _, rec := range held {
			if err := s.Delete(ctx, rec); err != nil {
				return err
			}
		}
	}
	return nil
}

func claimRace(ctx context.Context, s *suite) error {
	c, ok := s.Store.(lease.Claimer)
	if !ok {
		return errNotApplicable
	}
	var keys []string
	for n := range 2*s.h.Writers + 1 {
		keys = append(keys, fmt.Sprintf("slot/%d", n))
	}
	var mu sync.Mutex
	owners := make(map[string]int)
	err := together(s.h.Writers, func(int) error {
		for range 3 {
			got, err := c.Claim(ctx, keys, record(""))
			if errors.Is(err, lease.ErrConflict) {
				continue
			}
			if err != nil {
				return err
			}
			mu.Lock()
			owners[got.Key]++
			mu.Unlock()
		}
		return nil
	})
	if err != nil {
		return err
	}
	for key, n := range owners {
		if n != 1 {
			return fmt.Errorf("%q was claimed by %d", key, n)
		}
	}
	if len(owners) != len(keys) {
		return fmt.Errorf("%d of %d keys were claimed by %d claims", len(owners), len(keys), 3*s.h.Writers)
	}
	return nil
}
