package local

import (
	"context"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/bullpen-vm/bullpen/diskio"
	"github.com/bullpen-vm/bullpen/vm"
)

// pack makes an input with one file, a link and a folder.
func pack(t *testing.T, content string) *diskio.Image {
	t.Helper()
	src := t.TempDir()
	require.NoError(t, os.MkdirAll(filepath.Join(src, "sub"), 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(src, "sub", "file"), []byte(content), 0o644))
	require.NoError(t, os.WriteFile(filepath.Join(src, "run"), []byte("#!/bin/sh\necho I run\n"), 0o755))
	require.NoError(t, os.Symlink("sub/file", filepath.Join(src, "link")))
	i, err := diskio.Pack(testContext(t), filepath.Join(t.TempDir(), "image"), diskio.Folder(src), nil)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, i.Close()) })
	return i
}

// runJob does what a harness does with one job on one of the machine's disks.
func runJob(ctx context.Context, m *machine, disk int, job diskio.Job, o vm.RunOptions) (vm.End, *diskio.Results, error) {
	d, err := m.JobDisk(ctx, disk)
	if err != nil {
		return vm.End{}, nil, err
	}
	defer d.Close()
	ticket, err := diskio.WriteJob(ctx, d, d.Size(), []diskio.Part{{ID: "task", Job: job}}, nil)
	if err != nil {
		return vm.End{}, nil, err
	}
	goes := diskio.Go{Disk: disk, Nonce: ticket.Nonce}
	for place, in := range job.Inputs {
		if err := m.Insert(ctx, place, in.Image); err != nil {
			return vm.End{}, nil, err
		}
		goes.Inputs = append(goes.Inputs, diskio.GoInput{Name: in.Name, Place: place, Digest: in.Image.Digest(), Size: in.Image.Size()})
	}
	o.Go = goes.Encode()
	end, rerr := vm.Run(ctx, m, o)
	results, err := diskio.ReadResults(context.WithoutCancel(ctx), d, d.Size(), ticket, nil)
	if err != nil {
		return end, nil, err
	}
	return end, results, rerr
}

func TestAJobRunsWithItsInputsFilesAndArtifacts(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	d := testDriver(t, Config{})
	app, data := pack(t, "hello from the input\n"), pack(t, "other\n")
	for range 2 { // the second finds the inputs unpacked
		m := running(t, d)
		end, results, err := runJob(ctx, m, 0, diskio.Job{
			Steps: diskio.Commands(`cat "$BULLPEN_IN/app/link" "$BULLPEN_IN/data/sub/file" note`, `"$BULLPEN_IN/app/run"; echo kept >"$BULLPEN_OUT/kept"`, `echo "$BULLPEN_COLOUR"; exit 3`),
			Files: []diskio.File{{Path: "note", Data: []byte("a note\n")}}, Inputs: []diskio.Input{{Name: "app", Image: app}, {Name: "data", Image: data}},
		}, vm.RunOptions{})
		require.NoError(t, err)
		require.Equal(t, vm.EndDone, end.Kind, end.Detail)
		require.True(t, results.Complete, "%v", results.Damage)
		steps := results.Parts[0].Steps
		require.Equal(t, "hello from the input\nother\na note\n", string(steps[0].Stdout), "%s", steps[0].Stderr)
		require.Equal(t, "I run\n", string(steps[1].Stdout), "%s", steps[1].Stderr)
		require.Equal(t, "blue\n", string(steps[2].Stdout))
		require.Equal(t, 3, steps[2].Exit)
		require.Len(t, results.Parts[0].Artifacts, 1)
		require.NoError(t, m.Destroy(ctx))
	}
	entries, err := filepath.Glob(filepath.Join(d.Root(), cacheFolder, "*", sealFile))
	require.NoError(t, err)
	require.Len(t, entries, 2)
}

func TestTwoJobsRunAtOnceOnDisksOfTheirOwn(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	d := testDriver(t, Config{})
	s := testSpec(t)
	s.JobDisks = []int64{1 << 20, 1 << 20}
	made, err := d.Create(ctx, s)
	require.NoError(t, err)
	m := made.(*machine)
	boot(t, m)
	// Each waits for the other.
	meet := []string{`mkfifo "$TMPDIR/a" 2>/dev/null; echo one >"$TMPDIR/a"`, `mkfifo "$TMPDIR/a" 2>/dev/null; cat "$TMPDIR/a"`}
	var both sync.WaitGroup
	for n, line := range meet {
		both.Go(func() {
			_, results, err := runJob(ctx, m, n, diskio.Job{Steps: diskio.Commands(line), Timeout: 30 * time.Second}, vm.RunOptions{})
			if assert.NoError(t, err) && assert.True(t, results.Complete) && assert.True(t, results.Parts[0].OK()) && n == 1 {
				assert.Equal(t, "one\n", string(results.Parts[0].Steps[0].Stdout))
			}
		})
	}
	both.Wait()
}

func TestAMachineThatDiesUnderItsJobLeavesWhatWasDoneAndNoPassed(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	m := running(t, testDriver(t, Config{}))
	end, results, err := runJob(ctx, m, 0, diskio.Job{Steps: diskio.Commands(`echo first`, `eval "$BULLPEN_CRASH"; sleep 600`)}, vm.RunOptions{})
	require.NoError(t, err)
	require.Equal(t, vm.EndKilled, end.Kind, end.Detail)
	require.False(t, results.Complete)
	require.False(t, results.Parts[0].OK())
	require.Equal(t, "first\n", string(results.Parts[0].Steps[0].Stdout))
}

func TestACancelledJobIsEndedWithItsMachine(t *testing.T) {
	t.Parallel()
	m := running(t, testDriver(t, Config{}))
	mark := markOf(t, m)
	ctx, cancel := context.WithCancel(testContext(t))
	end, results, err := runJob(ctx, m, 0, diskio.Job{Steps: diskio.Commands(`trap "" INT TERM; echo started; (setsid sleep 600 >/dev/null 2>&1 &) ; sleep 600`)},
		vm.RunOptions{Grace: 50 * time.Millisecond, Message: func(kind uint8, body []byte) {
			if p, err := diskio.DecodeProgress(body); err == nil && p.What == "started" && p.Step == 0 {
				cancel()
			}
		}})
	cancel()
	require.ErrorIs(t, err, context.Canceled)
	require.NotEqual(t, vm.EndPoweredOff, end.Kind)
	require.False(t, results != nil && results.Parts[0].OK())
	require.NoError(t, m.Kill(testContext(t)))
	nobodyLeft(t, mark)
}
