package main

import (
	"context"
	"database/sql"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/bullpen-vm/bullpen/internal/need"
)

// postgres starts a server of the test's own, on a socket in a folder, and gives its
// address.
func postgres(t *testing.T) string {
	t.Helper()
	need.Thing(t, "postgres")
	if address := os.Getenv("BULLPEN_POSTGRES"); ownStore(address) {
		return address
	}
	found, err := filepath.Glob("/usr/lib/postgresql/*/bin/initdb")
	require.NoError(t, err)
	require.NotEmpty(t, found)
	slices.Sort(found)
	bin := filepath.Dir(found[len(found)-1])
	dir, err := os.MkdirTemp("", "s-pg") // the paths of sockets are limited
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, os.RemoveAll(dir)) })
	attributes := &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if os.Getuid() == 0 { // PostgreSQL refuses to be run by root
		u, err := user.Lookup("postgres")
		require.NoError(t, err)
		uid, err := strconv.Atoi(u.Uid)
		require.NoError(t, err)
		gid, err := strconv.Atoi(u.Gid)
		require.NoError(t, err)
		require.NoError(t, os.Chown(dir, uid, gid))
		attributes.Credential = &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
	}
	as := func(name string, args ...string) *exec.Cmd {
		c := exec.Command(filepath.Join(bin, name), args...)
		c.Dir, c.Env, c.SysProcAttr = dir, []string{"PATH=" + os.Getenv("PATH"), "LC_ALL=C", "HOME=" + dir}, attributes
		return c
	}
	data := filepath.Join(dir, "data")
	out, err := as("initdb", "-D", data, "-U", "bullpen", "-A", "trust", "-E", "UTF8", "--no-sync").CombinedOutput()
	require.NoError(t, err, string(out))
	server := as("postgres", "-D", data, "-k", dir, "-c", "listen_addresses=")
	started, ended := make(chan error, 1), make(chan struct{})
	go func() {
		runtime.LockOSThread() // the parent-death signal comes when this thread ends
		defer runtime.UnlockOSThread()
		defer close(ended)
		err := server.Start()
		started <- err
		if err == nil {
			_ = server.Wait()
		}
	}()
	require.NoError(t, <-started)
	t.Cleanup(func() {
		_ = server.Process.Signal(syscall.SIGINT)
		<-ended
	})
	address := fmt.Sprintf("postgres:///postgres?host=%s&user=bullpen", dir)
	db, err := sql.Open("pgx", address)
	require.NoError(t, err)
	defer db.Close()
	require.Eventually(t, func() bool { return db.PingContext(t.Context()) == nil }, 3*time.Minute, 50*time.Millisecond)
	return address
}

func TestHarnessesOfManyMachinesMeetInPostgres(t *testing.T) {
	t.Parallel()
	address := postgres(t)
	p := newProject(t, func(c *config) { c.Store = address })
	first, second := p.client(), p.client()
	r := asked(4)
	r.description = "Jenkins cfme " + t.TempDir() // the database may be of others too
	old, err := first.requestAppliances(t.Context(), r, newTerminal(io.Discard))
	require.NoError(t, err)
	ready(t, old)
	found, err := second.findPoolsByDescription(t.Context(), r.description)
	require.NoError(t, err)
	require.Len(t, found, 1)
	assert.Equal(t, old.ID, found[0].ID)
	lost, cancel := context.WithCancelCause(t.Context())
	defer cancel(nil)
	done := make(chan struct{})
	go func() {
		defer close(done)
		old.runTimer(lost, 20*time.Millisecond, newTerminal(io.Discard), cancel)
	}()
	require.NoError(t, second.destroyPool(t.Context(), found[0]))
	<-done
	assert.ErrorIs(t, context.Cause(lost), errPoolGone)
	mine, err := second.requestAppliances(t.Context(), r, newTerminal(io.Discard))
	require.NoError(t, err)
	s, err := mine.Check(t.Context())
	require.NoError(t, err)
	assert.False(t, s.Fulfilled, "all slots are the other's, in the store")
	require.NoError(t, old.Destroy(t.Context()))
	ready(t, mine)
	require.NoError(t, mine.Destroy(t.Context()))
	p.noMachines()
}
