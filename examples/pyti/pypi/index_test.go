package pypi

import (
	"bytes"
	"context"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/bullpen-vm/bullpen/examples/pyti/indextest"
)

type dist = indextest.Dist

func open(t *testing.T, location string) *Index {
	t.Helper()
	x, err := NewIndex(Config{Location: location, Cache: t.TempDir(), Pause: time.Millisecond})
	require.NoError(t, err)
	return x
}

// resolve gives "name version file" of all that is chosen.
func resolve(t *testing.T, x Source, text string) ([]string, error) {
	t.Helper()
	r, err := ParseRequirement(text)
	require.NoError(t, err)
	all, err := Resolve(t.Context(), x, r, "3.11", Linux("3.11"))
	var texts []string
	for _, d := range all {
		texts = append(texts, d.Name+" "+d.Version.String())
	}
	return texts, err
}

func chosen(t *testing.T, x Source, text string, want ...string) {
	t.Helper()
	got, err := resolve(t, x, text)
	require.NoError(t, err, text)
	assert.Equal(t, want, got, text)
}

func TestPagesAndJSONOfAnIndexSayTheSame(t *testing.T) {
	t.Parallel()
	s := indextest.Serve(t)
	s.Add(dist{Name: "Some.Thing", Version: "1.0"})
	name, content := dist{Name: "some-thing", Version: "2.0"}.Wheel()
	s.AddFile("some-thing", name, content, indextest.Python(">=3.12"))
	name, content = dist{Name: "some-thing", Version: "3.0"}.Wheel()
	s.AddFile("some-thing", name, content, indextest.Yanked)
	pages, err := open(t, s.HTML()).Links(t.Context(), "some_thing")
	require.NoError(t, err)
	json, err := open(t, s.JSON()).Links(t.Context(), "some_thing")
	require.NoError(t, err)
	require.Len(t, pages, 3)
	require.Len(t, json, 3)
	for i, p := range pages {
		j := json[i]
		assert.Equal(t, []any{p.Filename, p.URL.String(), p.Hashes, p.RequiresPython.String(), p.Yanked}, []any{j.Filename, j.URL.String(), j.Hashes, j.RequiresPython.String(), j.Yanked})
	}
	assert.Equal(t, s.URL+"/files/Some_Thing-1.0-py3-none-any.whl", pages[0].URL.String())
	assert.Len(t, pages[0].Hashes["sha256"], 64)
	assert.Equal(t, ">=3.12", pages[1].RequiresPython.String())
	assert.True(t, pages[2].Yanked)
	for _, location := range []string{s.HTML(), s.JSON(), strings.TrimSuffix(s.HTML(), "/")} {
		x := open(t, location)
		chosen(t, x, "some-thing", "some-thing 1.0")
		chosen(t, x, "some-thing==3", "some-thing 3.0")
	}
}

func TestTheNewestVersionIsChosenAndAPreReleaseOnlyWhenItIsAskedFor(t *testing.T) {
	t.Parallel()
	s := indextest.Serve(t)
	for _, v := range []string{"1.9", "1.10", "2.0a1", "2.0.dev1", "1.10.post1"} {
		s.Add(dist{Name: "p", Version: v})
	}
	s.Add(dist{Name: "early", Version: "0.1a1"}, dist{Name: "early", Version: "0.1rc1"}, dist{Name: "early", Version: "0.1b9"})
	s.Add(dist{Name: "wants-pre", Version: "1", Requires: []string{"p>=2.0.dev0"}})
	x := open(t, s.HTML())
	chosen(t, x, "p", "p 1.10.post1")
	chosen(t, x, "p<1.10", "p 1.9")
	chosen(t, x, "p>=2.0a0", "p 2.0a1")
	chosen(t, x, "p==2.0.dev1", "p 2.0.dev1")
	chosen(t, x, "early", "early 0.1rc1")
	chosen(t, x, "wants-pre", "wants-pre 1", "p 2.0a1")
}

func TestDependenciesAreBroughtTransitively(t *testing.T) {
	t.Parallel()
	s := indextest.Serve(t)
	s.Add(
		dist{Name: "app", Version: "1", Requires: []string{"Lib_One>=1", "lib-two[fast]", `windows-only; sys_platform == "win32"`, `tests; extra == "test"`}},
		dist{Name: "lib-one", Version: "1.0", Requires: []string{"base<2"}}, dist{Name: "lib-two", Version: "3", Requires: []string{"base", `speed; extra == "fast"`, `slow; extra == "slow"`, "app"}},
		dist{Name: "base", Version: "1.5"}, dist{Name: "base", Version: "2.5"}, dist{Name: "speed", Version: "9"}, dist{Name: "tests", Version: "4"},
	)
	x := open(t, s.HTML())
	chosen(t, x, "app", "app 1", "base 1.5", "lib-one 1.0", "lib-two 3", "speed 9")
	chosen(t, x, "app[test]", "app 1", "base 1.5", "lib-one 1.0", "lib-two 3", "speed 9", "tests 4")
	assert.Equal(t, 0, s.Hits("/simple/windows-only/"))
	r, err := ParseRequirement("app")
	require.NoError(t, err)
	all, err := Resolve(t.Context(), x, r, "3.11", Linux("3.11"))
	require.NoError(t, err)
	assert.Equal(t, []string{"lib-one 1.0", "lib-two 3"}, all[1].For)
}

