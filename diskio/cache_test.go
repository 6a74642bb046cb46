package diskio

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/fstest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/bullpen-vm/bullpen/diskio/internal/ext4"
)

func newCache(t testing.TB, bytes int64) *Cache {
	t.Helper()
	c, err := NewCache(filepath.Join(t.TempDir(), "cache"), &CacheOptions{Bytes: bytes})
	require.NoError(t, err)
	return c
}

// one is a tree of one file.
func one(content string) Tree {
	return Tree{Files: []File{{Path: "f", Data: []byte(content)}}}
}

func cached(t testing.TB, c *Cache, src Tree) *Image {
	t.Helper()
	image, err := c.Pack(context.Background(), src, nil)
	require.NoError(t, err)
	t.Cleanup(func() { image.Close() })
	return image
}

func identity(t testing.TB, i *Image) fs.FileInfo {
	t.Helper()
	info, err := i.Stat()
	require.NoError(t, err)
	return info
}

func TestATreeIsPackedOnceForTheSameContent(t *testing.T) {
	t.Parallel()
	c := newCache(t, 0)
	dir := sampleTree(t)
	first := cached(t, c, Folder(dir))
	plain, _ := pack(t, Folder(dir), nil)
	assert.Equal(t, plain.Digest(), first.Digest(), "the cache makes the same bytes")

	now := time.Now()
	require.NoError(t, os.Chtimes(filepath.Join(dir, "one"), now, now))
	second := cached(t, c, Folder(dir))
	assert.True(t, os.SameFile(identity(t, first), identity(t, second)), "a new time is not new content")

	require.NoError(t, os.WriteFile(filepath.Join(dir, "one"), []byte("2"), 0o600))
	third := cached(t, c, Folder(dir))
	assert.NotEqual(t, first.Digest(), third.Digest())

	files := Tree{Roots: []Root{{FS: fstest.MapFS{"a": {Data: []byte("x")}}}}}
	fromFS := cached(t, c, files)
	literal := cached(t, c, Tree{Files: []File{{Path: "a", Data: []byte("x")}}})
	assert.True(t, os.SameFile(identity(t, fromFS), identity(t, literal)), "where content comes from does not matter")
}

func TestAnUnchangedFolderIsNotReadAgain(t *testing.T) {
	t.Parallel()
	c := newCache(t, 0)
	dir := t.TempDir()
	name := filepath.Join(dir, "f")
	require.NoError(t, os.WriteFile(name, []byte("x"), 0o644))
	looks := func() int {
		found, err := filepath.Glob(filepath.Join(c.dir, "look-*"))
		require.NoError(t, err)
		return len(found)
	}
	cached(t, c, Folder(dir))
	before := looks() // none, unless writing took long: the file is too new to be sure
	require.Eventually(t, func() bool { cached(t, c, Folder(dir)); return looks() > 0 }, 10*time.Second, 20*time.Millisecond, "had %d", before)

	// Its digest is known now: what it leads to is believed.
	found, err := filepath.Glob(filepath.Join(c.dir, "look-*"))
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(found[0], []byte(strings.Repeat("a", 64)), 0o644))
	assert.Equal(t, strings.Repeat("a", 64)+".img", filepath.Base(cached(t, c, Folder(dir)).Path()))
	require.NoError(t, os.WriteFile(found[0], []byte("garbage"), 0o644))
	assert.NotEqual(t, strings.Repeat("a", 64)+".img", filepath.Base(cached(t, c, Folder(dir)).Path()))
}

func TestWhatWasChangedJustNowIsNotBelievedToStay(t *testing.T) {
	t.Parallel()
	looked := time.Unix(1_800_000_000, 0)
	for name, test := range map[string]struct {
		age     time.Duration
		settled bool
	}{
		"in the same step":          {10*time.Millisecond + 1, false},
		"some steps ago":            {500*time.Millisecond + 1, true},
		"in the same long step":     {time.Second, false},
		"some long steps ago":       {3 * time.Second, true},
		"in the future, as it says": {-time.Hour, false},
	} {
		ctime := syscall.NsecToTimespec(looked.Add(-test.age).UnixNano())
		assert.Equal(t, test.settled, settled(ctime, looked), name)
		s := &scan{began: looked, files: []*packFile{{dir: &hostDir{}, stamp: stamp{ctime: ctime}}}}
		look, sure := s.lookKey(&ext4.Plan{})
		assert.NotEmpty(t, look)
		assert.Equal(t, test.settled, sure, name)
	}
}

