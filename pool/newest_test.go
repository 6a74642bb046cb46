package pool

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestTheNewestTemplateOfAGroupIsGivenUnlessAVersionIsAskedFor(t *testing.T) {
	day := func(n int) time.Time { return time.Date(2026, 11, n, 0, 0, 0, 0, time.UTC) }
	templates := []Template{
		{Name: "deb12-b", Group: "deb12", Built: day(20), Labels: map[string]string{"version": "12.8", "date": "2026-11-20"}},
		{Name: "deb12-a", Group: "deb12", Built: day(1), Labels: map[string]string{"version": "12.7", "date": "2026-11-01"}},
		{Name: "deb12-gpu", Group: "deb12", Built: day(10), Labels: map[string]string{"version": "12.8", "gpu": "yes"}},
		{Name: "deb13", Group: "deb13", Labels: map[string]string{"version": "13"}},
		{Name: "deb13-again", Group: "deb13"},
		{Name: "alone"},
	}
	for name, c := range map[string]struct {
		want     Want
		template string
		refused  string
	}{
		"newest":                {want: Want{Group: "deb12"}, template: "deb12-b"},
		"of a version":          {want: Want{Group: "deb12", Labels: map[string]string{"version": "12.7"}}, template: "deb12-a"},
		"of a date":             {want: Want{Group: "deb12", Labels: map[string]string{"date": "2026-11-01"}}, template: "deb12-a"},
		"newest with a label":   {want: Want{Group: "deb12", Labels: map[string]string{"gpu": "yes"}}, template: "deb12-gpu"},
		"the later of equals":   {want: Want{Group: "deb13"}, template: "deb13-again"},
		"a template, by name":   {want: Want{Group: "deb12", Template: "deb13"}, template: "deb13"},
		"no such group":         {want: Want{Group: "deb14"}, refused: `impossible: there is no template of group "deb14"; groups are "deb12", "deb13"`},
		"no such version":       {want: Want{Group: "deb13", Labels: map[string]string{"version": "14"}}, refused: `impossible: no machine has label "version"`},
		"no name of a template": {want: Want{Group: "alone"}, refused: "impossible: there is no template of group"},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				w := start(t, Config{Templates: templates, Hosts: []Host{{Slots: 2}}}, hypervisor("h"))
				defer w.over()
				g, err := w.Acquire(t.Context(), c.want)
				if c.refused != "" {
					require.ErrorIs(t, err, ErrImpossible)
					require.ErrorContains(t, err, c.refused)
					return
				}
				require.NoError(t, err)
				require.Equal(t, c.template, g.Template())
			})
		})
	}
}

// A call that waits keeps what it was given as the newest; who comes after a
// reload gets the newer one.
func TestANewerTemplateIsForLaterCalls(t *testing.T) {
	bubble(t, func(t *testing.T) {
		h := hypervisor("h")
		w := start(t, Config{Templates: []Template{{Name: "old", Group: "g"}}, Hosts: []Host{{Slots: 1}}}, h)
		defer w.over()
		g := w.acquire(Want{Group: "g"})
		require.Equal(t, "old", g.Template())
		waits, err := w.Request(t.Context(), Want{Group: "g"})
		require.NoError(t, err)
		require.NoError(t, w.Reload(Config{
			Hosts:     []Host{{Driver: w.drivers[0], Slots: 1}},
			Templates: []Template{{Name: "old", Group: "g"}, {Name: "new", Group: "g", Built: time.Now()}},
		}))
		w.release(g)
		g, err = waits.Wait(t.Context())
		require.NoError(t, err)
		require.Equal(t, "old", g.Template())
		w.release(g)
		require.Equal(t, "new", w.acquire(Want{Group: "g"}).Template())
	})
}
