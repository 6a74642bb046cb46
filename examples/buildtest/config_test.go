package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestExecutorsComeFromAConfigurationWithDefaults(t *testing.T) {
	t.Parallel()
	c, err := ParseConfiguration([]byte(`
executors:
  defaults: {account: lab, pollinterval: 7, max_jobs: 3}
  machine:
    small: {description: one, machines: 2, ready: 1, memory: 256, shell: bash, labels: {os: linux}, account: other, timeout: 9}
  batch:
    q: {slots: 4, pollinterval: null, maxpendtime: 60}
    r: {socket: /run/spool}
`))
	require.NoError(t, err)
	small, q := c.Executors["machine.small"], c.Executors["batch.q"]
	assert.Equal(t, ExecutorConfig{kind: kindMachine, Description: "one", Shell: "bash", Machines: 2, Ready: 1, Memory: 256, Labels: map[string]string{"os": "linux"},
		Limits: Limits{Account: "other", PollInterval: one(7), MaxJobs: one(3), Timeout: one(9)}}, small)
	assert.Equal(t, "sh", q.Shell)
	assert.Equal(t, Limits{Account: "lab", PollInterval: one(7), MaxJobs: one(3), MaxPendTime: one(60)}, q.Limits, "null is nothing")
	assert.Equal(t, Limits{Account: "mine", PollInterval: one(1), MaxJobs: one(3), MaxPendTime: one(60)}, Limits{Account: "mine", PollInterval: one(1)}.over(q.Limits))
	plain, err := ParseConfiguration([]byte("executors: {batch: {q: {slots: 1}}}"))
	require.NoError(t, err)
	assert.Equal(t, Limits{}, plain.Executors["batch.q"].Limits, "all are optional")
}

func TestAConfigurationIsRefusedByFieldValueAndRule(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"":                               "it is empty",
		"executors: {}":                  "executors has none, want at least one",
		"executors: {}\n---\nmore: true": "more than one document",
		"executors: {batch: {q: {slots: 1, shots: 2}}}":                        "line 1: shots is not a field that is known here",
		"executors: {batch: {q: {slots: one}}}":                                "line 1: cannot unmarshal",
		"executors: {batch: {q: {slots: 1}, q: {slots: 2}}}":                   `mapping key "q" already defined`,
		"executors: {batch: {'a b': {slots: 1}}}":                              `executors.batch.a b: the name is "a b", want letters, digits, - and _`,
		"executors: {batch: {../x: {slots: 1}}}":                               `the name is "../x"`,
		"executors: {batch: {q: {}}}":                                          `executors.batch.q.slots is 0 and socket "", want exactly one of the two`,
		"executors: {batch: {q: {slots: 1, socket: /s}}}":                      "want exactly one of the two",
		"executors: {batch: {q: {slots: -1}}}":                                 "executors.batch.q.slots is -1, want 1 or more",
		"executors: {batch: {q: {socket: s}}}":                                 `executors.batch.q.socket is "s", want an absolute path`,
		"executors: {batch: {q: {slots: 1, machines: 2}}}":                     "executors.batch.q.machines is set, want nothing: it is not a field of batch executors",
		"executors: {machine: {m: {slots: 2}}}":                                "executors.machine.m.slots is set, want nothing",
		"executors: {machine: {m: {socket: /s}}}":                              "executors.machine.m.socket is set, want nothing",
		"executors: {machine: {m: {machines: -2}}}":                            "executors.machine.m.machines is -2, want 1 to 1000",
		"executors: {machine: {m: {ready: 2}}}":                                "executors.machine.m.ready is 2, want 0 to machines (1)",
		"executors: {machine: {m: {memory: 1}}}":                               "executors.machine.m.memory is 1, want 64 or more (MiB)",
		"executors: {machine: {m: {shell: 'sh -e'}}}":                          `executors.machine.m.shell is "sh -e", want the name or path of a shell`,
		"executors: {machine: {m: {labels: {kind: batch}}}}":                   "executors.machine.m.labels.kind is batch, want machine, which it is",
		"executors: {machine: {m: {maxpendtime: 0}}}":                          "executors.machine.m.maxpendtime is 0, want 1 or more, or nothing",
		"executors: {machine: {m: {pollinterval: -1}}}":                        "pollinterval is -1",
		"executors: {machine: {m: {timeout: 0}}}":                              "timeout is 0",
		"executors: {defaults: {max_jobs: 0}, machine: {m: {}}}":               "executors.defaults.max_jobs is 0, want 1 or more, or nothing",
		"executors: {defaults: {account: 'a b'}, machine: {m: {}}}":            `executors.defaults.account is "a b", want a name without blanks`,
		"executors: {machine: {m: {before_script: \"\\0\"}}}":                  "executors.machine.m.before_script is binary, want a shell script",
		"executors: {machine: {m: {memory: 1, machines: -1}, n: {memory: 2}}}": "executors.machine.n.memory is 2",
	} {
		_, err := ParseConfiguration([]byte(text))
		if assert.Error(t, err, text) {
			assert.Contains(t, err.Error(), want, text)
		}
	}
	_, err := LoadConfiguration("/no/such/file")
	assert.ErrorIs(t, err, os.ErrNotExist)
	site, err := ParseConfiguration([]byte(both))
	require.NoError(t, err)
	_, err = NewBuildExecutor(t.Context(), site, Options{})
	assert.EqualError(t, err, "option var is empty, want a folder")
	_, err = NewBuildExecutor(t.Context(), site, Options{Var: t.TempDir(), Limits: Limits{Timeout: one(-3)}})
	assert.EqualError(t, err, "option timeout is -3, want 1 or more, or nothing")
	path := filepath.Join(t.TempDir(), "c.yml")
	require.NoError(t, os.WriteFile(path, []byte("x: 1"), 0o600))
	_, err = LoadConfiguration(path)
	assert.ErrorContains(t, err, path+": line 1: x is not a field that is known here")
	site.Executors["batch.gone"] = ExecutorConfig{kind: kindBatch, Shell: "sh", Socket: "/no/such/socket"}
	_, err = NewBuildExecutor(t.Context(), site, Options{Var: t.TempDir()})
	assert.ErrorContains(t, err, "executor batch.gone: spool at /no/such/socket")
}

