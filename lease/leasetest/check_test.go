package leasetest

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/bullpen-vm/bullpen/lease"
)

func memHarness(wrap func(*lease.MemStore) lease.Store) Harness {
	var last lease.Store
	return Harness{
		Open: func(context.Context) (lease.Store, func() error, error) {
			last = wrap(lease.NewMemStore())
			return last, nil, nil
		},
		Reopen: func(context.Context) (lease.Store, func() error, error) { return last, nil, nil },
	}
}

func TestMemStoreKeepsTheContract(t *testing.T) {
	Run(t, memHarness(func(s *lease.MemStore) lease.Store { return s }))
}

// broken is a MemStore with one fault: the funcs that are set replace its
// methods.
type broken struct {
	*lease.MemStore
	load     func(ctx context.Context, key string) (lease.Record, error)
	swap     func(ctx context.Context, prev, next lease.Record, newToken bool) (lease.Record, error)
	delete   func(ctx context.Context, prev lease.Record) error
	list     func(ctx context.Context, prefix string) ([]lease.Record, error)
	watch    func(ctx context.Context, prefix string) (<-chan struct{}, error)
	swapAll  func(ctx context.Context, swaps []lease.Swapping) ([]lease.Swapped, error)
	claim    func(ctx context.Context, keys []string, next lease.Record) (lease.Record, error)
	id       func(ctx context.Context) (string, error)
	mu       sync.Mutex
	lastSeen map[string]lease.Record
}

func (b *broken) ID(ctx context.Context) (string, error) {
	if b.id != nil {
		return b.id(ctx)
	}
	return b.MemStore.ID(ctx)
}

func (b *broken) Load(ctx context.Context, key string) (lease.Record, error) {
	if b.load != nil {
		return b.load(ctx, key)
	}
	return b.MemStore.Load(ctx, key)
}

func (b *broken) Swap(ctx context.Context, prev, next lease.Record, newToken bool) (lease.Record, error) {
	if b.swap != nil {
		return b.swap(ctx, prev, next, newToken)
	}
	return b.MemStore.Swap(ctx, prev, next, newToken)
}

func (b *broken) Delete(ctx context.Context, prev lease.Record) error {
	if b.delete != nil {
		return b.delete(ctx, prev)
	}
	return b.MemStore.Delete(ctx, prev)
}

func (b *broken) List(ctx context.Context, prefix string) ([]lease.Record, error) {
	if b.list != nil {
		return b.list(ctx, prefix)
	}
	return b.MemStore.List(ctx, prefix)
}

func (b *broken) Watch(ctx context.Context, prefix string) (<-chan struct{}, error) {
	if b.watch != nil {
		return b.watch(ctx, prefix)
	}
	return b.MemStore.Watch(ctx, prefix)
}

func (b *broken) SwapAll(ctx context.Context, swaps []lease.Swapping) ([]lease.Swapped, error) {
	if b.swapAll != nil {
		return b.swapAll(ctx, swaps)
	}
	return b.MemStore.SwapAll(ctx, swaps)
}

func (b *broken) Claim(ctx context.Context, keys []string, next lease.Record) (lease.Record, error) {
	if b.claim != nil {
		return b.claim(ctx, keys, next)
	}
	return b.MemStore.Claim(ctx, keys, next)
}