func TestADamagedImageIsMadeAnew(t *testing.T) {
	t.Parallel()
	for name, damage := range map[string]func(t *testing.T, c *Cache, image *Image){
		"a byte": func(t *testing.T, c *Cache, image *Image) {
			require.NoError(t, os.Chmod(image.Path(), 0o644))
			f, err := os.OpenFile(image.Path(), os.O_RDWR, 0)
			require.NoError(t, err)
			_, err = f.WriteAt([]byte{0xFF}, image.Size()-4000)
			require.NoError(t, err)
			require.NoError(t, f.Close())
			require.NoError(t, os.Chtimes(image.Path(), time.Time{}, time.Now().Add(time.Second)))
		},
		"cut off": func(t *testing.T, c *Cache, image *Image) {
			require.NoError(t, os.Chmod(image.Path(), 0o644))
			require.NoError(t, os.Truncate(image.Path(), image.Size()/2))
		},
		"note garbled": func(t *testing.T, c *Cache, image *Image) {
			require.NoError(t, os.WriteFile(noteOf(image), []byte(`{"size":`), 0o644))
		},
		"note empty": func(t *testing.T, c *Cache, image *Image) {
			require.NoError(t, os.WriteFile(noteOf(image), []byte(`{}`), 0o644))
		},
		"note gone": func(t *testing.T, c *Cache, image *Image) {
			require.NoError(t, os.Remove(noteOf(image)))
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newCache(t, 0)
			src := one(strings.Repeat("content", 1000))
			first := cached(t, c, src)
			want, before := first.Digest(), identity(t, first)
			damage(t, c, first)
			second := cached(t, c, src)
			assert.False(t, os.SameFile(before, identity(t, second)))
			second.digest.Store(nil)
			assert.Equal(t, want, second.Digest())
		})
	}
}

func noteOf(i *Image) string { return strings.TrimSuffix(i.Path(), ".img") + ".json" }

func TestAnImageIsCheckedOnceAfterTheMachineWasStartedAnew(t *testing.T) {
	t.Parallel()
	c := newCache(t, 0)
	first := cached(t, c, one("x"))
	key := strings.TrimSuffix(filepath.Base(first.Path()), ".img")
	n, err := c.readNote(key)
	require.NoError(t, err)
	n.Boot = "another"
	require.NoError(t, c.writeNote(key, n))
	second := cached(t, c, one("x"))
	assert.True(t, os.SameFile(identity(t, first), identity(t, second)), "it was sound")
	n, err = c.readNote(key)
	require.NoError(t, err)
	assert.Equal(t, bootID(), n.Boot)
}

func TestVerifyFindsDamageThatNothingShows(t *testing.T) {
	t.Parallel()
	c := newCache(t, 0)
	image := cached(t, c, one(strings.Repeat("x", 5000)))
	sound := cached(t, c, one("sound"))
	at := identity(t, image).ModTime()
	require.NoError(t, os.Chmod(image.Path(), 0o644))
	f, err := os.OpenFile(image.Path(), os.O_RDWR, 0)
	require.NoError(t, err)
	_, err = f.WriteAt([]byte{0xFF}, image.Size()-4000)
	require.NoError(t, err)
	require.NoError(t, f.Close())
	require.NoError(t, os.Chtimes(image.Path(), at, at))
	removed, err := c.Verify(context.Background())
	require.NoError(t, err)
	assert.Equal(t, []string{image.Path()}, removed)
	assert.NoFileExists(t, image.Path())
	assert.FileExists(t, sound.Path())
}

func TestTheLeastRecentlyUsedImageMakesRoomUnlessItIsInUse(t *testing.T) {
	t.Parallel()
	c := newCache(t, 1) // room for none
	open := cached(t, c, one("open"))
	var images []*Image
	for i := range 3 {
		image, err := c.Pack(context.Background(), one(fmt.Sprint(i)), nil)
		require.NoError(t, err)
		images = append(images, image)
	}
	for _, i := range images {
		assert.FileExists(t, i.Path(), "all are in use")
	}
	c.bytes = -1
	for age, i := range []int{1, 0, 2} { // 1 is the oldest
		require.NoError(t, images[i].Close())
		at := time.Now().Add(time.Duration(age-10) * time.Hour)
		require.NoError(t, os.Chtimes(noteOf(images[i]), at, at))
	}
	_ = cached(t, c, one("1")).Close() // and is not any more
	total := int64(0)
	all, err := c.images()
	require.NoError(t, err)
	for _, k := range all {
		total += k.bytes
	}
	c.bytes = total - 1
	require.NoError(t, c.Trim(context.Background()))
	assert.NoFileExists(t, images[0].Path())
	assert.NoFileExists(t, noteOf(images[0]))
	assert.FileExists(t, images[1].Path())
	assert.FileExists(t, images[2].Path())
	c.bytes = 1
	require.NoError(t, c.Trim(context.Background()))
	assert.NoFileExists(t, images[1].Path())
	assert.FileExists(t, open.Path(), "it is in use")
	require.NoError(t, open.Close())
	require.NoError(t, c.Trim(context.Background()))
	assert.NoFileExists(t, open.Path())
}

