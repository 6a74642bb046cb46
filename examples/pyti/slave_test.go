package main

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/bullpen-vm/bullpen/examples/pyti/indextest"
	"github.com/bullpen-vm/bullpen/result"
)

// plain is a project that needs no Python to be looked at.
var plain = indextest.Dist{Name: "plain", Version: "1.0", Files: map[string]string{"plain.py": "x = 1\n"}}

// meet makes a recipe whose run says that it has begun, by a file of its name below
// dir, and goes on when all of others have.
func meet(dir, name string, others ...string) string {
	wait := ""
	for _, o := range others {
		wait += fmt.Sprintf("while [ ! -e %s/%s ]; do sleep 0.02; done; ", dir, o)
	}
	return fmt.Sprintf("echo x >>%s/%s; %strue", dir, name, wait)
}

// begun reports whether the recipe that meets under that path has begun: it has
// when its line is written, not when the file is there.
func begun(path string) func() bool {
	return func() bool {
		text, err := os.ReadFile(path)
		return err == nil && len(text) > 0
	}
}

func TestASlaveAnswersEachRequestBesideIt(t *testing.T) {
	t.Parallel()
	h := newHome(t, "")
	h.index.Add(plain)
	h.recipe("good", "test -e $BULLPEN_IN/project/site/plain.py", "ls $PYTI_DISTS", "echo $PYTI_PROJECT $PYTI_VERSION on $PYTI_PLATFORM")
	h.recipe("bad", "echo something is wrong >&2; exit 3", "echo not reached")
	h.drop("before", ask("plain", "null", "good", "null"))
	h.write("pyti_requests/notes.txt", "not a request")
	p := h.slave()
	h.drop("after", ask("Plain", `"1"`, "bad", "null"))

	before := h.answer("before")
	assert.Equal(t, result.Passed, before.Status, "%+v", before)
	assert.Equal(t, "plain-1.0-py3-none-any.whl\n", before.Runs[0].Commands[1].Stdout)
	assert.Equal(t, "plain 1.0 on here\n", before.Runs[0].Commands[2].Stdout)
	assert.Equal(t, 1, before.Attempt)
	after := h.answer("after")
	assert.Equal(t, result.Failed, after.Status)
	assert.Equal(t, 1, after.ExitCode)
	assert.Equal(t, 3, after.Runs[0].Commands[0].Exit)
	assert.Equal(t, "something is wrong\n", after.Runs[0].Commands[0].Stderr)
	assert.Equal(t, "skipped", after.Runs[0].Commands[1].State)

	require.NoError(t, p.Process.Signal(syscall.SIGTERM))
	assert.Equal(t, 0, p.end(), p.errout.String())
	assert.Equal(t, []string{"after.result.json", "before.result.json", "notes.txt"}, h.queue())
	assert.Contains(t, p.out.String(), "2 requests answered")
	h.nothingLeft()
}

func TestAnAnswerToAnOlderRequestOfTheSameNameIsReplaced(t *testing.T) {
	t.Parallel()
	h := newHome(t, "")
	h.index.Add(plain)
	h.recipe("good", "true")
	h.slave()
	h.drop("r", ask("plain", "null", "good", "null"))
	first := h.answer("r")
	h.drop("r", ask("plain", "null", "none", "null"))
	eventually(t, "another answer", func() bool { return h.answer("r").Ticket != first.Ticket })
	assert.Contains(t, h.answer("r").Message, `recipe_identifier is "none"`)
}

