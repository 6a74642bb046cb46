//go:build cgo && (libvirt || libvirt_dlopen)

package main

import (
	"context"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/bullpen-vm/bullpen/internal/need"
	"github.com/bullpen-vm/bullpen/result"
	"github.com/bullpen-vm/bullpen/vm"
)

// Five configurations, one lock of two: as many guests as the hypervisor itself lists.
func TestOnRealMachinesFiveConfigurationsNeverRunMoreThanTwo(t *testing.T) {
	if testing.Short() {
		t.Skip("-short: real machines take their time")
	}
	need.Thing(t, "libvirt")
	need.Thing(t, "qemu")
	need.Thing(t, "kernel")
	text := strings.NewReplacer(`"driver": "local"`, `"driver": "libvirt", "dir": "v"`, `sleep 1m`, `test -e /proc/cpuinfo && echo on $BULLPEN_TEMPLATE; uname -s`).Replace(five(`, "build_wait_timeout": 0`))
	file, dir := site(t, text)
	require.NoError(t, os.Chmod(dir, 0o755)) // QEMU may run as another user
	c, err := load(file)
	require.NoError(t, err)
	m, end, err := openMaster(t.Context(), c, discard())
	require.NoError(t, err)
	ended := false
	defer func() {
		if !ended {
			assert.NoError(t, end(t.Context()))
		}
	}()
	driver := m.parts.hosts[0].driver
	ctx, cancel := context.WithCancel(t.Context())
	most, looks := 0, 0
	var watch sync.WaitGroup
	watch.Go(func() {
		for ctx.Err() == nil {
			all, err := driver.List(ctx)
			if err == nil {
				running := 0
				for _, i := range all {
					if i.State == vm.StateRunning || i.State == vm.StateStarting {
						running++
					}
				}
				most, looks = max(most, running), looks+1
			}
			wait(ctx, 50*time.Millisecond)
		}
	})
	var mu sync.Mutex
	var builds sync.WaitGroup
	templates := map[string]bool{}
	for _, b := range c.Builds {
		builds.Go(func() {
			done, err := m.build(t.Context(), b.Name, nil)
			mu.Lock()
			defer mu.Unlock()
			if assert.NoError(t, err) && assert.Equal(t, result.Passed, done.Status, "%s\n%s", done.Message, done.Output) {
				assert.Contains(t, done.Output, "on "+b.Workers[0])
				assert.Contains(t, done.Output, "Linux")
				s := done.Starts[len(done.Starts)-1]
				assert.NotEmpty(t, s.Details, "what libvirt says of the start")
				templates[s.Worker] = true
				t.Logf("%v, waited %v, boot %v, %v", done, s.Queued.Round(1e8), s.Boot.Round(1e8), s.Details)
			}
		})
	}
	builds.Wait()
	cancel()
	watch.Wait()
	assert.Len(t, templates, 5)
	assert.Equal(t, 2, most, "guests at once, in %d looks at the hypervisor's list", looks)
	require.NoError(t, end(t.Context()))
	ended = true
}
