package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/bullpen-vm/bullpen/internal/daemon"
	"github.com/bullpen-vm/bullpen/internal/need"
	"github.com/bullpen-vm/bullpen/lease"
	"github.com/bullpen-vm/bullpen/vm/local"
)

// The test binary is the program.
func TestMain(m *testing.M) {
	local.Main()
	if os.Getenv("BULLPEN_TEST_SHAREDPOOL") == "1" {
		main()
	}
	os.Exit(m.Run())
}

func TestHarnessesShareTheSlots(t *testing.T) {
	for _, row := range []struct {
		name  string
		where func(t *testing.T) string
	}{
		{"sqlite", func(t *testing.T) string { return filepath.Join(t.TempDir(), "leases.db") }},
		{"postgres", func(t *testing.T) string { return started(t, "postgres", daemon.PostgreSQL) }},
		{"etcd", func(t *testing.T) string { return "etcd://" + started(t, "etcd", daemon.Etcd) }},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			shareSlots(t, row.where(t))
		})
	}
}

// started gives the address of a database that ends with the test.
func started(t *testing.T, thing string, start func(context.Context) (*daemon.Server, error)) string {
	t.Helper()
	need.Thing(t, thing)
	s, err := start(t.Context())
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, s.Close()) })
	return s.Address
}

func shareSlots(t *testing.T, where string) {
	t.Helper()
	const harnesses, jobs, slots = 3, 3, 2
	dir := t.TempDir()
	inside := filepath.Join(dir, "inside")
	require.NoError(t, os.Mkdir(inside, 0o700))
	counts := filepath.Join(dir, "counts")
	// Each job says how many are at work while it is.
	command := fmt.Sprintf("mkdir %[1]s/$$ && sleep 0.1 && ls %[1]s | wc -l >> %[2]s && rmdir %[1]s/$$", inside, counts)
	var all []*exec.Cmd
	var outs []*bytes.Buffer
	for range harnesses {
		c := exec.CommandContext(t.Context(), os.Args[0], "-store", where, "-machines", filepath.Join(dir, "machines"),
			"-slots", fmt.Sprint(slots), "-jobs", fmt.Sprint(jobs), "-command", command)
		c.Env = append(os.Environ(), "BULLPEN_TEST_SHAREDPOOL=1", "TMPDIR="+dir)
		out := new(bytes.Buffer)
		c.Stdout, c.Stderr = out, out
		require.NoError(t, c.Start())
		all, outs = append(all, c), append(outs, out)
	}
	for i, c := range all {
		assert.NoError(t, c.Wait(), outs[i].String())
		assert.Contains(t, outs[i].String(), fmt.Sprintf("%d passed", jobs))
	}
	text, err := os.ReadFile(counts)
	require.NoError(t, err)
	seen := strings.Fields(string(text))
	assert.Len(t, seen, harnesses*jobs)
	for _, n := range seen {
		assert.Contains(t, []string{"1", "2"}, n, "jobs at work at once, with %d slots", slots)
	}
}

// What wakes waiters is LISTEN, or etcd's watch: nothing polls here. The first values
// may say only that something was missed, so there are more rounds than those.
func TestAHarnessHearsOfTheChangesOfAnother(t *testing.T) {
	for _, row := range []struct {
		name  string
		where func(t *testing.T) string
	}{
		{"postgres", func(t *testing.T) string { return started(t, "postgres", daemon.PostgreSQL) }},
		{"etcd", func(t *testing.T) string { return "etcd://" + started(t, "etcd", daemon.Etcd) }},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
			defer cancel()
			where := row.where(t)
			var stores []lease.Store
			for range 2 {
				store, closeStore, err := openStore(ctx, where)
				require.NoError(t, err)
				defer func() { assert.NoError(t, closeStore()) }()
				stores = append(stores, store)
			}
			told, err := stores[1].(lease.Watcher).Watch(ctx, "host/")
			require.NoError(t, err)
			rec, err := stores[0].Swap(ctx, lease.Record{}, lease.Record{Key: "host/shared/slot/0"}, true)
			require.NoError(t, err)
			for range 6 {
				select {
				case _, ok := <-told:
					require.True(t, ok)
				case <-ctx.Done():
					require.NoError(t, ctx.Err())
				}
				rec, err = stores[0].Swap(ctx, rec, rec, false)
				require.NoError(t, err)
			}
		})
	}
}
