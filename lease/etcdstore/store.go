package etcdstore

import (
	"context"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/google/uuid"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/bullpen-vm/bullpen/lease"
)

// Config says where in etcd the leases are. The zero value is ready.
type Config struct {
	// Prefix is before all keys; empty means "bullpen/". All who share leases
	// have the same one.
	Prefix string
	// Timeout bounds each request beside its context, so that a cluster without
	// a quorum is noticed; 0 means 10 s.
	Timeout time.Duration
}

// DefaultTimeout is the limit of one request.
const DefaultTimeout = 10 * time.Second

// ErrDamaged: a record cannot be read. Nothing is granted under its key.
var ErrDamaged = errors.New("the lease record is damaged")

// Store is a lease.Store over etcd, a Watcher and a Claimer. Open makes one. It has nothing
// to close: who made the client closes it. Safe for concurrent use.
type Store struct {
	client  *clientv3.Client
	prefix  string
	timeout time.Duration
	id      string
}

var (
	_ lease.Store   = (*Store)(nil)
	_ lease.Watcher = (*Store)(nil)
	_ lease.Claimer = (*Store)(nil)
)

// Open gives the Store, and its id a place in etcd when it has none yet.
func Open(ctx context.Context, client *clientv3.Client, c Config) (*Store, error) {
	if client == nil {
		return nil, errors.New("etcdstore: client is nil, want one of clientv3.New")
	}
	if c.Timeout < 0 {
		return nil, fmt.Errorf("etcdstore: Config.Timeout is %v, want 0 or more", c.Timeout)
	}
	if c.Timeout == 0 {
		c.Timeout = DefaultTimeout
	}
	if c.Prefix == "" {
		c.Prefix = "bullpen/"
	}
	s := &Store{client: client, prefix: c.Prefix, timeout: c.Timeout}
	at := s.prefix + "id"
	id := uuid.NewString()
	got, err := s.transact(ctx, "open", clientv3.Compare(clientv3.CreateRevision(at), "=", 0), clientv3.OpPut(at, id), clientv3.OpGet(at))
	if err != nil {
		return nil, err
	}
	if !got.Succeeded {
		kvs := got.Responses[0].GetResponseRange().Kvs
		if len(kvs) != 1 {
			return nil, fmt.Errorf("etcdstore: open: %w: %s has no value", ErrDamaged, at)
		}
		id = string(kvs[0].Value)
	}
	s.id = "etcd/" + id
	return s, nil
}

// ID implements lease.Store.
func (s *Store) ID(ctx context.Context) (string, error) {
	if ctx.Err() != nil {
		return "", ended(ctx)
	}
	return s.id, nil
}

func (s *Store) at(key string) string { return s.prefix + "record/" + key }

// transact sends one transaction.
func (s *Store) transact(ctx context.Context, what string, when clientv3.Cmp, then, otherwise clientv3.Op) (*clientv3.TxnResponse, error) {
	if ctx.Err() != nil {
		return nil, ended(ctx)
	}
	bounded, cancel := s.bounded(ctx)
	defer cancel()
	got, err := s.client.Txn(bounded).If(when).Then(then).Else(otherwise).Commit()
	if err != nil {
		return nil, s.failed(bounded, what, err)
	}
	return got, nil
}

func (s *Store) bounded(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeoutCause(ctx, s.timeout, fmt.Errorf("etcd did not answer within %v", s.timeout))
}

func (s *Store) failed(ctx context.Context, what string, err error) error {
	if ctx.Err() != nil && !errors.Is(err, ctx.Err()) {
		err = fmt.Errorf("%w (%w)", ended(ctx), err)
	} else if cause := context.Cause(ctx); cause != nil && !errors.Is(err, cause) {
		err = fmt.Errorf("%w (%w)", err, cause)
	}
	return fmt.Errorf("etcdstore: %s: %w", what, err)
}

func ended(ctx context.Context) error {
	err, cause := ctx.Err(), context.Cause(ctx)
	if cause == nil || cause == err { //nolint:errorlint // the same value, not the same kind
		return err
	}
	return fmt.Errorf("%w: %w", err, cause)
}

// Load implements lease.Store.
func (s *Store) Load(ctx context.Context, key string) (lease.Record, error) {
	rec, _, err := s.get(ctx, key)
	return rec, err
}