func TestBuildspecsAreRefusedByFieldValueAndRule(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"buildspecs: {}":                                              "buildspecs has none",
		"buildspecs: {a: {run: x}}":                                   "buildspecs.a.executor is missing, want the name of an executor",
		"buildspecs: {a: {executor: x}}":                              "buildspecs.a.run is empty or binary, want a shell script",
		"buildspecs: {a: {executor: x, run: y, type: compiler}}":      `buildspecs.a.type is "compiler", want script`,
		"buildspecs: {a: {executor: x, run: y, timeout: 0}}":          "buildspecs.a.timeout is 0, want 1 or more, or nothing",
		"buildspecs: {../a: {executor: x, run: y}}":                   `the name is "../a"`,
		"buildspecs: {a: {executor: x, ran: y}}":                      "line 1: ran is not a field that is known here",
		need1("{b: {state: OK}}"):                                     `buildspecs.a.needs.b: state is "OK", want PASS or FAIL`,
		need1("{b: {returncode: 256}}"):                               "buildspecs.a.needs.b: returncode is 256, want 0 to 255",
		need1("{b: {returncode: [0, -1]}}"):                           "returncode is -1, want 0 to 255",
		need1("{b: {returncode: zero}}"):                              "cannot unmarshal !!str `zero` into int",
		need1("{b: {status: PASS}}"):                                  "status is not a field that is known here",
		need1("{b: {state: PASS}, c: {}}"):                            "a need has 2 builders, want one",
		need1("[b]"):                                                  "cannot unmarshal",
		need1("{b: {state: PASS}}") + "\nmore: x":                     "more is not a field",
		strings.Repeat("buildspecs: {a: {executor: x, run: y}}\n", 2): "already defined",
	} {
		_, err := ParseBuilders([]byte(text))
		if assert.Error(t, err, text) {
			assert.Contains(t, err.Error(), want, text)
		}
	}
	all, err := ParseBuilders([]byte(need1("{b: {state: FAIL, returncode: [1, 2]}}, c, {d: {returncode: 0}}")))
	require.NoError(t, err)
	assert.Equal(t, []Need{{Builder: "b", State: "FAIL", ReturnCodes: []int{1, 2}}, {Builder: "c"}, {Builder: "d", ReturnCodes: []int{0}}}, all[0].Needs)
}

func need1(n string) string { return "buildspecs: {a: {executor: x, run: y, needs: [" + n + "]}}" }

func FuzzConfigurations(f *testing.F) {
	f.Add(both)
	f.Add("executors: {defaults: {account: lab}, batch: {r: {socket: /run/spool}}}")
	f.Add(need1("{b: {state: FAIL, returncode: [1, 2]}}, c"))
	f.Fuzz(func(t *testing.T, text string) {
		if c, err := ParseConfiguration([]byte(text)); err == nil {
			for name, e := range c.Executors {
				assert.NotContains(t, name, "/")
				assert.NotEmpty(t, e.Shell)
				assert.Empty(t, e.Limits.validate(""))
			}
		}
		if all, err := ParseBuilders([]byte(text)); err == nil {
			for _, b := range all {
				assert.Regexp(t, validName, b.Name)
			}
		}
	})
}
