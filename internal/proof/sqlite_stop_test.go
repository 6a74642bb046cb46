package proof

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"modernc.org/sqlite"

	"github.com/bullpen-vm/bullpen/lease"
	"github.com/bullpen-vm/bullpen/lease/sqlstore"
)

// stopInside is a child that is stopped within a transaction, before its commit.
func stopInside(path string) int {
	armed := false
	sqlite.RegisterConnectionHook(func(c sqlite.ExecQuerierContext, _ string) error {
		c.(sqlite.HookRegisterer).RegisterCommitHook(func() int32 {
			if armed {
				armed = false
				stopHere()
			}
			return 0
		})
		return nil
	})
	o, err := openFile(context.Background(), path, sqlstore.SQLite{})
	if err == nil {
		armed = true
		_, err = o.Swap(context.Background(), lease.Record{}, lease.Record{Key: "stopped"}, true)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

func TestWhoIsStoppedWithTheGateIsNamedAndSucceeded(t *testing.T) {
	t.Parallel()
	for _, end := range []syscall.Signal{syscall.SIGCONT, syscall.SIGKILL} {
		t.Run(end.String(), func(t *testing.T) {
			t.Parallel()
			path := filepath.Join(t.TempDir(), "leases.db")
			const wait = 400 * time.Millisecond
			o, err := openFile(t.Context(), path, sqlstore.SQLite{GateWait: wait})
			require.NoError(t, err)
			defer o.close()
			first, err := o.Swap(t.Context(), lease.Record{}, lease.Record{Key: "k"}, true)
			require.NoError(t, err)

			child := exec.Command(os.Args[0])
			child.Env = append(os.Environ(), childVariable+"=stop in a transaction|"+path)
			child.Stderr = os.Stderr
			require.NoError(t, child.Start())
			pid := child.Process.Pid
			defer child.Process.Kill()
			var status syscall.WaitStatus
			_, err = syscall.Wait4(pid, &status, syscall.WUNTRACED, nil)
			require.NoError(t, err)
			require.True(t, status.Stopped())

			_, err = o.Swap(t.Context(), first, first, false)
			require.ErrorIs(t, err, sqlstore.ErrBusy)
			require.ErrorContains(t, err, fmt.Sprintf("held by pid %d", pid))
			short, cancel := context.WithTimeout(t.Context(), wait/4)
			_, err = o.Swap(short, first, first, false)
			cancel()
			require.ErrorIs(t, err, context.DeadlineExceeded)
			require.ErrorContains(t, err, fmt.Sprintf("held by pid %d", pid))
			got, err := o.Load(t.Context(), "k") // reading goes on
			require.NoError(t, err)
			require.Equal(t, first.Token, got.Token)
			_, err = openFile(t.Context(), path, sqlstore.SQLite{GateWait: wait})
			require.ErrorIs(t, err, sqlstore.ErrBusy)

			require.NoError(t, child.Process.Signal(end))
			_, err = syscall.Wait4(pid, &status, 0, nil)
			require.NoError(t, err)
			_, err = o.Swap(t.Context(), first, first, false)
			require.NoError(t, err)
			left, err := o.Load(t.Context(), "stopped")
			require.NoError(t, err)
			require.Equal(t, end == syscall.SIGCONT, !left.Zero())
		})
	}
}

// The last one that closes a database has it locked for a moment, outside of the
// gate: who opens it meanwhile waits.
func TestStoresThatOpenAndCloseDoNotDisturbEachOther(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "leases.db")
	var wg sync.WaitGroup
	for n := range 6 {
		wg.Go(func() {
			for range 12 {
				o, err := openFile(context.Background(), path, sqlstore.SQLite{})
				if !assert.NoError(t, err) {
					return
				}
				key := fmt.Sprint(n)
				rec, err := o.Load(context.Background(), key)
				assert.NoError(t, err)
				_, err = o.Swap(context.Background(), rec, lease.Record{Key: key}, true)
				assert.NoError(t, err)
				assert.NoError(t, o.close())
			}
		})
	}
	wg.Wait()
}
