package main

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/bullpen-vm/bullpen/result"
	"github.com/bullpen-vm/bullpen/vm/local"
)

func TestMain(m *testing.M) {
	local.Main()
	goleak.VerifyTestMain(m)
}

// command parses a command line with folders of the test's own.
func command(t *testing.T, args ...string) options {
	t.Helper()
	if _, err := exec.LookPath("go"); err != nil {
		t.Skip("no go command: run with one in PATH")
	}
	tmp := t.TempDir()
	args = append([]string{"-n", "2", "-out", filepath.Join(tmp, "out"), "-cache", filepath.Join(tmp, "cache")}, args...)
	o, err := parse(args, os.Stderr)
	require.NoError(t, err)
	return o
}

// module writes a Go module; each file's name is its key.
func module(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	files["go.mod"] = "module example.com/m\n\ngo 1.26\n"
	for name, text := range files {
		name = filepath.Join(dir, filepath.FromSlash(name))
		require.NoError(t, os.MkdirAll(filepath.Dir(name), 0o755))
		require.NoError(t, os.WriteFile(name, []byte(text), 0o644))
	}
	return dir
}

// start runs the command and gives what the JSON lines say: suite and name to
// case.
func runIt(t *testing.T, o options) (code int, printed string, cases map[string]result.Case) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	var out bytes.Buffer
	code, err := run(ctx, o, &out)
	require.NoError(t, err, out.String())
	return code, out.String(), readCases(t, o)
}

func readCases(t *testing.T, o options) map[string]result.Case {
	t.Helper()
	f, err := os.Open(filepath.Join(o.out, "cases.jsonl"))
	require.NoError(t, err)
	defer f.Close()
	list, err := result.ReadJSONLines(f)
	require.NoError(t, err)
	cases := map[string]result.Case{}
	for _, c := range list {
		cases[strings.TrimPrefix(c.Suite, "example.com/m")+" "+c.Name] = c
	}
	return cases
}

func words(cases map[string]result.Case) map[string]string {
	got := map[string]string{}
	for name, c := range cases {
		got[name] = string(c.Status)
	}
	return got
}

const header = "package p\n\nimport (\n\t\"fmt\"\n\t\"os\"\n\t\"testing\"\n\t\"time\"\n)\n\nvar _ = fmt.Sprint\nvar _ = os.Exit\nvar _ = time.Now\n\n"

