//go:build cgo && (libvirt || libvirt_dlopen)

package libvirt

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/bullpen-vm/bullpen/diskio"
	"github.com/bullpen-vm/bullpen/internal/need"
	"github.com/bullpen-vm/bullpen/vm"
)

// moment is when libvirtd is killed, seen from a call to it. It is started again
// before the driver hears the call's answer.
type moment int

const (
	during moment = iota // some time after the call was sent
	after                // the deed is done, the answer is lost
	before               // the call is sent to a dead daemon
)

func (m moment) String() string { return [...]string{"during", "after", "before"}[m] }

// cutter kills a real libvirtd around the next call of an operation.
type cutter struct {
	d    *daemon
	call string // of conn; empty: none
	at   moment
	wait time.Duration // during
	cuts atomic.Int32
}

func (k *cutter) around(call string, f func() error) error {
	if k.call != call || !k.cuts.CompareAndSwap(0, 1) {
		return f()
	}
	var err error
	switch k.at {
	case during:
		killed := make(chan struct{})
		go func() {
			defer close(killed)
			time.Sleep(k.wait)
			k.d.kill()
		}()
		err = f()
		<-killed
	case after:
		if err = f(); err == nil {
			err = lostError()
		}
		k.d.kill()
	case before:
		k.d.kill()
		err = f()
	}
	k.d.start()
	return err
}

// cutConn is a real connection whose calls are cut.
type cutConn struct {
	conn
	k *cutter
}

func (c cutConn) List() (all []domain, err error) {
	err = c.k.around("list", func() (err error) { all, err = c.conn.List(); return err })
	return all, err
}

func (c cutConn) Define(x string) error {
	return c.k.around("define", func() error { return c.conn.Define(x) })
}

func (c cutConn) Start(n string, die bool) error {
	return c.k.around("start", func() error { return c.conn.Start(n, die) })
}

func (c cutConn) Restore(f, x string) error {
	return c.k.around("restore", func() error { return c.conn.Restore(f, x) })
}

func (c cutConn) Save(n, f string) error {
	return c.k.around("save", func() error { return c.conn.Save(n, f) })
}

func (c cutConn) Kill(n string) error {
	return c.k.around("kill", func() error { return c.conn.Kill(n) })
}

func (c cutConn) Undefine(n string) error {
	return c.k.around("undefine", func() error { return c.conn.Undefine(n) })
}

func (c cutConn) SetRecord(n, r string) error {
	return c.k.around("set record", func() error { return c.conn.SetRecord(n, r) })
}

// openCut opens a driver whose calls k cuts.
func openCut(t *testing.T, k *cutter) *Driver {
	t.Helper()
	d, err := open(t.Context(), k.d.conf(), func(ctx context.Context, _ string, sink func(event), closed func(string)) (conn, error) {
		c, err := newConnectionFor(ctx, k.d.uri(), sink, closed)
		if err != nil {
			return nil, err
		}
		return cutConn{c, k}, nil
	})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, d.Close()) })
	return d
}

