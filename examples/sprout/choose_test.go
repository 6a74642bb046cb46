package main

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

func TestTheNewestTemplateOfTheGroupIsChosenUnlessVersionOrDateIsSaid(t *testing.T) {
	t.Parallel()
	all := []template{
		{Name: "a", Group: "g", Version: "5.9.9", Date: "2026-11-19"},
		{Name: "b", Group: "g", Version: "5.11.0", Date: "2026-11-01"},
		{Name: "c", Group: "g", Version: "5.11.0", Date: "2026-11-02"},
		{Name: "d", Group: "other", Version: "9", Date: "2027-01-01"},
	}
	for _, row := range []struct{ group, version, date, want string }{
		{"g", "", "", "c"}, {"g", "5.9.9", "", "a"}, {"g", "", "2026-11-01", "b"}, {"g", "5.11.0", "2026-11-01", "b"}, {"other", "", "", "d"},
	} {
		got, err := chooseTemplate(all, row.group, row.version, row.date)
		require.NoError(t, err)
		assert.Equal(t, row.want, got.Name, row)
	}
	_, err := chooseTemplate(all, "x", "", "")
	assert.ErrorContains(t, err, `no template is of group "x"; there are: g, other`)
	_, err = chooseTemplate(all, "g", "5", "")
	assert.ErrorContains(t, err, `no template of group "g" has version "5" and date ""; there are: a (version 5.9.9, date 2026-11-19), b`)
}

func TestVersionsAreComparedByTheirNumbers(t *testing.T) {
	t.Parallel()
	ordered := strings.Fields("5.9 5.11.rc1 5.11 5.11.0 5.11.0.1 5.011.1 5.11.4 5.11.10 5.12 99999999999999999999999")
	ordered[1], ordered[2] = "5.11", "5.11.rc1"
	for i, a := range ordered {
		for j, b := range ordered {
			switch c := compareVersions(a, b); {
			case i < j:
				assert.Negative(t, c, "%s %s", a, b)
			case i > j:
				assert.Positive(t, c, "%s %s", a, b)
			default:
				assert.Zero(t, c)
			}
		}
	}
	version := rapid.StringMatching(`[0-9a.]{0,6}`)
	rapid.Check(t, func(t *rapid.T) {
		a, b, c := version.Draw(t, "a"), version.Draw(t, "b"), version.Draw(t, "c")
		if compareVersions(a, b) != -compareVersions(b, a) {
			t.Fatal("not the same from the other side")
		}
		if compareVersions(a, b) <= 0 && compareVersions(b, c) <= 0 && compareVersions(a, c) > 0 {
			t.Fatal("a <= b <= c < a")
		}
	})
}
