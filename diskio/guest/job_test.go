package guest

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/bullpen-vm/bullpen/diskio"
	"github.com/bullpen-vm/bullpen/internal/wire"
	"github.com/stretchr/testify/require"
)

func TestAJobRunsWithItsFilesEnvironmentAndArtifacts(t *testing.T) {
	t.Parallel()
	h := start(t, nil)
	ready := h.welcome(wire.Welcome{Properties: map[string]string{"template-name": "debian"}})
	require.Empty(t, ready.Dirty)
	require.Zero(t, ready.Jobs)
	require.False(t, exists(t, h.c.Mark))
	res := h.run(1, diskio.Part{ID: "pkg/a", Job: diskio.Job{
		Steps: append(diskio.Commands(
			`sh bin/x; echo "$BULLPEN_TEMPLATE_NAME $BULLPEN_TASK $K $FROM"`,
			`mkdir -p $BULLPEN_OUT/d && echo hi >$BULLPEN_OUT/d/f && echo kept >log; exit 3`,
			`echo never`), diskio.Step{Argv: []string{"cat", "x"}, Dir: "bin", Always: true}),
		Files:   []diskio.File{{Path: "bin/x", Mode: 0o755, Data: []byte("echo from x\n")}},
		Env:     map[string]string{"K": "v"},
		Before:  "FROM=before; export FROM",
		Collect: []string{"log", "absent"},
	}})
	require.NoError(t, res.Damage)
	require.True(t, res.Complete)
	p := res.Parts[0]
	require.Equal(t, "from x\ndebian pkg/a v before\n", string(p.Steps[0].Stdout))
	require.True(t, p.Steps[0].OK())
	require.Equal(t, 3, p.Steps[1].Exit)
	require.True(t, p.Steps[2].Skipped)
	require.Contains(t, p.Steps[2].Error, "a step before it failed")
	require.Equal(t, "echo from x\n", string(p.Steps[3].Stdout), p.Steps[3])
	require.False(t, p.OK())
	require.Len(t, p.Artifacts, 2)
	f, err := res.Open("pkg/a", "d/f")
	require.NoError(t, err)
	b, err := io.ReadAll(f)
	require.NoError(t, err)
	require.Equal(t, "hi\n", string(b))
	require.True(t, exists(t, h.c.Mark))
	require.Positive(t, h.disks[1].syncs)
	require.Equal(t, 1, h.disks[1].closed)
	left, err := os.ReadDir(h.c.WorkDir)
	require.NoError(t, err)
	require.Empty(t, left, "the work folder goes with the job")
}

func TestAFailedStepSkipsTheRestOfItsPartOnly(t *testing.T) {
	t.Parallel()
	h := start(t, nil)
	h.welcome(wire.Welcome{})
	res := h.run(1, commands("a", "touch here; exit 1", "true"), commands("b", "test ! -e here", "echo b"))
	require.True(t, res.Complete)
	require.False(t, res.Parts[0].OK())
	require.True(t, res.Parts[1].OK(), res.Parts[1].Steps)
}

func TestProgressIsToldWhileTheJobRuns(t *testing.T) {
	t.Parallel()
	h := start(t, nil)
	h.welcome(wire.Welcome{})
	fifo := filepath.Join(h.dir, "fifo")
	require.NoError(t, syscall.Mkfifo(fifo, 0o600))
	ticket := h.put(1, 0, commands("a", "printf 'news\\377'; cat "+fifo+"; exit 4"))
	h.send(7, wire.KindGo, diskio.Go{Disk: 1, Nonce: ticket.Nonce}.Encode())
	var got []string
	for len(got) < 3 {
		p, err := diskio.DecodeProgress(h.next(7, wire.KindMessage, nil).Body)
		require.NoError(t, err)
		got = append(got, fmt.Sprint(p.Part, p.Step, p.What, p.Output))
	}
	require.Equal(t, []string{"a-1started", "a0started", "a0outputnews?"}, got)
	require.NoError(t, os.WriteFile(fifo, []byte("x"), 0)) // the step ends only now
	for {
		p, err := diskio.DecodeProgress(h.next(7, wire.KindMessage, nil).Body)
		require.NoError(t, err)
		if p.What == "ended" {
			require.Equal(t, 4, p.Exit)
			break
		}
	}
	h.next(7, wire.KindDone, nil)
}

