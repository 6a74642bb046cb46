//go:build cgo && (libvirt || libvirt_dlopen)

package poolproof

import (
	"context"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/bullpen-vm/bullpen/pool"
	"github.com/bullpen-vm/bullpen/vm"
)

// Two hypervisors, of which the second has the template's parent: machines are
// made there from its saved state, until half of its slots more are used than on
// the first, which boots from cold.
func TestOnRealMachinesAMachineIsMadeWhereItsParentIs(t *testing.T) {
	args := realArgs(t)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
	defer cancel()
	c := pool.Config{Name: "placed"}
	var spec vm.Spec
	for i, name := range []string{"cold", "warm"} {
		own := append([]string{}, args...)
		if i > 0 {
			dir := filepath.Join(args[1], name)
			own[2], own[3] = libvirtd(t, dir), filepath.Join(dir, "r")
		}
		d, s, err := driveReal(ctx, own)
		require.NoError(t, err)
		defer func() { require.NoError(t, d.Close()) }()
		spec = s
		c.Hosts = append(c.Hosts, pool.Host{Name: name, Driver: d, Slots: 2})
	}
	spec.JobDisks, spec.Inputs = []int64{pool.DefaultJobDisk}, pool.DefaultInputs
	parent := spec
	parent.Name, parent.Owner.Incarnation, parent.Secret = "to-be-saved", "of-the-parent", "secret"
	require.NoError(t, vm.MakeParent(ctx, c.Hosts[1].Driver, "booted", parent))
	c.Templates = []pool.Template{{Name: "guest", Spec: spec, Parent: "booted"}}
	c.Trace = &pool.Trace{Event: func(e pool.Event) {
		if e.Kind == pool.EventBoot || e.Kind == pool.EventReady || e.Err != nil {
			t.Log(e.Kind, e.Host, e.Place, e.Reason, e.Took.Round(time.Millisecond), e.Err)
		}
	}}
	p, err := pool.New(c)
	require.NoError(t, err)
	defer func() { require.NoError(t, p.Close(ctx)) }()
	var rungs []string
	for _, want := range []string{"warm", "cold"} {
		g, err := p.Acquire(ctx, pool.Want{Job: t.Name()})
		require.NoError(t, err)
		defer g.Release(context.WithoutCancel(ctx), nil)
		require.Equal(t, want, g.Host())
		var said strings.Builder
		_, err = g.Exec(ctx, vm.Command{Argv: []string{"/bin/echo", "here"}, Stdout: &said})
		require.NoError(t, err)
		require.Equal(t, "here\n", said.String())
	}
	for _, g := range p.Guests() {
		rungs = append(rungs, g.Host+" "+g.Rung)
	}
	require.Equal(t, []string{"cold cold", "warm restore"}, rungs)
	require.EqualValues(t, 1, p.Stats().FromParent)
	require.EqualValues(t, 1, p.Stats().Cold)
}