func TestARequestOfASlaveThatIsKilledIsTakenAgain(t *testing.T) {
	t.Parallel()
	h := newHome(t, "")
	h.index.Add(plain)
	meeting := t.TempDir()
	h.recipe("wait", meet(meeting, "begun", "go"))
	first := h.slave()
	h.drop("r", ask("plain", "null", "wait", "null"))
	eventually(t, "the recipe begins", begun(filepath.Join(meeting, "begun")))
	require.NoError(t, first.Process.Kill())
	first.end()
	require.Len(t, h.queue(), 1, "the dead slave's claim")
	assert.True(t, strings.HasSuffix(h.queue()[0], ".claim"))

	// It may have died as it wrote how its machines are.
	pid := strconv.Itoa(first.Process.Pid)
	require.NoError(t, os.WriteFile(h.path("state/."+pid+".json.1.tmp"), nil, 0o600))

	require.NoError(t, os.WriteFile(filepath.Join(meeting, "go"), nil, 0o600))
	second := h.slave()
	r := h.answer("r")
	assert.Equal(t, result.Passed, r.Status, "%+v", r)
	assert.Equal(t, 2, r.Attempt)
	text, err := os.ReadFile(filepath.Join(meeting, "begun"))
	require.NoError(t, err)
	assert.Equal(t, "x\nx\n", string(text), "begun by each of the two")
	eventually(t, "the dead slave's machine is removed by the other", func() bool {
		machines, err := filepath.Glob(filepath.Join(h.tmp, "bullpen-local-*", "[^.]*"))
		return err == nil && len(machines) <= 1
	})
	require.NoError(t, second.Process.Signal(syscall.SIGTERM))
	assert.Equal(t, 0, second.end(), second.errout.String())
	h.nothingLeft() // of either
	locks, err := filepath.Glob(h.path("pyti_requests/.*"))
	require.NoError(t, err)
	assert.Empty(t, locks)
	states, err := filepath.Glob(h.path("state/*"))
	require.NoError(t, err)
	assert.Empty(t, states)
}

func TestARequestThatKillsItsSlavesIsGivenUp(t *testing.T) {
	t.Parallel()
	h := newHome(t, "")
	h.index.Add(plain)
	meeting := t.TempDir()
	h.recipe("wait", meet(meeting, "begun", "never"))
	h.drop("r", ask("plain", "null", "wait", "null"))
	lines := ""
	for range mostAttempts {
		p := h.slave()
		lines += "x\n"
		eventually(t, "the recipe begins again", func() bool {
			text, err := os.ReadFile(filepath.Join(meeting, "begun"))
			return err == nil && string(text) == lines
		})
		require.NoError(t, p.Process.Kill())
		p.end()
	}
	h.slave()
	r := h.answer("r")
	assert.Equal(t, result.Errored, r.Status)
	assert.Equal(t, "given up: 3 slaves died over it", r.Message)
	assert.Equal(t, "plain", r.Project)
}

func TestSIGTERMLetsWhatRunsFinish(t *testing.T) {
	t.Parallel()
	h := newHome(t, "")
	h.index.Add(plain)
	meeting := t.TempDir()
	h.recipe("wait", meet(meeting, "begun", "go"))
	p := h.slave()
	h.drop("r", ask("plain", "null", "wait", "null"))
	eventually(t, "the recipe begins", begun(filepath.Join(meeting, "begun")))
	require.NoError(t, p.Process.Signal(syscall.SIGTERM))
	h.drop("late", ask("plain", "null", "wait", "null"))
	require.NoError(t, os.WriteFile(filepath.Join(meeting, "go"), nil, 0o600))
	assert.Equal(t, 0, p.end(), p.errout.String())
	assert.Equal(t, result.Passed, h.answer("r").Status)
	assert.Equal(t, []string{"r.result.json"}, without(h.queue(), "late.json"), "late is taken before the signal, or not at all")
	h.nothingLeft()
}

func without(list []string, name string) (rest []string) {
	for _, s := range list {
		if s != name && !strings.HasPrefix(s, "late") {
			rest = append(rest, s)
		}
	}
	return rest
}

func TestSIGTERMAbortsWhatTakesTooLongWithAnAnswer(t *testing.T) {
	t.Parallel()
	h := newHome(t, "drain = 0s\n")
	h.index.Add(plain)
	meeting := t.TempDir()
	h.recipe("wait", meet(meeting, "begun", "never"))
	p := h.slave()
	h.drop("r", ask("plain", "null", "wait", "null"))
	eventually(t, "the recipe begins", begun(filepath.Join(meeting, "begun")))
	require.NoError(t, p.Process.Signal(syscall.SIGTERM))
	assert.Equal(t, 0, p.end(), p.errout.String())
	r := h.answer("r")
	assert.Equal(t, result.Aborted, r.Status)
	assert.Equal(t, 2, r.ExitCode)
	assert.Equal(t, []string{"r.result.json"}, h.queue())
	h.nothingLeft()
}