// faults are stores that break one thing each, and a rule that must catch it.
var faults = []struct {
	name  string
	rule  string
	plant func(b *broken)
}{
	{"the id changes", "IDIsTheSameEachTime", func(b *broken) {
		n := 0
		b.id = func(context.Context) (string, error) { n++; return strings.Repeat("x", n), nil }
	}},
	{"nothing is an error", "LoadOfNothingIsZero", func(b *broken) {
		b.load = func(ctx context.Context, key string) (lease.Record, error) {
			r, err := b.MemStore.Load(ctx, key)
			if err == nil && r.Zero() {
				err = errors.New("not found")
			}
			return r, err
		}
	}},
	{"a field is forgotten", "SwapStoresAllFields", func(b *broken) {
		b.swap = func(ctx context.Context, prev, next lease.Record, newToken bool) (lease.Record, error) {
			next.Boot = ""
			return b.MemStore.Swap(ctx, prev, next, newToken)
		}
	}},
	{"a swap of nothing overwrites", "SwapOfNothingCannotReplace", func(b *broken) {
		b.swap = func(ctx context.Context, prev, next lease.Record, newToken bool) (lease.Record, error) {
			if prev.Zero() {
				prev, _ = b.MemStore.Load(ctx, next.Key)
			}
			return b.MemStore.Swap(ctx, prev, next, newToken)
		}
	}},
	{"a conflict does not tell what is there", "SwapOfNothingCannotReplace", func(b *broken) {
		b.swap = func(ctx context.Context, prev, next lease.Record, newToken bool) (lease.Record, error) {
			r, err := b.MemStore.Swap(ctx, prev, next, newToken)
			if err != nil {
				r = lease.Record{}
			}
			return r, err
		}
	}},
	{"a swap ignores the count", "SwapWantsTheSameCount", func(b *broken) {
		b.swap = func(ctx context.Context, prev, next lease.Record, newToken bool) (lease.Record, error) {
			if cur, _ := b.MemStore.Load(ctx, next.Key); cur.Token == prev.Token {
				prev.Renewals = cur.Renewals
			}
			return b.MemStore.Swap(ctx, prev, next, newToken)
		}
	}},
	{"a swap ignores the token", "SwapWantsTheSameToken", func(b *broken) {
		b.swap = func(ctx context.Context, prev, next lease.Record, newToken bool) (lease.Record, error) {
			if cur, _ := b.MemStore.Load(ctx, next.Key); !prev.Zero() && !cur.Zero() && cur.Renewals == prev.Renewals {
				prev.Token = cur.Token
			}
			return b.MemStore.Swap(ctx, prev, next, newToken)
		}
	}},
	{"a swap brings back what was deleted", "SwapOfWhatIsGoneConflicts", func(b *broken) {
		b.swap = func(ctx context.Context, prev, next lease.Record, newToken bool) (lease.Record, error) {
			if cur, _ := b.MemStore.Load(ctx, next.Key); cur.Zero() {
				prev, newToken = lease.Record{}, true
			}
			return b.MemStore.Swap(ctx, prev, next, newToken)
		}
	}},
	{"a renewal does not count when nothing changed", "SwapCountsRenewals", func(b *broken) {
		b.swap = func(ctx context.Context, prev, next lease.Record, newToken bool) (lease.Record, error) {
			if cur, _ := b.MemStore.Load(ctx, next.Key); !newToken && cur.Token == prev.Token && cur.Renewals == prev.Renewals && same(cur, next) == nil {
				return cur, nil
			}
			return b.MemStore.Swap(ctx, prev, next, newToken)
		}
	}},
	{"a token comes back after a delete", "TokensAreNeverReused", func(b *broken) {
		b.perKeyTokens()
	}},
	{"late contexts are ignored", "LateContextsDoNothing", func(b *broken) {
		b.swap = func(ctx context.Context, prev, next lease.Record, newToken bool) (lease.Record, error) {
			return b.MemStore.Swap(context.WithoutCancel(ctx), prev, next, newToken)
		}
	}},
	{"notes are cut", "TextsAndNumbersSurvive", func(b *broken) {
		b.swap = func(ctx context.Context, prev, next lease.Record, newToken bool) (lease.Record, error) {
			next.Note = next.Note[:min(len(next.Note), 255)]
			return b.MemStore.Swap(ctx, prev, next, newToken)
		}
	}},
	{"a delete ignores the token", "DeleteWantsTheSameToken", func(b *broken) {
		b.delete = func(ctx context.Context, prev lease.Record) error {
			cur, err := b.MemStore.Load(ctx, prev.Key)
			if err != nil || cur.Zero() {
				return err
			}
			return b.MemStore.Delete(ctx, cur)
		}
	}},
	{"a delete ignores the count", "DeleteWantsTheSameCount", func(b *broken) {
		b.delete = func(ctx context.Context, prev lease.Record) error {
			if cur, _ := b.MemStore.Load(ctx, prev.Key); cur.Token == prev.Token {
				prev = cur
			}
			return b.MemStore.Delete(ctx, prev)
		}
	}},
	{"a delete of nothing is an error", "DeleteOfNothingIsNoError", func(b *broken) {
		b.delete = func(ctx context.Context, prev lease.Record) error {
			if cur, err := b.MemStore.Load(ctx, prev.Key); err == nil && cur.Zero() {
				return lease.ErrConflict
			}
			return b.MemStore.Delete(ctx, prev)
		}
	}},
	{"a delete takes what is below the key with it", "DeleteRemoves", func(b *broken) {
		b.delete = func(ctx context.Context, prev lease.Record) error {
			recs, _ := b.MemStore.List(ctx, prev.Key+"/")
			for _, r := range recs {
				_ = b.MemStore.Delete(ctx, r)
			}
			return b.MemStore.Delete(ctx, prev)
		}
	}},
	{"a list is short", "ListIsComplete", func(b *broken) {
		b.list = func(ctx context.Context, prefix string) ([]lease.Record, error) {
			recs, err := b.MemStore.List(ctx, prefix)
			return recs[:min(len(recs), 1000)], err
		}
	}},
	{"a list has folders for prefixes", "ListIsByPrefixExactly", func(b *broken) {
		b.list = func(ctx context.Context, prefix string) ([]lease.Record, error) {
			recs, err := b.MemStore.List(ctx, prefix)
			return slices.DeleteFunc(recs, func(r lease.Record) bool {
				return r.Key != prefix && prefix != "" && !strings.HasPrefix(r.Key, strings.TrimSuffix(prefix, "/")+"/")
			}), err
		}
	}},
	{"a list ignores case", "ListIsByPrefixExactly", func(b *broken) {
		b.list = func(ctx context.Context, prefix string) ([]lease.Record, error) {
			recs, err := b.MemStore.List(ctx, "")
			return slices.DeleteFunc(recs, func(r lease.Record) bool {
				return !strings.HasPrefix(strings.ToLower(r.Key), strings.ToLower(prefix))
			}), err
		}
	}},
	{"a list has no order", "ListIsByPrefixExactly", func(b *broken) {
		b.list = func(ctx context.Context, prefix string) ([]lease.Record, error) {
			recs, err := b.MemStore.List(ctx, prefix)
			rand.Shuffle(len(recs), func(i, j int) { recs[i], recs[j] = recs[j], recs[i] })
			return recs, err
		}
	}},
	{"an update is lost", "NoUpdateIsLost", func(b *broken) {
		n := 0
		b.swap = func(ctx context.Context, prev, next lease.Record, newToken bool) (lease.Record, error) {
			b.mu.Lock()
			defer b.mu.Unlock()
			if n++; n%7 == 0 { // acknowledged, not done
				cur, err := b.MemStore.Load(ctx, next.Key)
				if err == nil && cur.Token == prev.Token && cur.Renewals == prev.Renewals && !newToken {
					next.Token, next.Renewals = cur.Token, cur.Renewals+1
					return next, nil
				}
			}
			return b.MemStore.Swap(ctx, prev, next, newToken)
		}
	}},
	{"the comparison and the swap are two steps", "OneOfManyFirstSwapsWins", func(b *broken) {
		var gate sync.WaitGroup
		gate.Add(2)
		n := 0
		b.swap = func(ctx context.Context, prev, next lease.Record, newToken bool) (lease.Record, error) {
			if next.Key != "k0" || !prev.Zero() {
				return b.MemStore.Swap(ctx, prev, next, newToken)
			}
			b.mu.Lock()
			n++
			first := n <= 2
			b.mu.Unlock()
			if !first {
				gate.Wait() // so that the first two compare with nothing
				return b.MemStore.Swap(ctx, prev, next, newToken)
			}
			gate.Done() // both have compared
			gate.Wait()
			b.mu.Lock()
			defer b.mu.Unlock()
			cur, err := b.MemStore.Load(ctx, next.Key)
			if err != nil {
				return cur, err
			}
			return b.MemStore.Swap(ctx, cur, next, true)
		}
	}},
	{"loads come from a replica that lags", "OperationsHaveOneOrder", func(b *broken) {
		b.lastSeen = make(map[string]lease.Record)
		n := 0
		b.load = func(ctx context.Context, key string) (lease.Record, error) {
			cur, err := b.MemStore.Load(ctx, key)
			b.mu.Lock()
			defer b.mu.Unlock()
			if n++; n%5 != 0 {
				if old, ok := b.lastSeen[key]; ok && (key == "x" || key == "y") {
					return old, err
				}
			}
			b.lastSeen[key] = cur
			return cur, err
		}
	}},
	{"tokens come from blocks per connection", "TokensRise", func(b *broken) {
		b.perKeyTokens()
	}},
	{"a watch is not told of deletes", "WatchTellsOfEachChange", func(b *broken) {
		b.watch = func(ctx context.Context, prefix string) (<-chan struct{}, error) {
			in, err := b.MemStore.Watch(ctx, prefix)
			if err != nil {
				return nil, err
			}
			out := make(chan struct{}, 1)
			go func() {
				defer close(out)
				for n := 0; ; n++ {
					if _, ok := <-in; !ok {
						return
					}
					if n%3 != 2 {
						out <- struct{}{}
					}
				}
			}()
			return out, nil
		}
	}},
	{"a watch stays open", "WatchEndsWithItsContext", func(b *broken) {
		b.watch = func(ctx context.Context, prefix string) (<-chan struct{}, error) {
			return b.MemStore.Watch(context.WithoutCancel(ctx), prefix)
		}
	}},
	{"one conflict stops a batch", "SwapAllDoesEachForItself", func(b *broken) {
		b.swapAll = func(ctx context.Context, swaps []lease.Swapping) ([]lease.Swapped, error) {
			out, err := b.MemStore.SwapAll(ctx, swaps)
			for _, o := range out {
				if o.Err != nil {
					return nil, o.Err
				}
			}
			return out, err
		}
	}},
	{"a claim takes any key", "ClaimTakesTheFirstFree", func(b *broken) {
		b.claim = func(ctx context.Context, keys []string, next lease.Record) (lease.Record, error) {
			keys = slices.Clone(keys)
			slices.Sort(keys)
			return b.MemStore.Claim(ctx, keys, next)
		}
	}},
	{"claims of known keys begin at the last", "ClaimsGoOnInOrder", func(b *broken) {
		known := 0
		b.claim = func(ctx context.Context, keys []string, next lease.Record) (lease.Record, error) {
			if known++; known > 8 {
				keys = slices.Clone(keys)
				slices.Reverse(keys)
			}
			return b.MemStore.Claim(ctx, keys, next)
		}
	}},
	{"a claim takes what is held", "ClaimsNeverCollide", func(b *broken) {
		b.claim = func(ctx context.Context, keys []string, next lease.Record) (lease.Record, error) {
			next.Key = keys[rand.IntN(len(keys))]
			cur, _ := b.MemStore.Load(ctx, next.Key)
			return b.MemStore.Swap(ctx, cur, next, true)
		}
	}},
}

