package diskio

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestAJobThatIsWrongIsRefusedWithFieldValueAndRule(t *testing.T) {
	t.Parallel()
	ok := func() Job { return Job{Steps: Commands("true")} }
	image := &Image{}
	for name, c := range map[string]struct {
		change func(*Job)
		says   []string // the field, the value, the rule
	}{
		"no steps":            {func(j *Job) { j.Steps = nil }, []string{"Steps", "empty", "want at least one"}},
		"no argv":             {func(j *Job) { j.Steps[0].Argv = nil }, []string{"Steps[0].Argv", "[]", "want at least the program"}},
		"empty program":       {func(j *Job) { j.Steps[0].Argv = []string{""} }, []string{"Steps[0].Argv", `[""]`, "want"}},
		"argv with NUL":       {func(j *Job) { j.Steps[0].Argv[1] = "a\x00" }, []string{"Steps[0].Argv[1]", `"a\x00"`, "want"}},
		"argv not UTF-8":      {func(j *Job) { j.Steps[0].Argv[1] = "\xff" }, []string{"Steps[0].Argv[1]", `"\xff"`, "UTF-8"}},
		"absolute file":       {func(j *Job) { j.Files = []File{{Path: "/etc/passwd"}} }, []string{"Files[0].Path", `"/etc/passwd"`, "relative"}},
		"escaping file":       {func(j *Job) { j.Files = []File{{Path: "a/../../b"}} }, []string{"Files[0].Path", `"a/../../b"`, "stays inside"}},
		"unclean file":        {func(j *Job) { j.Files = []File{{Path: "a//b"}} }, []string{"Files[0].Path", `"a//b"`, "want"}},
		"file without a name": {func(j *Job) { j.Files = []File{{Path: ""}} }, []string{"Files[0].Path", `""`, "want"}},
		"the folder as file":  {func(j *Job) { j.Files = []File{{Path: "."}} }, []string{"Files[0].Path", `"."`, "want the path of a file"}},
		"long name":           {func(j *Job) { j.Files = []File{{Path: strings.Repeat("x", 256)}} }, []string{"Files[0].Path", "255"}},
		"long path":           {func(j *Job) { j.Files = []File{{Path: strings.Repeat("x/", 2100) + "x"}} }, []string{"Files[0].Path", "4000"}},
		"file twice":          {func(j *Job) { j.Files = []File{{Path: "a"}, {Path: "b"}, {Path: "a"}} }, []string{"Files[2].Path", `"a"`, "Files[0]", "once"}},
		"file as folder":      {func(j *Job) { j.Files = []File{{Path: "a/b/c"}, {Path: "a"}} }, []string{"Files[0].Path", `"a/b/c"`, "Files[1]", `"a"`, "folder"}},
		"set-uid file":        {func(j *Job) { j.Files = []File{{Path: "a", Mode: fs.ModeSetuid | 0o755}} }, []string{"Files[0].Mode", "permission bits"}},
		"absolute dir":        {func(j *Job) { j.Steps[0].Dir = "/" }, []string{"Steps[0].Dir", `"/"`, "relative"}},
		"escaping dir":        {func(j *Job) { j.Steps[0].Dir = ".." }, []string{"Steps[0].Dir", `".."`, "stays inside"}},
		"absolute collect":    {func(j *Job) { j.Collect = []string{"a", "/b"} }, []string{"Collect[1]", `"/b"`, "relative"}},
		"escaping collect":    {func(j *Job) { j.Collect = []string{"../b"} }, []string{"Collect[0]", `"../b"`, "stays inside"}},
		"collect twice":       {func(j *Job) { j.Collect = []string{"a", "a"} }, []string{"Collect[1]", `"a"`, "once"}},
		"input with a slash":  {func(j *Job) { j.Inputs = []Input{{"a/b", image}} }, []string{"Inputs[0].Name", `"a/b"`, "one path element"}},
		"input above":         {func(j *Job) { j.Inputs = []Input{{"..", image}} }, []string{"Inputs[0].Name", `".."`, "one path element"}},
		"input twice":         {func(j *Job) { j.Inputs = []Input{{"a", image}, {"a", image}} }, []string{"Inputs[1].Name", `"a"`, "once"}},
		"input of nothing":    {func(j *Job) { j.Inputs = []Input{{"a", nil}} }, []string{"Inputs[0].Image", `"a"`, "nil", "want an image"}},
		"bad key":             {func(j *Job) { j.Env = map[string]string{"A-B": "x"} }, []string{"Env", `"A-B"`, "[A-Za-z_][A-Za-z0-9_]*"}},
		"key with a digit":    {func(j *Job) { j.Steps[0].Env = map[string]string{"1A": "x"} }, []string{"Steps[0].Env", `"1A"`, "[A-Za-z_]"}},
		"empty key":           {func(j *Job) { j.Env = map[string]string{"": "x"} }, []string{"Env", `""`, "[A-Za-z_]"}},
		"reserved key":        {func(j *Job) { j.Env = map[string]string{"BULLPEN_OUT": "x"} }, []string{"Env", `"BULLPEN_OUT"`, "agent"}},
		"value with NUL":      {func(j *Job) { j.Env = map[string]string{"A": "\x00"} }, []string{`Env["A"]`, `"\x00"`, "NUL"}},
		"before with NUL":     {func(j *Job) { j.Before = "\x00" }, []string{"Before", "NUL"}},
		"step before":         {func(j *Job) { j.Steps[0].Before = "\xff" }, []string{"Steps[0].Before", "UTF-8"}},
		"name":                {func(j *Job) { j.Steps[0].Name = "\xff" }, []string{"Steps[0].Name", `"\xff"`, "UTF-8"}},
		"timeout":             {func(j *Job) { j.Timeout = -time.Second }, []string{"Timeout", "-1s", "0 for none or more"}},
		"step timeout":        {func(j *Job) { j.Steps[0].Timeout = -1 }, []string{"Steps[0].Timeout", "-1ns", "0 for none or more"}},
		"results":             {func(j *Job) { j.Results = -1 }, []string{"Results", "-1", "want 0"}},
		"absurd results":      {func(j *Job) { j.Results = 1 << 60 }, []string{"Results", "1152921504606846976"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			j := ok()
			c.change(&j)
			err := ValidateJob(j)
			require.Error(t, err)
			var op *OpError
			require.ErrorAs(t, err, &op)
			for _, s := range c.says {
				require.ErrorContains(t, err, s)
			}
			_, err = WriteJob(t.Context(), nil, 1<<30, []Part{{ID: "x", Job: j}}, nil)
			require.ErrorContains(t, err, `part "x"`)
			require.ErrorContains(t, err, c.says[0])
		})
	}
	require.NoError(t, ValidateJob(ok()))
	full := ok()
	full.Files = []File{{Path: "a/b"}, {Path: "a/c", Mode: 0o600}}
	full.Inputs = []Input{{"in", image}}
	full.Steps[0].Dir, full.Collect = ".", []string{"."}
	full.Env = map[string]string{"_a1": "", "BULLPEN_EXTRA": "x"}
	require.NoError(t, ValidateJob(full))
}

