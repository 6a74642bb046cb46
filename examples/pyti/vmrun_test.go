package main

import (
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
