package main

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/bullpen-vm/bullpen/vm/local"
)

// asProgram in the environment makes the test binary the program.
const asProgram = "BULLPEN_TEST_SPROUT"

func TestMain(m *testing.M) {
	local.Main()
	if code, is := workerMain(); is {
		os.Exit(code)
	}
	if os.Getenv(asProgram) == "1" {
		main()
	}
	goleak.VerifyTestMain(m)
}

// output is a writer that can be read while it is written to.
type output struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.String()
}

// project is a folder with a configuration, a suite, and machines of its own.
type project struct {
	t    *testing.T
	dir  string
	conf config
}

func newProject(t *testing.T, change func(*config)) *project {
	t.Helper()
	text, err := os.ReadFile("sprout.json")
	require.NoError(t, err)
	c, err := parseConfig(text)
	require.NoError(t, err)
	p := &project{t: t, dir: t.TempDir()}
	c.Store = filepath.Join(p.dir, "leases.db")
	c.Poll, c.Backoff = 0.05, 0.01
	for i := range c.Hosts {
		c.Hosts[i].Dir = filepath.Join(p.dir, "machines")
	}
	c.Suite.Folder = filepath.Join(p.dir, "suite")
	require.NoError(t, os.CopyFS(c.Suite.Folder, os.DirFS("suite")))
	if change != nil {
		change(&c)
	}
	text, err = json.Marshal(c)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(p.config(), text, 0o600))
	p.conf, err = loadConfig(p.config())
	require.NoError(t, err)
	return p
}

func (p *project) config() string { return filepath.Join(p.dir, "sprout.json") }

// write makes a file of the suite; without modules before it, they are removed.
func (p *project) suite(files map[string]string) {
	p.t.Helper()
	old, err := filepath.Glob(filepath.Join(p.conf.Suite.Folder, "test_*.sh"))
	require.NoError(p.t, err)
	for _, f := range old {
		require.NoError(p.t, os.Remove(f))
	}
	for name, text := range files {
		require.NoError(p.t, os.WriteFile(filepath.Join(p.conf.Suite.Folder, name), []byte(text), 0o644))
	}
}

func (p *project) args(more ...string) []string {
	return append([]string{"-config", p.config(), "-project", p.dir, "-use-sprout", "-sprout-group", "downstream-511"}, more...)
}

// run runs the program in this process.
func (p *project) run(ctx context.Context, args ...string) (int, string) {
	p.t.Helper()
	var out output
	code := run(ctx, args, &out, &out)
	p.t.Log(out.String())
	return code, out.String()
}

func (p *project) file(name string) string {
	p.t.Helper()
	text, err := os.ReadFile(filepath.Join(p.dir, name))
	require.NoError(p.t, err)
	return string(text)
}

// machines are the names of the machines that the project's host has.
func (p *project) machines() []string {
	p.t.Helper()
	var names []string
	for _, h := range p.conf.Hosts {
		entries, err := os.ReadDir(h.Dir)
		if os.IsNotExist(err) {
			continue
		}
		require.NoError(p.t, err)
		for _, e := range entries {
			if e.IsDir() && !strings.HasPrefix(e.Name(), ".") {
				names = append(names, e.Name())
			}
		}
	}
	return names
}

func (p *project) noMachines() {
	p.t.Helper()
	assert.Empty(p.t, p.machines(), "machines are left")
}

// inOrder asserts that the texts are in a text, one behind the other.
func inOrder(t *testing.T, text string, parts ...string) {
	t.Helper()
	rest := text
	for _, part := range parts {
		_, after, ok := strings.Cut(rest, part)
		if !assert.True(t, ok, "%q is not there, or not behind what stands before it, in\n%s", part, text) {
			return
		}
		rest = after
	}
}