func TestABatchThatIsWrongIsRefused(t *testing.T) {
	t.Parallel()
	job := Job{Steps: Commands("true")}
	for says, parts := range map[string][]Part{
		"parts is empty":       nil,
		"parts[0].ID is empty": {{Job: job}},
		`parts[1].ID is "a", as parts[0].ID already is`: {{ID: "a", Job: job}, {ID: "a", Job: job}},
		"want at most 1024":                             {{ID: strings.Repeat("x", 1025), Job: job}},
		"UTF-8":                                         {{ID: "\xff", Job: job}},
		`part "b": Steps`:                               {{ID: "a", Job: job}, {ID: "b"}},
		"want at most 100000":                           {{ID: "a", Job: Job{Steps: Commands(make([]string, 100_001)...)}}},
	} {
		err := ValidateParts(parts)
		require.ErrorContains(t, err, says)
		_, err = JobSize(parts)
		require.ErrorContains(t, err, says)
	}
}

func TestADiskThatIsTooSmallSaysWhatIsNeeded(t *testing.T) {
	t.Parallel()
	parts := []Part{{ID: "a", Job: Job{Steps: Commands("true"), Results: 1 << 20, Files: []File{{Path: "f", Data: make([]byte, 300_000)}}}}}
	_, err := WriteJob(t.Context(), newMemDisk(8192), 8192, parts, nil)
	var small *TooSmallError
	require.ErrorAs(t, err, &small)
	require.ErrorIs(t, err, ErrLimit)
	require.ErrorContains(t, err, fmt.Sprint(small.Needed))
	require.Equal(t, int64(8192), small.Size)
	_, err = WriteJob(t.Context(), newMemDisk(small.Needed-4096), small.Needed-4096, parts, nil)
	require.Error(t, err)
	_, err = WriteJob(t.Context(), newMemDisk(small.Needed), small.Needed, parts, nil)
	require.NoError(t, err)
	size, err := JobSize(parts)
	require.NoError(t, err)
	require.Equal(t, size, small.Needed)
	for _, size := range []int64{0, -4096, 1<<20 + 1} {
		_, err = WriteJob(t.Context(), nil, size, parts, nil)
		require.ErrorContains(t, err, "want a positive multiple of 4096")
	}
}