func TestWhatDeadProcessesLeftIsRemovedAndNothingElse(t *testing.T) {
	t.Parallel()
	c := newCache(t, 0)
	dead := filepath.Join(c.dir, "tmp-0123")
	require.NoError(t, os.WriteFile(dead, []byte("half an image"), 0o644))
	foreign := filepath.Join(c.dir, "notes.txt")
	require.NoError(t, os.WriteFile(foreign, []byte("mine"), 0o644))
	oldLook := filepath.Join(c.dir, "look-0123")
	require.NoError(t, os.WriteFile(oldLook, nil, 0o644))
	long := time.Now().Add(-2 * keepLooks)
	require.NoError(t, os.Chtimes(oldLook, long, long))
	live, err := c.temp()
	require.NoError(t, err)
	defer live.Close()
	_, err = NewCache(c.dir, nil)
	require.NoError(t, err)
	assert.NoFileExists(t, dead)
	assert.NoFileExists(t, oldLook)
	assert.FileExists(t, foreign)
	assert.FileExists(t, live.Name(), "its maker lives")
}

func TestGoroutinesThatWantTheSameImageGetOne(t *testing.T) {
	t.Parallel()
	c := newCache(t, 0)
	var wg sync.WaitGroup
	images := make([]*Image, 16)
	for i := range images {
		wg.Go(func() {
			image, err := c.Pack(context.Background(), one("same"), nil)
			if assert.NoError(t, err) {
				images[i] = image
			}
		})
	}
	wg.Wait()
	for _, image := range images {
		require.NotNil(t, image)
		assert.True(t, os.SameFile(identity(t, images[0]), identity(t, image)))
	}
	for _, image := range images {
		require.NoError(t, image.Close())
		require.NoError(t, image.Close(), "closing is idempotent")
	}
	assert.Empty(t, c.turns)
}

func TestWaitingForAnImageEndsWithTheContext(t *testing.T) {
	t.Parallel()
	c := newCache(t, 0)
	image := cached(t, c, one("x"))
	key := strings.TrimSuffix(filepath.Base(image.Path()), ".img")
	require.NoError(t, image.Close())
	require.NoError(t, c.remove(key))
	done, err := c.wait(context.Background(), key)
	require.NoError(t, err)
	enough := errors.New("enough")
	for _, other := range []*Cache{c, {dir: c.dir, turns: map[string]*turn{}, logger: c.logger}} { // here, and as another process
		ctx, cancel := context.WithCancelCause(context.Background())
		failed := make(chan error)
		go func() {
			_, err := other.Pack(ctx, one("x"), nil)
			failed <- err
		}()
		cancel(enough)
		assert.ErrorIs(t, <-failed, enough)
	}
	done()
	cached(t, c, one("x"))
	left, err := filepath.Glob(filepath.Join(c.dir, "tmp-*"))
	require.NoError(t, err)
	assert.Empty(t, left)
}

// TestCacheProcess is not a test: TestProcessesShareACache runs it.
func TestCacheProcess(t *testing.T) {
	dir := os.Getenv("BULLPEN_TEST_CACHE")
	if dir == "" {
		t.Skip("run by TestProcessesShareACache")
	}
	c, err := NewCache(dir, &CacheOptions{Bytes: 40 << 10})
	require.NoError(t, err)
	for i := range 60 {
		want := strings.Repeat(fmt.Sprint(i%7, " "), 2000)
		image, err := c.Pack(context.Background(), one(want), nil)
		require.NoError(t, err)
		f, err := Open(image, image.Size(), nil)
		require.NoError(t, err)
		got, err := f.ReadFile("f")
		require.NoError(t, err)
		require.Equal(t, want, string(got))
		digest := image.Digest()
		image.digest.Store(nil)
		require.Equal(t, digest, image.Digest())
		require.NoError(t, image.Close())
	}
}

func TestProcessesShareACacheAndTheirDeathLeavesNothing(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "cache")
	start := func(ctx context.Context) *exec.Cmd {
		cmd := exec.CommandContext(ctx, os.Args[0], "-test.run=^TestCacheProcess$", "-test.count=1")
		cmd.Env = append(os.Environ(), "BULLPEN_TEST_CACHE="+dir)
		return cmd
	}
	var wg sync.WaitGroup
	for range 3 {
		wg.Go(func() {
			out, err := start(context.Background()).CombinedOutput()
			assert.NoError(t, err, "%s", out)
		})
	}
	for i := range 10 {
		ctx, cancel := context.WithTimeout(context.Background(), time.Duration(10+13*i)*time.Millisecond)
		_ = start(ctx).Run() // killed at some moment
		cancel()
	}
	wg.Wait()
	c, err := NewCache(dir, nil)
	require.NoError(t, err)
	left, err := filepath.Glob(filepath.Join(dir, "tmp-*"))
	require.NoError(t, err)
	assert.Empty(t, left)
	removed, err := c.Verify(context.Background())
	require.NoError(t, err)
	assert.Empty(t, removed)
}

func TestACacheNeedsAFolderOfItsOwn(t *testing.T) {
	t.Parallel()
	_, err := NewCache("", nil)
	require.Error(t, err)
	c := newCache(t, 0)
	_, err = c.Pack(context.Background(), Folder(c.dir), nil)
	require.ErrorContains(t, err, "choose a place outside")
	_, err = c.Pack(context.Background(), Tree{Roots: []Root{{}}}, nil)
	require.ErrorContains(t, err, "Tree.Roots[0] has neither Dir nor FS")
}