func TestEachWayThatABinaryCanEndHasItsVerdicts(t *testing.T) {
	t.Parallel()
	dir := module(t, map[string]string{
		"good/a_test.go": header + `
func TestGood(t *testing.T) { t.Log("words of TestGood"); t.Run("sub one", func(t *testing.T) {}) }
func TestSkipped(t *testing.T) { t.Skip("no reason") }
func TestFails(t *testing.T) { t.Errorf("wanted %d", 1) }
func Example() { fmt.Println("x") /* of the output */
	// Output: x
}
func FuzzSeed(f *testing.F) { f.Add(1); f.Fuzz(func(t *testing.T, i int) {}) }
func BenchmarkNever(b *testing.B) { b.Fatal("never") }`,
		"panics/a_test.go": header + `
func TestBefore(t *testing.T) {}
func TestWaits(t *testing.T) { t.Parallel() }
func TestPanics(t *testing.T) { fmt.Println("words before"); panic("boom") }
func TestAfter(t *testing.T) { fmt.Println("panic: only printed") }
func TestExits(t *testing.T) { os.Exit(7) }
func TestElsewhere(t *testing.T) { go panic("in a goroutine"); time.Sleep(time.Hour) }
func TestLast(t *testing.T) {}`,
		"hangs/a_test.go": header + `
func TestBefore(t *testing.T) {}
func TestHangs(t *testing.T) { fmt.Println("words before"); t.Run("deep", func(t *testing.T) { select {} }) }
func TestAfter(t *testing.T) {}`,
		"files/a_test.go": header + `
func TestFiles(t *testing.T) {
	for name, want := range map[string]bool{"a_test.go": true, "../../../../../etc/none": false, "testdata/x": true, "plain/y": true, "../testdata/z": true, "sub/sub.go": false, "../go.mod": true, "../none/none.go": true, "../none/none2.go": true, "../main/a_test" + ".go": false} {
		if _, err := os.Stat(name); (err == nil) != want { t.Errorf("%s: %v", name, err) }
	}
	if err := os.WriteFile("testdata/new", nil, 0o644); err != nil { t.Error(err) }
	for _, name := range []string{"GOROOT", "GOFLAGS"} { if v, ok := os.LookupEnv(name); ok { t.Errorf("%s is %q", name, v) } }
	wd, _ := os.Getwd()
	if wd != os.Getenv("PWD") { t.Errorf("%s, %s", wd, os.Getenv("PWD")) }
}
const folder = "../none"
func TestFilesOnce(t *testing.T) { if err := os.WriteFile(os.Getenv("HOME")+"/x", nil, 0o600); err != nil { t.Error(err) } }`,
		"files/testdata/x": "x", "files/plain/y": "y", "testdata/z": "z", "files/sub/sub.go": "package sub\n",
		"main/a_test.go": header + `
func TestMain(m *testing.M) { m.Run(); fmt.Println("words of main"); os.Exit(3) }
func TestFine(t *testing.T) {}`,
		"never/a_test.go": header + `
func TestMain(m *testing.M) { if len(os.Args) > 3 { os.Exit(5) }; m.Run() }
func TestOne(t *testing.T) {}
func TestTwo(t *testing.T) {}`,
		"unlisted/a_test.go": header + `
func TestMain(m *testing.M) { fmt.Println("words of main"); os.Exit(4) }
func TestOne(t *testing.T) {}`,
		"passedover/a_test.go": header + `
func TestMain(m *testing.M) { if len(os.Args) > 3 { os.Exit(0) }; m.Run() }
func TestOne(t *testing.T) {}`,
		"broken/a_test.go": "package p\n\nfunc TestX(t *testing.T) {}\n",
		"none/none.go":     "package none\n", "none/none2.go": "package none\n",
	})
	o := command(t, "-C", dir, "-timeout", "3s", "./...")
	code, printed, cases := runIt(t, o)
	assert.Equal(t, 1, code)
	assert.Equal(t, map[string]string{
		"/good TestGood": "passed", "/good TestGood/sub_one": "passed", "/good TestSkipped": "skipped", "/good TestFails": "failed",
		"/good Example": "passed", "/good FuzzSeed": "passed", "/good FuzzSeed/seed#0": "passed",
		"/panics TestBefore": "passed", "/panics TestWaits": "passed", "/panics TestPanics": "failed", "/panics TestAfter": "passed",
		"/panics TestExits": "failed", "/panics TestElsewhere": "failed", "/panics TestLast": "passed",
		"/hangs TestBefore": "passed", "/hangs TestHangs": "timed out", "/hangs TestHangs/deep": "timed out", "/hangs TestAfter": "passed",
		"/files TestFiles": "passed", "/files TestFilesOnce": "passed",
		"/main TestFine": "passed", "/main (package)": "failed",
		"/never TestOne": "blocked", "/never TestTwo": "blocked", "/never (package)": "failed",
		"/passedover TestOne": "skipped",
		"/broken (package)":   "failed", "/unlisted (package)": "failed",
	}, words(cases), printed)

	says := func(name string, words ...string) {
		t.Helper()
		for _, w := range words {
			assert.Contains(t, cases[name].Message+"\n"+cases[name].Output.String(), w, name)
		}
	}
	says("/good TestGood", "words of TestGood")
	says("/good TestFails", "a_test.go:17: wanted 1")
	says("/good TestSkipped", "no reason")
	says("/panics TestPanics", "words before", "panic: boom", "goroutine ", "a_test.go:17")
	says("/panics TestAfter", "panic: only printed")
	says("/panics TestExits", "exit status 7")
	says("/panics TestElsewhere", "panic: in a goroutine")
	says("/hangs TestHangs", "words before", "test timed out after 3s")
	says("/hangs TestHangs/deep", "select (no cases)")
	says("/main (package)", "exit status 3", "words of main")
	says("/never (package)", "exit status 5")
	says("/never TestTwo", "not run", "exit status 5")
	says("/unlisted (package)", "list tests failed", "exit status 4", "words of main")
	says("/broken (package)", "build failed", "undefined: testing")
	assert.NotContains(t, cases["/hangs TestHangs"].Output.String(), "select (no cases)", "the dump stands once")
	for _, line := range []string{
		"?   \texample.com/m/none\t[no test files]\n", "FAIL\texample.com/m/broken [build failed]\n", "FAIL\texample.com/m/unlisted [list tests failed]\n", "ok  \texample.com/m/files\t",
		"FAIL\texample.com/m/panics\t", "--- TIMEOUT: TestHangs/deep", "28 tests: ",
	} {
		assert.Contains(t, printed, line)
	}
	text, err := os.ReadFile(filepath.Join(o.out, "junit.xml"))
	require.NoError(t, err)
	assert.Contains(t, string(text), `tests="28"`)
	assert.NoFileExists(t, filepath.Join(dir, "files/testdata/new"), "tests write to a copy")
}

