package lease

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestBadInputIsRefusedWithTheRule(t *testing.T) {
	m := newManager(t, NewMemStore())
	for _, c := range []struct {
		key  string
		o    *Options
		want string
	}{
		{"", nil, "key is empty"},
		{"session/x", nil, `does not start with "session/"`},
		{"k", &Options{Term: -1}, "Options.Term is -1ns, want 10ms or more"},
		{"k", &Options{Term: time.Hour, MostTerm: time.Minute}, "Options.MostTerm is 1m0s, want at least Term (1h0m0s)"},
	} {
		_, err := m.Acquire(t.Context(), c.key, c.o)
		require.ErrorContains(t, err, c.want)
		_, err = m.TryAny(t.Context(), []string{c.key, "other"}, c.o)
		require.ErrorContains(t, err, c.want)
	}
	_, err := m.Adopt(t.Context(), "", 1)
	require.Error(t, err)
	require.Error(t, m.Release(t.Context(), "", 1))
	for _, c := range []struct {
		config Config
		want   string
	}{
		{Config{}, "Config.Store is nil, want a Store"},
		{Config{Store: NewMemStore(), TTL: -1}, "Config.TTL is -1ns, want 10ms to 1000h0m0s, or 0 for 1m0s"},
		{Config{Store: NewMemStore(), TTL: time.Millisecond}, "Config.TTL is 1ms"},
		{Config{Store: NewMemStore(), Margin: -1}, "Config.Margin is -1ns, want 0 to"},
		{Config{Store: NewMemStore(), Poll: 1}, "Config.Poll is 1ns, want 1ms or more"},
	} {
		_, err := New(c.config)
		require.ErrorContains(t, err, c.want)
		require.True(t, strings.HasPrefix(err.Error(), "lease: "))
	}
}
