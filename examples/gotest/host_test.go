package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/bullpen-vm/bullpen/result"
)

// The packages of the soak; the first five are always run.
var standard = []string{
	"strings", "sort", "text/template", "encoding/json", "archive/zip",
	"archive/tar", "bufio", "bytes", "compress/bzip2", "compress/flate", "compress/gzip", "encoding/csv", "encoding/xml", "go/parser",
	"go/scanner", "html/template", "image/jpeg", "image/png", "mime/multipart", "regexp", "strconv", "golang.org/x/sync/...",
}

// driverFlags choose the driver that these tests run on, such as "-driver libvirt
// -uri qemu:///system".
const driverFlags = "BULLPEN_GOTEST_FLAGS"

// ample is what the long tests of these packages want: one of encoding/xml takes
// 2 GB of memory, and some of archive/zip many minutes on an emulated processor.
const ample = "-memory 4096 -timeout 1h"

func TestVerdictsInMachinesAreThoseOfTheHostWithoutGo(t *testing.T) {
	t.Parallel()
	sameAsHost(t, nil, "-short", standard[:5]...)
}

func TestSoakVerdictsOfTheStandardLibraryAreThoseOfTheHostWithoutGo(t *testing.T) {
	full, err := strconv.ParseFloat(os.Getenv("BULLPEN_SOAK"), 64)
	if err != nil || full < 1 {
		t.Skip("twenty packages take minutes: run with BULLPEN_SOAK=1")
	}
	sameAsHost(t, nil, ample, standard...)
}

// sameAsHost runs the same binaries in machines and here, and compares test by
// test. watch, unless it is nil, is told of the session before it runs.
func sameAsHost(t *testing.T, watch func(*session), flags string, patterns ...string) {
	t.Helper()
	args := append(strings.Fields(flags), strings.Fields(os.Getenv(driverFlags))...)
	o := command(t, append(args, patterns...)...)
	o.watch = watch
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Hour)
	defer cancel()
	packs, err := list(ctx, o.dir, o.patterns)
	require.NoError(t, err)
	dir := t.TempDir()
	var out bytes.Buffer
	report, err := test(ctx, o, &lines{w: &out}, packs, func() error { return compile(ctx, dir, packs, o) })
	require.NoError(t, err, out.String())
	machines, says := map[string]string{}, map[string]result.Case{}
	for c := range report.All() {
		machines[c.Suite+" "+c.Name] = string(c.Status)
		says[c.Suite+" "+c.Name] = c
	}
	host := map[string]string{}
	for _, p := range packs {
		if p.binary == "" || len(p.tests) == 0 {
			continue
		}
		s := &shard{pack: p, tests: p.tests, whole: true}
		text, e := runHere(ctx, t, s, o)
		verdicts, again := judge(readTranscript(text), p.tests, e)
		require.Empty(t, again, p.name)
		for _, v := range verdicts {
			host[p.name+" "+v.name] = string(v.status)
		}
	}
	assert.Greater(t, len(host), 500)
	counts := map[string]int{}
	for name, status := range machines {
		counts[status]++
		if host[name] != status {
			c := says[name]
			t.Errorf("%s: %q in a machine, %q on the host: %s\n%s", name, status, host[name], c.Message, c.Output.String())
		}
	}
	for name, status := range host {
		if _, ok := machines[name]; !ok {
			t.Errorf("%s: %q on the host, nothing in a machine", name, status)
		}
	}
	if t.Failed() {
		t.Log(out.String())
	}
	t.Logf("%d packages, %d tests and subtests: %v", len(packs), len(machines), counts)
}

