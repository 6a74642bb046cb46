package leasetest

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/bullpen-vm/bullpen/lease"
)

func deleteRules() []rule {
	return []rule{
		{"DeleteRemoves", "a released key is free", deleteRemoves},
		{"DeleteOfNothingIsNoError", "releases are idempotent", deleteNothing},
		{"DeleteWantsTheSameToken", "a late first holder would delete the lock of the second", deleteWantsToken},
		{"DeleteWantsTheSameCount", "a reaper would kill what has just been renewed", deleteWantsCount},
	}
}

func deleteRemoves(ctx context.Context, s *suite) error {
	a, err := s.create(ctx, "a")
	if err != nil {
		return err
	}
	b, err := s.create(ctx, "a/b")
	if err != nil {
		return err
	}
	if err := s.Delete(ctx, a); err != nil {
		return err
	}
	got, err := s.Load(ctx, "a")
	if err != nil || !got.Zero() {
		return fmt.Errorf("after Delete there is %+v, %w", got, err)
	}
	return s.stored(ctx, b) // and nothing else went with it
}

func deleteNothing(ctx context.Context, s *suite) error {
	a, err := s.create(ctx, "k")
	if err != nil {
		return err
	}
	for n := range 3 {
		if err := s.Delete(ctx, a); err != nil {
			return fmt.Errorf("delete number %d: %w", n+1, err)
		}
	}
	if err := s.Delete(ctx, lease.Record{Key: "never", Token: 1}); err != nil {
		return fmt.Errorf("delete of what never was: %w", err)
	}
	return nil
}

func (s *suite) deleteStale(ctx context.Context, prev, stored lease.Record, what string) error {
	if err := conflict(s.Delete(ctx, prev), what); err != nil {
		return err
	}
	return s.stored(ctx, stored)
}

func deleteWantsToken(ctx context.Context, s *suite) error {
	a, err := s.create(ctx, "k")
	if err != nil {
		return err
	}
	b, err := s.Swap(ctx, a, record("k"), true)
	if err != nil {
		return err
	}
	if err := s.deleteStale(ctx, a, b, "a delete of an older token"); err != nil {
		return err
	}
	if err := s.deleteStale(ctx, lease.Record{Key: "k"}, b, "a delete of nothing where there is a record"); err != nil {
		return err
	}
	if err := s.Delete(ctx, b); err != nil {
		return err
	}
	c, err := s.create(ctx, "k")
	if err != nil {
		return err
	}
	return s.deleteStale(ctx, b, c, "a delete of a token that was deleted before")
}

func deleteWantsCount(ctx context.Context, s *suite) error {
	a, err := s.create(ctx, "k")
	if err != nil {
		return err
	}
	b, err := s.Swap(ctx, a, a, false)
	if err != nil {
		return err
	}
	return s.deleteStale(ctx, a, b, "a delete of an older count")
}

func listRules() []rule {
	return []rule{
		{"ListIsByPrefixExactly", "a sweep would miss leases, or touch another's", listPrefixes},
		{"ListIsComplete", "a short list read as the whole is how busy machines die", listComplete},
		{"ListHasNoDeletedRecords", "what is gone must not be judged", listNoDeleted},
	}
}

func listPrefixes(ctx context.Context, s *suite) error {
	keys := []string{
		"a", "a/", "a/b", "a/b/c", "ab", "aB", "A", "A/b", "b", "a%", "a%b", "a_b", "axb", "a*", "a?b", "a[b]", `a\b`, "a'b", `a"b`, "a b",
		"ä", "ä/1", "a\u0308", "日本/1", "日本/2", "z", "~", "\x01", "a\x01", "a/\U0010FFFF", "a0", "a/0", "session/1", "session", "sessions/1",
	}
	want := make(map[string]lease.Record)
	for _, key := range keys {
		rec, err := s.create(ctx, key)
		if err != nil {
			return err
		}
		want[key] = rec
	}
	prefixes := append([]string{"", "none", "a/b/c/d", "session/", "日", "日本/", "a\x7f"}, keys...)
	for _, prefix := range prefixes {
		var names []string
		for _, key := range keys {
			if strings.HasPrefix(key, prefix) {
				names = append(names, key)
			}
		}
		slices.Sort(names)
		got, err := s.List(ctx, prefix)
		if err != nil {
			return fmt.Errorf("list %q: %w", prefix, err)
		}
		var have []string
		for _, rec := range got {
			have = append(have, rec.Key)
			if err := same(want[rec.Key], rec); err != nil {
				return fmt.Errorf("list %q: %w", prefix, err)
			}
		}
		if !slices.Equal(names, have) {
			return fmt.Errorf("list %q gave %q, want %q: exactly those with the prefix, ordered by bytes", prefix, have, names)
		}
	}
	return nil
}

func listComplete(ctx context.Context, s *suite) error {
	for n := range s.h.Records {
		if _, err := s.create(ctx, fmt.Sprintf("many/%06d", n)); err != nil {
			return err
		}
	}
	if _, err := s.create(ctx, "other"); err != nil {
		return err
	}
	got, err := s.List(ctx, "many/")
	if err != nil {
		return err
	}
	if len(got) != s.h.Records {
		return fmt.Errorf("list gave %d records of %d, and no error", len(got), s.h.Records)
	}
	for n, rec := range got {
		if want := fmt.Sprintf("many/%06d", n); rec.Key != want {
			return fmt.Errorf("record %d of the list is %q, want %q", n, rec.Key, want)
		}
	}
	return nil
}

func listNoDeleted(ctx context.Context, s *suite) error {
	a, err := s.create(ctx, "k/a")
	if err != nil {
		return err
	}
	b, err := s.create(ctx, "k/b")
	if err != nil {
		return err
	}
	if err := s.Delete(ctx, a); err != nil {
		return err
	}
	got, err := s.List(ctx, "k/")
	if err != nil {
		return err
	}
	if len(got) != 1 {
		return fmt.Errorf("list gave %d records, want 1", len(got))
	}
	return same(b, got[0])
}