// get gives the record and the revision at which it was written.
func (s *Store) get(ctx context.Context, key string) (lease.Record, int64, error) {
	if ctx.Err() != nil {
		return lease.Record{}, 0, ended(ctx)
	}
	bounded, cancel := s.bounded(ctx)
	defer cancel()
	got, err := s.client.Get(bounded, s.at(key))
	if err != nil {
		return lease.Record{}, 0, s.failed(bounded, "load", err)
	}
	return s.only(key, got.Kvs)
}

// Swap implements lease.Store. A record that was renewed since its token was
// assigned is read first, to learn its revision.
func (s *Store) Swap(ctx context.Context, prev, next lease.Record, newToken bool) (lease.Record, error) {
	if prev.Zero() && !newToken {
		rec, _, err := s.get(ctx, next.Key)
		if err == nil && rec.Zero() {
			err = fmt.Errorf("etcdstore: swap of nothing for %q without a new token", next.Key)
		} else if err == nil {
			err = lease.ErrConflict
		}
		return rec, err
	}
	next.Token, next.Renewals = prev.Token, prev.Renewals+1
	if newToken {
		next.Token, next.Renewals = 0, 0 // the revision of this write
	}
	value, err := encode(&next)
	if err != nil {
		return lease.Record{}, err
	}
	revision, rec, err := s.revision(ctx, next.Key, prev)
	if err != nil {
		return rec, err
	}
	at := s.at(next.Key)
	got, err := s.transact(ctx, "swap", clientv3.Compare(clientv3.ModRevision(at), "=", revision), clientv3.OpPut(at, value), clientv3.OpGet(at))
	if err != nil {
		return lease.Record{}, err
	}
	if !got.Succeeded {
		rec, _, err := s.only(next.Key, got.Responses[0].GetResponseRange().Kvs)
		if err == nil {
			err = lease.ErrConflict
		}
		return rec, err
	}
	if newToken {
		next.Token = uint64(got.Header.Revision) //nolint:gosec // revisions are positive
	}
	return next, nil
}

// revision gives the one at which prev was written; 0 for none. ErrConflict comes
// with what is stored instead.
func (s *Store) revision(ctx context.Context, key string, prev lease.Record) (int64, lease.Record, error) {
	if prev.Renewals == 0 && prev.Token <= math.MaxInt64 {
		return int64(prev.Token), lease.Record{}, nil //nolint:gosec // compared above
	}
	rec, revision, err := s.get(ctx, key)
	if err == nil && (rec.Token != prev.Token || rec.Renewals != prev.Renewals) {
		err = lease.ErrConflict
	}
	return revision, rec, err
}

// Delete implements lease.Store.
func (s *Store) Delete(ctx context.Context, prev lease.Record) error {
	if prev.Zero() {
		rec, _, err := s.get(ctx, prev.Key)
		if err == nil && !rec.Zero() {
			err = lease.ErrConflict
		}
		return err
	}
	revision, rec, err := s.revision(ctx, prev.Key, prev)
	if err != nil {
		if errors.Is(err, lease.ErrConflict) && rec.Zero() {
			return nil
		}
		return err
	}
	at := s.at(prev.Key)
	got, err := s.transact(ctx, "delete", clientv3.Compare(clientv3.ModRevision(at), "=", revision), clientv3.OpDelete(at), clientv3.OpGet(at))
	if err == nil && !got.Succeeded && len(got.Responses[0].GetResponseRange().Kvs) > 0 {
		err = lease.ErrConflict
	}
	return err
}

// List implements lease.Store. It reads pages, all of one revision.
func (s *Store) List(ctx context.Context, prefix string) ([]lease.Record, error) {
	if ctx.Err() != nil {
		return nil, ended(ctx)
	}
	const page = 1000
	from, end := s.at(prefix), clientv3.GetPrefixRangeEnd(s.at(prefix))
	var all []lease.Record
	var revision int64
	for {
		bounded, cancel := s.bounded(ctx)
		got, err := s.client.Get(bounded, from, clientv3.WithRange(end), clientv3.WithLimit(page), clientv3.WithRev(revision),
			clientv3.WithSort(clientv3.SortByKey, clientv3.SortAscend))
		if err != nil {
			err = s.failed(bounded, "list", err)
		}
		cancel()
		if err != nil {
			return nil, err
		}
		revision = got.Header.Revision
		for _, kv := range got.Kvs {
			rec, err := decode(string(kv.Key[len(s.at("")):]), kv.Value, kv.ModRevision)
			if err != nil {
				return nil, err
			}
			all = append(all, rec)
		}
		if !got.More {
			return all, nil
		}
		from = string(got.Kvs[len(got.Kvs)-1].Key) + "\x00"
	}
}
