package sqlstore

import (
	"context"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
)

const (
	selectKept = `SELECT key FROM bullpen_lease WHERE key = ANY($1::text::text[]) AND kept`
	// Who holds or renews a row at this instant is not waited for: it is kept the
	// next time.
	makeKept = `UPDATE bullpen_lease SET kept = true WHERE key IN
	(SELECT key FROM bullpen_lease WHERE key = ANY($1::text::text[]) AND NOT kept FOR UPDATE SKIP LOCKED) RETURNING key`
)

// mostKept bounds the memory of kept.
const mostKept = 1 << 16

// kept remembers keys whose rows stay when their records are deleted, so that a
// claim needs not look whether there is something to lock. Nothing but people
// takes such a row away; a key that is in kept wrongly is passed by while others
// are free, and found by bullpen_claim when none is. The zero value is ready.
type kept struct {
	mu   sync.RWMutex
	keys map[string]struct{}
	last atomic.Pointer[claimList] // the same keys are often asked for again
}

// claimList is what is sent for keys that are claimed.
type claimList struct {
	keys   []string
	array  string // the literal of an array
	text   string // the statement with the array as a parameter
	own    string // the statement with the array in it
	sorted bool
	uses   atomic.Int32
}

const (
	// A list that was asked for as often in a row gets a statement of its own: the
	// server reads the array once, not for each claim.
	usualAfter = 8
	mostOwn    = 16 << 10 // bytes of the array
)

// statement gives what claims one of the list, or, when that is a part of it, of
// free; own tells that it is the list's own.
func (l *claimList) statement(data string, free []string) (text string, args []any, own bool) {
	if len(free) > 0 && len(free) < len(l.keys) {
		return l.text, []any{data, " " + data, array(free)}, false
	}
	if len(l.array) <= mostOwn && l.uses.Load() >= usualAfter {
		return l.own, []any{data, " " + data}, true
	}
	l.uses.Add(1)
	return l.text, []any{data, " " + data, l.array}, false
}

func newClaimList(keys []string) *claimList {
	l := &claimList{keys: slices.Clone(keys), array: array(keys), sorted: slices.IsSorted(keys)}
	l.text = claimText("$3::text::text[]", l.sorted)
	l.own = claimText("'"+strings.ReplaceAll(l.array, "'", "''")+"'::text[]", l.sorted)
	return l
}

func (k *kept) has(key string) bool {
	k.mu.RLock()
	defer k.mu.RUnlock()
	_, ok := k.keys[key]
	return ok
}

// all gives what is to be sent for keys when all of them are kept, otherwise nil.
func (k *kept) all(keys []string) *claimList {
	k.mu.RLock()
	defer k.mu.RUnlock()
	if last := k.last.Load(); last != nil && slices.Equal(last.keys, keys) {
		return last
	}
	for _, key := range keys {
		if _, ok := k.keys[key]; !ok {
			return nil
		}
	}
	l := newClaimList(keys)
	k.last.Store(l)
	return l
}

func (k *kept) add(keys []string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.keys == nil || len(k.keys)+len(keys) > mostKept {
		k.keys = make(map[string]struct{})
	}
	for _, key := range keys {
		k.keys[key] = struct{}{}
	}
}

// keep has the rows of keys stay, and remembers it. The claim before it stands
// whatever becomes of this.
func (b *postgres) keep(ctx context.Context, keys []string) {
	list, have := array(keys), 0
	for _, text := range []string{selectKept, makeKept} {
		var got []string
		err := b.do(ctx, "keep rows", func(s *session) (err error) {
			got, err = texts(ctx, s, text, list)
			return err
		})
		if err != nil {
			b.log.Info("sqlstore: which rows are kept is not known; claims go the longer way", "err", err)
			return
		}
		b.kept.add(got)
		if have += len(got); have >= len(keys) {
			return
		}
	}
}

func texts(ctx context.Context, s *session, text string, args ...any) (all []string, err error) {
	rows, err := s.QueryContext(ctx, text, args...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var one string
		if err := rows.Scan(&one); err != nil {
			return nil, err
		}
		all = append(all, one)
	}
	return all, rows.Err()
}

// array is the literal of an array of texts: drivers differ in what else they take.
func array(keys []string) string {
	var b strings.Builder
	for i, key := range keys {
		b.WriteString([2]string{`{"`, `","`}[min(i, 1)])
		for at := strings.IndexAny(key, `"\`); at >= 0; at = strings.IndexAny(key, `"\`) {
			b.WriteString(key[:at] + `\` + key[at:at+1])
			key = key[at+1:]
		}
		b.WriteString(key)
	}
	if len(keys) == 0 {
		return "{}"
	}
	b.WriteString(`"}`)
	return b.String()
}
