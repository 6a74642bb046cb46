package proof

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bullpen-vm/bullpen/lease"
	"github.com/bullpen-vm/bullpen/lease/leasetest"
	"github.com/bullpen-vm/bullpen/lease/sqlstore"
)

// planted is a real store with one bug: the func that is set replaces its method.
type planted struct {
	lease.Store
	swap   func(ctx context.Context, prev, next lease.Record, newToken bool) (lease.Record, error)
	delete func(ctx context.Context, prev lease.Record) error
	load   func(ctx context.Context, key string) (lease.Record, error)
}

func (p *planted) Swap(ctx context.Context, prev, next lease.Record, newToken bool) (lease.Record, error) {
	if p.swap != nil {
		return p.swap(ctx, prev, next, newToken)
	}
	return p.Store.Swap(ctx, prev, next, newToken)
}

func (p *planted) Delete(ctx context.Context, prev lease.Record) error {
	if p.delete != nil {
		return p.delete(ctx, prev)
	}
	return p.Store.Delete(ctx, prev)
}

func (p *planted) Load(ctx context.Context, key string) (lease.Record, error) {
	if p.load != nil {
		return p.load(ctx, key)
	}
	return p.Store.Load(ctx, key)
}

// bugs are what the conformance suite must find in any store.
var bugs = []struct {
	name, rule string
	plant      func(p *planted)
}{
	{"an expired renewal is accepted", "SwapOfWhatIsGoneConflicts", func(p *planted) {
		p.swap = func(ctx context.Context, prev, next lease.Record, newToken bool) (lease.Record, error) {
			rec, err := p.Store.Swap(ctx, prev, next, newToken)
			if errors.Is(err, lease.ErrConflict) && rec.Zero() { // the record is gone: written anew
				return p.Store.Swap(ctx, lease.Record{}, next, true)
			}
			return rec, err
		}
	}},
	{"a renewal overwrites the next holder", "SwapWantsTheSameToken", func(p *planted) {
		p.swap = func(ctx context.Context, prev, next lease.Record, newToken bool) (lease.Record, error) {
			rec, err := p.Store.Swap(ctx, prev, next, newToken)
			if errors.Is(err, lease.ErrConflict) && !prev.Zero() && !rec.Zero() {
				return p.Store.Swap(ctx, rec, next, newToken)
			}
			return rec, err
		}
	}},
	{"the token check is skipped in a release", "DeleteWantsTheSameToken", func(p *planted) {
		p.delete = func(ctx context.Context, prev lease.Record) error {
			err := p.Store.Delete(ctx, prev)
			if !errors.Is(err, lease.ErrConflict) {
				return err
			}
			cur, err := p.Store.Load(ctx, prev.Key)
			if err != nil {
				return err
			}
			return p.Store.Delete(ctx, cur)
		}
	}},
	{"tokens begin anew after a re-open", "TokensRiseAcrossReopens", restartTokens},
}

// restartTokens counts the tokens of one opening from 1.
func restartTokens(p *planted) {
	var mu sync.Mutex
	var given uint64
	ours, real := map[uint64]uint64{}, map[uint64]uint64{}
	out := func(r lease.Record) lease.Record {
		if n, ok := ours[r.Token]; ok {
			r.Token = n
		}
		return r
	}
	in := func(r lease.Record) lease.Record {
		if n, ok := real[r.Token]; ok {
			r.Token = n
		}
		return r
	}
	p.load = func(ctx context.Context, key string) (lease.Record, error) {
		mu.Lock()
		defer mu.Unlock()
		r, err := p.Store.Load(ctx, key)
		return out(r), err
	}
	p.swap = func(ctx context.Context, prev, next lease.Record, newToken bool) (lease.Record, error) {
		mu.Lock()
		defer mu.Unlock()
		r, err := p.Store.Swap(ctx, in(prev), next, newToken)
		if err == nil && newToken {
			given++
			ours[r.Token], real[given] = given, r.Token
		}
		return out(r), err
	}
	p.delete = func(ctx context.Context, prev lease.Record) error {
		mu.Lock()
		defer mu.Unlock()
		return p.Store.Delete(ctx, in(prev))
	}
}

// openNumber gives a way to open the n-th store of the kind, made when it is first
// asked for.
func openNumber(t *testing.T, kind string) func(ctx context.Context, n int64) (opened, error) {
	t.Helper()
	switch kind {
	case "sqlite":
		dir := t.TempDir()
		return func(ctx context.Context, n int64) (opened, error) {
			return openFile(ctx, filepath.Join(dir, fmt.Sprint(n)+".db"), sqlstore.SQLite{})
		}
	case "postgres":
		s := thePostgres(t)
		addresses := map[int64]string{}
		return func(ctx context.Context, n int64) (opened, error) {
			if addresses[n] == "" {
				a, err := newDatabase(ctx, s)
				if err != nil {
					return opened{}, err
				}
				addresses[n] = a
			}
			return openPostgres(ctx, addresses[n], sqlstore.Postgres{})
		}
	}
	s := theEtcd(t)
	return func(ctx context.Context, n int64) (opened, error) {
		return openEtcd(ctx, s.Address, fmt.Sprintf("bullpen/%d/", n))
	}
}

func TestBugsPlantedInRealStoresAreCaught(t *testing.T) {
	for _, kind := range kinds {
		for _, b := range bugs {
			t.Run(kind+"/"+b.name, func(t *testing.T) {
				open := openNumber(t, kind)
				h := harness(func(ctx context.Context, n int64) (opened, error) {
					o, err := open(ctx, n)
					if err != nil {
						return o, err
					}
					p := &planted{Store: o.Store}
					b.plant(p)
					return opened{p, o.close}, nil
				})
				h.Rules = []string{b.rule}
				found := leasetest.Check(t.Context(), h)
				require.Len(t, found, 1)
				require.Equal(t, b.rule, found[0].Rule)
				t.Log(found[0].Err)

				h = harness(open) // it is the bug that is found
				h.Rules = []string{b.rule}
				require.Empty(t, leasetest.Check(t.Context(), h))
			})
		}
	}
}
