package lease

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"
)

// MemStore is a Store in memory: for one process, and for tests. It is a
// Watcher, a Batcher and a Claimer, never blocks, and is safe for concurrent
// use. The zero value is ready; it must not be copied.
type MemStore struct {
	mu      sync.Mutex
	id      string
	token   uint64
	records map[string]*memRecord // some without a token: see resting
	terms   map[string]*memTerms  // by session
	idle    *memTerms             // without records, kept for the session's next one
	watches memWatches

	// Records that were deleted and are still in records, as keys come back: those
	// of the last keys, by turns.
	resting [8]restingRecord
	turn    int
}

type restingRecord struct {
	key string
	*memRecord
}

// memRecord is a Record without what the leases of one session have in common:
// 64 bytes, so that a hundred thousand of them are cheap.
type memRecord struct {
	token, renewals        uint64
	terms                  *memTerms
	note                   string
	sinceSec, renewedSec   int64
	sinceNano, renewedNano int32
}

type memTerms struct {
	session, owner, lock, boot string
	ttl, margin                time.Duration
	refs                       int
}

// NewMemStore gives an empty store.
func NewMemStore() *MemStore { return &MemStore{} }

// ID is random per store.
func (s *MemStore) ID(ctx context.Context) (string, error) {
	if err := ctx.Err(); err != nil {
		return "", ended(ctx)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.id == "" {
		s.id = "memory/" + uuid.NewString()
	}
	return s.id, nil
}

// Load implements Store.
func (s *MemStore) Load(ctx context.Context, key string) (Record, error) {
	if err := ctx.Err(); err != nil {
		return Record{}, ended(ctx)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.records[key].record(key), nil
}

// Swap implements Store.
func (s *MemStore) Swap(ctx context.Context, prev, next Record, newToken bool) (Record, error) {
	if err := ctx.Err(); err != nil {
		return Record{}, ended(ctx)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.swap(&prev, &next, newToken)
}

// SwapAll implements Batcher.
func (s *MemStore) SwapAll(ctx context.Context, swaps []Swapping) ([]Swapped, error) {
	if err := ctx.Err(); err != nil {
		return nil, ended(ctx)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make([]Swapped, len(swaps))
	for i := range swaps {
		out[i].Record, out[i].Err = s.swap(&swaps[i].Prev, &swaps[i].Next, swaps[i].NewToken)
	}
	return out, nil
}

// Claim implements Claimer.
func (s *MemStore) Claim(ctx context.Context, keys []string, next Record) (Record, error) {
	if err := ctx.Err(); err != nil {
		return Record{}, ended(ctx)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, key := range keys {
		if s.records[key].free() {
			next.Key = key
			return s.swap(&Record{}, &next, true)
		}
	}
	return Record{}, fmt.Errorf("%w: all %d keys are held", ErrConflict, len(keys))
}

// swap is called with mu held.
func (s *MemStore) swap(prev, next *Record, newToken bool) (Record, error) {
	r := s.records[next.Key]
	if r.free() {
		if prev.Token != 0 {
			return Record{}, ErrConflict
		}
		if !newToken {
			return Record{}, fmt.Errorf("lease: swap of nothing for %q without a new token", next.Key)
		}
		if r == nil {
			r = s.fresh(next.Key)
		}
	} else if r.token != prev.Token || r.renewals != prev.Renewals {
		return r.record(next.Key), ErrConflict
	}
	out := *next
	if newToken {
		s.token++
		out.Token, out.Renewals = s.token, 0
	} else {
		out.Token, out.Renewals = r.token, r.renewals+1
	}
	r.token, r.renewals = out.Token, out.Renewals
	r.note = out.Note
	r.sinceSec, r.sinceNano = out.Since.Unix(), int32(out.Since.Nanosecond())
	r.renewedSec, r.renewedNano = out.Renewed.Unix(), int32(out.Renewed.Nanosecond())
	s.setTerms(r, next)
	if s.watches.n > 0 {
		s.watches.tell(next.Key)
	}
	return out, nil
}

// Delete implements Store.
func (s *MemStore) Delete(ctx context.Context, prev Record) error {
	if err := ctx.Err(); err != nil {
		return ended(ctx)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.remove(prev.Key, prev.Token, prev.Renewals) {
		return ErrConflict
	}
	return nil
}

// remove is called with mu held. Nothing that is there is as good as removed.
func (s *MemStore) remove(key string, token, renewals uint64) bool {
	r := s.records[key]
	if r.free() {
		return true
	}
	if r.token != token || r.renewals != renewals {
		return false
	}
	s.drop(key, r)
	return true
}

// drop deletes r, the record of key: its token is nobody's any more. Called with
// mu held.
func (s *MemStore) drop(key string, r *memRecord) {
	s.dropTerms(r.terms)
	r.token, r.terms, r.note = 0, nil, ""
	s.rest(key, r)
	if s.watches.n > 0 {
		s.watches.tell(key)
	}
}

// free tells that there is no record.
func (r *memRecord) free() bool { return r == nil || r.token == 0 }

// fresh gives a record without terms, of which all else is to be written. Called
// with mu held.
func (s *MemStore) fresh(key string) *memRecord {
	if s.records == nil {
		s.records = make(map[string]*memRecord)
	}
	r := new(memRecord)
	s.records[key] = r
	return r
}

// rest lets a free record be in records until its turn is over.
func (s *MemStore) rest(key string, r *memRecord) {
	for i := range s.resting {
		if s.resting[i].memRecord == r {
			return
		}
	}
	last := &s.resting[s.turn]
	s.turn = (s.turn + 1) % len(s.resting)
	if last.memRecord != nil && last.token == 0 {
		delete(s.records, last.key)
	}
	*last = restingRecord{key, r}
}

// List implements Store. It looks at all records.
func (s *MemStore) List(ctx context.Context, prefix string) ([]Record, error) {
	if err := ctx.Err(); err != nil {
		return nil, ended(ctx)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []Record
	for key, r := range s.records {
		if !r.free() && strings.HasPrefix(key, prefix) {
			out = append(out, r.record(key))
		}
	}
	slices.SortFunc(out, func(a, b Record) int { return strings.Compare(a.Key, b.Key) })
	return out, nil
}

// record gives r as the caller sees it.
func (r *memRecord) record(key string) Record {
	if r.free() {
		return Record{}
	}
	t := r.terms
	return Record{
		Key: key, Token: r.token, Renewals: r.renewals, Note: r.note,
		Session: t.session, Owner: t.owner, Lock: t.lock, Boot: t.boot, TTL: t.ttl, Margin: t.margin,
		Since:   time.Unix(r.sinceSec, int64(r.sinceNano)).UTC(),
		Renewed: time.Unix(r.renewedSec, int64(r.renewedNano)).UTC(),
	}
}

func (t *memTerms) equal(r *Record) bool {
	return t.session == r.Session && t.owner == r.Owner && t.lock == r.Lock && t.boot == r.Boot && t.ttl == r.TTL && t.margin == r.Margin
}

// termsOf gives the terms of next, shared where another record of the same session
// has, or had a moment ago, the same ones.
func (s *MemStore) termsOf(next *Record) *memTerms {
	t := s.idle
	if t == nil || !t.equal(next) {
		t = s.terms[next.Session]
	}
	if t == nil || !t.equal(next) {
		fresh := &memTerms{session: next.Session, owner: next.Owner, lock: next.Lock, boot: next.Boot, ttl: next.TTL, margin: next.Margin}
		if t == nil && next.Session != "" {
			if s.terms == nil {
				s.terms = make(map[string]*memTerms)
			}
			s.terms[next.Session] = fresh
		}
		t = fresh
	}
	return t
}

// setTerms gives r the terms of next.
func (s *MemStore) setTerms(r *memRecord, next *Record) {
	old := r.terms
	if old != nil && old.equal(next) {
		return
	}
	t := s.termsOf(next)
	t.refs++
	r.terms = t
	if old != nil {
		s.dropTerms(old)
	}
}

func (s *MemStore) dropTerms(t *memTerms) {
	t.refs--
	if t.refs > 0 || t == s.idle || s.terms[t.session] != t {
		return
	}
	if old := s.idle; old != nil && old.refs == 0 {
		delete(s.terms, old.session)
	}
	s.idle = t
}