// requireDead waits until a process is gone or a zombie: a kill is delivered a
// moment after it was sent.
func TestAnythingBelowOutComesBackAndWhatCannotIsRefused(t *testing.T) {
	t.Parallel()
	h := start(t, nil)
	h.welcome(wire.Welcome{})
	res := h.run(1, diskio.Part{ID: "a", Job: diskio.Job{
		Steps: diskio.Commands(`cd $BULLPEN_OUT && ln -s /etc/passwd link && mkfifo pipe && mkdir -p deep/er && echo x >deep/er/f &&
			printf '%s' "$(seq 1 100000)" >big && echo twice >log && touch "$(printf 'bad\377')" && chmod 600 big && cd - && mkdir logs && echo 1 >logs/a && echo 2 >log && ln -s logs linked`),
		Collect: []string{"logs", "log", "linked"},
	}})
	require.True(t, res.Complete, res.Damage)
	p := res.Parts[0]
	require.True(t, p.OK(), p.Steps)
	var got, refused []string
	for _, a := range p.Artifacts {
		got = append(got, a.Path)
	}
	for _, r := range p.Refused {
		refused = append(refused, r.Path+": "+r.Reason)
	}
	require.Equal(t, []string{"big", "deep/er/f", "log", "logs/a"}, got)
	require.Len(t, refused, 5, refused)
	require.Contains(t, strings.Join(refused, "\n"), "link: is a symbolic link")
	require.Contains(t, strings.Join(refused, "\n"), "pipe: is a named pipe")
	require.Contains(t, strings.Join(refused, "\n"), "log: an artifact of this name is there already")
	require.Contains(t, strings.Join(refused, "\n"), "linked: is a symbolic link")
	dir := t.TempDir()
	require.NoError(t, res.ExtractArtifacts(t.Context(), "a", dir))
	b, err := os.ReadFile(filepath.Join(dir, "log"))
	require.NoError(t, err)
	require.Equal(t, "twice\n", string(b))
	info, err := os.Stat(filepath.Join(dir, "big"))
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o600), info.Mode())
	require.Equal(t, int64(588894), info.Size())
}

func TestAStepThatRemovesItsFoldersIsNoFault(t *testing.T) {
	t.Parallel()
	h := start(t, nil)
	h.welcome(wire.Welcome{})
	res := h.run(1, commands("a", `mkdir -p locked/x; chmod 0 locked; rm -rf "$BULLPEN_OUT"`, "rm -rf \"$BULLPEN_WORK\"/../in"))
	require.True(t, res.Complete)
	require.True(t, res.Parts[0].OK())
	require.Len(t, res.Parts[0].Refused, 1)
}

func TestSeveralJobsRunAtOnceOnDisksOfTheirOwn(t *testing.T) {
	t.Parallel()
	h := start(t, nil)
	h.welcome(wire.Welcome{})
	// Each waits for the other: one after the other would never end.
	a, b := filepath.Join(h.dir, "a"), filepath.Join(h.dir, "b")
	require.NoError(t, syscall.Mkfifo(a, 0o600))
	require.NoError(t, syscall.Mkfifo(b, 0o600))
	one := h.put(1, 0, commands("one", "echo 1 >"+a+"; cat "+b))
	two := h.put(2, 0, commands("two", "cat "+a+"; echo 2 >"+b))
	h.send(11, wire.KindGo, diskio.Go{Disk: 1, Nonce: one.Nonce}.Encode())
	h.send(12, wire.KindGo, diskio.Go{Disk: 2, Nonce: two.Nonce}.Encode())
	h.next(11, wire.KindDone, nil)
	h.next(12, wire.KindDone, nil)
	require.Equal(t, "2\n", string(h.results(1, one).Parts[0].Steps[0].Stdout))
	require.Equal(t, "1\n", string(h.results(2, two).Parts[0].Steps[0].Stdout))
}

