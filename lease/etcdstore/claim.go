package etcdstore

import (
	"context"
	"fmt"
	"slices"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/bullpen-vm/bullpen/lease"
)

// mostNested is how many keys are asked for in one request. Each is a transaction in
// the one before it, which etcd checks by recursion.
const mostNested = 32

// Claim implements lease.Claimer: the server walks along the keys within one
// transaction, so a claim costs one request for each 32 keys however many are held,
// and claims that come at once never conflict.
//
// There is no SwapAll: what one transaction writes has one revision, and two leases
// must not have the same token.
func (s *Store) Claim(ctx context.Context, keys []string, next lease.Record) (lease.Record, error) {
	next.Token, next.Renewals = 0, 0 // the revision of this write
	value, err := encode(&next)
	if err != nil {
		return lease.Record{}, err
	}
	for some := range slices.Chunk(keys, mostNested) {
		first, then, otherwise := s.chain(some, value)
		if ctx.Err() != nil {
			return lease.Record{}, ended(ctx)
		}
		bounded, cancel := s.bounded(ctx)
		got, err := s.client.Txn(bounded).If(first).Then(then).Else(otherwise...).Commit()
		if err != nil {
			err = s.failed(bounded, "claim", err)
		}
		cancel()
		if err != nil {
			return lease.Record{}, err
		}
		if at := taken(got.Succeeded, got.Responses); at >= 0 {
			next.Key, next.Token = some[at], uint64(got.Header.Revision) //nolint:gosec // revisions are positive
			return next, nil
		}
	}
	return lease.Record{}, fmt.Errorf("%w: all %d keys are held", lease.ErrConflict, len(keys))
}

// chain is: if there is no first key, put it; otherwise the same with the rest.
func (s *Store) chain(keys []string, value string) (clientv3.Cmp, clientv3.Op, []clientv3.Op) {
	at := s.at(keys[0])
	var otherwise []clientv3.Op
	if len(keys) > 1 {
		first, then, rest := s.chain(keys[1:], value)
		otherwise = []clientv3.Op{clientv3.OpTxn([]clientv3.Cmp{first}, []clientv3.Op{then}, rest)}
	}
	return clientv3.Compare(clientv3.CreateRevision(at), "=", 0), clientv3.OpPut(at, value), otherwise
}

// taken gives the place in the chain that was put; -1 for none.
func taken(succeeded bool, responses []*etcdserverpb.ResponseOp) int {
	for at := 0; ; at++ {
		if succeeded {
			return at
		}
		if len(responses) == 0 {
			return -1
		}
		inner := responses[0].GetResponseTxn()
		if inner == nil {
			return -1
		}
		succeeded, responses = inner.Succeeded, inner.Responses
	}
}
