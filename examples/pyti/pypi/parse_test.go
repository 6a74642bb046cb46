package pypi

import (
	"slices"
	"strings"
	"testing"

	pep440 "github.com/aquasecurity/go-pep440-version"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// The order is that of PEP 440, "Summary of permitted suffixes and relative
// ordering", with its own example.
func TestVersionsAreOrderedAsPEP440WantsIt(t *testing.T) {
	t.Parallel()
	order := []string{
		"1.dev0", "1.0.dev456", "1.0a1", "1.0a2.dev456", "1.0a12.dev456", "1.0a12", "1.0b1.dev456", "1.0b2", "1.0b2.post345.dev456", "1.0b2.post345",
		"1.0rc1.dev456", "1.0rc1", "1.0", "1.0+abc.5", "1.0+abc.7", "1.0+5", "1.0.post456.dev34", "1.0.post456", "1.0.15", "1.1.dev1", "1.9", "1.10", "2", "1!0.1",
	}
	rapid.Check(t, func(t *rapid.T) {
		shuffled := rapid.Permutation(order).Draw(t, "versions")
		slices.SortFunc(shuffled, func(a, b string) int { return pep440.MustParse(a).Compare(pep440.MustParse(b)) })
		if !slices.Equal(shuffled, order) {
			t.Fatalf("sorted: %v", shuffled)
		}
	})
}

func TestNamesThatMeanTheSameAreTheSame(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"friendly-bard", "Friendly-Bard", "FRIENDLY-BARD", "friendly.bard", "friendly_bard", "friendly--bard", "FrIeNdLy-._.-bArD"} {
		assert.Equal(t, "friendly-bard", Normalize(name))
	}
	for name, want := range map[string]bool{"a": true, "a1": true, "A.b_c-d": true, "": false, "-a": false, "a-": false, "a b": false, "a/b": false, "é": false} {
		assert.Equal(t, want, ValidName(name), name)
	}
}

func TestSpecifiersAllowWhatTheySay(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		spec, version string
		want          bool
	}{
		{"", "1.0", true}, {">=1.0", "1.0", true}, {">1.0", "1.0", false}, {">=1,<2", "1.9.9", true}, {">=1,<2,", "2.0", false},
		{"==1.0", "1.0.0", true}, {"==1.*", "1.7", true}, {"!=1.5.*", "1.5.2", false}, {"~=1.4.2", "1.4.9", true}, {"~=1.4.2", "1.5", false},
		{"===1.0", "1.0", true}, {"===1.0", "1.0.0", false}, {">=1.0", "2.0rc1", true}, {" >= 1.0 , != 1.1 ", "1.1", false},
	} {
		s, err := ParseSpecifiers(row.spec)
		require.NoError(t, err, row.spec)
		assert.Equal(t, row.want, s.Allows(pep440.MustParse(row.version)), "%q on %s", row.spec, row.version)
	}
	for _, bad := range []string{"1.0", "=1.0", ">=", ">=x", ">=1||<3", "~=1", ">=1 <2"} {
		_, err := ParseSpecifiers(bad)
		assert.Error(t, err, bad)
	}
	for spec, want := range map[string]bool{">=1.0": false, ">=1.0rc1": true, "==2.0.dev1": true, "!=1.0a1": false} {
		s, err := ParseSpecifiers(spec)
		require.NoError(t, err)
		assert.Equal(t, want, s.AsksForPre(), spec)
	}
}

