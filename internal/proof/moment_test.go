package proof

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"

	"github.com/bullpen-vm/bullpen/lease"
	"github.com/bullpen-vm/bullpen/lease/etcdstore"
	"github.com/bullpen-vm/bullpen/lease/sqlstore"
)

// The moments at which a process is stopped: of a store that makes its tables, which
// is the one transaction that is open for longer than a statement; and of a grant.
const (
	beforeCommit = "before the commit of the tables"
	beforeSwap   = "before the swap is sent"
	afterSwap    = "before the answer to the swap is heard"
	beforeClaim  = "before the claim is sent"
	afterClaim   = "before the answer to the claim is heard"
)

// stopper stops its own process once, when it is armed.
type stopper struct {
	armed  atomic.Bool
	moment string
	claims sync.Map // names of prepared statements
}

// TracePrepareStart implements pgx.PrepareTracer: such statements are sent by name.
func (s *stopper) TracePrepareStart(ctx context.Context, _ *pgx.Conn, p pgx.TracePrepareStartData) context.Context {
	if strings.Contains(p.SQL, "SKIP LOCKED") {
		s.claims.Store(p.Name, true)
	}
	return ctx
}

// TracePrepareEnd implements pgx.PrepareTracer.
func (s *stopper) TracePrepareEnd(context.Context, *pgx.Conn, pgx.TracePrepareEndData) {}

func (s *stopper) at(moment string) {
	if moment == s.moment && s.armed.CompareAndSwap(true, false) {
		stopHere()
	}
}

// stopHere stops the process before it returns: a signal to the process may be
// taken by another thread while this one goes on, one to this thread is taken on the
// way back from the system call.
func stopHere() {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	_, _, _ = syscall.RawSyscall(syscall.SYS_TGKILL, uintptr(os.Getpid()), uintptr(syscall.Gettid()), uintptr(syscall.SIGSTOP))
}

// TraceQueryStart implements pgx.QueryTracer.
func (s *stopper) TraceQueryStart(ctx context.Context, _ *pgx.Conn, q pgx.TraceQueryStartData) context.Context {
	if q.SQL == "COMMIT" {
		s.at(beforeCommit)
	}
	if swap := strings.Contains(q.SQL, "bullpen_swap("); swap {
		s.at(beforeSwap)
		return context.WithValue(ctx, s, afterSwap)
	}
	if _, claim := s.claims.Load(q.SQL); claim {
		s.at(beforeClaim)
		return context.WithValue(ctx, s, afterClaim)
	}
	return ctx
}

// TraceQueryEnd implements pgx.QueryTracer.
func (s *stopper) TraceQueryEnd(ctx context.Context, _ *pgx.Conn, _ pgx.TraceQueryEndData) {
	if moment, ok := ctx.Value(s).(string); ok {
		s.at(moment)
	}
}

func (s *stopper) intercept(ctx context.Context, method string, request, reply any, c *grpc.ClientConn, invoke grpc.UnaryInvoker, o ...grpc.CallOption) error {
	txn := strings.HasSuffix(method, "/Txn")
	if txn {
		s.at(beforeSwap)
	}
	err := invoke(ctx, method, request, reply, c, o...)
	if txn {
		s.at(afterSwap)
	}
	return err
}

// momentTTL is that of a process which is stopped.
const momentTTL = 2 * time.Second

// stopAt is a child that is stopped at a moment. It ends with 0 when it knows
// afterwards that it holds nothing.
func stopAt(kind, address, moment string) int {
	ctx := context.Background()
	s := &stopper{moment: moment}
	s.armed.Store(moment == beforeCommit)
	open := func() (lease.Store, error) {
		if kind == "etcd" {
			host, prefix, _ := strings.Cut(address, "/")
			c, err := dialEtcd(host, grpc.WithUnaryInterceptor(s.intercept))
			if err != nil {
				return nil, err
			}
			return etcdstore.Open(ctx, c, etcdstore.Config{Prefix: prefix})
		}
		c, err := pgx.ParseConfig(address)
		if err != nil {
			return nil, err
		}
		c.Tracer = s
		return sqlstore.Open(ctx, stdlib.OpenDB(*c), sqlstore.Config{Dialect: sqlstore.Postgres{StatementTimeout: momentTTL}})
	}
	o, err := open()
	if moment == beforeCommit {
		if s.armed.Load() {
			fmt.Fprintln(os.Stderr, "child: it was not stopped:", err)
			return 1
		}
		if err == nil {
			fmt.Fprintln(os.Stderr, "it was stopped within a transaction, and the server let it commit")
			return 1
		}
		return 0
	}
	fail := func(err error) int {
		fmt.Fprintln(os.Stderr, "child:", err)
		return 1
	}
	for range 20 { // a machine that is busy may need longer than a statement's limit
		if err == nil {
			break
		}
		o, err = open()
	}
	if err != nil {
		return fail(err)
	}
	m, err := lease.New(lease.Config{Store: o, TTL: momentTTL, NoLock: true})
	if err != nil {
		return fail(err)
	}
	for range 20 { // makes the session, on a machine that may be busy
		if _, err = m.Acquire(ctx, "warm", nil); err == nil {
			break
		}
	}
	if err != nil {
		return fail(err)
	}
	try := func() (*lease.Lease, error) { return m.TryAcquire(ctx, "stopped", nil) }
	if strings.Contains(moment, "claim") {
		try = func() (*lease.Lease, error) { return m.TryAny(ctx, []string{"stopped", "stopped/2"}, nil) }
		for range 3 { // makes the rows, and knows them
			if l, err := try(); err == nil {
				_ = l.Release(ctx)
			}
		}
	}
	s.armed.Store(true)
	l, err := try()
	for range 20 {
		if !s.armed.Load() {
			break
		}
		if err == nil {
			_ = l.Release(ctx)
		}
		l, err = try()
	}
	switch {
	case s.armed.Load():
		return fail(fmt.Errorf("it was not stopped, and the answer is %w", err))
	case err != nil:
		return 0
	case errors.Is(l.Check(), lease.ErrLost):
		return 0
	}
	// It was granted anew after it went on: then nobody else may have it.
	rec, err := o.Load(ctx, l.Key())
	if err != nil || rec.Token != l.Token() {
		return fail(fmt.Errorf("it believes to hold token %d, the store has %+v (%w)", l.Token(), rec, err))
	}
	return 0
}