func TestABinaryThatIgnoresItsTimeoutIsKilled(t *testing.T) {
	t.Parallel()
	s := &shard{pack: &pack{name: "p", dir: "/m/p", root: "/m"}, tests: []string{"TestA", "TestB"}, whole: true}
	task, err := s.task(options{timeout: time.Minute}, "")
	require.NoError(t, err)
	assert.Equal(t, time.Minute+killAfter, task.Payload.Timeout)
	text := "\x16=== RUN   TestA\n\x16--- PASS: TestA (0.00s)\n\x16=== NAME  \n\x16=== RUN   TestB\nstill here\n"
	verdicts, again := judge(readTranscript([]byte(text)), s.tests, ending{exit: -1, timedOut: true})
	assert.Empty(t, again)
	require.Len(t, verdicts, 2)
	assert.Equal(t, result.Passed, verdicts[0].status)
	assert.Equal(t, result.TimedOut, verdicts[1].status)
	assert.Equal(t, "still here\n", verdicts[1].output.String())
}

func TestATestThatKillsItsMachineIsErroredAndTheOthersAreRun(t *testing.T) {
	t.Parallel()
	dir := module(t, map[string]string{"p/a_test.go": header + `
func TestBefore(t *testing.T) {}
func TestKills(t *testing.T) {
	fmt.Println("last words")
	time.Sleep(time.Second) // for the agent to bring them to the disk
	p, err := os.StartProcess("/bin/sh", []string{"sh", "-c", os.Getenv("BULLPEN_CRASH")}, &os.ProcAttr{Env: os.Environ()})
	if err != nil { t.Fatal(err) }
	_, _ = p.Wait()
	select {}
}
func TestAfter(t *testing.T) {}`})
	code, printed, cases := runIt(t, command(t, "-C", dir, "-timeout", "20s", "-attempts", "2", "./p"))
	assert.Equal(t, 2, code)
	assert.Equal(t, map[string]string{"/p TestBefore": "passed", "/p TestKills": "errored", "/p TestAfter": "passed"}, words(cases), printed)
	c := cases["/p TestKills"]
	assert.Len(t, c.Attempts, 1, "attempts of a shard that another test may have lost are not a test's own")
	assert.Contains(t, c.Output.String(), "last words")
	assert.Contains(t, c.Message, "killed")
}

func TestAPackageThatIsNotThereIsACaseAndNoPackageAnError(t *testing.T) {
	t.Parallel()
	dir := module(t, map[string]string{"p/p.go": "package p\n"})
	code, printed, cases := runIt(t, command(t, "-C", dir, "./p", "./missing"))
	assert.Equal(t, 1, code, printed)
	assert.Equal(t, map[string]string{"./missing (package)": "failed"}, words(cases))
	_, err := run(t.Context(), command(t, "-C", dir, "none.example/..."), new(bytes.Buffer))
	assert.Error(t, err)
}

func TestTheWholeModuleIsThereWhenItIsAskedFor(t *testing.T) {
	t.Parallel()
	dir := module(t, map[string]string{"p/a_test.go": header + `
func TestThere(t *testing.T) { if _, err := os.Stat(os.Getenv("PWD") + "/../q/q.go"); err != nil { t.Error(err) } }`, "q/q.go": "package q\n"})
	code, printed, _ := runIt(t, command(t, "-C", dir, "./p"))
	assert.Equal(t, 1, code, printed)
	code, printed, _ = runIt(t, command(t, "-C", dir, "-files", "module", "./p"))
	assert.Zero(t, code, printed)
}

func TestOutputThatIsCutGivesNoVerdicts(t *testing.T) {
	t.Parallel()
	s := &shard{pack: &pack{name: "p"}, tests: []string{"TestA", "TestB"}}
	text := framedText("@=== RUN   TestA", "@--- PASS: TestA (0.00s)", "...", "@PASS", "")
	verdicts, again := s.cutShort(readTranscript(text), ending{})
	assert.Equal(t, []string{"TestB"}, again)
	assert.Len(t, verdicts, 1)
	verdicts, again = s.cutShort(readTranscript([]byte("...")), ending{})
	assert.Empty(t, again)
	require.Len(t, verdicts, 2)
	assert.Equal(t, result.Errored, verdicts[0].status)
}

