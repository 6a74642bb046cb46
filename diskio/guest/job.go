package guest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"time"

	"github.com/bullpen-vm/bullpen/diskio"
	"github.com/bullpen-vm/bullpen/internal/wire"
)

// errJoin is errors.Join.
func errJoin(errs ...error) error { return errors.Join(errs...) }

// job is one run of a job disk.
type job struct {
	a      *Agent
	st     *stream
	disk   *diskio.JobReader
	rec    *diskio.Recorder
	dir    string // of this job, below WorkDir
	cookie string // in the environment of all its processes
	inputs map[diskio.JobInput]string
}

// part is one part of it.
type part struct {
	index         int
	doc           diskio.JobPart
	dir           string // of this part
	work, in, out string
	deadline      time.Time // of all steps; zero: none
	failed        bool
}

// runJob runs the job on a disk and says how it went.
func (a *Agent) runJob(st *stream, body []byte) {
	g, err := diskio.DecodeGo(body)
	if err != nil {
		st.fault(err)
		return
	}
	done := wire.Done{Complete: true}
	if err := a.doJob(st, g); err != nil {
		a.log.Error("job", "disk", g.Disk, "err", err)
		done = wire.Done{Error: err.Error()}
	}
	st.last(wire.KindDone, done)
}

// doJob answers nil when the completion record is on the disk and synced.
func (a *Agent) doJob(st *stream, g diskio.Go) (err error) {
	a.mu.Lock()
	busy := a.disks[g.Disk]
	a.disks[g.Disk] = true
	a.mu.Unlock()
	if busy {
		return fmt.Errorf("job disk %d is in use by another job", g.Disk)
	}
	defer func() {
		a.mu.Lock()
		defer a.mu.Unlock()
		delete(a.disks, g.Disk)
	}()
	disk, err := a.c.Disks(g.Disk)
	if err != nil {
		return fmt.Errorf("job disk %d: %w", g.Disk, err)
	}
	defer func() { err = errors.Join(err, disk.Close()) }()
	reader, err := diskio.OpenJob(disk, disk.Size(), g.Nonce)
	if err != nil {
		return fmt.Errorf("job disk %d: %w", g.Disk, err)
	}
	rec, err := diskio.NewRecorder(disk, reader, disk.Sync, a.c.Agent, a.boot)
	if err != nil {
		return err
	}
	j := &job{a: a, st: st, disk: reader, rec: rec, cookie: reader.Nonce() + "." + a.boot, inputs: map[diskio.JobInput]string{}}
	if err := j.run(g); err != nil {
		return errors.Join(err, rec.Fault(err))
	}
	return rec.Finish()
}

// run does all parts. An error is the agent's own: it ends the job.
func (j *job) run(g diskio.Go) (err error) {
	if err := os.MkdirAll(j.a.c.WorkDir, 0o755); err != nil {
		return err
	}
	if j.dir, err = os.MkdirTemp(j.a.c.WorkDir, "job-*"); err != nil {
		return err
	}
	if err := os.Chmod(j.dir, 0o755); err != nil {
		return err
	}
	defer func() {
		if rerr := removeAll(j.dir); rerr != nil {
			j.a.log.Warn("the work folder is left", "err", rerr)
		}
	}()
	// Inputs go after the processes that may use them.
	release, err := j.openInputs(g)
	defer func() {
		j.a.killMarked(j.cookie)
		err = errors.Join(err, release())
	}()
	if err != nil {
		return err
	}
	for i, doc := range j.disk.Parts() {
		if err := j.runPart(i, doc); err != nil {
			return fmt.Errorf("part %q: %w", doc.ID, err)
		}
	}
	return nil
}

// openInputs makes the inputs of all parts readable. release is never nil.
func (j *job) openInputs(g diskio.Go) (release func() error, err error) {
	var undo []func() error
	release = func() error {
		var errs []error
		for i := len(undo) - 1; i >= 0; i-- {
			errs = append(errs, undo[i]())
		}
		return errors.Join(errs...)
	}
	places := make(map[string]string) // by digest
	for _, doc := range j.disk.Parts() {
		for _, want := range doc.Inputs {
			if _, ok := j.inputs[want]; ok {
				continue
			}
			if dir, ok := places[want.Digest]; ok {
				j.inputs[want] = dir
				continue
			}
			in, ok := findInput(g, want)
			if !ok {
				return release, fmt.Errorf("part %q: input %q (%s) is in no place", doc.ID, want.Name, want.Digest)
			}
			if j.a.c.Inputs == nil {
				return release, fmt.Errorf("part %q: input %q: this guest takes no inputs", doc.ID, want.Name)
			}
			dir, done, err := j.a.c.Inputs(j.st.context, in)
			if err != nil {
				return release, fmt.Errorf("part %q: input %q: %w", doc.ID, want.Name, err)
			}
			if done != nil {
				undo = append(undo, done)
			}
			places[want.Digest], j.inputs[want] = dir, dir
		}
	}
	return release, nil
}

