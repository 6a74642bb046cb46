package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/bullpen-vm/bullpen/examples/pyti/indextest"
	"github.com/bullpen-vm/bullpen/internal/need"
	"github.com/bullpen-vm/bullpen/vm/local"
)

// The test binary is the program: a test starts it anew, as a user would.
func TestMain(m *testing.M) {
	local.Main()
	if os.Getenv("BULLPEN_TEST_PYTI") == "1" {
		main()
	}
	os.Exit(m.Run())
}

// limit bounds one run of the program; it takes one or two seconds.
const limit = 4 * time.Minute

// home is a root for slaves with a configuration, an index and recipes.
type home struct {
	t     *testing.T
	root  string
	tmp   string // TMPDIR of the programs: where their machines are
	index *indextest.Server
	last  *program
}

// newHome makes a root whose one platform is this computer, under a name of its
// own. More lines of [config] and more sections may be given.
func newHome(t *testing.T, more string) *home {
	t.Helper()
	h := &home{t: t, root: t.TempDir(), tmp: scratch(t), index: indextest.Serve(t)}
	h.write("pyti.ini", fmt.Sprintf("[config]\npyti_slave_root = %s\nindex = %s\npoll = 20ms\ntotal_vms = 2\n%s", h.root, h.index.HTML(), more))
	if !strings.Contains(more, "[platform") {
		h.write("pyti.ini", h.read("pyti.ini")+"\n[platform here]\n")
	}
	require.NoError(t, os.MkdirAll(filepath.Join(h.root, "recipes"), 0o755))
	require.NoError(t, os.MkdirAll(filepath.Join(h.root, "pyti_requests"), 0o755))
	return h
}

// scratch is a folder that goes when the machines in it, which end behind a program
// that was killed, are gone.
func scratch(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "pyti")
	require.NoError(t, err)
	t.Cleanup(func() { eventually(t, "the end of all machines", func() bool { return os.RemoveAll(dir) == nil }) })
	return dir
}

func (h *home) path(name string) string { return filepath.Join(h.root, filepath.FromSlash(name)) }

func (h *home) write(name, text string) {
	h.t.Helper()
	require.NoError(h.t, os.WriteFile(h.path(name), []byte(text), 0o644))
}

func (h *home) read(name string) string {
	h.t.Helper()
	text, err := os.ReadFile(h.path(name))
	require.NoError(h.t, err)
	return string(text)
}

func (h *home) recipe(name string, lines ...string) {
	h.t.Helper()
	h.write("recipes/"+name, strings.Join(lines, "\n")+"\n")
}

// drop puts a request into the queue, whole.
func (h *home) drop(name, text string) {
	h.t.Helper()
	h.write("pyti_requests/."+name, text)
	require.NoError(h.t, os.Rename(h.path("pyti_requests/."+name), h.path("pyti_requests/"+name+".json")))
}

// ask is a request's text; variants is JSON.
func ask(project, version, recipe, variants string) string {
	return fmt.Sprintf(`{"project_name": %q, "project_version": %s, "recipe_identifier": %q, "platform_identifier": "here", "platform_variants": %s}`,
		project, version, recipe, variants)
}

// program is a started process.
type program struct {
	*exec.Cmd
	t           *testing.T
	out, errout *bytes.Buffer
}

// start runs the program until it ends by itself, or the test does.
func (h *home) start(args ...string) *program {
	h.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	p := &program{Cmd: exec.CommandContext(ctx, os.Args[0], args...), t: h.t, out: new(bytes.Buffer), errout: new(bytes.Buffer)}
	p.Env = append(os.Environ(), "BULLPEN_TEST_PYTI=1", "TMPDIR="+h.tmp, rootVariable+"=")
	p.Stdout, p.Stderr = p.out, p.errout
	require.NoError(h.t, p.Start())
	h.last = p
	h.t.Cleanup(func() {
		_ = p.Process.Signal(os.Interrupt) // it may have ended
		_ = p.Process.Signal(os.Interrupt)
		_ = p.Wait()
		cancel()
	})
	return p
}

func (h *home) slave() *program { return h.start("slave", "--config", h.path("pyti.ini")) }

// end waits for the program and gives its exit code.
func (p *program) end() int {
	p.t.Helper()
	err := p.Wait()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		require.NoError(p.t, err)
	}
	return p.ProcessState.ExitCode()
}

// vmRun runs pyti vm-run on a request's text.
func (h *home) vmRun(request string) (code int, r record, stderr string) {
	h.t.Helper()
	h.write("request.json", request)
	p := h.start("vm-run", "--target", h.path("request.json"), "--config", h.path("pyti.ini"))
	code = p.end()
	if p.out.Len() > 0 {
		require.NoError(h.t, json.Unmarshal(p.out.Bytes(), &r), p.out.String())
	}
	return code, r, p.errout.String()
}

// eventually waits for something that a process does; the deadline is only for one
// that hangs.
func eventually(t *testing.T, what string, cond func() bool) {
	t.Helper()
	deadline := time.Now().Add(limit)
	for !cond() {
		if time.Now().After(deadline) {
			t.Errorf("never: %s", what)
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// answer waits for the answer to a request.
func (h *home) answer(name string) (r record) {
	h.t.Helper()
	path := h.path("pyti_requests/" + name + ".result.json")
	eventually(h.t, "an answer to "+name, func() bool { _, err := os.Stat(path); return err == nil })
	if h.t.Failed() {
		_ = h.last.Process.Kill() // so that what it said can be read
		_ = h.last.Wait()
		h.t.Fatalf("%s%s", h.last.out, h.last.errout)
	}
	text, err := os.ReadFile(path)
	require.NoError(h.t, err)
	require.NoError(h.t, json.Unmarshal(text, &r), string(text))
	return r
}

// queue lists what is in the queue, without lock files.
func (h *home) queue() (names []string) {
	h.t.Helper()
	entries, err := os.ReadDir(h.path("pyti_requests"))
	require.NoError(h.t, err)
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), ".") {
			names = append(names, e.Name())
		}
	}
	return names
}

// nothingLeft holds that no machine and no process of one is left.
func (h *home) nothingLeft() {
	h.t.Helper()
	machines, err := filepath.Glob(filepath.Join(h.tmp, "bullpen-local-*", "[^.]*"))
	require.NoError(h.t, err)
	require.Empty(h.t, machines, "machines are left")
	procs, err := filepath.Glob("/proc/[0-9]*/environ")
	require.NoError(h.t, err)
	for _, p := range procs {
		env, err := os.ReadFile(p)
		if err == nil && bytes.Contains(env, []byte("TMPDIR="+h.tmp)) {
			cmdline, _ := os.ReadFile(filepath.Join(filepath.Dir(p), "cmdline"))
			h.t.Errorf("%s is left: %q", p, cmdline)
		}
	}
}

// python skips a test on a computer without Python.
func python(t *testing.T) { t.Helper(); need.Tool(t, "python3") }
