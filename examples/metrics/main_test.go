package main

import (
	"context"
	"io"
	"net/http"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/require"

	"github.com/bullpen-vm/bullpen/pool"
	"github.com/bullpen-vm/bullpen/vm/fake"
	"github.com/bullpen-vm/bullpen/vm/local"
)

func TestMain(m *testing.M) {
	local.Main()
	os.Exit(m.Run())
}

// page is one scrape.
type page string

func scrape(t *testing.T, url string) page {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	require.NoError(t, err)
	answer, err := http.DefaultClient.Do(r)
	require.NoError(t, err)
	defer answer.Body.Close()
	require.Equal(t, http.StatusOK, answer.StatusCode)
	b, err := io.ReadAll(answer.Body)
	require.NoError(t, err)
	return page(b)
}

// value gives a metric's; false: it is not there.
func (p page) value(metric string) (float64, bool) {
	m := regexp.MustCompile(`(?m)^` + regexp.QuoteMeta(metric) + ` (\S+)$`).FindStringSubmatch(string(p))
	if m == nil {
		return 0, false
	}
	v, err := strconv.ParseFloat(m[1], 64)
	return v, err == nil
}

func TestWhatIsScrapedIsWhatThePoolDid(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	ctx, stop := context.WithCancel(t.Context())
	out, say := io.Pipe()
	ended := make(chan error, 1)
	go func() { ended <- run(ctx, "127.0.0.1:0", time.Millisecond, say) }()
	line := make([]byte, 200)
	n, err := out.Read(line)
	require.NoError(t, err)
	url := strings.TrimSpace(string(line[:n]))
	var p page
	require.Eventually(t, func() bool {
		p = scrape(t, url)
		grants, ok := p.value(`bullpen_grants_total{pool="metrics"}`)
		return ok && grants >= 5
	}, time.Minute, 10*time.Millisecond)
	slots, _ := p.value(`bullpen_slots{pool="metrics"}`)
	require.InDelta(t, 2, slots, 0)
	for _, m := range []string{"wait", "ready"} {
		n, ok := p.value(`bullpen_` + m + `_seconds_count{host="here",template="base"}`)
		require.True(t, ok, string(p))
		require.GreaterOrEqual(t, n, 2.0)
	}
	events, ok := p.value(`bullpen_events_total{host="here",kind="granted",template="base"}`)
	require.True(t, ok)
	require.GreaterOrEqual(t, events, 2.0)
	require.Contains(t, string(p), `bullpen_machines{host="here",pool="metrics",state="`)
	stop()
	require.NoError(t, <-ended)
	http.DefaultClient.CloseIdleConnections()
}

func TestTheNumbersAreThePools(t *testing.T) {
	t.Parallel()
	registry := prometheus.NewPedanticRegistry()
	metrics := NewMetrics(registry)
	d := fake.New(fake.Config{HostID: "h"})
	p, err := pool.New(pool.Config{
		Hosts: []pool.Host{{Name: "h", Driver: d, Slots: 2}}, Templates: []pool.Template{{Name: "a"}}, Trace: metrics.Trace(),
	})
	require.NoError(t, err)
	metrics.Watch("p", p)
	g, err := p.Acquire(t.Context(), pool.Want{})
	require.NoError(t, err)
	require.NoError(t, testutil.GatherAndCompare(registry, strings.NewReader(`
		# HELP bullpen_grants_total Machines handed out.
		# TYPE bullpen_grants_total counter
		bullpen_grants_total{pool="p"} 1
		# HELP bullpen_machines Machines now, by state, template and host.
		# TYPE bullpen_machines gauge
		bullpen_machines{host="h",pool="p",state="held",template="a"} 1
		# HELP bullpen_slots Slots of all hosts.
		# TYPE bullpen_slots gauge
		bullpen_slots{pool="p"} 2
		# HELP bullpen_waiting Callers that wait now.
		# TYPE bullpen_waiting gauge
		bullpen_waiting{pool="p"} 0
	`), "bullpen_grants_total", "bullpen_machines", "bullpen_slots", "bullpen_waiting"))
	problems, err := testutil.GatherAndLint(registry)
	require.NoError(t, err)
	require.Empty(t, problems)
	require.NoError(t, g.Release(t.Context(), nil))
	require.NoError(t, p.Close(t.Context()))
	require.NoError(t, d.Close())
	require.NoError(t, testutil.GatherAndCompare(registry, strings.NewReader(""), "bullpen_machines"))
}