func TestPartsThatDoNotSayTheirResultsFitOnASmallDisk(t *testing.T) {
	t.Parallel()
	parts := []Part{{ID: "a", Job: Job{Steps: Commands("true")}}}
	size, err := JobSize(parts)
	require.NoError(t, err)
	require.Greater(t, size, int64(DefaultResults))
	_, err = WriteJob(t.Context(), newMemDisk(1<<20), 1<<20, parts, nil)
	require.NoError(t, err)
}

// meddler is a disk that lets somebody do something before its nth write.
type meddler struct {
	*memDisk
	once sync.Once
	do   func()
	from int64 // the write at this offset or behind it
}

func (m *meddler) WriteAt(p []byte, off int64) (int, error) {
	if off >= m.from {
		m.once.Do(m.do)
	}
	return m.memDisk.WriteAt(p, off)
}

func TestAFileThatChangesWhileItIsPackedIsAnErrorThatNamesIt(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(t *testing.T, path string){
		"grows": func(t *testing.T, path string) {
			f, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0)
			require.NoError(t, err)
			_, err = f.WriteString("more")
			require.NoError(t, errors.Join(err, f.Close()))
		},
		"shrinks": func(t *testing.T, path string) { require.NoError(t, os.Truncate(path, 100_000)) },
		"is rewritten": func(t *testing.T, path string) {
			info, err := os.Stat(path)
			require.NoError(t, err)
			require.NoError(t, os.WriteFile(path, bytes.Repeat([]byte("y"), int(info.Size())), 0o644))
			later := info.ModTime().Add(time.Second) // clocks of file systems are coarse
			require.NoError(t, os.Chtimes(path, later, later))
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path := filepath.Join(t.TempDir(), "source")
			require.NoError(t, os.WriteFile(path, bytes.Repeat([]byte("x"), 200_000), 0o644))
			parts := []Part{{ID: "a", Job: Job{Steps: Commands("true"), Files: []File{{Path: "first", Data: []byte("1")}, {Path: "dir/f", Source: path}}}}}
			d := &meddler{memDisk: newMemDisk(1 << 20), from: superSize + 1, do: func() { change(t, path) }}
			_, err := WriteJob(t.Context(), d, d.Size(), parts, nil)
			require.ErrorIs(t, err, ErrChanged)
			require.ErrorContains(t, err, path)
			require.ErrorContains(t, err, `"dir/f"`)
			_, err = OpenJob(d, d.Size(), "")
			require.ErrorIs(t, err, ErrCorrupt, "a disk that was written in part is no job disk")
		})
	}
	t.Run("is replaced", func(t *testing.T) {
		t.Parallel()
		path := filepath.Join(t.TempDir(), "source")
		require.NoError(t, os.WriteFile(path, []byte("x"), 0o644))
		parts := []Part{{ID: "a", Job: Job{Steps: Commands("true"), Files: []File{{Path: "f", Source: path}}}}}
		d := &meddler{memDisk: newMemDisk(1 << 20), do: func() { // between the look at it and its opening
			require.NoError(t, os.WriteFile(path+".new", []byte("y"), 0o644))
			require.NoError(t, os.Rename(path+".new", path))
		}}
		_, err := WriteJob(t.Context(), d, d.Size(), parts, nil)
		require.ErrorIs(t, err, ErrChanged)
	})
}

