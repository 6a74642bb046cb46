package bullpen_test

import (
	"fmt"
	"os"
	"regexp"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/bullpen-vm/bullpen/diskio"
	"github.com/bullpen-vm/bullpen/lease"
	"github.com/bullpen-vm/bullpen/pool"
	"github.com/bullpen-vm/bullpen/pool/runner"
	"github.com/bullpen-vm/bullpen/scheduler"
	"github.com/bullpen-vm/bullpen/vm"
	"github.com/bullpen-vm/bullpen/vm/dialin"
	"github.com/bullpen-vm/bullpen/vm/local"
)

func TestTheTableOfDefaultsIsTrue(t *testing.T) {
	t.Parallel()
	want := map[string]any{
		"lease.DefaultTTL": lease.DefaultTTL, "lease.DefaultMissing": lease.DefaultMissing,
		"pool.DefaultIdle": pool.DefaultIdle, "pool.DefaultPoll": pool.DefaultPoll, "pool.DefaultBootTimeout": pool.DefaultBootTimeout,
		"pool.DefaultHold": pool.DefaultHold, "pool.DefaultJobDisk": pool.DefaultJobDisk,
		"local.DefaultKeepalive":        local.DefaultKeepalive,
		"dialin.DefaultKeepalive":       dialin.DefaultKeepalive,
		"dialin.DefaultHelloTimeout":    dialin.DefaultHelloTimeout,
		"scheduler.DefaultPendingLimit": scheduler.DefaultPendingLimit, "scheduler.DefaultGrace": scheduler.DefaultGrace,
		"scheduler.DefaultAttempts": scheduler.DefaultAttempts, "scheduler.DefaultPoisonAfter": scheduler.DefaultPoisonAfter,
		"vm.DefaultGrace": vm.DefaultGrace, "runner.DefaultSlack": runner.DefaultSlack, "runner.DefaultReadTimeout": runner.DefaultReadTimeout,
		"diskio.DefaultResults": diskio.DefaultResults,
	}
	text, err := os.ReadFile("ARCHITECTURE.md")
	require.NoError(t, err)
	got := map[string]string{}
	for _, m := range regexp.MustCompile("(?m)^\\| `([a-z]+\\.Default[A-Za-z]+)` \\| (\\S+) \\|").FindAllStringSubmatch(string(text), -1) {
		got[m[1]] = m[2]
	}
	assert.Len(t, got, len(want))
	for name, v := range want {
		assert.Equal(t, fmt.Sprint(v), got[name], name)
	}
}
