package proof

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/bullpen-vm/bullpen/lease"
)

// What a key is, for porcupine: the token and count of its record. highest is the
// last token that it had: the next one is above it.
type register struct{ token, renewals, highest uint64 }

type call struct {
	key             string
	kind            string // load, swap, delete
	token, renewals uint64 // of prev
	fresh           bool
}

type result struct {
	token, renewals uint64
	conflict        bool
}

func model() porcupine.Model {
	m := porcupine.NondeterministicModel{
		Partition: func(history []porcupine.Operation) [][]porcupine.Operation {
			byKey := map[string][]porcupine.Operation{}
			for _, o := range history {
				key := o.Input.(call).key
				byKey[key] = append(byKey[key], o)
			}
			var parts [][]porcupine.Operation
			for _, p := range byKey {
				parts = append(parts, p)
			}
			return parts
		},
		Init:              func() []any { return []any{register{}} },
		Step:              func(state, input, output any) []any { return step(state.(register), input.(call), output.(result)) },
		DescribeOperation: func(in, out any) string { return fmt.Sprintf("%+v -> %+v", in, out) },
	}
	return m.ToModel()
}

// step gives the states that may follow.
func step(s register, c call, r result) []any {
	same := s.token == c.token && (s.token == 0 || s.renewals == c.renewals)
	switch {
	case c.kind == "load":
		if r.token == s.token && (r.token == 0 || r.renewals == s.renewals) {
			return []any{s}
		}
	case c.kind == "delete" && r.conflict:
		if !same && s.token != 0 {
			return []any{s}
		}
	case c.kind == "delete":
		if same || s.token == 0 {
			return []any{register{highest: s.highest}}
		}
	case r.conflict:
		if !same && r.token == s.token && (r.token == 0 || r.renewals == s.renewals) {
			return []any{s}
		}
	case !same:
	case c.fresh && r.token > s.highest && r.renewals == 0:
		return []any{register{r.token, 0, r.token}}
	case !c.fresh && r.token == s.token && r.renewals == s.renewals+1:
		return []any{register{s.token, r.renewals, s.highest}}
	}
	return nil
}

func TestSoakOperationsAreLinearizable(t *testing.T) {
	for _, kind := range kinds {
		t.Run(kind, func(t *testing.T) {
			var address string
			if kind == "sqlite" {
				address = filepath.Join(t.TempDir(), "leases.db")
			} else {
				address = arena(t, kind)
			}
			var stores []opened
			for range 3 {
				o, err := openKind(t.Context(), kind, address)
				require.NoError(t, err)
				defer o.close()
				stores = append(stores, o)
			}
			for round := range soak(60) {
				history := contend(t, stores, fmt.Sprint(round))
				answer := porcupine.CheckOperationsTimeout(model(), history, time.Minute)
				require.Equal(t, porcupine.Ok, answer, "%d operations", len(history))
			}
		})
	}
}

// contend lets six clients at two keys and gives what they saw.
func contend(t *testing.T, stores []opened, round string) []porcupine.Operation {
	var mu sync.Mutex
	var history []porcupine.Operation
	began := time.Now()
	var wg sync.WaitGroup
	for client := range 6 {
		wg.Go(func() {
			s := stores[client%len(stores)]
			claimer, claims := s.Store.(lease.Claimer)
			known := map[string]lease.Record{}
			for range 80 {
				key := fmt.Sprintf("linear/%s/%d", round, rand.IntN(2))
				prev := known[key]
				c := call{key: key, kind: "swap", token: prev.Token, renewals: prev.Renewals, fresh: prev.Zero() || rand.IntN(2) == 0}
				start := time.Since(began)
				var got lease.Record
				var err error
				switch n := rand.IntN(10); {
				case n < 3:
					c.kind = "load"
					got, err = s.Load(context.Background(), key)
				case n < 5 && !prev.Zero():
					c.kind = "delete"
					err = s.Delete(context.Background(), prev)
				case n == 5 && claims:
					// A claim that got a key is a swap of nothing there; one that got
					// none may have passed by what was locked.
					both := []string{fmt.Sprintf("linear/%s/0", round), fmt.Sprintf("linear/%s/1", round)}
					if rand.IntN(2) == 0 {
						slices.Reverse(both)
					}
					if got, err = claimer.Claim(context.Background(), both, lease.Record{}); errors.Is(err, lease.ErrConflict) {
						continue
					}
					key = got.Key
					c = call{key: key, kind: "swap", fresh: true}
				default:
					got, err = s.Swap(context.Background(), prev, lease.Record{Key: key}, c.fresh)
				}
				end := time.Since(began)
				known[key] = got
				conflict := errors.Is(err, lease.ErrConflict)
				if err != nil && !conflict {
					assert.NoError(t, err)
					return
				}
				mu.Lock()
				history = append(history, porcupine.Operation{
					ClientId: client, Input: c, Call: int64(start), Return: int64(end),
					Output: result{token: got.Token, renewals: got.Renewals, conflict: conflict},
				})
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	return history
}