func TestAChoiceThatALaterDemandRulesOutIsMadeAnew(t *testing.T) {
	t.Parallel()
	s := indextest.Serve(t)
	s.Add(
		dist{Name: "app", Version: "1", Requires: []string{"a", "b"}},
		dist{Name: "a", Version: "2", Requires: []string{"only-of-a-2"}}, dist{Name: "a", Version: "1"}, dist{Name: "only-of-a-2", Version: "1"},
		dist{Name: "b", Version: "1", Requires: []string{"a<2"}},
		dist{Name: "stuck", Version: "1", Requires: []string{"a>=2", "b"}},
		dist{Name: "ping", Version: "2", Requires: []string{"pong<2"}}, dist{Name: "ping", Version: "1"},
	)
	x := open(t, s.HTML())
	chosen(t, x, "app", "app 1", "a 1", "b 1")
	_, err := resolve(t, x, "stuck")
	require.ErrorIs(t, err, ErrNotFound)
	assert.ErrorContains(t, err, "a>=2 (for stuck 1) and a<2 (for b 1)", "all who asked are named")
	assert.ErrorContains(t, err, "the index has a-2-py3-none-any.whl, a-1-py3-none-any.whl")
}

func TestOnlyFilesForThisPythonAreTaken(t *testing.T) {
	t.Parallel()
	s := indextest.Serve(t)
	s.Add(dist{Name: "p", Version: "3", Tag: "cp311-cp311-linux_x86_64"}, dist{Name: "p", Version: "2", Python: ">=3.12"}, dist{Name: "p", Version: "1", Python: ">=3.8"}, dist{Name: "p", Version: "1.5", Tag: "py2-none-any"})
	chosen(t, open(t, s.HTML()), "p", "p 1")
	s.Add(dist{Name: "none", Version: "1", Tag: "py2-none-any"})
	_, err := resolve(t, open(t, s.HTML()), "none")
	assert.ErrorContains(t, err, "no file of none for Python 3.11 is allowed by none")
	name, content := dist{Name: "p", Version: "4", Files: map[string]string{"p.egg-info/requires.txt": "q>=1\n[x]\nr\n[:python_version<'3']\nold\n"}}.Sdist()
	s.AddFile("p", name, content)
	s.Add(dist{Name: "q", Version: "7"})
	chosen(t, open(t, s.HTML()), "p", "p 4", "q 7")
	wheel, content := dist{Name: "p", Version: "4", Tag: "py3-none-any"}.Wheel()
	s.AddFile("p", wheel, content)
	chosen(t, open(t, s.HTML()), "p", "p 4") // the wheel of the same version, which wants nothing
}

func TestAWrongOrMissingHashIsRefusedAndNamed(t *testing.T) {
	t.Parallel()
	s := indextest.Serve(t)
	zeros := strings.Repeat("0", 64)
	for project, option := range map[string]indextest.Option{
		"wrong": indextest.Hash("sha256=" + zeros), "short": indextest.Hash("sha256=00"), "md5": indextest.Hash("md5=" + zeros[:32]), "none": indextest.Unhashed,
		"traversal": indextest.Hash("sha256=../../../x"), "wrong512": indextest.Hash("sha512=" + zeros + zeros),
	} {
		name, content := dist{Name: project, Version: "1"}.Wheel()
		s.AddFile(project, name, content, option)
		for _, location := range []string{s.HTML(), s.JSON()} {
			x := open(t, location)
			_, err := resolve(t, x, project)
			require.ErrorIs(t, err, ErrHash, project)
			assert.ErrorContains(t, err, "file "+name)
			left, err := filepath.Glob(filepath.Join(x.conf.Cache, "*"))
			require.NoError(t, err)
			assert.Empty(t, left, "what is wrong is kept")
		}
	}
	_, err := resolve(t, open(t, s.HTML()), "wrong")
	assert.ErrorContains(t, err, "the index promises sha256 "+zeros+", the file has ")
}

