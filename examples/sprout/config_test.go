package main

import (
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestTheFirstLineOfTheConfigurationNamesStoreAndHosts(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("sprout.json")
	require.NoError(t, err)
	first, _, _ := strings.Cut(string(text), "\n")
	assert.Contains(t, first, `"store"`)
	assert.Contains(t, first, `"hosts"`)
	c, err := loadConfig("sprout.json")
	require.NoError(t, err)
	assert.True(t, filepath.IsAbs(c.Store), "beside the configuration")
	assert.Equal(t, 5*time.Second, seconds(c.Poll), "the delay between two looks, when nothing else is said")
	c.Store, c.Hosts[0].Dir = "memory", t.TempDir()
	cl, err := openClient(t.Context(), c)
	require.NoError(t, err)
	assert.Equal(t, "memory, hosts lab", cl.Entry())
	require.NoError(t, cl.Close(t.Context()))
	assert.Equal(t, "postgres://ci:xxxxx@db/ci", storeName("postgres://ci:secret@db/ci"))
}

func TestABadConfigurationIsRefusedWithFieldValueAndRule(t *testing.T) {
	t.Parallel()
	const good = `{"store": "memory", "hosts": [{"name": "h", "slots": 1}], "suite": {"collect": ["c"], "run": ["r"]}}`
	_, err := parseConfig([]byte(good))
	require.NoError(t, err)
	for from, to := range map[[2]string]string{
		{`"memory"`, `""`}: "store is empty, want memory, a file, or postgres://...",
		{`"hosts": [{"name": "h", "slots": 1}]`, `"hosts":[]`}:                             "hosts is empty, want at least one",
		{`"name": "h"`, `"name": ""`}:                                                      `hosts[0].name is "", want a name that no other host has`,
		{`"slots": 1`, `"slots": 0`}:                                                       "hosts[0].slots is 0, want 1 or more",
		{`"slots": 1`, `"slots": 1, "driver": "x"`}:                                        `hosts[0].driver is "x", want local or libvirt`,
		{`"slots": 1`, `"slots": 1, "uri": "x"`}:                                           `hosts[0].uri is "x", want none: it is for libvirt`,
		{`"suite"`, `"templates": [{"name": "t"}], "suite"`}:                               "templates[0].group is empty, want the group by which it is requested",
		{`"suite"`, `"templates": [{"group": "g"}], "suite"`}:                              `templates[0].name is "", want a name that no other template has`,
		{`"suite"`, `"templates": [{"group": "g", "name": "t", "date": "x"}], "suite"`}:    `templates[0].date is "x", want a day such as 2026-11-20`,
		{`"suite"`, `"templates": [{"group": "g", "name": "t", "hosts": ["x"]}], "suite"`}: `templates[0].hosts[0] is "x", want the name of a host`,
		{`"suite"`, `"management_systems": [""], "suite"`}:                                 "management_systems[0] is empty, want a provider's key",
		{`["c"]`, `[]`}:   "suite.collect is empty, want a program and its arguments",
		{`["r"]`, `[""]`}: "suite.run is empty, want a program and its arguments",
		{`["r"]`, `["r"], "timeout_seconds": -1`}:     "suite.timeout_seconds is -1, want 0 (600) or more",
		{`"suite"`, `"poll_seconds": -1, "suite"`}:    "poll_seconds is -1, want 0 (5) or more",
		{`"suite"`, `"respawns": -1, "suite"`}:        "respawns is -1, want 0 (3) or more",
		{`"suite"`, `"backoff_seconds": -1, "suite"`}: "backoff_seconds is -1, want 0 (1) or more",
		{`"suite"`, `"sute": 1, "suite"`}:             `unknown field "sute"`,
		{`}}`, `}} x`}:                                "there is more behind the configuration",
	} {
		text := strings.Replace(good, from[0], from[1], 1)
		_, err := parseConfig([]byte(text))
		assert.ErrorContains(t, err, to, text)
	}
}

func TestABadCommandLineIsRefusedWithFieldValueAndRule(t *testing.T) {
	t.Parallel()
	for line, want := range map[string]string{
		"":            "no appliances: name static ones with -appliance, or request them with -use-sprout",
		"-use-sprout": "-sprout-group is empty",
		"-use-sprout -sprout-group g -sprout-appliances 0": "-sprout-appliances is 0, want 1 or more",
		"-use-sprout -sprout-group g -sprout-timeout 0":    "want a number of minutes above 0",
		"-use-sprout -sprout-group g -sprout-timeout NaN":  "want a number of minutes above 0",
		"-use-sprout -sprout-group g -sprout-date x":       `-sprout-date is "x", want a day such as 2026-11-20`,
		"-appliance x":               `-appliance is "x", want host/machine`,
		"-appliance h/m, -maxfail 1": "it has an empty name",
		"-appliance h/m -maxfail -1": "-maxfail is -1, want 0 (no limit) or more",
	} {
		_, err := parseOptions(strings.Fields(line), io.Discard)
		assert.ErrorContains(t, err, want, line)
	}
	o, err := parseOptions(strings.Fields("-use-sprout -sprout-group g -sprout-timeout 0.5 test_a"), io.Discard)
	require.NoError(t, err)
	assert.Equal(t, "30s", o.Lease.duration().String(), "minutes")
	assert.Equal(t, "1h0m0s", o.Provision.duration().String(), "minutes")
	assert.Nil(t, o.Desc, "no description is none, not an empty one")
	assert.Equal(t, []string{"test_a"}, o.Args)
}

func FuzzConfig(f *testing.F) {
	text, err := os.ReadFile("sprout.json")
	require.NoError(f, err)
	f.Add(text)
	f.Add([]byte(`{"store": "memory"}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		c, err := parseConfig(text)
		if err == nil && (len(c.Hosts) == 0 || c.Poll <= 0 || c.Suite.Timeout <= 0) {
			t.Errorf("a configuration without hosts, poll or timeout was taken: %+v", c)
		}
	})
}

func TestTheReadmeShowsTheCodeThatThereIs(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("README.md")
	require.NoError(t, err)
	var sources strings.Builder
	files, err := filepath.Glob("*.go")
	require.NoError(t, err)
	for _, f := range append(files, "sprout.json") {
		source, err := os.ReadFile(f)
		require.NoError(t, err)
		sources.Write(source)
	}
	blocks := 0
	for _, kind := range []string{"go", "json"} {
		for _, part := range strings.Split(string(text), "```"+kind+"\n")[1:] {
			code, _, _ := strings.Cut(part, "```")
			assert.Contains(t, sources.String(), code)
			blocks++
		}
	}
	assert.Equal(t, 3, blocks)
}