// FIELD (c) 30, 32 and 33: a waiter hangs, a connection never works again, a
// reconnect comes into a revert, where libvirtd is started anew.
//
// libvirtd dies in the middle of each operation, and is there again soon: each
// ends in the right word, and nothing is left of what did not come to be.
func TestSoakLibvirtdIsKilledInTheMiddleOfEachOperation(t *testing.T) {
	if !alone(t) {
		return
	}
	daemon, g := newDaemon(t)
	k := &cutter{d: daemon}
	d := openCut(t, k)
	// cut has the next call of that name cut.
	cut := func(call string, at moment, most time.Duration) {
		k.call, k.at, k.wait = call, at, rand.N(most)
		k.cuts.Store(0)
	}
	parent := boot(t, d, guestSpec(g))
	require.NoError(t, parent.(*machine).Save(t.Context(), "booted"))
	require.NoError(t, parent.Destroy(t.Context()))
	t.Cleanup(func() { require.NoError(t, d.DropParent(context.Background(), "booted")) })
	create := func(t *testing.T) vm.Machine {
		t.Helper()
		m, err := d.Create(t.Context(), guestSpec(g))
		require.NoError(t, err)
		t.Cleanup(func() { require.NoError(t, m.Destroy(context.Background())) })
		return m
	}
	start := func(t *testing.T) vm.Machine {
		t.Helper()
		m := create(t)
		require.NoError(t, m.Start(t.Context()))
		return m
	}
	for _, op := range []struct {
		name string
		do   func(t *testing.T, at moment)
		soak bool // for soaks only
	}{
		{"create", func(t *testing.T, at moment) {
			s := guestSpec(g)
			cut("define", at, 5*time.Millisecond)
			m, err := d.Create(t.Context(), s)
			if err == nil { // the daemon died too late
				require.Equal(t, during, at)
				require.NoError(t, m.Destroy(t.Context()))
				return
			}
			require.ErrorIs(t, err, vm.ErrHostLost)
			_, err = d.Open(t.Context(), vm.ID(s.Name))
			require.ErrorIs(t, err, vm.ErrNotFound)
			require.NoDirExists(t, d.dir(vm.ID(s.Name)))
			// The name is free.
			m, err = d.Create(t.Context(), s)
			require.NoError(t, err)
			require.NoError(t, m.Destroy(t.Context()))
		}, false},
		{"start", func(t *testing.T, at moment) {
			m := create(t)
			cut("start", at, 300*time.Millisecond)
			if err := m.Start(t.Context()); err != nil {
				require.ErrorIs(t, err, vm.ErrHostLost)
				info, err := m.Info(t.Context())
				require.NoError(t, err)
				require.Contains(t, []vm.State{vm.StateDefined, vm.StateStopped}, info.State)
				require.Empty(t, processesWith(t, string(m.ID())))
				require.NoError(t, m.Start(t.Context()), "again")
			}
			require.NoError(t, m.Kill(t.Context()))
		}, false},
		{"kill", func(t *testing.T, at moment) {
			m := start(t)
			cut("kill", at, 200*time.Millisecond)
			require.NoError(t, m.Kill(t.Context()))
			end, err := m.(*machine).Wait(t.Context())
			require.NoError(t, err)
			assert.Equal(t, vm.EndKilled, end.Kind, "%+v", end)
			require.Empty(t, processesWith(t, string(m.ID())))
		}, false},
		{"destroy, ending it", func(t *testing.T, at moment) {
			m := start(t)
			cut("kill", at, 200*time.Millisecond)
			require.NoError(t, m.Destroy(t.Context()))
			_, err := d.Open(t.Context(), m.ID())
			require.ErrorIs(t, err, vm.ErrNotFound)
		}, false},
		{"destroy, undefining it", func(t *testing.T, at moment) {
			m := start(t)
			cut("undefine", at, 5*time.Millisecond)
			require.NoError(t, m.Destroy(t.Context()))
			_, err := d.Open(t.Context(), m.ID())
			require.ErrorIs(t, err, vm.ErrNotFound)
		}, false},
		{"set owner", func(t *testing.T, at moment) {
			m := start(t)
			owner := vm.Owner{Pool: "test", Incarnation: m.(*machine).incarnation, Token: 8}
			cut("set record", at, 5*time.Millisecond)
			require.NoError(t, m.(*machine).SetOwner(t.Context(), owner))
			info, err := m.Info(t.Context())
			require.NoError(t, err)
			assert.Equal(t, owner, info.Owner)
		}, false},
		{"list", func(t *testing.T, at moment) {
			m := start(t)
			cut("list", at, 5*time.Millisecond)
			all, err := d.List(t.Context())
			require.NoError(t, err)
			require.Len(t, all, 1)
			assert.Equal(t, m.ID(), all[0].ID)
			assert.Equal(t, vm.StateRunning, all[0].State)
		}, false},
		{"insert and job disk", func(t *testing.T, _ moment) {
			m := start(t)
			in, err := diskio.Pack(t.Context(), t.TempDir()+"/in.img", diskio.Tree{Files: []diskio.File{{Path: "a", Data: []byte("b")}}}, nil)
			require.NoError(t, err)
			defer in.Close()
			daemon.kill()
			// They are files: no daemon is asked.
			require.NoError(t, m.(*machine).Insert(t.Context(), 0, in))
			disk, err := m.(*machine).JobDisk(t.Context(), 0)
			require.NoError(t, err)
			require.NoError(t, disk.Close())
			daemon.start()
		}, false},
		{"save", func(t *testing.T, at moment) {
			m := boot(t, d, guestSpec(g))
			cut("save", at, 200*time.Millisecond)
			if err := m.(*machine).Save(t.Context(), "other"); err == nil {
				require.NoError(t, d.DropParent(t.Context(), "other"))
				return
			} else if !errors.Is(err, vm.ErrHostLost) {
				// The daemon was there again before the driver knew that it had gone.
				require.ErrorContains(t, err, "libvirt")
			}
			all, err := d.Parents(t.Context())
			require.NoError(t, err)
			assert.Equal(t, []string{"booted"}, all, "no half parent")
			require.NoError(t, m.Kill(t.Context()))
		}, false},
		{"snapshot", func(t *testing.T, at moment) {
			m := boot(t, d, guestSpec(g)).(*machine)
			cut("save", at, 200*time.Millisecond)
			if err := m.Snapshot(t.Context(), "x"); err == nil {
				require.NoError(t, vm.ProveClean(t.Context(), m))
				return
			} else if !errors.Is(err, vm.ErrHostLost) {
				require.ErrorContains(t, err, "libvirt")
			}
			names, err := m.Snapshots(t.Context())
			require.NoError(t, err)
			assert.Empty(t, names, "no half snapshot")
			state := vm.StateUnknown
			require.Eventually(t, func() bool { // it is paused until libvirtd has found out that it was to be saved
				info, err := m.Info(t.Context())
				state = info.State
				return err == nil && state != vm.StatePaused
			}, time.Minute, 20*time.Millisecond)
			if state != vm.StateRunning { // it was saved, and nobody heard
				require.Equal(t, vm.StateStopped, state)
				require.NoError(t, m.Start(t.Context()))
			}
			require.NoError(t, vm.ProveClean(t.Context(), m))
			require.NoError(t, m.Snapshot(t.Context(), "x"))
		}, true},
		{"revert", func(t *testing.T, at moment) {
			s := guestSpec(g)
			m := boot(t, d, s).(*machine)
			require.NoError(t, m.Snapshot(t.Context(), "x"))
			cut("restore", at, 200*time.Millisecond)
			policy := vm.Policy{Driver: d, Spec: s, Rungs: []vm.Rung{vm.RungRevert}, Snapshot: "x"}
			if _, err := vm.Renew(t.Context(), m, policy); err != nil {
				require.ErrorIs(t, err, vm.ErrHostLost)
				require.Empty(t, processesWith(t, s.Name))
				_, err = vm.Renew(t.Context(), m, policy)
				require.NoError(t, err, "again")
			}
			require.NoError(t, vm.ProveClean(t.Context(), m))
		}, true},
		{"renew", func(t *testing.T, at moment) {
			m := start(t)
			s := guestSpec(g)
			cut("restore", at, 200*time.Millisecond)
			r, err := vm.Renew(t.Context(), m, vm.Policy{Driver: d, Spec: s, Parent: "booted"})
			if err != nil {
				require.ErrorIs(t, err, vm.ErrHostLost)
			} else {
				require.NoError(t, vm.ProveClean(t.Context(), r.Machine))
				if at != during {
					assert.Equal(t, vm.RungCold, r.Rung)
					require.NotEmpty(t, r.Skipped)
				}
				require.NoError(t, r.Machine.Destroy(t.Context()))
			}
		}, false},
	} {
		moments := need.Soak(t, 1, 3)
		if op.soak && moments == 1 {
			continue
		}
		for at := range moment(moments) {
			t.Run(op.name+", "+at.String(), func(t *testing.T) {
				began := time.Now()
				op.do(t, at)
				assert.Less(t, time.Since(began), d.conf.KillTimeout+d.conf.BootTimeout, "in time")
			})
			all, err := d.List(t.Context())
			require.NoError(t, err)
			require.Empty(t, all, "%s, %v", op.name, at)
			require.Empty(t, daemon.guests(), "%s, %v", op.name, at)
			leftFiles(t, d.Root(), "parent.json", "state", verdictFile)
		}
	}
}