func TestAFileIsDownloadedOnceAndCheckedEachTime(t *testing.T) {
	t.Parallel()
	s := indextest.Serve(t)
	s.Add(dist{Name: "p", Version: "1"})
	x := open(t, s.HTML())
	fetch := func() (string, string) {
		links, err := x.Links(t.Context(), "p")
		require.NoError(t, err)
		path, sum, err := x.Fetch(t.Context(), links[0])
		require.NoError(t, err)
		assert.Equal(t, links[0].Hashes["sha256"], sum)
		return path, sum
	}
	path, _ := fetch()
	fetch()
	assert.Equal(t, 1, s.Hits("/files/p-1-py3-none-any.whl"))
	good, err := os.ReadFile(path)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(path, []byte("damaged"), 0o600))
	fetch()
	assert.Equal(t, 2, s.Hits("/files/p-1-py3-none-any.whl"))
	again, err := os.ReadFile(path)
	require.NoError(t, err)
	assert.Equal(t, good, again)
}

func TestManyWhoBringTheSameFileDoNotTakeItFromEachOther(t *testing.T) {
	t.Parallel()
	s := indextest.Serve(t)
	name, content := dist{Name: "p", Version: "1"}.Wheel()
	s.AddFile("p", name, content)
	x := open(t, s.HTML())
	links, err := x.Links(t.Context(), "p")
	require.NoError(t, err)
	infos := make(chan os.FileInfo, 8)
	for range cap(infos) {
		go func() {
			path, _, err := x.Fetch(context.WithoutCancel(t.Context()), links[0])
			info, statErr := os.Stat(path)
			if err != nil || statErr != nil {
				t.Error(err, statErr)
			}
			infos <- info
		}()
	}
	first := <-infos
	for range cap(infos) - 1 {
		assert.True(t, os.SameFile(first, <-infos), "the file was replaced under its readers")
	}
}

func TestWhatPassesIsTriedAgainAndWhatDoesNotIsNot(t *testing.T) {
	t.Parallel()
	s := indextest.Serve(t)
	s.Add(dist{Name: "p", Version: "1"})
	s.Fail("/simple/p/", 500, 503, 429)
	s.Fail("/files/p-1-py3-none-any.whl", 502)
	chosen(t, open(t, s.HTML()), "p", "p 1")
	assert.Equal(t, 4, s.Hits("/simple/p/"))

	s.Fail("/simple/p/", 500, 500, 500, 500)
	_, err := resolve(t, open(t, s.HTML()), "p")
	assert.ErrorContains(t, err, "project p: GET "+s.URL+"/simple/p/: 500 Internal Server Error (tried 4 times)")
	s.Fail("/simple/p/", 403)
	_, err = resolve(t, open(t, s.HTML()), "p")
	assert.ErrorContains(t, err, "403 Forbidden")
	s.Fail("/files/p-1-py3-none-any.whl", 404)
	_, err = resolve(t, open(t, s.HTML()), "p")
	require.ErrorIs(t, err, ErrNotFound)
	_, err = resolve(t, open(t, s.HTML()), "gone")
	require.ErrorIs(t, err, ErrNotFound)
	assert.ErrorContains(t, err, "project gone: not found in the index")

	s.Close()
	_, err = resolve(t, open(t, s.HTML()), "p")
	assert.ErrorContains(t, err, "(tried 4 times)")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = open(t, s.HTML()).Links(ctx, "p")
	require.ErrorIs(t, err, context.Canceled)
}

func TestAnIndexMayBeAFolder(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	put := func(path string, content []byte) {
		path = filepath.Join(dir, path)
		require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
		require.NoError(t, os.WriteFile(path, content, 0o600))
	}
	name, content := dist{Name: "flat", Version: "1", Requires: []string{"Own.Folder", "paged"}}.Wheel()
	put(name, content)
	put("flat-2-py3-none-any.txt", nil)
	name, content = dist{Name: "own-folder", Version: "2"}.Sdist()
	put("own-folder/"+name, content)
	name, content = dist{Name: "paged", Version: "3"}.Wheel()
	put("paged/"+name, content)
	put("paged/index.html", []byte(`<a href="`+name+`#sha256=`+strings.Repeat("0", 64)+`">x</a><a href="http://127.0.0.1:1/other.whl">y</a>`))
	x := open(t, dir)
	_, err := resolve(t, x, "flat")
	require.ErrorIs(t, err, ErrHash, "a page's digests count in a folder too")
	put("paged/index.html", []byte(`<a href="`+name+`">x</a>`))
	chosen(t, x, "flat", "flat 1", "own-folder 2", "paged 3")
	chosen(t, open(t, "file://"+dir), "flat", "flat 1", "own-folder 2", "paged 3")
	_, err = resolve(t, x, "gone")
	require.ErrorIs(t, err, ErrNotFound)
}