// within acquires until the context ends: on a busy machine a use of the store may
// take longer than its own limit, which is an error and no grant.
func within(ctx context.Context, m *lease.Manager, key string) (*lease.Lease, error) {
	for {
		l, err := m.Acquire(ctx, key, nil)
		if err == nil || ctx.Err() != nil {
			return l, err
		}
	}
}

func TestWhoIsStoppedInsideATransactionHoldsNobodyUp(t *testing.T) {
	for _, row := range []struct{ kind, moment string }{
		{"postgres", beforeCommit}, {"postgres", beforeSwap}, {"postgres", afterSwap}, {"postgres", beforeClaim}, {"postgres", afterClaim}, {"etcd", beforeSwap}, {"etcd", afterSwap},
	} {
		t.Run(row.kind+"/"+row.moment, func(t *testing.T) {
			t.Parallel()
			address := arena(t, row.kind)
			child := exec.Command(os.Args[0])
			child.Env = append(os.Environ(), childVariable+"=stop at a moment|"+row.kind+"|"+address+"|"+row.moment)
			child.Stderr = os.Stderr
			require.NoError(t, child.Start())
			pid := child.Process.Pid
			defer child.Process.Kill()
			var status syscall.WaitStatus
			_, err := syscall.Wait4(pid, &status, syscall.WUNTRACED, nil)
			require.NoError(t, err)
			require.True(t, status.Stopped(), "it ended with %d", status.ExitStatus())

			ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute) // the bound
			defer cancel()
			o, err := openKind(ctx, row.kind, address)
			for err != nil && ctx.Err() == nil { // limits of its own, on the way to the server's
				o, err = openKind(ctx, row.kind, address)
			}
			require.NoError(t, err, "the others open the store")
			defer o.close()
			m, err := lease.New(lease.Config{Store: o, TTL: 10 * time.Second, NoLock: true})
			require.NoError(t, err)
			other, err := within(ctx, m, "another")
			require.NoError(t, err, "the others get other keys")
			l, err := within(ctx, m, "stopped")
			require.NoError(t, err, "the others get its key")
			if row.moment != beforeCommit { // the TTL is over, or it never had the key
				warm, err := within(ctx, m, "warm")
				require.NoError(t, err)
				require.NoError(t, warm.Release(ctx))
			}

			require.NoError(t, child.Process.Signal(syscall.SIGCONT))
			_, err = syscall.Wait4(pid, &status, 0, nil)
			require.NoError(t, err)
			require.Equal(t, 0, status.ExitStatus())
			require.NoError(t, l.Check())
			require.NoError(t, other.Check())
			rec, err := o.Load(ctx, "stopped")
			require.NoError(t, err)
			require.Equal(t, l.Token(), rec.Token)
			require.NoError(t, l.Release(ctx))
			require.NoError(t, other.Release(ctx))
			require.NoError(t, m.Close(ctx))
		})
	}
}

// A row that somebody outside keeps locked is waited for within the server's
// limits, and what is told says so; other keys are not held up.
func TestARowThatIsLockedByAStrangerIsWaitedForWithinABound(t *testing.T) {
	address, err := newDatabase(t.Context(), thePostgres(t))
	require.NoError(t, err)
	o, err := openPostgres(t.Context(), address, sqlstore.Postgres{StatementTimeout: 300 * time.Millisecond})
	require.NoError(t, err)
	defer o.close()
	first, err := o.Swap(t.Context(), lease.Record{}, lease.Record{Key: "k"}, true)
	require.NoError(t, err)
	stranger, err := openPgx(address)
	require.NoError(t, err)
	defer stranger.Close()
	tx, err := stranger.BeginTx(t.Context(), nil)
	require.NoError(t, err)
	_, err = tx.Exec("SELECT * FROM bullpen_lease WHERE key = 'k' FOR UPDATE")
	require.NoError(t, err)

	_, err = o.Swap(t.Context(), first, first, false)
	require.ErrorContains(t, err, "timeout")
	got, err := o.Load(t.Context(), "k")
	require.NoError(t, err)
	require.Equal(t, first, got)
	_, err = o.Swap(t.Context(), lease.Record{}, lease.Record{Key: "other"}, true)
	require.NoError(t, err)
	claimed, err := o.Store.(lease.Claimer).Claim(t.Context(), []string{"k", "free"}, lease.Record{})
	require.NoError(t, err)
	require.Equal(t, "free", claimed.Key)

	require.NoError(t, tx.Rollback())
	_, err = o.Swap(t.Context(), first, first, false)
	require.NoError(t, err)
}
