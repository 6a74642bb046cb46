package etcdstore

import (
	"encoding/json"
	"fmt"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/bullpen-vm/bullpen/lease"
)

// value is a record as JSON. A Token of 0 means the revision of the write. What
// must come back byte for byte is bytes; the rest is for people.
type value struct {
	Token    uint64   `json:"token,omitempty"`
	Renewals uint64   `json:"renewals,omitempty"`
	Session  []byte   `json:"session,omitempty"`
	Owner    string   `json:"owner,omitempty"`
	Lock     []byte   `json:"lock,omitempty"`
	Boot     []byte   `json:"boot,omitempty"`
	Note     string   `json:"note,omitempty"`
	TTL      int64    `json:"ttl_ns,omitempty"`
	Margin   int64    `json:"margin_ns,omitempty"`
	Since    [2]int64 `json:"since"` // seconds since 1970, and nanoseconds
	Renewed  [2]int64 `json:"renewed"`
}

func stamp(t time.Time) [2]int64   { return [2]int64{t.Unix(), int64(t.Nanosecond())} }
func unstamp(s [2]int64) time.Time { return time.Unix(s[0], s[1]).UTC() }

func encode(r *lease.Record) (string, error) {
	text, err := json.Marshal(value{
		Token: r.Token, Renewals: r.Renewals, Session: []byte(r.Session), Owner: r.Owner, Lock: []byte(r.Lock), Boot: []byte(r.Boot), Note: r.Note,
		TTL: int64(r.TTL), Margin: int64(r.Margin), Since: stamp(r.Since), Renewed: stamp(r.Renewed),
	})
	if err != nil {
		return "", fmt.Errorf("etcdstore: record %q: %w", r.Key, err)
	}
	return string(text), nil
}

func decode(key string, text []byte, revision int64) (lease.Record, error) {
	var v value
	if err := json.Unmarshal(text, &v); err != nil {
		return lease.Record{}, fmt.Errorf("etcdstore: %w: %q: %w", ErrDamaged, key, err)
	}
	if v.Token == 0 && v.Renewals == 0 {
		v.Token = uint64(revision) //nolint:gosec // revisions are positive
	}
	if v.Token == 0 || v.Token > uint64(revision) { //nolint:gosec // revisions are positive
		return lease.Record{}, fmt.Errorf("etcdstore: %w: %q has token %d at revision %d", ErrDamaged, key, v.Token, revision)
	}
	return lease.Record{
		Key: key, Token: v.Token, Renewals: v.Renewals,
		Session: string(v.Session), Owner: v.Owner, Lock: string(v.Lock), Boot: string(v.Boot), Note: v.Note,
		TTL: time.Duration(v.TTL), Margin: time.Duration(v.Margin), Since: unstamp(v.Since), Renewed: unstamp(v.Renewed),
	}, nil
}

// only gives the one record of a range over one key, and its revision.
func (s *Store) only(key string, kvs []*mvccpb.KeyValue) (lease.Record, int64, error) {
	if len(kvs) == 0 {
		return lease.Record{}, 0, nil
	}
	rec, err := decode(key, kvs[0].Value, kvs[0].ModRevision)
	return rec, kvs[0].ModRevision, err
}