func TestRunAndShortChooseTests(t *testing.T) {
	t.Parallel()
	dir := module(t, map[string]string{"p/a_test.go": header + `
func TestAB(t *testing.T) { for _, n := range []string{"x", "y"} { t.Run(n, func(t *testing.T) { if !testing.Short() { t.Error("long") } }) } }
func TestC(t *testing.T) { t.Error("not asked for") }`})
	code, printed, cases := runIt(t, command(t, "-C", dir, "-short", "-v", "-run", "A[B/]/x", "./p"))
	assert.Zero(t, code, printed)
	assert.Equal(t, map[string]string{"/p TestAB": "passed", "/p TestAB/x": "passed"}, words(cases))
	assert.Contains(t, printed, "--- PASS: TestAB/x")

	code, printed, _ = runIt(t, command(t, "-C", dir, "-run", "Nothing", "./p"))
	assert.Equal(t, 2, code, "nothing was tested")
	assert.Contains(t, printed, "[no tests to run]")
}

func TestHistoryCutsABigPackageOverTheMachines(t *testing.T) {
	t.Parallel()
	dir := module(t, map[string]string{"p/a_test.go": header + `
func TestA(t *testing.T) {}
func TestB(t *testing.T) {}
func TestC(t *testing.T) {}`})
	o := command(t, "-C", dir, "./p")
	require.NoError(t, os.MkdirAll(o.cache, 0o755))
	h, err := result.OpenHistory(result.HistoryConfig{Path: filepath.Join(o.cache, "history")})
	require.NoError(t, err)
	for _, name := range []string{"TestA", "TestB", "TestC"} {
		require.NoError(t, h.Add(t.Context(), result.Case{Suite: "example.com/m/p", Name: name, Status: result.Passed, Duration: time.Minute}))
	}
	code, printed, cases := runIt(t, o)
	assert.Zero(t, code)
	assert.Len(t, cases, 3)
	assert.Contains(t, printed, "(3 shards on ")
}

func TestAnInterruptedRunReportsEachTest(t *testing.T) {
	t.Parallel()
	dir := module(t, map[string]string{"p/a_test.go": header + `
func TestHangs(t *testing.T) { if err := os.WriteFile(` + "`MARK`" + `, nil, 0o600); err != nil { t.Fatal(err) }; select {} }
func TestAfter(t *testing.T) {}`})
	mark := filepath.Join(t.TempDir(), "mark")
	name := filepath.Join(dir, "p/a_test.go")
	text, err := os.ReadFile(name)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(name, bytes.ReplaceAll(text, []byte("MARK"), []byte(mark)), 0o644))
	o := command(t, "-C", dir, "./p")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ended := make(chan struct{})
	var code int
	var out bytes.Buffer
	go func() { // ends with run, which the context ends
		defer close(ended)
		code, err = run(ctx, o, &out)
	}()
	require.Eventually(t, func() bool { _, err := os.Stat(mark); return err == nil }, 2*time.Minute, 5*time.Millisecond)
	cancel()
	<-ended
	require.NoError(t, err, out.String())
	assert.Equal(t, 2, code, out.String())
	assert.Equal(t, map[string]string{"/p TestHangs": "aborted", "/p TestAfter": "aborted"}, words(readCases(t, o)))
}

func TestMistakesOnTheCommandLineAreNamed(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		args []string
		want string
	}{
		{nil, "no packages"},
		{[]string{"-n", "0", "p"}, "-n is 0"},
		{[]string{"-attempts", "0", "p"}, "-attempts is 0"},
		{[]string{"-memory", "1", "p"}, "-memory is 1"},
		{[]string{"-timeout", "0s", "p"}, "-timeout is 0s"},
		{[]string{"-files", "some", "p"}, `-files is "some"`},
		{[]string{"-nonsense"}, "nonsense"},
	} {
		_, err := parse(row.args, new(bytes.Buffer))
		assert.ErrorContains(t, err, row.want, "%q", row.args)
	}
	o, err := parse([]string{"-driver", "xen", "strings"}, new(bytes.Buffer))
	require.NoError(t, err)
	_, err = open(t.Context(), o)
	assert.ErrorContains(t, err, `-driver is "xen"`)
}
