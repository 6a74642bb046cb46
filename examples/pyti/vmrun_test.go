package main

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/bullpen-vm/bullpen/examples/pyti/indextest"
	"github.com/bullpen-vm/bullpen/result"
)

// rarfile is a project with a dependency, and tests of its own.
func rarfile(version string) indextest.Dist {
	return indextest.Dist{
		Name: "rarfile", Version: version, Requires: []string{"Colour_Names >=1", `tomli; python_version < "3"`},
		Files: map[string]string{
			"rarfile/__init__.py": "from colour_names import red\nversion = '" + version + "'\n",
			"rarfile/tests.py": `import unittest, rarfile
class T(unittest.TestCase):
    def test_red(self): self.assertEqual(rarfile.red, 'ff0000')
    def test_version(self): self.assertEqual(rarfile.version, '` + version + `')
`,
		},
	}
}

var colours = indextest.Dist{Name: "colour-names", Version: "1.2", Files: map[string]string{"colour_names.py": "red = 'ff0000'\n"}}

func TestTheTestsOfADistributionRunInAMachineAndComeBackAsADict(t *testing.T) {
	t.Parallel()
	python(t)
	h := newHome(t, "")
	h.index.Add(rarfile("0.9"), rarfile("1.0"), rarfile("2.0"), colours)
	h.recipe("recipe", "# all tests", "python3 -m unittest -v rarfile.tests 2> $BULLPEN_OUT/log.txt", `python3 -c 'import rarfile; \`, `print(rarfile.version)'`)
	code, r, stderr := h.vmRun(ask("rarfile", `"1.0"`, "recipe", "null"))
	require.Equal(t, 0, code, "%+v %s", r, stderr)
	assert.Equal(t, result.Passed, r.Status)
	assert.Equal(t, "1.0", r.Version)
	require.Len(t, r.Distributions, 2)
	assert.Equal(t, "colour_names-1.2-py3-none-any.whl", r.Distributions[1].File)
	assert.Equal(t, []string{"rarfile 1.0"}, r.Distributions[1].For)
	require.Len(t, r.Runs, 1)
	run := r.Runs[0]
	assert.Nil(t, run.Variant)
	require.Len(t, run.Commands, 2)
	assert.Equal(t, "1.0\n", run.Commands[1].Stdout)
	require.Contains(t, run.Files, "log.txt")
	assert.Contains(t, *run.Files["log.txt"].Text, "Ran 2 tests")
	h.nothingLeft()
}

func TestWithoutAVersionTheNewestIsTested(t *testing.T) {
	t.Parallel()
	h := newHome(t, "")
	for _, v := range []string{"1.9", "1.10", "2.0rc1", "1.10.post1", "2.0.dev3"} {
		d := plain
		d.Version = v
		h.index.Add(d)
	}
	h.recipe("r", "echo $PYTI_VERSION")
	for version, want := range map[string]string{"null": "1.10.post1", `"none"`: "1.10.post1", `""`: "1.10.post1", `"2.0rc1"`: "2.0rc1", `"1.9.0"`: "1.9"} {
		code, r, stderr := h.vmRun(ask("plain", version, "r", "null"))
		require.Equal(t, 0, code, "%+v %s", r, stderr)
		assert.Equal(t, want, r.Version)
		assert.Equal(t, want+"\n", r.Runs[0].Commands[0].Stdout)
	}
	code, r, _ := h.vmRun(`{"project_name": "plain", "recipe_identifier": "r", "platform_identifier": "here"}`)
	assert.Equal(t, 0, code, "keys that may be null may be missing")
	assert.Equal(t, "1.10.post1", r.Version)
}

func TestEachVariantIsOneRunOnAMachineOfItsOwn(t *testing.T) {
	t.Parallel()
	h := newHome(t, "[platform here]\n[platform here small]\nready = 1\n[platform here large]\n[platform other]\n[platform only big]\n")
	h.index.Add(plain)
	h.recipe("r", "echo $PYTI_PLATFORM $PYTI_VARIANT $BULLPEN_VARIANT | tee $BULLPEN_OUT/where", `test "$PYTI_VARIANT" != large`)
	code, r, stderr := h.vmRun(ask("plain", "null", "r", `["large", "small"]`))
	assert.Equal(t, 1, code, stderr)
	assert.Equal(t, result.Failed, r.Status, "the worst of all")
	require.Len(t, r.Runs, 2)
	for i, variant := range []string{"large", "small"} {
		assert.Equal(t, variant, *r.Runs[i].Variant, "in the order of the request")
		assert.Equal(t, "here "+variant+" "+variant+"\n", r.Runs[i].Commands[0].Stdout)
		assert.Equal(t, "here/"+variant, r.Runs[i].Template)
		assert.Equal(t, "here "+variant+" "+variant+"\n", *r.Runs[i].Files["where"].Text)
	}
	assert.Equal(t, []result.Status{result.Failed, result.Passed}, []result.Status{r.Runs[0].Status, r.Runs[1].Status})
	assert.NotEqual(t, r.Runs[0].Machine, r.Runs[1].Machine)

	code, r, _ = h.vmRun(ask("plain", "null", "r", "null"))
	require.Equal(t, 0, code)
	require.Len(t, r.Runs, 1)
	assert.Nil(t, r.Runs[0].Variant)
	assert.Equal(t, "here", r.Runs[0].Template)

	for variants, want := range map[string]string{
		`["huge"]`: `platform_variants has "huge", want some of small, large`,
	} {
		code, r, _ = h.vmRun(ask("plain", "null", "r", variants))
		assert.Equal(t, 2, code)
		assert.Equal(t, want, r.Message)
	}
	_, r, _ = h.vmRun(`{"project_name": "plain", "recipe_identifier": "r", "platform_identifier": "other", "platform_variants": ["x"]}`)
	assert.Equal(t, `platform_variants has "x", but other has no variants: write null`, r.Message)
	_, r, _ = h.vmRun(`{"project_name": "plain", "recipe_identifier": "r", "platform_identifier": "only"}`)
	assert.Equal(t, "platform_variants is null, but only has only variants: want some of big", r.Message)
	h.nothingLeft()
}

func TestTheMachineIsRolledBackBetweenTwoRuns(t *testing.T) {
	t.Parallel()
	h := newHome(t, "")
	h.write("pyti.ini", strings.Replace(h.read("pyti.ini"), "total_vms = 2", "total_vms = 1", 1))
	h.index.Add(plain)
	h.recipe("r", `test -z "$(ls -A $HOME)"`, "echo mine >$HOME/left")
	p := h.slave()
	for i := range 3 {
		name := fmt.Sprint("r", i)
		h.drop(name, ask("plain", "null", "r", "null"))
		r := h.answer(name)
		assert.Equal(t, result.Passed, r.Status, "run %d finds what one before it left: %+v", i, r)
	}
	require.NoError(t, p.Process.Signal(syscall.SIGTERM))
	assert.Equal(t, 0, p.end(), p.errout.String())
	h.nothingLeft()
}

func TestARunThatLosesItsMachineIsTriedOnAnother(t *testing.T) {
	t.Parallel()
	h := newHome(t, "")
	h.index.Add(plain)
	h.recipe("r", `test $BULLPEN_ATTEMPT -gt 1 || eval "$BULLPEN_CRASH"`)
	code, r, stderr := h.vmRun(ask("plain", "null", "r", "null"))
	require.Equal(t, 0, code, "%+v %s", r, stderr)
	require.Len(t, r.Runs[0].Attempts, 2)
	assert.Equal(t, result.Errored, r.Runs[0].Attempts[0].Status)
	assert.NotEqual(t, r.Runs[0].Attempts[0].Machine, r.Runs[0].Attempts[1].Machine)
}

func TestARecipeThatHangsIsTimedOut(t *testing.T) {
	t.Parallel()
	h := newHome(t, "timeout = 1s\n")
	h.index.Add(plain)
	h.recipe("r", "echo begun", "sleep 1000")
	code, r, stderr := h.vmRun(ask("plain", "null", "r", "null"))
	assert.Equal(t, 1, code, stderr)
	assert.Equal(t, result.TimedOut, r.Status)
	assert.Equal(t, "begun\n", r.Runs[0].Commands[0].Stdout)
	assert.Equal(t, "timed out", r.Runs[0].Commands[1].State)
}

func TestAFileWithAWrongHashIsRefusedAndNamed(t *testing.T) {
	t.Parallel()
	h := newHome(t, "")
	name, content := plain.Wheel()
	h.index.AddFile("plain", name, content, indextest.Hash("sha256="+strings.Repeat("0", 64)))
	h.recipe("r", "true")
	code, r, _ := h.vmRun(ask("plain", "null", "r", "null"))
	assert.Equal(t, 2, code)
	assert.Contains(t, r.Message, "file plain-1.0-py3-none-any.whl: the digest is wrong: the index promises sha256 000")
	assert.Empty(t, r.Runs)
}

func TestARecipeUsesScriptsDataAndSourcesOfWhatIsTested(t *testing.T) {
	t.Parallel()
	python(t)
	h := newHome(t, "")
	h.index.Add(indextest.Dist{Name: "tool", Version: "1", Requires: []string{"sourced"}, Files: map[string]string{
		"tool.py": "import sourced\ndef main():\n    print('tool and', sourced.word)\n    return 4\n", "tool-1.dist-info/entry_points.txt": "[console_scripts]\nrun-tool = tool:main\n",
		"tool-1.data/purelib/pure.py": "", "tool-1.data/scripts/hello": "#!/bin/sh\necho hello\n", "tool-1.data/data/etc/tool.conf": "x = 1\n",
	}})
	sourced := indextest.Dist{Name: "sourced", Version: "0.1", Files: map[string]string{"src/sourced.py": "word = 'source'\n", "setup.py": "raise SystemExit('is never run by a slave')\n"}}
	name, content := sourced.Sdist()
	h.index.AddFile("sourced", name, content)
	h.recipe("r", "run-tool; test $? = 4", "python3 -c 'import pure, tool, sourced'", "sh $BULLPEN_IN/project/bin/hello", "cat $BULLPEN_IN/project/data/data/etc/tool.conf",
		"test -e $BULLPEN_IN/project/src/sourced-0.1/setup.py", `printf '\377' >$BULLPEN_OUT/raw`)
	code, r, stderr := h.vmRun(ask("tool", "null", "r", "null"))
	require.Equal(t, 0, code, "%+v %s", r, stderr)
	assert.Equal(t, "tool and source\n", r.Runs[0].Commands[0].Stdout)
	assert.Equal(t, "hello\n", r.Runs[0].Commands[2].Stdout)
	assert.Equal(t, "/w==", *r.Runs[0].Files["raw"].Base64)
	assert.FileExists(t, r.Runs[0].Files["raw"].Path)
}

func TestTheRecordIsADictOfPython(t *testing.T) {
	t.Parallel()
	python(t)
	h := newHome(t, "")
	h.index.Add(plain)
	h.recipe("r", "echo out; echo err >&2")
	h.write("request.json", ask("plain", "null", "r", "null"))
	p := h.start("vm-run", "--target", h.path("request.json"), "--config", h.path("pyti.ini"))
	require.Equal(t, 0, p.end(), p.errout.String())
	read := exec.CommandContext(t.Context(), "python3", "-c",
		`import json, sys; d = json.load(sys.stdin); c = d["runs"][0]["commands"][0]; print(type(d).__name__, d["status"], d["runs"][0]["platform_variant"], repr(c["stdout"] + c["stderr"]))`)
	read.Stdin = p.out
	out, err := read.CombinedOutput()
	require.NoError(t, err, string(out))
	assert.Equal(t, "dict passed None 'out\\nerr\\n'\n", string(out))
}

func TestACommandLineThatIsWrongSaysHowItIsRight(t *testing.T) {
	t.Parallel()
	h := newHome(t, "")
	for _, row := range []struct{ args, want string }{
		{"", "usage:"},
		{"master", "usage:"},
		{"vm-run", "--target is missing"},
		{"vm-run --target /nowhere", "no such file"},
		{"vm-run --target x y", `"y" is left over`},
		{"slave --config /nowhere", "config /nowhere"},
		{"slave --target x", "flag provided but not defined: -target"},
		{"slave -driver xen --config " + h.path("pyti.ini"), `-driver is "xen", want local or libvirt`},
	} {
		p := h.start(strings.Fields(row.args)...)
		assert.Equal(t, 2, p.end(), row.args)
		assert.Contains(t, p.errout.String(), row.want, row.args)
	}
	h.write("null.json", strings.ReplaceAll(`{
 "project_name": "rarfile",
 "project_version": "1.0",
 "recipe_identifier": "recipe",
 "platform_identifier": "linux-debian",
 "platform_variants": Null
}`, "\n", "\r\n"))
	p := h.start("vm-run", "--target", h.path("null.json"), "--config", h.path("pyti.ini"))
	assert.Equal(t, 2, p.end())
	assert.Contains(t, p.errout.String(), "platform_variants (line 6) is Null, which is not JSON: write null", "the original's own sample")
}

func TestEachVariantGetsWhatItsPythonNeeds(t *testing.T) {
	t.Parallel()
	h := newHome(t, "[platform here old]\npython_version = 3.7\n[platform here new]\npython_version = 3.12\n")
	h.index.Add(
		indextest.Dist{Name: "p", Version: "1", Requires: []string{`backport; python_version < "3.8"`}}, indextest.Dist{Name: "backport", Version: "5"},
		indextest.Dist{Name: "q", Version: "1"}, indextest.Dist{Name: "q", Version: "2", Python: ">=3.8"},
	)
	h.recipe("r", "ls $PYTI_DISTS")
	code, r, stderr := h.vmRun(ask("p", "null", "r", `["old", "new"]`))
	require.Equal(t, 0, code, "%+v %s", r, stderr)
	assert.Equal(t, "backport-5-py3-none-any.whl\np-1-py3-none-any.whl\n", r.Runs[0].Commands[0].Stdout)
	assert.Equal(t, "p-1-py3-none-any.whl\n", r.Runs[1].Commands[0].Stdout)
	assert.Len(t, r.Distributions, 2)
	code, r, _ = h.vmRun(ask("q", "null", "r", `["old", "new"]`))
	assert.Equal(t, 2, code)
	assert.Equal(t, "the newest version differs between the variants' Pythons: name one in project_version", r.Message)
	code, r, _ = h.vmRun(ask("q", "null", "r", `["new"]`))
	assert.Equal(t, 0, code)
	assert.Equal(t, "2", r.Version)
}

func TestAnInterruptedRunPrintsItsRecordAndLeavesNothing(t *testing.T) {
	t.Parallel()
	h := newHome(t, "")
	h.index.Add(plain)
	meeting := t.TempDir()
	h.recipe("wait", meet(meeting, "begun", "never"))
	h.write("request.json", ask("plain", "null", "wait", "null"))
	p := h.start("vm-run", "--target", h.path("request.json"), "--config", h.path("pyti.ini"))
	eventually(t, "the recipe begins", begun(filepath.Join(meeting, "begun")))
	require.NoError(t, p.Process.Signal(syscall.SIGTERM))
	assert.Equal(t, 2, p.end(), p.errout.String())
	var r record
	require.NoError(t, json.Unmarshal(p.out.Bytes(), &r))
	assert.Equal(t, result.Aborted, r.Status)
	assert.Equal(t, "plain", r.Distributions[0].Name)
	h.nothingLeft()
}

func TestTheLogOfARunThatIsTakenAgainIsKept(t *testing.T) {
	t.Parallel()
	h := newHome(t, "[platform here]\n[platform here a]\n[platform here b]\n")
	h.index.Add(plain)
	meeting := t.TempDir()
	// Variant a ends with a file; b waits, so that the slave dies between.
	h.recipe("r", "echo $PYTI_VARIANT >$BULLPEN_OUT/log", `test $PYTI_VARIANT = a || { `+meet(meeting, "begun", "go")+"; }")
	first := h.slave()
	h.drop("r", ask("plain", "null", "r", `["a", "b"]`))
	eventually(t, "the file of a is kept", func() bool {
		found, err := filepath.Glob(h.path("results/*/*/*/log"))
		return err == nil && len(found) == 1 && begun(filepath.Join(meeting, "begun"))()
	})
	require.NoError(t, first.Process.Kill())
	first.end()
	require.NoError(t, os.WriteFile(filepath.Join(meeting, "go"), nil, 0o600))
	h.slave()
	r := h.answer("r")
	assert.Equal(t, result.Passed, r.Status)
	for i, variant := range []string{"a", "b"} {
		assert.Equal(t, variant+"\n", *r.Runs[i].Files["log"].Text)
		assert.Empty(t, r.Runs[i].Message)
	}
}
