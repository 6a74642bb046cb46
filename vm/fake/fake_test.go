package fake_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/fstest"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/bullpen-vm/bullpen/vm"
	"github.com/bullpen-vm/bullpen/vm/fake"
)

func spec(name string) vm.Spec {
	return vm.Spec{
		Name: name, Template: "deb12", JobDisks: []int64{1 << 20}, Inputs: 2,
		Owner: vm.Owner{Incarnation: "inc-" + name}, Secret: "s3cret-" + vm.Secret(name),
	}
}

func boot(t *testing.T, d vm.Driver, name string) vm.Machine {
	t.Helper()
	m, err := d.Create(t.Context(), spec(name))
	require.NoError(t, err)
	require.NoError(t, m.Start(t.Context()))
	return m
}

func TestJobRunsToItsEndOnAFakeMachine(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h := fake.NewHypervisor(fake.Config{
			Times: fake.Times{Boot: 20 * time.Second, Start: time.Second},
			Job: func(ctx context.Context, j *fake.Job) error {
				j.Send(64, []byte("half way"))
				_, err := j.Disk(0).WriteAt([]byte("result of "+string(j.Go)), 4096)
				return err
			},
		})
		defer h.Close()
		d := h.Driver()
		m, err := d.Create(t.Context(), spec("a"))
		require.NoError(t, err)
		var said []string
		began := time.Now()
		end, err := vm.Run(t.Context(), m, vm.RunOptions{Go: []byte("job 7"), Message: func(kind uint8, body []byte) {
			said = append(said, fmt.Sprint(kind, " ", string(body)))
		}})
		require.NoError(t, err)
		require.Equal(t, vm.EndDone, end.Kind)
		require.Equal(t, []string{"64 half way"}, said)
		require.Equal(t, 21*time.Second, time.Since(began))
		a, ok := vm.As[vm.Attacher](m)
		require.True(t, ok)
		disk, err := a.JobDisk(t.Context(), 0)
		require.NoError(t, err)
		got := make([]byte, 15)
		_, err = disk.ReadAt(got, 4096)
		require.NoError(t, err)
		require.Equal(t, "result of job 7", string(got))
		require.ErrorIs(t, vm.ProveClean(t.Context(), m), vm.ErrDirty)
		require.NoError(t, m.Destroy(t.Context()))
		require.NoError(t, m.Destroy(t.Context()))
		require.NoError(t, d.Close())
	})
}

func TestCommandsAndCopiesWorkInAFakeGuest(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := fake.New(fake.Config{})
		defer d.Close()
		m := boot(t, d, "a")
		var out bytes.Buffer
		exit, err := vm.Exec(t.Context(), m, vm.Command{Argv: []string{"echo", "hello", "guest"}, Stdout: &out})
		require.NoError(t, err)
		require.True(t, exit.OK())
		require.Equal(t, "hello guest\n", out.String())
		big := strings.Repeat("0123456789abcdef", 100_000)
		out.Reset()
		exit, err = vm.Exec(t.Context(), m, vm.Command{Argv: []string{"cat"}, Stdin: strings.NewReader(big), Stdout: &out})
		require.NoError(t, err)
		require.True(t, exit.OK())
		require.Equal(t, big, out.String())
		_, err = vm.Exec(t.Context(), m, vm.Command{Argv: []string{"nonsense"}})
		require.ErrorContains(t, err, "not found")

		c, err := vm.CopyTo(t.Context(), m, "/srv", fstest.MapFS{"x/y": {Data: []byte(big)}, "z": {Data: []byte("zz")}}, nil)
		require.NoError(t, err)
		require.Equal(t, vm.Copied{Files: 2, Bytes: int64(len(big)) + 2}, c)
		out.Reset()
		c, err = vm.CopyFrom(t.Context(), m, "/srv", &out, nil)
		require.NoError(t, err)
		require.Equal(t, 2, c.Files)
		require.Contains(t, out.String(), big)
		_, err = vm.CopyFrom(t.Context(), m, "/nowhere", &out, nil)
		require.ErrorIs(t, err, vm.ErrFault)
		_, err = vm.CopyFrom(t.Context(), m, "/srv", &out, &vm.CopyOptions{MaxBytes: 1000})
		require.Error(t, err)
	})
}

func TestLadderTakesTheCheapestRungThatWorks(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := fake.New(fake.Config{Times: fake.Times{Boot: 10 * time.Second, Fork: time.Second, Revert: 2 * time.Second}})
		defer d.Close()
		m := boot(t, d, "a")
		require.NoError(t, vm.ProveClean(t.Context(), m))
		s, _ := vm.As[vm.Snapshotter](m)
		require.NoError(t, s.Snapshot(t.Context(), "clean"))
		_, err := vm.Exec(t.Context(), m, vm.Command{Argv: []string{"true"}})
		require.NoError(t, err)
		require.ErrorIs(t, vm.ProveClean(t.Context(), m), vm.ErrDirty)

		r, err := vm.Renew(t.Context(), m, vm.Policy{Driver: d, Spec: spec("b"), Parent: "none", Snapshot: "clean"})
		require.NoError(t, err)
		require.Equal(t, vm.RungRevert, r.Rung)
		require.Equal(t, 2*time.Second, r.Cost)
		require.Equal(t, vm.ID("a"), r.Machine.ID())
		require.Len(t, r.Skipped, 2)
		require.ErrorIs(t, r.Skipped[0].Err, vm.ErrNotFound)
		require.ErrorIs(t, r.Skipped[1].Err, errors.ErrUnsupported)

		sv, _ := vm.As[vm.Saver](r.Machine)
		require.NoError(t, sv.Save(t.Context(), "p"))
		r, err = vm.Renew(t.Context(), r.Machine, vm.Policy{Driver: d, Spec: spec("c"), Parent: "p"})
		require.NoError(t, err)
		require.Equal(t, vm.RungFork, r.Rung)
		require.Equal(t, vm.ID("c"), r.Machine.ID())
		require.Equal(t, 1, d.Hypervisor().Count())

		r, err = vm.Renew(t.Context(), r.Machine, vm.Policy{Driver: d, Spec: spec("e")})
		require.NoError(t, err)
		require.Equal(t, vm.RungCold, r.Rung)
		require.Equal(t, 10*time.Second, r.Cost)
	})
}