// runHere runs a shard's binary on the host: in its source folder, without a go
// command.
func runHere(ctx context.Context, t *testing.T, s *shard, o options) ([]byte, ending) {
	t.Helper()
	tmp, err := os.MkdirTemp("", "h") // short: tests make sockets in it
	require.NoError(t, err)
	defer func() { require.NoError(t, os.RemoveAll(tmp)) }()
	c := exec.CommandContext(ctx, s.pack.binary, s.arguments(o)...)
	c.Dir = s.pack.dir
	c.Env = []string{"PATH=" + withoutGo(os.Getenv("PATH")), "HOME=" + tmp, "TMPDIR=" + tmp, "PWD=" + s.pack.dir, "LANG=C.UTF-8"}
	if o.driver != "local" {
		c.Env = append(c.Env, "GOMAXPROCS=1") // as many processors as a machine has
	}
	out, err := c.CombinedOutput()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		require.NoError(t, err)
	}
	return out, ending{exit: c.ProcessState.ExitCode()}
}

func TestPathsWithoutGoHaveNoGoCommand(t *testing.T) {
	t.Parallel()
	with, without := t.TempDir(), t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(with, "go"), nil, 0o755))
	assert.Equal(t, without, withoutGo(with+":"+without+":relative"))
	assert.NotEmpty(t, withoutGo(with), "an empty PATH would mean the machine's own")
}

// What this program's parser says of a real binary's words is what go's own says.
func TestTheParserAgreesWithTest2JSON(t *testing.T) {
	t.Parallel()
	dir := module(t, map[string]string{"p/a_test.go": header + `
func TestA(t *testing.T) { t.Log("x"); fmt.Print("no newline"); t.Run("sub", func(t *testing.T) { fmt.Print("--- PASS: TestB (0.00s)\n"); t.Run("a b", func(t *testing.T) { t.Skip() }) }) }
func TestB(t *testing.T) { t.Parallel(); t.Run("x", func(t *testing.T) { t.Parallel(); t.Error("bad\n=== RUN   TestZ") }); t.Run("y", func(t *testing.T) { t.Parallel(); time.Sleep(time.Millisecond); t.Log("y") }) }
func TestC(t *testing.T) { t.Parallel(); time.Sleep(2*time.Millisecond); fmt.Println("panic: no"); t.Attr("k", "v"); fmt.Print("\x16--- nonsense\n") }
func TestD(t *testing.T) { if os.Getenv("HOME") == "" { panic("d") } }
func Example() { fmt.Println("x")
	// Output: y
}`})
	o := command(t, "-C", dir, "./p")
	packs, err := list(t.Context(), o.dir, o.patterns)
	require.NoError(t, err)
	require.NoError(t, compile(t.Context(), t.TempDir(), packs, o))
	text, e := runHere(t.Context(), t, &shard{pack: packs[0], tests: packs[0].tests, whole: true}, o)
	ours := map[string]string{}
	verdicts, again := judge(readTranscript(text), packs[0].tests, e)
	require.Empty(t, again)
	for _, v := range verdicts {
		ours[v.name] = map[result.Status]string{result.Passed: "pass", result.Failed: "fail", result.Skipped: "skip"}[v.status]
	}
	c := exec.CommandContext(t.Context(), "go", "tool", "test2json")
	c.Stdin = bytes.NewReader(text)
	events, err := c.Output()
	require.NoError(t, err)
	assert.Equal(t, theirs(t, events), ours)
	assert.Equal(t, "fail", ours["TestB/x"])
	assert.Equal(t, "skip", ours["TestA/sub/a_b"])
}

// theirs gives the last word of test2json about each test.
func theirs(t *testing.T, events []byte) map[string]string {
	t.Helper()
	got := map[string]string{}
	for d := json.NewDecoder(bytes.NewReader(events)); ; {
		var e struct{ Action, Test string }
		if err := d.Decode(&e); errors.Is(err, io.EOF) {
			return got
		} else if err != nil {
			require.NoError(t, err)
		}
		if e.Test != "" && (e.Action == "pass" || e.Action == "fail" || e.Action == "skip") {
			got[e.Test] = e.Action
		}
	}
}