func TestAFileThatCannotBeReadIsAnErrorThatNamesIt(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	locked := filepath.Join(dir, "locked")
	require.NoError(t, os.WriteFile(locked, nil, 0))
	for _, source := range []string{filepath.Join(dir, "absent"), dir, locked} {
		if source == locked && os.Geteuid() == 0 {
			continue // root reads everything
		}
		parts := []Part{{ID: "a", Job: Job{Steps: Commands("true"), Files: []File{{Path: "f", Source: source}}}}}
		_, err := WriteJob(t.Context(), newMemDisk(1<<20), 1<<20, parts, nil)
		require.ErrorContains(t, err, source)
		require.ErrorContains(t, err, `Files[0] "f"`)
	}
}

func TestASourceIsStreamedAndItsContextEndsIt(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "big")
	body := bytes.Repeat([]byte("0123456789abcdef"), 1<<16)
	require.NoError(t, os.WriteFile(path, body, 0o644))
	parts := []Part{{ID: "a", Job: Job{Steps: Commands("true"), Files: []File{{Path: "f", Source: path, Mode: 0o700}}}}}
	d := newMemDisk(2 << 20)
	ticket, err := WriteJob(t.Context(), d, d.Size(), parts, nil)
	require.NoError(t, err)
	j, err := OpenJob(d, d.Size(), ticket.Nonce)
	require.NoError(t, err)
	got, err := io.ReadAll(j.File(j.Parts()[0].Files[0]))
	require.NoError(t, err)
	require.True(t, bytes.Equal(body, got))
	require.Equal(t, fs.FileMode(0o700), j.Parts()[0].Files[0].Mode)

	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = WriteJob(ctx, d, d.Size(), parts, nil)
	require.ErrorIs(t, err, context.Canceled)
}

func TestOptionsOfAJobDiskAreChecked(t *testing.T) {
	t.Parallel()
	parts := twoParts()
	d := newMemDisk(1 << 20)
	_, err := WriteJob(t.Context(), d, d.Size(), parts, &JobOptions{Nonce: "12"})
	require.ErrorContains(t, err, `JobOptions.Nonce is "12", want 32`)
	_, err = WriteJob(t.Context(), d, d.Size(), parts, &JobOptions{OutputTail: 1 << 30})
	require.ErrorContains(t, err, "JobOptions.OutputTail is 1073741824")
	ticket, err := WriteJob(t.Context(), d, d.Size(), parts, &JobOptions{OutputHead: -1, OutputTail: 7})
	require.NoError(t, err)
	j, err := OpenJob(d, d.Size(), ticket.Nonce)
	require.NoError(t, err)
	head, tail := j.OutputBounds()
	assert.Equal(t, 0, head)
	assert.Equal(t, 7, tail)
	_, err = OpenJob(d, d.Size(), strings.Repeat("0", 32))
	require.ErrorContains(t, err, "nonce")
	_, err = OpenJob(d, 100, "")
	require.ErrorIs(t, err, ErrCorrupt)
	_, err = OpenJob(d, d.Size()/2, "")
	require.ErrorIs(t, err, ErrCorrupt)
}

func TestAStepWithoutANameHasItsCommandLine(t *testing.T) {
	t.Parallel()
	require.Equal(t, "go test ./...", stepName(Step{Argv: []string{"go", "test", "./..."}}))
	require.Len(t, []rune(stepName(Step{Argv: []string{strings.Repeat("é", 200)}})), 80)
	require.Equal(t, "x", stepName(Step{Name: "x", Argv: []string{"y"}}))
}

func TestAWriteErrorOfTheDiskEndsTheWriting(t *testing.T) {
	t.Parallel()
	size, err := JobSize(twoParts())
	require.NoError(t, err)
	for _, at := range []int64{0, superSize, superSize + 11, 4096} {
		w := writerAtFunc(func(p []byte, off int64) (int, error) {
			if off >= at {
				return 0, io.ErrShortWrite
			}
			return len(p), nil
		})
		_, err = WriteJob(t.Context(), w, size, twoParts(), nil)
		require.ErrorIs(t, err, io.ErrShortWrite)
	}
}

type writerAtFunc func(p []byte, off int64) (int, error)

func (f writerAtFunc) WriteAt(p []byte, off int64) (int, error) { return f(p, off) }
