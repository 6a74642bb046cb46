package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// sample is the original's, but for its Null.
const sample = `{
 "project_name": "rarfile",
 "project_version": "1.0",
 "recipe_identifier": "recipe",
 "platform_identifier": "linux-debian",
 "platform_variants": null
}`

func TestTheFiveKeysOfARequestAreRead(t *testing.T) {
	t.Parallel()
	r, err := parseRequest([]byte(sample))
	require.NoError(t, err)
	assert.Equal(t, request{Project: "rarfile", Version: "1.0", Recipe: "recipe", Platform: "linux-debian"}, r)
	r, err = parseRequest([]byte(strings.Replace(sample, "null", `["a", "b"]`, 1)))
	require.NoError(t, err)
	assert.Equal(t, []string{"a", "b"}, r.Variants)
}

func TestAWrongRequestNamesKeyValueAndRule(t *testing.T) {
	t.Parallel()
	variants := func(v string) string { return strings.Replace(sample, "null", v, 1) }
	for text, want := range map[string]string{
		variants("Null"):          "platform_variants (line 6) is Null, which is not JSON: write null",
		variants("None"):          "platform_variants (line 6) is None, which is not JSON: write null",
		variants("nil"):           "platform_variants (line 6) is nil, which is not JSON: write null",
		variants("True"):          "platform_variants (line 6) is True, which is not JSON: write true",
		variants(`[Null]`):        "line 6 is Null, which is not JSON: write null",
		variants(`"small"`):       `platform_variants is "small", want null for one run, or a list`,
		variants(`[]`):            "platform_variants is [], want null for one run",
		variants(`["a", "a"]`):    `platform_variants has "a", want null for one run, or a list of different names`,
		variants(`["a b"]`):       `platform_variants has "a b"`,
		variants(`[1]`):           "platform_variants is [1]",
		sample + "x":              "something stands behind the object",
		"{":                       "unexpected EOF",
		"":                        "EOF",
		"[]":                      "cannot unmarshal array",
		`{"project": "rarfile"}`:  `unknown field "project"`,
		`{"project_name": "x"}`:   "recipe_identifier is missing, want the path",
		`{"project_name": null}`:  "project_name is missing",
		`{"project_name": 3}`:     "cannot unmarshal number",
		`{"project_name": "a/b"}`: `project_name is "a/b", want a project's name`,
		strings.Replace(sample, `"recipe"`, `"../x"`, 1):            `recipe_identifier is "../x", want the path of a file below recipes/`,
		strings.Replace(sample, `"1.0"`, `"one"`, 1):                `project_version is "one", want one of PEP 440, or null for the newest`,
		strings.Replace(sample, "linux-debian", "my linux", 1):      `platform_identifier is "my linux"`,
		strings.Replace(sample, `"1.0",`, `"1.0"`, 1):               "line 4",
		variants(`["` + strings.Repeat(`a","`, 200) + `a"]`):        "platform_variants has 201 entries, want at most 100",
		strings.Replace(sample, "1.0", strings.Repeat("1", 300), 1): "project_version is too long",
	} {
		_, err := parseRequest([]byte(text))
		assert.ErrorContains(t, err, want, text)
	}
}

func TestARecipeIsAFileOfCommandsBelowTheRoot(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	dir := filepath.Join(root, recipesFolder)
	require.NoError(t, os.MkdirAll(filepath.Join(dir, "deep"), 0o755))
	write := func(name, text string) {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600))
	}
	write("deep/r", "# first\n\n  make test \r\nif true; \\\nthen echo x; fi\nlast \\")
	steps, err := readRecipe(root, "deep/r")
	require.NoError(t, err)
	var lines []string
	for _, s := range steps {
		lines = append(lines, s.Argv[len(s.Argv)-1])
	}
	assert.Equal(t, []string{"make test", "if true; then echo x; fi", "last"}, lines)

	write("empty", "# nothing\n")
	write("large", strings.Repeat("x", mostRecipe+1))
	require.NoError(t, os.WriteFile(filepath.Join(root, "secret"), []byte("x"), 0o600))
	require.NoError(t, os.Symlink("../secret", filepath.Join(dir, "link")))
	for id, want := range map[string]string{
		"empty": "recipe empty has no commands", "large": "more than 262144 bytes", "gone": `recipe_identifier is "gone", want a file below`,
		"link": `recipe_identifier is "link"`, "deep": `recipe_identifier is "deep"`,
	} {
		_, err := readRecipe(root, id)
		assert.ErrorContains(t, err, want)
	}
}

// FuzzRequest: what is taken is within the rules, and is JSON.
func FuzzRequest(f *testing.F) {
	f.Add([]byte(sample))
	f.Add([]byte(strings.Replace(sample, "null", "Null", 1)))
	f.Add([]byte(strings.Replace(sample, "null", `["x","y"]`, 1)))
	f.Add([]byte(`{"project_name":N`))
	f.Fuzz(func(t *testing.T, text []byte) {
		r, err := parseRequest(text)
		if err != nil {
			return
		}
		if !json.Valid(text) || !goodRecipe(r.Recipe) || !goodLabel.MatchString(r.Platform) || r.Project == "" || len(r.Variants) > mostVariants {
			t.Fatalf("%q gives %+v", text, r)
		}
		if r.Variants != nil && len(r.Variants) == 0 {
			t.Fatal("an empty list is no list")
		}
	})
}
