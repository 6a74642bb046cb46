package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/bullpen-vm/bullpen/diskio"
	"github.com/bullpen-vm/bullpen/examples/buildtest/spool"
	"github.com/bullpen-vm/bullpen/pool/runner"
	"github.com/bullpen-vm/bullpen/result"
	"github.com/bullpen-vm/bullpen/scheduler"
)

// queue is a batch queue as an executor that submits, polls and cancels.
type queue struct {
	e      *BuildExecutor
	shell  string
	client *spool.Client
	own    *spooler // nil: somebody else's

	mu   sync.Mutex
	jobs map[string]*Builder // by the queue's id
}

// openQueue connects to the queue of a configuration, and starts one that is to be the
// run's own.
func openQueue(ctx context.Context, e *BuildExecutor, c ExecutorConfig) (*queue, error) {
	q := &queue{e: e, shell: c.Shell, jobs: map[string]*Builder{}}
	socket := c.Socket
	if socket == "" {
		var err error
		if q.own, err = startSpooler(c.Slots); err != nil {
			return nil, err
		}
		socket = q.own.socket
	}
	q.client = spool.NewClient(socket)
	if _, err := q.client.Jobs(ctx); err != nil {
		return nil, errors.Join(err, q.close())
	}
	return q, nil
}

func (q *queue) close() error {
	q.client.Close()
	if q.own == nil {
		return nil
	}
	return q.own.close()
}

// Submit hands the builder's script to the queue.
func (q *queue) Submit(ctx context.Context, j scheduler.Job[diskio.Job]) (string, error) {
	q.e.mu.Lock()
	b := q.e.run.by[j.Task.ID]
	q.e.mu.Unlock()
	env := []string{"BUILDTEST_ATTEMPT=" + strconv.Itoa(j.Attempt)}
	for key, value := range j.Task.Payload.Env {
		env = append(env, key+"="+value)
	}
	id, err := q.client.Submit(ctx, spool.Request{
		Name: b.Name, Account: j.Account, Dir: b.Stage, Env: env,
		Argv:   []string{q.shell, filepath.Join(b.Stage, testScript)},
		Stdout: filepath.Join(b.Stage, "out"), Stderr: filepath.Join(b.Stage, "err"),
	})
	if err == nil {
		q.mu.Lock()
		q.jobs[id] = b
		q.mu.Unlock()
	}
	return id, err
}

// Poll asks how a job is, and reads what it wrote when it has ended.
func (q *queue) Poll(ctx context.Context, id string) (s scheduler.JobStatus[runner.Result], err error) {
	j, err := q.client.Poll(ctx, id)
	if err != nil {
		return s, err
	}
	s = scheduler.JobStatus[runner.Result]{State: scheduler.JobState(j.State), Exit: j.Exit, Reason: j.Reason}
	if !s.State.Final() {
		return s, nil
	}
	q.mu.Lock()
	b := q.jobs[id]
	q.mu.Unlock()
	if j.Lost {
		s.Verdict = scheduler.Verdict{Status: scheduler.Errored, Exit: j.Exit, Infra: scheduler.Infra(fmt.Errorf("job %s: %s", id, j.Reason))}
	}
	step := diskio.StepResult{Name: b.Name, Started: !j.Started.IsZero(), Ended: true, Exit: j.Exit, Start: j.Started, Duration: j.Done.Sub(j.Started)}
	step.Stdout, step.StdoutCut, step.StdoutHead = head(filepath.Join(b.Stage, "out"))
	step.Stderr, step.StderrCut, step.StderrHead = head(filepath.Join(b.Stage, "err"))
	s.Result = runner.Result{Status: result.Passed, Exit: j.Exit, Message: j.Reason, Steps: []diskio.StepResult{step}, Machine: id, Template: b.Executor, Start: j.Started, Duration: step.Duration}
	if j.State != spool.Complete || j.Exit != 0 {
		s.Result.Status = result.Failed
	}
	return s, nil
}

// Cancel takes a job out of the queue.
func (q *queue) Cancel(ctx context.Context, id string) error { return q.client.Do(ctx, "cancel", id) }

// head is the begin of what a job wrote; the file keeps all. One that is missing is
// empty: the job did not begin.
func head(path string) (text []byte, cut int64, at int) {
	f, err := os.Open(path)
	if err != nil {
		return nil, 0, 0
	}
	defer f.Close()
	text, err = io.ReadAll(io.LimitReader(f, diskio.DefaultOutputHead))
	if info, serr := f.Stat(); err == nil && serr == nil {
		cut = max(0, info.Size()-int64(len(text)))
	}
	return text, cut, len(text)
}

// spooler is a queue in a process of its own, which ends with this one: by the end of
// its standard input, however that comes about.
type spooler struct {
	socket, dir string
	cmd         *exec.Cmd
	stdin       io.Closer
}

const spoolerWait = time.Minute

func startSpooler(slots int) (_ *spooler, err error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "buildtest-") // 0700; short, as the path of a socket has to be
	if err != nil {
		return nil, err
	}
	s := &spooler{dir: dir, socket: filepath.Join(dir, "spool")}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.RemoveAll(dir))
		}
	}()
	s.cmd = exec.Command(self, "spooler", "-socket", s.socket, "-slots", strconv.Itoa(slots), "-attached") //nolint:noctx // close ends it
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}                                                // an interrupt from the terminal is this process's to answer
	var words bytes.Buffer
	s.cmd.Stderr = &words
	if s.stdin, err = s.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := s.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err = s.cmd.Start(); err != nil {
		return nil, err
	}
	if _, err := bufio.NewReader(out).ReadString('\n'); err != nil { // it says when it listens
		return nil, fmt.Errorf("spooler: %w: %s", errors.Join(err, s.cmd.Wait()), words.String())
	}
	return s, nil
}

// close ends the queue and what is in it.
func (s *spooler) close() error {
	_ = s.stdin.Close() // it may be dead already
	late := time.AfterFunc(spoolerWait, func() { _ = s.cmd.Process.Kill() })
	defer late.Stop()
	return errors.Join(s.cmd.Wait(), os.RemoveAll(s.dir))
}
