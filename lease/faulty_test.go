package lease

import (
	"context"
	"sync"
)

// faulty is a Store between a Manager and a MemStore that fails as told: before
// a call, so that nothing is done, or after it, so that the answer is lost.
type faulty struct {
	inner *MemStore

	mu     sync.Mutex
	before func(ctx context.Context, op, key string) error
	after  func(ctx context.Context, op, key string) error
	calls  map[string]int
}

func newFaulty(inner *MemStore) *faulty {
	return &faulty{inner: inner, calls: make(map[string]int)}
}

// set replaces the faults; nil is none.
func (f *faulty) set(before, after func(ctx context.Context, op, key string) error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.before, f.after = before, after
}

func (f *faulty) count(op string) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.calls[op]
}

func (f *faulty) do(ctx context.Context, op, key string, call func() error) error {
	f.mu.Lock()
	before, after := f.before, f.after
	f.calls[op]++
	f.mu.Unlock()
	if before != nil {
		if err := before(ctx, op, key); err != nil {
			return err
		}
	}
	if err := call(); err != nil {
		return err
	}
	if after != nil {
		return after(ctx, op, key)
	}
	return nil
}

func (f *faulty) ID(ctx context.Context) (id string, err error) {
	err = f.do(ctx, "id", "", func() error { id, err = f.inner.ID(ctx); return err })
	return id, err
}

func (f *faulty) Load(ctx context.Context, key string) (r Record, err error) {
	err = f.do(ctx, "load", key, func() error { r, err = f.inner.Load(ctx, key); return err })
	return r, err
}

func (f *faulty) Swap(ctx context.Context, prev, next Record, newToken bool) (r Record, err error) {
	err = f.do(ctx, "swap", next.Key, func() error { r, err = f.inner.Swap(ctx, prev, next, newToken); return err })
	return r, err
}

func (f *faulty) Delete(ctx context.Context, prev Record) error {
	return f.do(ctx, "delete", prev.Key, func() error { return f.inner.Delete(ctx, prev) })
}

func (f *faulty) List(ctx context.Context, prefix string) (rs []Record, err error) {
	err = f.do(ctx, "list", prefix, func() error { rs, err = f.inner.List(ctx, prefix); return err })
	return rs, err
}

// batching is a faulty store that also claims and batches.
type batching struct{ *faulty }

func (f batching) Claim(ctx context.Context, keys []string, next Record) (r Record, err error) {
	err = f.do(ctx, "claim", "", func() error { r, err = f.inner.Claim(ctx, keys, next); return err })
	return r, err
}

func (f batching) SwapAll(ctx context.Context, swaps []Swapping) (out []Swapped, err error) {
	err = f.do(ctx, "swapall", "", func() error { out, err = f.inner.SwapAll(ctx, swaps); return err })
	return out, err
}

// on makes a fault for one operation on keys that match.
func on(op string, match func(key string) bool, fault func(ctx context.Context) error) func(context.Context, string, string) error {
	return func(ctx context.Context, o, key string) error {
		if o == op && match(key) {
			return fault(ctx)
		}
		return nil
	}
}
