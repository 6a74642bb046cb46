//go:build cgo && (libvirt || libvirt_dlopen)

package libvirt

import (
	"context"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/bullpen-vm/bullpen/vm"
)

// FIELD (c) 36: a clock that is behind after a restore.
//
// A restored machine must take a fraction of a cold boot; how small a one is for
// the benchmarks.
func TestRenewRestoresAParentAndSaysWhichRungItTook(t *testing.T) {
	d, g := openEmbed(t)
	m := boot(t, d, guestSpec(g))
	require.NoError(t, m.(*machine).Save(t.Context(), "booted"))
	t.Cleanup(func() { require.NoError(t, d.DropParent(context.Background(), "booted")) })
	var last vm.Machine
	seen := map[string]bool{}
	for range 4 {
		r, err := vm.Renew(t.Context(), last, vm.Policy{Driver: d, Spec: guestSpec(g), Parent: "booted"})
		require.NoError(t, err)
		assert.Equal(t, vm.RungRestore, r.Rung)
		t.Logf("restored and proven clean in %v", r.Cost.Round(time.Millisecond))
		last = r.Machine
		steps := runJob(t, last, nil, "cat /proc/sys/kernel/random/uuid", "hostname", "date +%s").Parts[0].Steps
		assert.False(t, seen[string(steps[0].Stdout)], "two machines of one parent made the same random number")
		seen[string(steps[0].Stdout)] = true
		assert.Equal(t, string(last.ID())+"\n", string(steps[1].Stdout))
		at, err := strconv.ParseInt(strings.TrimSpace(string(steps[2].Stdout)), 10, 64)
		require.NoError(t, err)
		assert.WithinDuration(t, time.Now(), time.Unix(at, 0), 10*time.Second, "the parent's clock")
	}
	r, err := vm.Renew(t.Context(), last, vm.Policy{Driver: d, Spec: guestSpec(g), Parent: "none"})
	require.NoError(t, err)
	assert.Equal(t, vm.RungCold, r.Rung)
	require.NotEmpty(t, r.Skipped)
	t.Logf("cold in %v", r.Cost.Round(time.Millisecond))
	require.NoError(t, r.Machine.Destroy(t.Context()))
}
