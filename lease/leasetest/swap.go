package leasetest

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strings"
	"time"

	"github.com/bullpen-vm/bullpen/lease"
)

func swapRules() []rule {
	return []rule{
		{"IDIsTheSameEachTime", "machines carry the id of the store that their leases are in", idIsStable},
		{"LoadOfNothingIsZero", "no record is not an error", loadOfNothing},
		{"SwapStoresAllFields", "others judge the holder by them", swapStoresAll},
		{"SwapIgnoresTokensInNext", "only the store assigns tokens and counts", swapIgnoresNext},
		{"SwapOfNothingCannotReplace", "two holders of one key", swapCannotReplace},
		{"SwapCountsRenewals", "a holder is seen alive by its count", swapCounts},
		{"SwapWantsTheSameCount", "a taker that judged an old sighting would rob a holder that has just renewed", swapWantsCount},
		{"SwapWantsTheSameToken", "a late renewal would overwrite the next holder", swapWantsToken},
		{"SwapOfWhatIsGoneConflicts", "a holder that was taken for dead would come back to life", swapOfGone},
		{"TokensRise", "fencing compares tokens", tokensRise},
		{"TokensAreNeverReused", "deleting a key must not let old tokens be right again", tokensNotReused},
		{"TextsAndNumbersSurvive", "notes, owners and terms are anybody's", textsSurvive},
		{"LateContextsDoNothing", "an operation after its time must not take effect", lateContexts},
	}
}

func idIsStable(ctx context.Context, s *suite) error {
	a, err := s.ID(ctx)
	if err != nil {
		return err
	}
	if _, err := s.create(ctx, "k"); err != nil {
		return err
	}
	b, err := s.ID(ctx)
	if err != nil {
		return err
	}
	if a == "" || a != b {
		return fmt.Errorf("ids are %q and %q, want the same one, not empty", a, b)
	}
	return nil
}

func loadOfNothing(ctx context.Context, s *suite) error {
	rec, err := s.Load(ctx, "nothing")
	if err != nil || !rec.Zero() {
		return fmt.Errorf("load of nothing is %+v, %w, want a zero record", rec, err)
	}
	return nil
}

func swapStoresAll(ctx context.Context, s *suite) error {
	got, err := s.create(ctx, "k")
	if err != nil {
		return err
	}
	if got.Token == 0 || got.Renewals != 0 {
		return fmt.Errorf("a new record has token %d and %d renewals, want a token above 0 and 0 renewals", got.Token, got.Renewals)
	}
	want := record("k")
	want.Token = got.Token
	if err := same(want, got); err != nil {
		return fmt.Errorf("returned: %w", err)
	}
	if err := s.stored(ctx, want); err != nil {
		return err
	}
	next := lease.Record{Key: "k", Owner: "another"} // all else becomes empty
	got, err = s.Swap(ctx, got, next, true)
	if err != nil {
		return err
	}
	next.Token = got.Token
	if err := same(next, got); err != nil {
		return fmt.Errorf("returned by the second swap: %w", err)
	}
	return s.stored(ctx, next)
}

func swapIgnoresNext(ctx context.Context, s *suite) error {
	next := record("k")
	next.Token, next.Renewals = 1<<40, 77
	a, err := s.Swap(ctx, lease.Record{}, next, true)
	if err != nil {
		return err
	}
	if a.Token == next.Token || a.Renewals != 0 {
		return fmt.Errorf("a new record has token %d and %d renewals, taken from next", a.Token, a.Renewals)
	}
	b, err := s.Swap(ctx, a, next, false)
	if err != nil {
		return err
	}
	if b.Token != a.Token || b.Renewals != 1 {
		return fmt.Errorf("a renewed record has token %d and %d renewals, want %d and 1", b.Token, b.Renewals, a.Token)
	}
	return s.stored(ctx, b)
}

func swapCannotReplace(ctx context.Context, s *suite) error {
	a, err := s.create(ctx, "k")
	if err != nil {
		return err
	}
	for _, newToken := range []bool{true, false} {
		other := record("k")
		other.Owner = "another"
		got, err := s.Swap(ctx, lease.Record{}, other, newToken)
		if err := conflict(err, "a swap of nothing where there is a record"); err != nil {
			return err
		}
		if err := same(a, got); err != nil {
			return fmt.Errorf("returned beside the conflict: %w", err)
		}
		if err := s.stored(ctx, a); err != nil {
			return err
		}
	}
	return nil
}

func swapCounts(ctx context.Context, s *suite) error {
	rec, err := s.create(ctx, "k")
	if err != nil {
		return err
	}
	token := rec.Token
	for n := uint64(1); n <= 5; n++ {
		next := rec
		next.Renewed = next.Renewed.Add(time.Second)
		got, err := s.Swap(ctx, rec, next, false)
		if err != nil {
			return fmt.Errorf("renewal %d: %w", n, err)
		}
		if got.Token != token || got.Renewals != n {
			return fmt.Errorf("after renewal %d: token %d, count %d, want token %d, count %d", n, got.Token, got.Renewals, token, n)
		}
		if err := s.stored(ctx, got); err != nil {
			return err
		}
		rec = got
	}
	// The same bytes again still count: the holder lives.
	got, err := s.Swap(ctx, rec, rec, false)
	if err != nil || got.Renewals != rec.Renewals+1 {
		return fmt.Errorf("a renewal that changes nothing gave count %d, %w, want %d", got.Renewals, err, rec.Renewals+1)
	}
	return s.stored(ctx, got)
}