func TestOneDiskServesOneJobAtATime(t *testing.T) {
	t.Parallel()
	h := start(t, nil)
	h.welcome(wire.Welcome{})
	ticket := h.put(1, 0, commands("a", "echo up; sleep 1000"))
	h.send(1, wire.KindGo, diskio.Go{Disk: 1, Nonce: ticket.Nonce}.Encode())
	h.next(1, wire.KindMessage, nil)
	h.send(2, wire.KindGo, diskio.Go{Disk: 1, Nonce: ticket.Nonce}.Encode())
	var done wire.Done
	h.next(2, wire.KindDone, &done)
	require.Contains(t, done.Error, "in use")
	h.send(1, wire.KindCancel, wire.Cancel{Kill: true})
	h.next(1, wire.KindDone, &done)
	require.True(t, done.Complete, done.Error)
}

func TestAStreamsNumberIsFreeWithItsLastWord(t *testing.T) {
	t.Parallel()
	h := start(t, nil)
	h.welcome(wire.Welcome{})
	for range 50 { // each may come the instant that the one before has ended
		h.send(5, wire.KindExec, wire.Exec{Argv: []string{"true"}})
		h.next(5, wire.KindExit, nil)
	}
}

func TestInputsAreFoundByDigestAndReleasedAfterTheLastProcess(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "image")
	require.NoError(t, os.WriteFile(path, []byte("an image"), 0o644))
	image, err := diskio.OpenImage(path)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, image.Close()) })
	tree := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(tree, "file"), []byte("from the input\n"), 0o644))
	opened, released := 0, 0
	inDir := filepath.Join(t.TempDir(), "in")
	for _, c := range []func(*Config){nil, func(c *Config) { c.InDir = inDir }} {
		opened, released = 0, 0
		h := start(t, func(cfg *Config) {
			cfg.Inputs = func(_ context.Context, in diskio.GoInput) (string, func() error, error) {
				if in.Place != 3 {
					return "", nil, fmt.Errorf("place %d is empty", in.Place)
				}
				opened++
				return tree, func() error { released++; return nil }, nil
			}
			if c != nil {
				c(cfg)
			}
		})
		h.welcome(wire.Welcome{})
		part := func(id, name string) diskio.Part {
			return diskio.Part{ID: id, Job: diskio.Job{Steps: diskio.Commands("cat $BULLPEN_IN/" + name + "/file"), Inputs: []diskio.Input{{Name: name, Image: image}}}}
		}
		parts := []diskio.Part{part("a", "src"), part("b", "other"), part("c", "src")}
		ticket := h.put(1, 0, parts...)
		goes := diskio.Go{Disk: 1, Nonce: ticket.Nonce, Inputs: []diskio.GoInput{{Name: "any", Place: 3, Digest: image.Digest()}}}
		h.send(1, wire.KindGo, goes.Encode())
		var done wire.Done
		h.next(1, wire.KindDone, &done)
		require.True(t, done.Complete, done.Error)
		for _, p := range h.results(1, ticket).Parts {
			require.Equal(t, "from the input\n", string(p.Steps[0].Stdout), p.Steps[0])
		}
		require.Equal(t, 1, opened, "one place is opened once")
		require.Equal(t, 1, released)

		// Not inserted, or not readable: a fault, and what was opened is released.
		for says, inputs := range map[string][]diskio.GoInput{
			"is in no place": {{Name: "src", Place: 3, Digest: "sha256:00"}},
			"place 4":        {{Name: "src", Place: 4, Digest: image.Digest()}},
		} {
			goes.Inputs = inputs
			h.send(2, wire.KindGo, goes.Encode())
			h.next(2, wire.KindDone, &done)
			require.Contains(t, done.Error, says)
		}
		require.Equal(t, opened, released)
	}
}