func TestAFileThatIsNotWhatItsNameSaysIsRefused(t *testing.T) {
	t.Parallel()
	s := indextest.Serve(t)
	for project, made := range map[string]dist{
		"other": {Name: "another", Version: "1"}, "newer": {Name: "newer", Version: "2"}, "broken": {Name: "broken", Version: "1", Metadata: "Name: broken\n"},
		"direct": {Name: "direct", Version: "1", Requires: []string{"x @ http://127.0.0.1:1/x.whl"}},
	} {
		_, content := made.Wheel()
		s.AddFile(project, project+"-1-py3-none-any.whl", content)
		_, content = made.Sdist()
		s.AddFile(project+"-src", project+"-src-1.tar.gz", content)
	}
	s.AddFile("garbage", "garbage-1-py3-none-any.whl", []byte("not a zip"))
	s.AddFile("rubbish", "rubbish-1.tar.gz", []byte("not a tar"))
	x := open(t, s.HTML())
	for project, want := range map[string]string{
		"other": "is another 1 by its metadata", "newer": "is newer 2 by its metadata", "broken": "Version is", "direct": "a direct reference", "garbage": "not a valid zip file",
		"rubbish": "file rubbish-1.tar.gz: unexpected EOF", "other-src": "is another 1 by its metadata",
	} {
		_, err := resolve(t, x, project)
		assert.ErrorContains(t, err, want, project)
		assert.ErrorContains(t, err, "file "+project, project)
	}
}

func TestAWrongConfigurationOfAnIndexIsRefused(t *testing.T) {
	t.Parallel()
	for _, location := range []string{"", "relative/folder", "/does/not/exist", "ftp://example.org/", "http://"} {
		_, err := NewIndex(Config{Location: location, Cache: "x"})
		assert.ErrorContains(t, err, "index is \""+location+"\"", location)
	}
	_, err := NewIndex(Config{Location: "/"})
	assert.ErrorContains(t, err, "Cache is empty")
	x, err := NewIndex(Config{Location: "/", Cache: t.TempDir(), MostFile: 3})
	require.NoError(t, err)
	_, _, err = x.keep(strings.NewReader("four"), "f", "", "")
	assert.ErrorContains(t, err, "more than 3 bytes")
}

func TestAPageFromTheNetworkNamesNoFileOfThisComputer(t *testing.T) {
	t.Parallel()
	base := &url.URL{Scheme: "http", Host: "h", Path: "/simple/p/"}
	links, err := ParsePage(strings.NewReader(`<base href="http://other/x/"><a href="a-1.tar.gz">a</a><a href="file:///etc/a-2.tar.gz">b</a><a href="..">c</a><a name="x">d</a><a href="a-3.tar.gz" data-requires-python="rubbish">`), "text/html", base)
	require.NoError(t, err)
	require.Len(t, links, 1)
	assert.Equal(t, "http://other/x/a-1.tar.gz", links[0].URL.String())
	for text, want := range map[string]string{"{": "not JSON of PEP 691", `{"meta":{"api-version":"2.0"}}`: `api-version "2.0", want 1.x`} {
		_, err := ParsePage(strings.NewReader(text), "application/vnd.pypi.simple.v1+json; charset=utf-8", base)
		assert.ErrorContains(t, err, want)
	}
}

// FuzzPage: links have plain names and go to the network only.
func FuzzPage(f *testing.F) {
	f.Add([]byte(`<html><base href="https://x/"><a href="../a-1.tar.gz#sha256=00" data-requires-python="&gt;=3" data-yanked>`), false)
	f.Add([]byte(`{"meta":{"api-version":"1.0"},"files":[{"filename":"a-1.tar.gz","url":"x","hashes":{"sha256":"00"},"requires-python":">=3","yanked":"why"}]}`), true)
	f.Fuzz(func(t *testing.T, text []byte, json bool) {
		kind := "text/html"
		if json {
			kind = "application/json"
		}
		links, err := ParsePage(bytes.NewReader(text), kind, &url.URL{Scheme: "http", Host: "h", Path: "/simple/p/"})
		if err != nil {
			return
		}
		for _, l := range links {
			if !plainName(l.Filename) || filepath.Base(l.Filename) != l.Filename || l.URL.Scheme != "http" && l.URL.Scheme != "https" || l.URL.Fragment != "" {
				t.Fatalf("%q gives %+v", text, l)
			}
			if file, err := ParseFilename("p", l.Filename); err == nil {
				file.Runs("3.11")
			}
		}
	})
}