// perKeyTokens gives tokens that are one more than the key's last one.
func (b *broken) perKeyTokens() {
	shift := make(map[string]uint64) // what the MemStore's token is above ours
	out := func(r lease.Record) lease.Record {
		if !r.Zero() {
			r.Token -= shift[r.Key]
		}
		return r
	}
	in := func(r lease.Record) lease.Record {
		if !r.Zero() {
			r.Token += shift[r.Key]
		}
		return r
	}
	b.load = func(ctx context.Context, key string) (lease.Record, error) {
		b.mu.Lock()
		defer b.mu.Unlock()
		r, err := b.MemStore.Load(ctx, key)
		return out(r), err
	}
	b.swap = func(ctx context.Context, prev, next lease.Record, newToken bool) (lease.Record, error) {
		b.mu.Lock()
		defer b.mu.Unlock()
		prev.Key = next.Key
		r, err := b.MemStore.Swap(ctx, in(prev), next, newToken)
		if err == nil && newToken {
			shift[r.Key] = r.Token - prev.Token - 1
		}
		return out(r), err
	}
	b.delete = func(ctx context.Context, prev lease.Record) error {
		b.mu.Lock()
		defer b.mu.Unlock()
		return b.MemStore.Delete(ctx, in(prev))
	}
}

func TestEachBrokenStoreIsCaught(t *testing.T) {
	caught := make(map[string]bool)
	for _, f := range faults {
		t.Run(f.name, func(t *testing.T) {
			h := memHarness(func(s *lease.MemStore) lease.Store {
				b := &broken{MemStore: s}
				f.plant(b)
				return b
			}).withDefaults()
			for _, r := range rules() {
				if r.name != f.rule {
					continue
				}
				if strings.HasPrefix(f.rule, "Watch") { // noticed by waiting in vain
					h.Timeout = 100 * time.Millisecond
				}
				err := runRule(t.Context(), h, r)
				require.Error(t, err)
				assert.NotErrorIs(t, err, errNotApplicable)
				caught[r.name] = true
				return
			}
			t.Fatalf("no rule %q", f.rule)
		})
	}
	for _, r := range rules() {
		if strings.Contains(r.name, "Reopen") || r.name == "ListHasNoDeletedRecords" || r.name == "SwapIgnoresTokensInNext" {
			continue
		}
		assert.True(t, caught[r.name], "no broken store shows that %s catches anything", r.name)
	}
}

func TestRulesAreChosenByName(t *testing.T) {
	h := memHarness(func(s *lease.MemStore) lease.Store {
		b := &broken{MemStore: s}
		b.list = func(context.Context, string) ([]lease.Record, error) { return nil, nil }
		return b
	})
	h.Rules = []string{"TokensRise", "ListIsComplete", "TokensFall"}
	violations := Check(t.Context(), h)
	require.Len(t, violations, 2)
	assert.Equal(t, "ListIsComplete", violations[0].Rule)
	assert.ErrorContains(t, violations[1].Err, `no rule is called "TokensFall"`)
}

func TestCheckNamesRuleAndReason(t *testing.T) {
	h := memHarness(func(s *lease.MemStore) lease.Store {
		b := &broken{MemStore: s}
		b.list = func(context.Context, string) ([]lease.Record, error) { return nil, nil }
		return b
	})
	violations := Check(t.Context(), h)
	var names []string
	for _, v := range violations {
		names = append(names, v.Rule)
		assert.NotEmpty(t, v.Why)
		assert.Contains(t, v.String(), v.Rule)
	}
	assert.Equal(t, []string{"LateContextsDoNothing", "ListIsByPrefixExactly", "ListIsComplete", "ListHasNoDeletedRecords"}, names)
}