func TestRequirementsAreReadAsPEP508HasThem(t *testing.T) {
	t.Parallel()
	r, err := ParseRequirement(`Requests [security,Tests_2] >= 2.8.1, == 2.8.* ; python_version < "3.8"`)
	require.NoError(t, err)
	assert.Equal(t, "requests", r.Name)
	assert.Equal(t, []string{"security", "tests-2"}, r.Extras)
	assert.Equal(t, ">=2.8.1,==2.8.*", r.Specs.String())
	assert.False(t, r.Marker.Holds(Linux("3.11"), ""))
	assert.True(t, r.Marker.Holds(Linux("3.7"), ""))
	for _, good := range []string{"A", "A.B-C_D", "name<=1", "name (>=1,<2)", "name[a]", "name;os_name=='posix'", "name[quux, strange];python_version<'2.7' and platform_version=='2'"} {
		_, err := ParseRequirement(good)
		assert.NoError(t, err, good)
	}
	for bad, want := range map[string]string{
		"": "want a project's name first", ">=1": "want a project's name first", "name @ https://example.org/x.whl": "a direct reference; want a project of the index",
		"name (>=1": "its parenthesis is not closed", "name[a b]": `its extra "a b" is not a name`, "name 1.0": "want an operator", "name; x == 'y'": `"x" is no variable of PEP 508`,
		"name; os_name 'y'": "an operator is missing", "name; os_name == 'y": "is no variable", "name; (os_name == 'y'": "a parenthesis is not closed",
		"name; os_name == 'y' 'z'": "left over", "name; os_name == 'y' ''": "left over", "name; os_name not 'y'": "not without in", "name; os_name == 'y' ?": "is not understood",
		"name; " + strings.Repeat("(", 60) + "os_name == 'y'" + strings.Repeat(")", 60): "more than 50 parentheses",
	} {
		_, err := ParseRequirement(bad)
		assert.ErrorContains(t, err, want, bad)
	}
}

func TestMarkersAreEvaluatedForLinux(t *testing.T) {
	t.Parallel()
	env := Linux("3.11.2")
	for text, want := range map[string]bool{
		`python_version >= "3.8"`: true, `python_version < "3.10"`: false, // as versions: 3.11 is not before 3.2
		`python_version >= "3.2"`: true, `"3.8" <= python_version`: true, `python_full_version == "3.11.2"`: true, `python_version == "3.*"`: true,
		`sys_platform == "win32"`: false, `sys_platform != "win32"`: true, `os_name in "nt posix"`: true, `os_name not in "nt posix"`: false,
		`platform_system == "Linux" and platform_machine == "x86_64"`: true, `sys_platform == "win32" or os_name == "posix"`: true,
		`os_name == "nt" and os_name == "posix" or os_name == "posix"`: true, `os_name == "nt" and (os_name == "posix" or os_name == "posix")`: false,
		`extra == "test"`: false, `implementation_name == 'cpython'`: true, `platform_release >= "5"`: false, `os.name == "posix"`: true, `python_implementation == "CPython"`: true,
		`sys_platform ~= "linux"`: false, `os_name < "q"`: true, `os_name > "q"`: false, `os_name <= "posix"`: true, `os_name >= "q"`: false, `os_name === "posix"`: true,
	} {
		m, err := ParseMarker(text)
		require.NoError(t, err, text)
		assert.Equal(t, want, m.Holds(env, ""), text)
	}
	m, err := ParseMarker(`extra == "Test_It"`)
	require.NoError(t, err)
	assert.True(t, m.Holds(env, "test-it"))
	assert.True(t, Marker{}.Holds(env, ""))
}

func TestMetadataIsReadUpToItsBody(t *testing.T) {
	t.Parallel()
	m, err := ParseMetadata([]byte("Metadata-Version: 2.1\r\nName: Some.Thing\nversion: 1.0rc1\nSummary: folded\n  over lines\n\tand: more\nRequires-Dist: a>=1\nRequires-Dist: b;\n  extra == 'x'\nRequires-Python: >=3.7\n\nName: body\nRequires-Dist: not-this\n"))
	require.NoError(t, err)
	assert.Equal(t, "Some.Thing", m.Name)
	assert.Equal(t, "1.0rc1", m.Version.String())
	require.Len(t, m.Requires, 2)
	assert.False(t, m.Requires[1].Marker.Holds(nil, ""))
	assert.Equal(t, ">=3.7", m.RequiresPython.String())
	for text, want := range map[string]string{
		"": `Name is ""`, "Name: a": `Version is ""`, "Name: a\nVersion: x": `Version is "x"`, "Name: a b\nVersion: 1": `Name is "a b"`,
		"Name: a\nVersion: 1\nRequires-Dist: >=1": "metadata: Requires-Dist: requirement", "Name: a\nVersion: 1\nRequires-Python: 3": "metadata: Requires-Python",
	} {
		_, err := ParseMetadata([]byte(text))
		assert.ErrorContains(t, err, want, text)
	}
	_, err = ParseMetadata(make([]byte, MostMetadata+1))
	assert.ErrorContains(t, err, "want at most")
}