func TestASecondSignalDoesNotWait(t *testing.T) {
	t.Parallel()
	h := newHome(t, "drain = 1h\n")
	h.index.Add(plain)
	meeting := t.TempDir()
	h.recipe("wait", meet(meeting, "begun", "never"))
	p := h.slave()
	h.drop("r", ask("plain", "null", "wait", "null"))
	eventually(t, "the recipe begins", begun(filepath.Join(meeting, "begun")))
	require.NoError(t, p.Process.Signal(syscall.SIGTERM))
	require.NoError(t, p.Process.Signal(os.Interrupt))
	assert.Equal(t, 0, p.end(), p.errout.String())
	assert.Equal(t, result.Aborted, h.answer("r").Status)
	h.nothingLeft()
}

func TestTwoSlavesShareAQueueAndNoRequestIsDoneTwice(t *testing.T) {
	t.Parallel()
	h := newHome(t, "")
	h.write("pyti.ini", strings.Replace(h.read("pyti.ini"), "total_vms = 2", "total_vms = 1", 1))
	h.index.Add(plain)
	meeting := t.TempDir()
	// These two wait for each other: one slave alone, with one machine, cannot.
	h.recipe("left", meet(meeting, "left", "right"))
	h.recipe("right", meet(meeting, "right", "left"))
	h.drop("left", ask("plain", "null", "left", "null"))
	h.drop("right", ask("plain", "null", "right", "null"))
	const more = 10
	for i := range more {
		h.recipe(fmt.Sprint("r", i), meet(meeting, fmt.Sprint("r", i)))
		h.drop(fmt.Sprint("r", i), ask("plain", "null", fmt.Sprint("r", i), "null"))
	}
	one, two := h.slave(), h.slave()
	assert.NotEqual(t, h.answer("left").Slave, h.answer("right").Slave)
	for i := range more {
		name := fmt.Sprint("r", i)
		assert.Equal(t, result.Passed, h.answer(name).Status, name)
		text, err := os.ReadFile(filepath.Join(meeting, name))
		require.NoError(t, err)
		assert.Equal(t, "x\n", string(text), "%s was begun more than once", name)
	}
	for _, p := range []*program{one, two} {
		require.NoError(t, p.Process.Signal(syscall.SIGTERM))
		assert.Equal(t, 0, p.end(), p.errout.String())
	}
	h.nothingLeft()
}

func TestTotalVMsIsHowManyMachinesThereAreAndTheNumberFreeIsStored(t *testing.T) {
	t.Parallel()
	h := newHome(t, "[platform here a]\n[platform here b]\n") // total_vms = 2
	h.index.Add(plain)
	meeting := t.TempDir()
	inside, counts, goOn := filepath.Join(meeting, "inside"), filepath.Join(meeting, "counts"), filepath.Join(meeting, "go")
	require.NoError(t, os.Mkdir(inside, 0o700))
	// Of four runs two are at work; they wait a little for a third, say how many they
	// are, and keep their machines until the test has seen it.
	h.recipe("r", fmt.Sprintf("mkdir %[1]s/$$; i=0; while [ $(ls %[1]s | wc -l) -lt 3 ] && [ $i -lt 25 ]; do i=$((i+1)); sleep 0.02; done; ls %[1]s | wc -l >>%[2]s; while [ ! -e %[3]s ]; do sleep 0.02; done; rmdir %[1]s/$$", inside, counts, goOn))
	h.drop("one", ask("plain", "null", "r", `["a", "b"]`))
	h.drop("two", ask("plain", "null", "r", `["a", "b"]`))
	p := h.slave()
	said := func() []string {
		text, _ := os.ReadFile(counts) // not there yet
		return strings.Fields(string(text))
	}
	var v vmState
	state := func(want func() bool) func() bool {
		return func() bool {
			text, err := os.ReadFile(h.path(fmt.Sprintf("state/%d.json", p.Process.Pid)))
			v = vmState{}
			return err == nil && json.Unmarshal(text, &v) == nil && want()
		}
	}
	eventually(t, "two machines are in use", func() bool { return len(said()) >= 2 })
	eventually(t, "the state says so", state(func() bool { return v.Free == 0 && v.Waiting == 2 }))
	assert.Equal(t, 2, v.TotalVMs)
	require.Len(t, v.Machines, 2)
	for _, m := range v.Machines {
		assert.Equal(t, "held", m.State)
		assert.Contains(t, []string{"here/a", "here/b"}, m.Platform)
	}
	require.NoError(t, os.WriteFile(goOn, nil, 0o600))
	for _, name := range []string{"one", "two"} {
		r := h.answer(name)
		assert.Equal(t, result.Passed, r.Status, "%+v", r)
	}
	for _, n := range said() {
		assert.Contains(t, []string{"1", "2"}, n, "machines at work at once")
	}
	eventually(t, "all are free again", state(func() bool { return v.Free == 2 && v.Waiting == 0 }))
}

