//go:build cgo && (libvirt || libvirt_dlopen)

package libvirt

import (
	"bytes"
	"context"
	"crypto/rand"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/bullpen-vm/bullpen/internal/need"
	"github.com/bullpen-vm/bullpen/vm"
)

// mostSlope is how many bytes of this process's memory a job may cost for good.
// Below it is what the allocators of Go and C scatter; a domain's description
// that is not freed is above.
const mostSlope = 32 << 10

// Each job has a clean machine and says back a word that only it was told. What
// there is between jobs is the same at the end as at the beginning.
func TestJobsInARowLeaveNothingBehindThatGrows(t *testing.T) {
	d, g := openEmbedAlone(t)
	jobs := need.Soak(t, 6, 300)
	require.NoError(t, vm.MakeParent(t.Context(), d, "row", guestSpec(g)))
	t.Cleanup(func() { require.NoError(t, d.DropParent(context.Background(), "row")) })
	var last vm.Machine
	defer func() {
		if last != nil {
			assert.NoError(t, last.Destroy(context.Background()))
		}
	}()
	uuids := map[string]bool{}
	counts := map[string][]int{}
	var memory []int
	began := time.Now()
	for i := range jobs {
		r, err := vm.Renew(t.Context(), last, vm.Policy{Driver: d, Spec: guestSpec(g), Parent: "row"})
		require.NoError(t, err, "job %d", i)
		require.Equal(t, vm.RungRestore, r.Rung, "job %d: %v", i, r.Skipped)
		last = r.Machine
		nonce := rand.Text()
		steps := runJob(t, last, nil, "echo "+nonce, "cat /proc/sys/kernel/random/uuid").Parts[0].Steps
		require.Equal(t, nonce+"\n", string(steps[0].Stdout), "job %d", i)
		uuid := string(steps[1].Stdout)
		require.False(t, uuids[uuid], "job %d has the random number of an earlier one", i)
		uuids[uuid] = true
		for what, n := range countAll(t, d) {
			counts[what] = append(counts[what], n)
		}
		memory = append(memory, resident(t))
	}
	t.Logf("%d jobs, %v each", jobs, (time.Since(began) / time.Duration(jobs)).Round(time.Millisecond))
	for what, seen := range counts {
		first, end := seen[1:max(2, len(seen)/3)], seen[len(seen)*2/3:]
		t.Logf("%s: %d to %d in the first third, %d to %d in the last", what, slices.Min(first), slices.Max(first), slices.Min(end), slices.Max(end))
		if what == "threads" {
			// Go and libvirt keep those that they once needed, so there are steps.
			if slope := medianSlope(seen[len(seen)/3:]); jobs >= 100 {
				assert.Less(t, slope, 0.01, "threads grow: %v", seen)
			}
			continue
		}
		// The least: something that is about to go may be there at any one look.
		assert.LessOrEqual(t, slices.Min(end), slices.Min(first), "%s grow: %v", what, seen)
	}
	slope := medianSlope(memory[len(memory)/3:])
	t.Logf("memory: %d KiB after the first job, %d after the last; %.1f KiB a job", memory[0]>>10, memory[len(memory)-1]>>10, slope/1024)
	if jobs >= 100 { // of fewer nothing can be told
		assert.Less(t, slope, float64(mostSlope), "memory grows: %v", memory)
	}
}

// countAll counts what a job might leave, while one machine runs.
func countAll(t *testing.T, d *Driver) map[string]int {
	t.Helper()
	all, err := d.List(t.Context())
	require.NoError(t, err)
	fds, err := os.ReadDir("/proc/self/fd")
	require.NoError(t, err)
	files := 0
	require.NoError(t, filepath.WalkDir(shared.dir, func(_ string, _ fs.DirEntry, err error) error {
		files++
		if os.IsNotExist(err) {
			return nil
		}
		return err
	}))
	emulators := 0
	cmdlines, err := filepath.Glob("/proc/[0-9]*/cmdline")
	require.NoError(t, err)
	for _, name := range cmdlines {
		text, err := os.ReadFile(name)
		if err == nil && strings.HasPrefix(filepath.Base(string(text[:max(0, bytes.IndexByte(text, 0))])), "qemu") && bytes.Contains(text, []byte(shared.dir)) {
			emulators++
		}
	}
	threads, err := os.ReadDir("/proc/self/task")
	require.NoError(t, err)
	return map[string]int{"domains": len(all), "descriptors": len(fds), "files": files, "processes": emulators, "goroutines": runtime.NumGoroutine(), "threads": len(threads)}
}

// resident is what this process has in memory, in bytes, when all that can be
// given back was.
func resident(t *testing.T) int {
	t.Helper()
	debug.FreeOSMemory()
	text, err := os.ReadFile("/proc/self/statm")
	require.NoError(t, err)
	pages, err := strconv.Atoi(strings.Fields(string(text))[1])
	require.NoError(t, err)
	return pages * os.Getpagesize()
}

// medianSlope is the middle one of the slopes between all pairs (Theil and Sen):
// single steps, such as an allocator's new arena, do not move it.
func medianSlope(values []int) float64 {
	var slopes []float64
	for i := range values {
		for j := range i {
			slopes = append(slopes, float64(values[i]-values[j])/float64(i-j))
		}
	}
	if len(slopes) == 0 {
		return 0
	}
	slices.Sort(slopes)
	return slopes[len(slopes)/2]
}

func TestTheMedianOfSlopesSeesALeakButNotAStep(t *testing.T) {
	t.Parallel()
	var leak, step, noise []int
	for i := range 200 {
		leak = append(leak, 80<<20+i*(mostSlope+1000)+(i%7)<<14)
		step = append(step, 80<<20+(i/150)<<22+(i%5)<<14)
		noise = append(noise, 80<<20+(i*7919%13)<<16)
	}
	assert.Greater(t, medianSlope(leak), float64(mostSlope))
	assert.Less(t, medianSlope(step), float64(mostSlope))
	assert.Less(t, medianSlope(noise), float64(mostSlope))
	assert.Zero(t, medianSlope(nil))
}
