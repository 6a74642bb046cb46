package lease

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"
)

// step is one thing that happens in a model run.
type step struct {
	Op      string
	Manager int
	Key     int
	D       time.Duration
}

const (
	modelManagers = 3
	modelKeys     = 2
	modelTTL      = time.Minute
	modelMargin   = 10 * time.Second
)

var modelOps = []string{"acquire", "acquire", "acquire", "try", "any", "all", "release", "release", "raise", "adopt", "sweep", "wait", "wait", "wait", "cut", "mend", "late", "lose answers", "close", "steal"}

func drawScript(t *rapid.T) []step {
	return rapid.SliceOfN(rapid.Custom(func(t *rapid.T) step {
		return step{
			Op:      rapid.SampledFrom(modelOps).Draw(t, "op"),
			Manager: rapid.IntRange(0, modelManagers-1).Draw(t, "manager"),
			Key:     rapid.IntRange(0, modelKeys-1).Draw(t, "key"),
			D: rapid.OneOf(
				rapid.SampledFrom([]time.Duration{1, modelTTL - 1, modelTTL, modelTTL + 1, modelTTL + modelMargin - 1, modelTTL + modelMargin, modelTTL / 3}),
				rapid.Custom(func(t *rapid.T) time.Duration {
					return time.Duration(rapid.IntRange(1, int(2*modelTTL/time.Millisecond)).Draw(t, "ms")) * time.Millisecond
				}),
			).Draw(t, "d"),
		}
	}), 1, 60).Draw(t, "script")
}

// world is the model's state: the handles that were given out.
type world struct {
	mem      *MemStore
	stores   [modelManagers]*faulty
	managers [modelManagers]*Manager
	handles  chan *Lease
	all      []*Lease
	high     map[string]uint64
}