func TestFileNamesTellVersionAndPython(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		project, name, version string
		runs                   bool
	}{
		{"a-b", "a_b-1.0-py3-none-any.whl", "1.0", true}, {"a.b", "A_B-1.0-2-py2.py3-none-any.whl", "1.0", true}, {"a", "a-1-py2-none-any.whl", "1", false},
		{"a", "a-1-py38-none-any.whl", "1", true}, {"a", "a-1-py312-none-any.whl", "1", false}, {"a", "a-1-cp311-none-any.whl", "1", true}, {"a", "a-1-cp310-none-any.whl", "1", false},
		{"a", "a-1-cp311-cp311-manylinux_2_17_x86_64.whl", "1", false}, {"a", "a-1-py3-none-win_amd64.whl", "1", false}, {"a", "a-1.0+x.1-py3-none-any.whl", "1.0+x.1", true},
		{"a-b", "a-b-1.0.tar.gz", "1.0", true}, {"a-b", "a_b-1.0rc1.tar.gz", "1.0rc1", true}, {"a", "a-1.0-1.tar.gz", "1.0.post1", true},
	} {
		f, err := ParseFilename(row.project, row.name)
		require.NoError(t, err, row.name)
		assert.Equal(t, row.version, f.Version.String(), row.name)
		assert.Equal(t, row.runs, f.Runs("3.11"), row.name)
	}
	for _, bad := range []string{"b-1-py3-none-any.whl", "a-1.whl", "a-x-py3-none-any.whl", "a-b-1.tar.gz", "a.tar.gz", "a-1.zip", "../a-1.tar.gz", ".a-1.tar.gz", "a-1-py3-none-any.whl/x"} {
		_, err := ParseFilename("a", bad)
		assert.Error(t, err, bad)
	}
}

func TestScriptsOfAWheelAreThoseOfItsEntryPoints(t *testing.T) {
	t.Parallel()
	got := ConsoleScripts("[other]\na = b:c\n[console_scripts]\n one = m.n : f.g [extra]\n../two = m:f\nthree = m:f;import os\nfour = m\n")
	assert.Equal(t, map[string]string{"one": "m.n:f.g"}, got)
	for name, want := range map[string]string{
		"a/b.py": "site/a/b.py", "a-1.dist-info/METADATA": "site/a-1.dist-info/METADATA", "a-1.data/purelib/x/y.py": "site/x/y.py", "a-1.data/platlib/z.py": "site/z.py",
		"a-1.data/scripts/run": "bin/run", "a-1.data/data/etc/x": "data/data/etc/x", "a-1.data/purelib": "", "a-1.data": "site/a-1.data", "a.data/headers/h": "data/headers/h",
	} {
		assert.Equal(t, want, InstalledAt(name), name)
	}
}

// FuzzMetadata: what is read has a name and a version, and the requirements are
// such that they can be asked.
func FuzzMetadata(f *testing.F) {
	f.Add("Metadata-Version: 2.1\nName: a\nVersion: 1.0\nRequires-Dist: b[c]>=1,<2; python_version < '3' and extra == 'x'\nRequires-Python: >=3\n\nbody")
	f.Add("Name: a\n folded\nVersion: 1!2.3rc4.post5.dev6+local\r\nRequires-Dist: x (~=1.2)\n")
	f.Fuzz(func(t *testing.T, text string) {
		m, err := ParseMetadata([]byte(text))
		if err != nil {
			return
		}
		if !ValidName(m.Name) || m.Version.String() == "" {
			t.Fatalf("%q gives %+v", text, m)
		}
		for _, r := range m.Requires {
			r.Specs.Allows(m.Version)
			r.Marker.Holds(Linux("3.11"), "x")
			if r.Name != Normalize(r.Name) {
				t.Fatalf("%q is not normalised", r.Name)
			}
		}
	})
}

// FuzzRequirement: what is read says the same when it is read again.
func FuzzRequirement(f *testing.F) {
	f.Add(`requests[security]>=2.8.1,==2.8.*;python_version<"3.8" or (os_name=='nt' and extra in "a b")`)
	f.Add("a (>1)")
	f.Add("a;'x'not in'y'")
	f.Fuzz(func(t *testing.T, text string) {
		r, err := ParseRequirement(text)
		if err != nil {
			return
		}
		again, err := ParseRequirement(r.Name + r.Specs.String())
		if err != nil || again.Specs.String() != r.Specs.String() {
			t.Fatalf("%q gives %q, which gives %q, %v", text, r.Specs, again.Specs, err)
		}
		r.Marker.Holds(Linux("3.11"), "")
	})
}
