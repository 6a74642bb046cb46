package etcdstore_test

import (
	"context"
	"fmt"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"

	"github.com/bullpen-vm/bullpen/lease"
	"github.com/bullpen-vm/bullpen/lease/etcdstore"
	"github.com/bullpen-vm/bullpen/lease/leasetest"
)

func TestTheStoreKeepsTheContract(t *testing.T) {
	c := connect(t)
	n := 0
	at := func(ctx context.Context) (lease.Store, func() error, error) {
		s, err := etcdstore.Open(ctx, c, etcdstore.Config{Prefix: fmt.Sprintf("contract/%d/", n)})
		return s, nil, err
	}
	leasetest.Run(t, leasetest.Harness{
		Open:   func(ctx context.Context) (lease.Store, func() error, error) { n++; return at(ctx) },
		Reopen: at,
	})
}

func TestStoresUnderOnePrefixAreOne(t *testing.T) {
	a, c := open(t)
	id, err := a.ID(t.Context())
	require.NoError(t, err)
	b, err := etcdstore.Open(t.Context(), c, etcdstore.Config{Prefix: t.Name() + "/"})
	require.NoError(t, err)
	same, err := b.ID(t.Context())
	require.NoError(t, err)
	assert.Equal(t, id, same)
	other, err := etcdstore.Open(t.Context(), c, etcdstore.Config{Prefix: t.Name() + "-other/"})
	require.NoError(t, err)
	another, err := other.ID(t.Context())
	require.NoError(t, err)
	assert.NotEqual(t, id, another)

	rec, err := a.Swap(t.Context(), lease.Record{}, lease.Record{Key: "k"}, true)
	require.NoError(t, err)
	seen, err := b.Load(t.Context(), "k")
	require.NoError(t, err)
	assert.Equal(t, rec.Token, seen.Token)
	seen, err = other.Load(t.Context(), "k")
	require.NoError(t, err)
	assert.True(t, seen.Zero())
}

func TestAClaimIsOneRequestHoweverManyKeysAreHeld(t *testing.T) {
	var requests atomic.Int64
	s, _ := open(t, grpc.WithUnaryInterceptor(func(ctx context.Context, method string, in, out any, c *grpc.ClientConn, invoke grpc.UnaryInvoker, o ...grpc.CallOption) error {
		if strings.HasPrefix(method, "/etcdserverpb.KV/") {
			requests.Add(1)
		}
		return invoke(ctx, method, in, out, c, o...)
	}))
	var keys []string
	for n := range 80 {
		keys = append(keys, fmt.Sprintf("slot/%02d", n))
	}
	last := uint64(0)
	for n := range keys {
		before := requests.Load()
		rec, err := s.Claim(t.Context(), keys, lease.Record{Owner: "TestClaim", Note: fmt.Sprint(n)})
		require.NoError(t, err)
		require.Equal(t, keys[n], rec.Key)
		require.Greater(t, rec.Token, last)
		require.LessOrEqual(t, requests.Load()-before, int64(n/32+1))
		last = rec.Token
		stored, err := s.Load(t.Context(), keys[n])
		require.NoError(t, err)
		require.Equal(t, rec.Token, stored.Token)
		require.Equal(t, fmt.Sprint(n), stored.Note)
	}
	_, err := s.Claim(t.Context(), keys, lease.Record{})
	require.ErrorIs(t, err, lease.ErrConflict)
	require.ErrorContains(t, err, "all 80 keys are held")
	_, err = s.Claim(t.Context(), nil, lease.Record{})
	require.ErrorIs(t, err, lease.ErrConflict)
	late, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = s.Claim(late, []string{"free"}, lease.Record{})
	require.ErrorIs(t, err, context.Canceled)
}

func TestADamagedRecordIsRefusedAndNotGranted(t *testing.T) {
	s, c := open(t)
	for n, text := range []string{"", "{", `{"token":18446744073709551615,"renewals":1}`, `{"renewals":3}`} {
		key := fmt.Sprint(n)
		_, err := c.Put(t.Context(), t.Name()+"/record/"+key, text)
		require.NoError(t, err)
		_, err = s.Load(t.Context(), key)
		require.ErrorIs(t, err, etcdstore.ErrDamaged, text)
		_, err = s.Swap(t.Context(), lease.Record{}, lease.Record{Key: key}, true)
		require.ErrorIs(t, err, etcdstore.ErrDamaged, text)
		_, err = s.Claim(t.Context(), []string{key}, lease.Record{})
		require.ErrorIs(t, err, lease.ErrConflict, text)
	}
	_, err := s.List(t.Context(), "")
	require.ErrorIs(t, err, etcdstore.ErrDamaged)
}

func TestAWatchThatIsLostIsClosed(t *testing.T) {
	s, c := open(t)
	told, err := s.Watch(t.Context(), "k")
	require.NoError(t, err)
	_, err = s.Swap(t.Context(), lease.Record{}, lease.Record{Key: "k1"}, true)
	require.NoError(t, err)
	_, ok := <-told
	require.True(t, ok)
	require.NoError(t, c.Close())
	for ok { // what was told and not read comes first
		_, ok = <-told
	}
}

// A server that takes connections and never answers, as one without a quorum.
func TestWhatIsNotAnsweredEndsAndSaysSo(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	c, err := dial(l.Addr().String())
	require.NoError(t, err)
	defer c.Close()
	_, err = etcdstore.Open(t.Context(), c, etcdstore.Config{Timeout: 50 * time.Millisecond})
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.ErrorContains(t, err, "etcd did not answer within 50ms")
}

func TestOpenRefusesWhatCannotBe(t *testing.T) {
	_, err := etcdstore.Open(t.Context(), nil, etcdstore.Config{})
	require.ErrorContains(t, err, "client is nil, want one of clientv3.New")
	c, err := clientv3.New(clientv3.Config{Endpoints: []string{"127.0.0.1:1"}})
	require.NoError(t, err)
	defer c.Close()
	_, err = etcdstore.Open(t.Context(), c, etcdstore.Config{Timeout: -time.Second})
	require.ErrorContains(t, err, "Config.Timeout is -1s, want 0 or more")
}
