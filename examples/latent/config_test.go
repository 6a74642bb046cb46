package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestWhatBreaksARuleIsNamedWithFieldValueAndRule(t *testing.T) {
	t.Parallel()
	const hosts = `"hosts": [{"name": "h", "driver": "local", "slots": 1}]`
	const builders = `"builders": [{"name": "full", "workers": ["a"], "steps": ["make"]}]`
	latent := func(field string) string {
		return fmt.Sprintf(`{%s, "workers": [{"type": "latent", "name": "a"%s}], %s}`, hosts, field, builders)
	}
	standard := func(field string) string {
		return fmt.Sprintf(`{"listen": ":1", "workers": [{"type": "standard", "name": "a"%s}], %s}`, field, builders)
	}
	for text, want := range map[string]string{
		`{`:                                "unexpected EOF",
		`{} {}`:                            "something follows",
		`{"wrokers": []}`:                  `unknown field "wrokers"`,
		`{}`:                               "workers is empty, want at least one",
		`{"name": "-"}`:                    `name is "-", want 1 to 100`,
		`{"listen": "x"}`:                  `listen is "x", want host:port`,
		`{"tls": {"key": "x"}}`:            "tls is",
		`{"locks": {"laptop": 0}}`:         `locks["laptop"] is 0, want`,
		`{"hosts": [{"name": "by-hand"}]}`: `hosts[0].name is "by-hand"`,
		`{"hosts": [{"name": "h", "driver": "local"}]}`:                                                        "hosts[0].slots is 0",
		`{"hosts": [{"name": "h", "driver": "local", "slots": 1, "keepalive_interval": 0}]}`:                   "hosts[0].keepalive_interval is 0, want seconds above 0, or null for never",
		`{"workers": [{"name": "a"}]}`:                                                                         `workers[0].type is "", want latent, standard or local`,
		`{"workers": [{"type": "local", "name": "a/b"}]}`:                                                      `workers[0].name is "a/b"`,
		`{"workers": [{"type": "local", "name": "a"}, {"type": "local", "name": "a"}]}`:                        `workers[1].name is "a", want a name that workers[0] does not have`,
		`{"workers": [{"type": "local", "name": "a", "password": "x"}]}`:                                       "workers[0].password is",
		`{"workers": [{"type": "local", "name": "a", "build_wait_timeout": 1}]}`:                               "the worker is not latent",
		`{"workers": [{"type": "latent", "name": "a"}]}`:                                                       "hosts is",
		`{"workers": [{"type": "standard", "name": "a", "password": "x"}]}`:                                    "listen is",
		`{"workers": [{"type": "local", "name": "a"}]}`:                                                        "builders is",
		latent(`, "password": "x"`):                                                                            "workers[0].password is",
		latent(`, "max_builds": -1`):                                                                           "workers[0].max_builds is -1, want at least 1",
		latent(`, "locks": ["laptop"]`):                                                                        `workers[0].locks[0] is "laptop", want a name of locks`,
		latent(`, "hosts": ["i"]`):                                                                             `workers[0].hosts[0] is "i"`,
		latent(`, "properties": {"1": ""}`):                                                                    `workers[0].properties is "1"`,
		latent(`, "build_wait_timeout": "soon"`):                                                               "build_wait_timeout",
		latent(`, "missing_timeout": null`):                                                                    "workers[0].missing_timeout is",
		latent(`, "keepalive_interval": 5`):                                                                    "that of its host counts",
		latent(`, "notify_on_missing": "bob"`):                                                                 `workers[0].notify_on_missing[0] is "bob", want an address`,
		latent(`, "notify_on_missing": "Bob <bob@example.com>"`):                                               "want an address",
		latent(`, "notify_on_missing": 5`):                                                                     "neither an address nor a list",
		standard(``):                                                                                           "workers[0].password and password_file is",
		standard(`, "password": "hushhush", "password_file": "f"`):                                             "want exactly one of them",
		standard(`, "password_file": "gone"`):                                                                  "workers[0].password_file: ",
		standard(`, "password": "hushhush", "keepalive_interval": -1`):                                         "workers[0].keepalive_interval is -1",
		strings.Replace(latent(``), `["make"]`, `[]`, 1):                                                       "builders[0].steps is",
		strings.Replace(latent(``), `["a"]`, `["b"]`, 1):                                                       `builders[0].workers[0] is "b"`,
		strings.Replace(latent(``), `"steps"`, `"timeout": -5, "steps"`, 1):                                    "builders[0].timeout is -1",
		strings.Replace(latent(``), `"workers"`, `"mail": {}, "workers"`, 1):                                   "mail.to is",
		strings.Replace(latent(``), `"workers"`, `"mail": {"builders": ["x"]}, "workers"`, 1):                  `mail.builders[0] is "x"`,
		strings.Replace(latent(``), `"workers"`, `"mail": {"builders": [], "from": "x"}, "workers"`, 1):        `mail.from[0] is "x"`,
		strings.Replace(latent(``), `"workers"`, `"mail": {"builders": [], "relayhost": "a b"}, "workers"`, 1): `mail.relayhost is "a b"`,
	} {
		_, err := parse([]byte(text), t.TempDir())
		if assert.ErrorContains(t, err, want, text) {
			assert.NotContains(t, err.Error(), "hushhush")
		}
	}
}

func TestTheDefaultsAreThoseOfTheOriginal(t *testing.T) {
	t.Parallel()
	c, err := parse([]byte(five("")), t.TempDir())
	require.NoError(t, err)
	p := c.poolConfig(nil, nil)
	for _, tmpl := range p.Templates {
		assert.Zero(t, tmpl.Idle, "pool.DefaultIdle: 10 minutes")
		assert.Equal(t, []string{"laptop", "disk"}, tmpl.Locks)
	}
	assert.Equal(t, 1, c.Workers[0].MaxBuilds)
	assert.Equal(t, time.Hour, c.Workers[0].Missing.or(defaultMissing))
	assert.Equal(t, time.Hour, c.Hosts[0].Keepalive.or(defaultKeepalive))
	c, err = parse([]byte(notifying(`"keepalive_interval": null`, "")), t.TempDir())
	require.NoError(t, err)
	assert.Negative(t, c.dialinConfig(nil).Workers[0].Keepalive, "null is never")
}

func TestAPasswordIsReadFromAFileAndNeverPrinted(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "pw"), []byte("solarispasswd\n"), 0o600))
	c, err := parse([]byte(strings.Replace(notifying(`"max_builds": 2`, ""), `"password": "solarispasswd"`, `"password_file": "pw"`, 1)), dir)
	require.NoError(t, err)
	require.Equal(t, "solarispasswd", c.Workers[0].Password.Reveal())
	text, err := json.Marshal(c)
	require.NoError(t, err)
	for _, shown := range []string{fmt.Sprint(c), fmt.Sprintf("%v %+v %#v", c.Workers, c.Workers, c.Workers), fmt.Sprintf("%+v", c.dialinConfig(nil)), string(text)} {
		assert.NotContains(t, shown, "solarispasswd")
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(five("")))
	f.Add([]byte(notifying(`"keepalive_interval": null`, `, "mail": {"builders": []}`)))
	f.Fuzz(func(t *testing.T, text []byte) {
		c, err := parse(text, "/nowhere")
		if err != nil {
			return
		}
		for _, w := range c.Workers {
			if w.Name == "" || w.MaxBuilds < 1 {
				t.Errorf("%+v was taken", w)
			}
		}
	})
}