// runScript runs a script in a bubble and gives what went wrong. So many of the
// Managers are on the MemStore itself, which no fault comes between.
func runScript(script []step, direct int) (err error) {
	w := &world{mem: NewMemStore(), handles: make(chan *Lease, 10000), high: map[string]uint64{}}
	for i := range w.managers {
		w.stores[i] = newFaulty(w.mem)
		var store Store = w.stores[i]
		if i < direct {
			store = w.mem
		}
		w.managers[i], err = New(Config{Store: store, Owner: fmt.Sprint("m", i), TTL: modelTTL, Margin: modelMargin, NoLock: true})
		if err != nil {
			return err
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer func() {
		cancel()
		for i, m := range w.managers {
			w.stores[i].set(nil, nil)
			_ = m.Close(context.Background())
		}
		synctest.Wait()
	}()
	for n, s := range script {
		w.do(ctx, s)
		synctest.Wait()
		if err := w.check(); err != nil {
			return fmt.Errorf("after step %d %+v: %w", n, s, err)
		}
	}
	return w.end(ctx, cancel)
}

func (w *world) do(ctx context.Context, s step) {
	m, store := w.managers[s.Manager], w.stores[s.Manager]
	key := fmt.Sprint("k", s.Key)
	switch s.Op {
	case "acquire":
		go func() {
			ctx, cancel := context.WithTimeout(ctx, s.D)
			defer cancel()
			if l, err := m.Acquire(ctx, key, &Options{Priority: s.Key}); err == nil {
				w.handles <- l
			}
		}()
	case "try":
		go func() {
			if l, err := m.TryAcquire(ctx, key, nil); err == nil {
				w.handles <- l
			}
		}()
	case "any":
		go func() {
			if l, err := m.TryAny(ctx, []string{"k1", "k0"}, nil); err == nil {
				w.handles <- l
			}
		}()
	case "all":
		go func() {
			ctx, cancel := context.WithTimeout(ctx, s.D)
			defer cancel()
			if ls, err := m.AcquireAll(ctx, []string{"k1", "k0"}, nil); err == nil {
				for _, l := range ls {
					w.handles <- l
				}
			}
		}()
	case "release", "raise":
		for _, l := range w.all {
			if l.m == m && l.key == key {
				go func() {
					if s.Op == "raise" {
						_, _ = l.Raise(ctx)
					} else {
						_ = l.Release(ctx)
					}
				}()
			}
		}
	case "adopt":
		for _, l := range w.all {
			if l.key == key {
				go func() {
					ctx, cancel := context.WithTimeout(ctx, s.D)
					defer cancel()
					if l, err := m.Adopt(ctx, key, l.Token()); err == nil {
						w.handles <- l
					}
				}()
			}
		}
	case "sweep":
		go func() { _, _ = m.Sweep(ctx, "") }()
	case "wait":
		time.Sleep(s.D)
	case "cut": // nothing reaches the store until the time is over
		store.set(func(ctx context.Context, _, _ string) error { <-ctx.Done(); return ctx.Err() }, nil)
	case "mend":
		store.set(nil, nil)
	case "late": // the store does it, and answers late, deaf to contexts
		store.set(nil, func(context.Context, string, string) error { time.Sleep(s.D); return nil })
	case "lose answers":
		store.set(nil, down)
	case "close":
		if s.D < modelTTL/2 { // not too often
			go func() { _ = m.Close(ctx) }()
		}
	case "steal": // somebody deletes a session record, rightly or not
		if rec, err := w.mem.Load(ctx, m.SessionKey()); err == nil && !rec.Zero() && s.D == modelTTL+modelMargin {
			m.lose(m.cur.Load(), ErrLost) // as if it had known
			_ = w.mem.Delete(ctx, rec)
		}
	}
}

// check holds the one promise: no two handles of a key pass Check, and who
// passes has the highest token.
func (w *world) check() error {
	for len(w.handles) > 0 {
		w.all = append(w.all, <-w.handles)
	}
	holder := make(map[string]*Lease)
	for _, l := range w.all {
		if l.Check() != nil {
			select {
			case <-l.Done():
			default:
				if l.state.Load() == stateHeld {
					synctest.Wait() // the watchdog was told by this very Check
				}
				select {
				case <-l.Done():
				default:
					return fmt.Errorf("%s (token %d) fails its Check, and nobody was told", l.key, l.Token())
				}
			}
			continue
		}
		if o := holder[l.key]; o != nil {
			return fmt.Errorf("%s has two holders: tokens %d and %d", l.key, o.Token(), l.Token())
		}
		holder[l.key] = l
		if l.Token() < w.high[l.key] {
			return fmt.Errorf("%s is held under token %d after %d", l.key, l.Token(), w.high[l.key])
		}
		w.high[l.key] = l.Token()
	}
	return nil
}

// end mends everything and wants every key to be had in bounded time.
func (w *world) end(ctx context.Context, cancel context.CancelFunc) error {
	for _, s := range w.stores {
		s.set(nil, nil)
	}
	time.Sleep(3 * modelTTL) // late answers and timeouts are over
	if err := w.check(); err != nil {
		return err
	}
	for _, l := range w.all {
		if err := l.Release(ctx); err != nil {
			return fmt.Errorf("release: %w", err)
		}
	}
	synctest.Wait()
	for len(w.handles) > 0 { // waiters that got it just now
		if err := (<-w.handles).Release(ctx); err != nil {
			return err
		}
		synctest.Wait()
	}
	cancel()
	synctest.Wait()
	for len(w.handles) > 0 {
		_ = (<-w.handles).Release(context.Background())
	}
	m, err := New(Config{Store: w.mem, TTL: modelTTL, Margin: modelMargin, NoLock: true})
	if err != nil {
		return err
	}
	defer func() { _ = m.Close(context.Background()) }()
	late, stop := context.WithTimeout(context.Background(), modelTTL+modelMargin+time.Second)
	defer stop()
	ls, err := m.AcquireAll(late, []string{"k0", "k1"}, nil)
	if err != nil {
		return fmt.Errorf("a key is held by nobody: %w", err)
	}
	for _, l := range ls {
		if l.Token() <= w.high[l.key] {
			return errors.New("tokens do not rise")
		}
		_ = l.Release(context.Background())
	}
	return nil
}

func TestAnyScriptOfFaultsNeverGivesAKeyTwoHolders(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		script, direct := drawScript(rt), rapid.IntRange(0, modelManagers).Draw(rt, "direct")
		var err error
		synctest.Test(t, func(*testing.T) { err = runScript(script, direct) })
		if err != nil {
			rt.Fatal(err)
		}
	})
}
