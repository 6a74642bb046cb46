package guest

import (
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/bullpen-vm/bullpen/diskio"
)

// runStep runs one step and gives its record. What goes wrong with the step is
// in the record; an error is the agent's own and ends the job.
func (j *job) runStep(p *part, k int, timeout time.Duration) (diskio.StepEnd, error) {
	step := p.doc.Steps[k]
	if err := j.rec.StepBegin(p.index, k); err != nil {
		return diskio.StepEnd{}, err
	}
	j.tell(p, k, diskio.Progress{What: "started"})
	begin := time.Now()
	head, tail := j.disk.OutputBounds()
	news := func(s string) { j.tell(p, k, diskio.Progress{What: "output", Output: s}) }
	out := newCapture(j.rec, p.index, k, diskio.Stdout, head, tail, news)
	errOut := newCapture(j.rec, p.index, k, diskio.Stderr, head, tail, news)
	end, err := j.execute(p, step, k, timeout, out, errOut)
	if err != nil {
		return end, err
	}
	end.Stdout, end.Stderr = out.finish(), errOut.finish()
	end.Duration = time.Since(begin)
	return end, nil
}

// execute runs the step's process to its end, and its output too.
func (j *job) execute(p *part, step diskio.JobStep, k int, timeout time.Duration, out, errOut *capture) (diskio.StepEnd, error) {
	failed := func(err error) diskio.StepEnd {
		return diskio.StepEnd{Exit: -1, Error: "cannot be started: " + err.Error()}
	}
	argv, err := j.withBefore(p, step, k)
	if err != nil {
		return diskio.StepEnd{}, err
	}
	outR, outW, err := os.Pipe()
	if err != nil {
		return diskio.StepEnd{}, err
	}
	defer outR.Close() // read only
	errR, errW, err := os.Pipe()
	if err != nil {
		return diskio.StepEnd{}, errJoin(err, outW.Close())
	}
	defer errR.Close() // read only
	dir := filepath.Join(p.work, filepath.FromSlash(step.Dir))
	proc, err := j.a.startProcess(argv, j.env(p, step), dir, nil, outW, errW)
	if cerr := errJoin(outW.Close(), errW.Close()); cerr != nil && err == nil {
		j.a.log.Warn("closing a pipe", "err", cerr)
	}
	if err != nil {
		return failed(err), nil
	}
	var copies sync.WaitGroup
	copies.Go(func() { drain(out, outR) })
	copies.Go(func() { drain(errOut, errR) })
	stopped := make(chan struct{})
	var flusher sync.WaitGroup
	flusher.Go(func() { j.flush(stopped, out, errOut) })

	h := j.a.supervise(proc, limits{timeout: timeout, interrupted: j.st.interrupted, killed: j.st.killed, context: j.st.context})
	exit, signal, err := j.a.finish(proc)
	// All of the group is dead; only who left it can still hold the pipes.
	deadline := time.Now().Add(j.a.c.WaitDelay)
	for _, r := range [...]*os.File{outR, errR} {
		if derr := r.SetReadDeadline(deadline); derr != nil {
			j.a.log.Warn("pipe without a deadline", "err", derr)
			r.Close()
		}
	}
	copies.Wait()
	close(stopped)
	flusher.Wait()
	if err != nil {
		return diskio.StepEnd{}, err
	}
	end := diskio.StepEnd{Exit: exit, Signal: signal, TimedOut: h.timedOut}
	switch {
	case h.timedOut:
		end.Error = fmt.Sprintf("ended by its timeout of %v", timeout)
	case h.cancelled:
		end.Error = "interrupted: the job was cancelled"
	}
	return end, nil
}

// drain copies until the stream ends or its deadline has come.
func drain(to io.Writer, from *os.File) {
	// The error is the end of the stream or the deadline: both end the output.
	_, _ = io.Copy(to, struct{ io.Reader }{from})
}

// flush brings output of a running step to the disk.
func (j *job) flush(stopped <-chan struct{}, captures ...*capture) {
	t := time.NewTicker(j.a.c.FlushInterval)
	defer t.Stop()
	synced := time.Now()
	for {
		select {
		case <-t.C:
		case <-stopped:
			return
		}
		for _, c := range captures {
			c.flush()
		}
		if time.Since(synced) >= time.Second {
			_ = j.rec.Sync() // kept by the recorder
			synced = time.Now()
		}
	}
}

// beforeTrap makes sure that a script that ends the shell never passes for a
// step that succeeded.
const beforeTrap = `trap 's=$?; if [ $s -eq 0 ]; then echo "bullpen: a before script ended the step" >&2; s=125; fi; exit $s' EXIT; `

// withBefore gives the argv that sources the scripts in front of the step. A
// script that fails fails the step, with its own exit code.
func (j *job) withBefore(p *part, step diskio.JobStep, k int) ([]string, error) {
	var scripts []string
	for _, s := range [...]struct{ name, text string }{
		{"before.sh", p.doc.Before}, {fmt.Sprintf("before-%d.sh", k), step.Before},
	} {
		if s.text == "" {
			continue
		}
		path := filepath.Join(p.dir, s.name)
		if err := os.WriteFile(path, []byte(s.text), 0o644); err != nil {
			return nil, err
		}
		scripts = append(scripts, path)
	}
	switch len(scripts) {
	case 0:
		return step.Argv, nil
	case 1:
		return append([]string{"/bin/sh", "-c", beforeTrap + `. "$0" && trap - EXIT && exec "$@"`, scripts[0]}, step.Argv...), nil
	default:
		return append([]string{"/bin/sh", "-c", beforeTrap + `. "$0" && . "$1" && shift && trap - EXIT && exec "$@"`, scripts[0], scripts[1]}, step.Argv...), nil
	}
}

// env is what a step gets: the agent's own, the machine's properties, the
// agent's variables, the job's, the step's. Of a key named twice the last
// counts.
func (j *job) env(p *part, step diskio.JobStep) []string {
	env := slices.Clone(j.a.c.Environ)
	add := func(m map[string]string, key func(string) string) {
		for _, k := range slices.Sorted(maps.Keys(m)) {
			env = append(env, key(k)+"="+m[k])
		}
	}
	j.a.mu.Lock()
	props := j.a.props
	j.a.mu.Unlock()
	add(props, propertyKey)
	env = append(env, "BULLPEN_WORK="+p.work, "BULLPEN_IN="+p.in, "BULLPEN_OUT="+p.out, "BULLPEN_TASK="+p.doc.ID, cookieKey+"="+j.cookie)
	same := func(k string) string { return k }
	add(p.doc.Env, same)
	add(step.Env, same)
	return dedup(env)
}

// dedup keeps the last value of each key.
func dedup(env []string) []string {
	last := make(map[string]int, len(env))
	for i, kv := range env {
		k, _, _ := strings.Cut(kv, "=")
		last[k] = i
	}
	out := env[:0]
	for i, kv := range env {
		if k, _, _ := strings.Cut(kv, "="); last[k] == i {
			out = append(out, kv)
		}
	}
	return out
}

// propertyKey makes a variable's name of a property's.
func propertyKey(k string) string {
	return "BULLPEN_" + strings.Map(func(r rune) rune {
		switch {
		case 'a' <= r && r <= 'z':
			return r - 'a' + 'A'
		case 'A' <= r && r <= 'Z', '0' <= r && r <= '9':
			return r
		}
		return '_'
	}, k)
}