// stale swaps with prev, which is not what is stored, and wants stored to stay.
func (s *suite) stale(ctx context.Context, prev, stored lease.Record, what string) error {
	for _, newToken := range []bool{true, false} {
		other := record(prev.Key)
		other.Owner = "another"
		got, err := s.Swap(ctx, prev, other, newToken)
		if err := conflict(err, what); err != nil {
			return err
		}
		if err := same(stored, got); err != nil {
			return fmt.Errorf("returned beside the conflict: %w", err)
		}
		now, err := s.Load(ctx, prev.Key)
		if err != nil {
			return err
		}
		if err := same(stored, now); err != nil {
			return fmt.Errorf("after %s: %w", what, err)
		}
	}
	return nil
}

func swapWantsCount(ctx context.Context, s *suite) error {
	a, err := s.create(ctx, "k")
	if err != nil {
		return err
	}
	b, err := s.Swap(ctx, a, a, false)
	if err != nil {
		return err
	}
	if err := s.stale(ctx, a, b, "a swap of an older count"); err != nil {
		return err
	}
	ahead := b
	ahead.Renewals += 3
	return s.stale(ctx, ahead, b, "a swap of a count that is not reached")
}

func swapWantsToken(ctx context.Context, s *suite) error {
	a, err := s.create(ctx, "k")
	if err != nil {
		return err
	}
	b, err := s.Swap(ctx, a, record("k"), true)
	if err != nil {
		return err
	}
	if err := s.stale(ctx, a, b, "a swap of an older token with the same count"); err != nil {
		return err
	}
	ahead := b
	ahead.Token += 5
	return s.stale(ctx, ahead, b, "a swap of a token that was not given")
}

func swapOfGone(ctx context.Context, s *suite) error {
	a, err := s.create(ctx, "k")
	if err != nil {
		return err
	}
	if err := s.Delete(ctx, a); err != nil {
		return err
	}
	return s.stale(ctx, a, lease.Record{}, "a swap of a record that was deleted")
}

func tokensRise(ctx context.Context, s *suite) error {
	var last uint64
	recs := make(map[string]lease.Record)
	for n := range 30 {
		key := []string{"a", "b/1", "session/x"}[n%3]
		got, err := s.Swap(ctx, recs[key], record(key), true)
		if err != nil {
			return fmt.Errorf("swap %d: %w", n, err)
		}
		if got.Token <= last {
			return fmt.Errorf("swap %d of %q gave token %d after %d: the sequence is one for all keys and rises", n, key, got.Token, last)
		}
		last, recs[key] = got.Token, got
		if n%4 == 3 { // a renewal uses none up nor changes it
			if recs[key], err = s.Swap(ctx, got, got, false); err != nil {
				return err
			}
		}
	}
	return nil
}

func tokensNotReused(ctx context.Context, s *suite) error {
	var last uint64
	for n := range 10 {
		rec, err := s.create(ctx, "k")
		if err != nil {
			return err
		}
		if rec.Token <= last {
			return fmt.Errorf("token %d after %d was deleted: it is right again for who still has it", rec.Token, last)
		}
		last = rec.Token
		if n%2 == 0 {
			if rec, err = s.Swap(ctx, rec, rec, false); err != nil {
				return err
			}
		}
		if err := s.Delete(ctx, rec); err != nil {
			return err
		}
	}
	return nil
}

func textsSurvive(ctx context.Context, s *suite) error {
	texts := []string{
		"", " leading and trailing ", "quotes ' \" ` \\ ; -- /* */", "percent % and under_score", "line\nbreak\ttab\r\n",
		"ümlaut 日本語 \U0001F600 e\u0301", strings.Repeat("long ", 5000), "null NULL nil", "0x00", "$1 ? :name {}",
	}
	spans := []time.Duration{0, 1, math.MaxInt64, -1, math.MinInt64, time.Nanosecond * 999_999_999_999}
	times := []time.Time{{}, time.Unix(0, 0), time.Date(1, 1, 1, 0, 0, 0, 0, time.UTC), time.Date(9999, 12, 31, 23, 59, 59, 999_999_000, time.UTC), time.Date(1901, 2, 3, 4, 5, 6, 7000, time.FixedZone("x", -5*3600))}
	for n, text := range texts {
		key := fmt.Sprintf("k%d/%s", n, text[:min(len(text), 40)])
		r := lease.Record{
			Key: key, Session: text, Owner: text, Lock: text, Boot: text, Note: text,
			TTL: spans[n%len(spans)], Margin: spans[(n+1)%len(spans)],
			Since: times[n%len(times)], Renewed: times[(n+1)%len(times)],
		}
		got, err := s.Swap(ctx, lease.Record{}, r, true)
		if err != nil {
			return fmt.Errorf("swap with the text %.40q: %w", text, err)
		}
		r.Token = got.Token
		if err := s.stored(ctx, r); err != nil {
			return err
		}
	}
	return nil
}

func lateContexts(ctx context.Context, s *suite) error {
	rec, err := s.create(ctx, "k")
	if err != nil {
		return err
	}
	late, cancel := context.WithCancel(ctx)
	cancel()
	next := record("k")
	next.Owner = "too late"
	_, errSwap := s.Swap(late, rec, next, true)
	_, errCreate := s.Swap(late, lease.Record{}, record("new"), true)
	errDelete := s.Delete(late, rec)
	_, errLoad := s.Load(late, "k")
	_, errList := s.List(late, "")
	for name, err := range map[string]error{"Swap": errSwap, "a first Swap": errCreate, "Delete": errDelete, "Load": errLoad, "List": errList} {
		if !errors.Is(err, context.Canceled) {
			return fmt.Errorf("%s with a context that has ended gave %w, want the context's error", name, err)
		}
	}
	if err := s.stored(ctx, rec); err != nil {
		return err
	}
	fresh, err := s.Load(ctx, "new")
	if err != nil || !fresh.Zero() {
		return fmt.Errorf("a swap with a context that has ended was done: %+v, %w", fresh, err)
	}
	return nil
}
