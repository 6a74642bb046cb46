package runner_test

import (
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/bullpen-vm/bullpen/diskio"
	"github.com/bullpen-vm/bullpen/pool"
	"github.com/bullpen-vm/bullpen/pool/runner"
	"github.com/bullpen-vm/bullpen/vm/fake"
)

func image(t *testing.T, text string) *diskio.Image {
	t.Helper()
	name := filepath.Join(t.TempDir(), "image")
	require.NoError(t, os.WriteFile(name, append([]byte(text), make([]byte, 4096-len(text))...), 0o600))
	im, err := diskio.OpenImage(name)
	require.NoError(t, err)
	t.Cleanup(func() { _ = im.Close() })
	return im
}

// A task comes to a worker on the host that has its inputs, where the source's
// Want names them.
func TestATaskIsRunWhereItsInputsAre(t *testing.T) {
	one, two := image(t, "one"), image(t, "two")
	jobs := map[string]diskio.Job{
		"none": {},
		"one":  {Inputs: []diskio.Input{{Name: "a", Image: one}}},
		"two":  {Inputs: []diskio.Input{{Name: "a", Image: two}}},
		"both": {Inputs: []diskio.Input{{Name: "a", Image: two}, {Name: "b", Image: one}, {Name: "c", Image: two}, {Name: "d"}}},
	}
	digests := runner.Inputs(jobs["both"], jobs["none"], jobs["both"])
	require.ElementsMatch(t, []string{one.Digest(), two.Digest()}, digests)
	require.IsIncreasing(t, digests)
	require.Empty(t, runner.Inputs())
	synctest.Test(t, func(t *testing.T) {
		c := pool.Config{Templates: []pool.Template{{Name: "x", Ready: 16}}}
		for _, in := range []*diskio.Image{one, two} {
			h := fake.NewHypervisor(fake.Config{HostID: "of " + in.Digest()})
			defer h.Close()
			h.Stock(in.Digest())
			d := h.Driver()
			defer d.Close()
			c.Hosts = append(c.Hosts, pool.Host{Driver: d, Slots: 8})
		}
		p, err := pool.New(c)
		require.NoError(t, err)
		defer p.Close(t.Context())
		time.Sleep(time.Minute)
		source := runner.Source(p, runner.Options{Want: func(d runner.Demand) pool.Want {
			w := runner.DefaultWant(d)
			w.Inputs = runner.Inputs(jobs[d.Task])
			return w
		}})
		for _, name := range []string{"one", "one", "two", "two"} {
			w, err := source.Worker(t.Context(), runner.Demand{Task: name})
			require.NoError(t, err)
			defer w.Release(t.Context(), nil)
			require.Equal(t, "of "+jobs[name].Inputs[0].Image.Digest(), w.Info().Labels["host"])
		}
	})
}