func TestOneApplianceIsSingleModeAndTestsRunInThisProcess(t *testing.T) {
	t.Parallel()
	p := newProject(t, nil)
	code, out := p.run(t.Context(), p.args("-sprout-desc", "Jenkins cfme #42")...)
	assert.Equal(t, 0, code)
	inOrder(t, out,
		"Check if pool already exists for this 'Jenkins cfme #' Jenkins job",
		"Requesting a single appliance from sprout... (at "+p.conf.Store+", hosts lab)",
		"Appliance pool ", ". Waiting for fulfillment ...",
		"] fulfilled at ", "100%",
		"Fulfilled: true", "Progress: 100%", "Appliances:", "\tsprout-", "\t\tip_address: 127.", "\t\tprovider: vsphere55", "\t\ttemplate_name: cfme-5.11.4-20261118", "\t\turl: https://127.",
		"Provisioning took ", " seconds",
		"Appliance requested at address 127.", " ...",
		"Appliance lease timer is running ...",
		"appliance_template=\"cfme-5.11.4-20261118\";\n",
		"Single appliance Sprout setup finished.",
		"appliance_provider=\"vsphere55\";\n",
		"passed test_login.sh::test_address_is_told",
		"8 passed",
	)
	assert.Regexp(t, `(?m)^Provisioning took \d+\.\d seconds$`, out)
	assert.Regexp(t, `(?m)^\[\d\d:\d\d\] fulfilled at 100%$`, out)
	assert.Equal(t, `export appliance_template="cfme-5.11.4-20261118"`, p.file(".appliance_template"))
	assert.NoFileExists(t, filepath.Join(p.dir, "conf", "slave_config.json"), "no worker, no configuration for it")
	p.noMachines()
}

func TestFailedTestsAreTheExitCodeAndInTheReport(t *testing.T) {
	t.Parallel()
	p := newProject(t, nil)
	p.suite(map[string]string{"test_a.sh": "test_good() {\n\ttrue\n}\ntest_bad() {\n\techo it is broken; false\n}\n"})
	report := filepath.Join(p.dir, "junit.xml")
	code, out := p.run(t.Context(), p.args("-junit", report)...)
	assert.Equal(t, 1, code)
	assert.Contains(t, out, "failed test_a.sh::test_bad exit 1")
	assert.Contains(t, p.file("junit.xml"), "it is broken")
	code, out = p.run(t.Context(), p.args("test_a.sh::test_good")...)
	assert.Equal(t, 0, code, "only those that were asked for")
	assert.Contains(t, out, "2 tests are collected by 1 of 1 workers, 1 chosen")
	p.noMachines()
}

func TestATestThatTakesTooLongTimedOut(t *testing.T) {
	t.Parallel()
	p := newProject(t, func(c *config) { c.Suite.Timeout = 0.5 })
	p.suite(map[string]string{"test_a.sh": "test_long() {\n\tsleep 1000\n}\ntest_good() {\n\ttrue\n}\n"})
	code, out := p.run(t.Context(), p.args()...)
	assert.Equal(t, 1, code)
	assert.Contains(t, out, ") timed out test_a.sh::test_long")
	assert.Regexp(t, `\) (passed|timed out) test_a.sh::test_good`, out, "and the rest goes on, as fast as this computer is")
}

func TestAnErrorOfTheCollectionIsShown(t *testing.T) {
	t.Parallel()
	p := newProject(t, func(c *config) { c.Suite.Collect = []string{"sh", "-c", "echo syntax error in test_a >&2; exit 4"} })
	code, out := p.run(t.Context(), p.args()...)
	assert.Equal(t, 2, code)
	inOrder(t, out, "(slave00) collection error, respawning", "Errors of the collection:", "slave00: sh -c", "exit 4: syntax error in test_a")
	p.noMachines()
}

func TestTheFirstTestsAreThoseOfTheFirstModule(t *testing.T) {
	t.Parallel()
	p := newProject(t, nil)
	p.suite(map[string]string{
		"test_b.sh": "test_one() { # vsphere55 rhv41\n\ttrue\n}\ntest_two() { # vsphere55 rhv41\n\ttrue\n}\n",
		"test_a.sh": "test_zero() {\n\ttrue\n}\n",
	})
	_, out := p.run(t.Context(), p.args()...)
	var ran []string
	for line := range strings.Lines(out) {
		if _, test, ok := strings.Cut(line, ") passed "); ok {
			ran = append(ran, strings.TrimSpace(test))
		}
	}
	want := []string{
		"test_a.sh::test_zero", "test_b.sh::test_one[vsphere55]", "test_b.sh::test_two[vsphere55]",
		"test_b.sh::test_one[rhv41]", "test_b.sh::test_two[rhv41]",
	}
	assert.Equal(t, want, ran, "the collection's order, group by group")
}
