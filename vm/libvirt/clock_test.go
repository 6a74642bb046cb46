//go:build cgo && (libvirt || libvirt_dlopen)

package libvirt

import (
	"bytes"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/bullpen-vm/bullpen/vm"
)

// A guest that took a wrong rate for its counter's has a clock that is several
// times too fast or too slow; here is looked for a twentieth.
func TestAGuestsClockKeepsPaceWithTheHosts(t *testing.T) {
	d, g := openEmbed(t)
	m := boot(t, d, guestSpec(g))
	var printed bytes.Buffer
	_, err := vm.Exec(t.Context(), m, vm.Command{Argv: []string{"sh", "-c", "cat /proc/cmdline; dmesg | grep tsc:"}, Stdout: &printed})
	require.NoError(t, err)
	if khz := d.counter(); khz > 0 {
		assert.Contains(t, printed.String(), "tsc_early_khz="+strconv.Itoa(khz))
	}
	// What lies between the two looks is at least what lies between their
	// answers and questions, and at most what lies around both.
	look := func() (up float64, asked, answered time.Time) {
		var text bytes.Buffer
		asked = time.Now()
		_, err := vm.Exec(t.Context(), m, vm.Command{Argv: []string{"cat", "/proc/uptime"}, Stdout: &text})
		answered = time.Now()
		require.NoError(t, err)
		up, err = strconv.ParseFloat(strings.Fields(text.String())[0], 64)
		require.NoError(t, err)
		return up, asked, answered
	}
	began, firstAsked, firstAnswered := look()
	for i := 0; ; i++ {
		now, asked, answered := look()
		least, most := asked.Sub(firstAnswered).Seconds(), answered.Sub(firstAsked).Seconds()
		if least < 2 {
			continue
		}
		t.Logf("%.2f s in the guest, %.2f to %.2f on the host, in %d looks", now-began, least, most, i)
		assert.GreaterOrEqual(t, now-began, 0.95*least-0.02, "%s", printed.String())
		assert.LessOrEqual(t, now-began, 1.05*most+0.02, "%s", printed.String())
		return
	}
}