// findInput finds the place of an input: the bytes count, not the name.
func findInput(g diskio.Go, want diskio.JobInput) (diskio.GoInput, bool) {
	for _, in := range g.Inputs {
		if in.Digest == want.Digest {
			in.Name = want.Name
			return in, true
		}
	}
	return diskio.GoInput{}, false
}

// runPart does one part: lays out, runs the steps, brings back the artifacts.
func (j *job) runPart(i int, doc diskio.JobPart) error {
	p := &part{index: i, doc: doc, dir: filepath.Join(j.dir, fmt.Sprint(i))}
	if err := j.rec.PartBegin(i); err != nil {
		return err
	}
	j.tell(p, -1, diskio.Progress{What: "started"})
	if err := j.layOut(p); err != nil {
		return err
	}
	if doc.Timeout > 0 {
		p.deadline = time.Now().Add(doc.Timeout)
	}
	for k := range doc.Steps {
		end, err := j.stepOrSkip(p, k)
		if err != nil {
			return err
		}
		if err := j.rec.StepEnd(i, k, end); err != nil {
			return err
		}
		if !end.Skipped {
			if err := j.rec.Sync(); err != nil {
				return err
			}
			j.tell(p, k, diskio.Progress{What: "ended", Exit: end.Exit})
		}
	}
	j.a.killMarked(j.cookie)
	if err := j.collect(p); err != nil {
		return err
	}
	if err := j.rec.PartEnd(i); err != nil {
		return err
	}
	if err := j.rec.Sync(); err != nil {
		return err
	}
	j.tell(p, -1, diskio.Progress{What: "ended"})
	if err := removeAll(p.dir); err != nil {
		j.a.log.Warn("the work folder of a part is left", "err", err)
	}
	return nil
}

// stepOrSkip runs a step if it is to be run.
func (j *job) stepOrSkip(p *part, k int) (diskio.StepEnd, error) {
	step := p.doc.Steps[k]
	skip := func(why string) (diskio.StepEnd, error) {
		return diskio.StepEnd{Exit: -1, Skipped: true, Error: "skipped: " + why}, nil
	}
	select {
	case <-j.st.interrupted:
		return skip("the job was cancelled")
	default:
	}
	if err := j.st.context.Err(); err != nil {
		return diskio.StepEnd{}, context.Cause(j.st.context)
	}
	timeout := step.Timeout
	if !p.deadline.IsZero() {
		left := time.Until(p.deadline)
		if left <= 0 {
			return skip(fmt.Sprintf("the job's timeout of %v is over", p.doc.Timeout))
		}
		if timeout == 0 || left < timeout {
			timeout = left
		}
	}
	if p.failed && !step.Always {
		return skip("a step before it failed")
	}
	end, err := j.runStep(p, k, timeout)
	if err == nil && j.st.context.Err() != nil {
		// The machine ends, or has lost its host: this is not the step's end,
		// and must not be told as one.
		err = fmt.Errorf("step %d was killed: %w", k, context.Cause(j.st.context))
	}
	if err == nil && (end.Exit != 0 || end.Signal != "" || end.Error != "" || end.TimedOut) {
		p.failed = true
	}
	return end, err
}

// tell sends news of the job.
func (j *job) tell(p *part, step int, n diskio.Progress) {
	n.Part, n.Step = p.doc.ID, step
	j.st.progress(n)
}

// layOut makes the folders and files of a part.
func (j *job) layOut(p *part) error {
	p.work, p.in, p.out = filepath.Join(p.dir, "work"), filepath.Join(p.dir, "in"), filepath.Join(p.dir, "out")
	if j.a.c.InDir != "" {
		p.in = j.a.c.InDir
	}
	for _, d := range [...]string{p.work, p.in, p.out} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return err
		}
	}
	for _, want := range p.doc.Inputs {
		link := filepath.Join(p.in, want.Name)
		if err := os.Remove(link); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		if err := os.Symlink(j.inputs[want], link); err != nil {
			return err
		}
	}
	root, err := os.OpenRoot(p.work)
	if err != nil {
		return err
	}
	defer root.Close() // nothing is written through the root itself
	for _, f := range p.doc.Files {
		if err := j.layOutFile(root, f); err != nil {
			return fmt.Errorf("file %q: %w", f.Path, err)
		}
	}
	return nil
}

func (j *job) layOutFile(root *os.Root, f diskio.JobFile) error {
	if d := path.Dir(f.Path); d != "." {
		if err := root.MkdirAll(d, 0o755); err != nil {
			return err
		}
	}
	to, err := root.OpenFile(f.Path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(to, j.disk.File(f))
	if err == nil {
		err = to.Chmod(f.Mode.Perm()) // whatever the umask is
	}
	return errors.Join(err, to.Close())
}

// removeAll removes a folder also where steps took its permissions away.
func removeAll(dir string) error {
	if os.RemoveAll(dir) == nil {
		return nil
	}
	err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if d != nil && d.IsDir() {
			_ = os.Chmod(p, 0o700) // the removal says what is wrong
		}
		return nil
	})
	return errors.Join(err, os.RemoveAll(dir))
}