func TestTheNumberOfMachinesHoldsOverSeveralHypervisors(t *testing.T) {
	t.Parallel()
	h := newHome(t, "[platform here]\n[platform here a]\n[platform here b]\n[platform there]\ndir = "+scratch(t)+"\n[platform there a]\n[platform there b]\n") // total_vms = 2
	h.index.Add(plain)
	meeting := t.TempDir()
	inside, counts := filepath.Join(meeting, "inside"), filepath.Join(meeting, "counts")
	require.NoError(t, os.Mkdir(inside, 0o700))
	// Each run waits a little for a third, and says how many are at work while it is.
	h.recipe("r", fmt.Sprintf("mkdir %[1]s/$$; i=0; while [ $(ls %[1]s | wc -l) -lt 3 ] && [ $i -lt 25 ]; do i=$((i+1)); sleep 0.02; done; ls %[1]s | wc -l >>%[2]s; rmdir %[1]s/$$", inside, counts))
	h.slave()
	for i := range 2 {
		h.drop(fmt.Sprint("here", i), ask("plain", "null", "r", `["a", "b"]`))
		h.drop(fmt.Sprint("there", i), strings.Replace(ask("plain", "null", "r", `["a", "b"]`), `"here"`, `"there"`, 1))
	}
	hosts := map[string]bool{}
	for i := range 2 {
		for _, name := range []string{"here", "there"} {
			r := h.answer(fmt.Sprint(name, i))
			assert.Equal(t, result.Passed, r.Status, "%+v", r)
			hosts[r.Runs[0].Host] = true
		}
	}
	assert.Len(t, hosts, 2)
	text, err := os.ReadFile(counts)
	require.NoError(t, err)
	seen := strings.Fields(string(text))
	assert.Len(t, seen, 8)
	for _, n := range seen {
		assert.Contains(t, []string{"1", "2"}, n, "machines at work at once")
	}
}

func TestAWrongRequestIsAnsweredWithWhatIsWrong(t *testing.T) {
	t.Parallel()
	h := newHome(t, "")
	h.index.Add(plain)
	h.slave()
	h.drop("null", ask("plain", `"1.0"`, "recipe", "Null"))
	h.drop("platform", strings.Replace(ask("plain", "null", "recipe", "null"), `"here"`, `"beos"`, 1))
	h.drop("project", ask("nobody", "null", "empty", "null"))
	h.recipe("empty", "# nothing yet", "true")
	for name, want := range map[string]string{
		"null":     "platform_variants (line 1) is Null, which is not JSON: write null",
		"platform": `platform_identifier is "beos", want one of here`,
		"project":  "project nobody: not found in the index",
	} {
		r := h.answer(name)
		assert.Equal(t, result.Errored, r.Status)
		assert.Equal(t, 2, r.ExitCode)
		assert.Contains(t, r.Message, want)
	}
}

func TestWithoutAConfigurationTheEnvironmentNamesTheRoot(t *testing.T) {
	t.Parallel()
	h := newHome(t, "")
	require.NoError(t, os.Remove(h.path("pyti.ini")))
	link := h.path("pyti-slave") // the original's name
	require.NoError(t, os.Symlink(os.Args[0], link))
	p := exec.Command(link)
	p.Env = append(os.Environ(), "BULLPEN_TEST_PYTI=1", "TMPDIR="+h.tmp, rootVariable+"="+h.root)
	require.NoError(t, p.Start())
	h.drop("r", ask("plain", "null", "recipe", "null"))
	assert.Contains(t, h.answer("r").Message, "platform_identifier is \"here\", want one of linux")
	require.NoError(t, p.Process.Signal(syscall.SIGTERM))
	assert.NoError(t, p.Wait())
	h.nothingLeft()
}
