package runner

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/bullpen-vm/bullpen/diskio"
	"github.com/bullpen-vm/bullpen/lease"
	"github.com/bullpen-vm/bullpen/pool"
	"github.com/bullpen-vm/bullpen/vm"
)

// Options are those of Run and Source. The zero value is usable.
type Options struct {
	// Artifacts is the folder on the host that artifacts are written to, each
	// attempt in a folder of its own below it; empty: artifacts are counted
	// but not kept.
	Artifacts string
	// Limits bound what is written there; zero fields: diskio's defaults.
	Limits diskio.Limits
	// Grace is how long a guest may take to end a job that is cancelled before
	// its machine is killed; zero: vm.DefaultGrace.
	Grace time.Duration
	// Slack is what a task's timeout is prolonged by for the harness's own
	// deadline: the guest's clock ends the task first, so that its records say
	// so, and this one is for guests that do not answer. Zero: DefaultSlack.
	Slack time.Duration
	// ReadTimeout bounds reading the results off the disk; zero:
	// DefaultReadTimeout.
	ReadTimeout time.Duration
	// Disk is the reserved job disk to use, counted from zero.
	Disk int
	// OutputHead and OutputTail bound what is kept of each stream of each step,
	// in bytes; zero: diskio.DefaultOutputHead and diskio.DefaultOutputTail, below
	// zero: nothing. What does not fit between them is cut out, and said.
	OutputHead, OutputTail int
	// Keep is how many batches a worker takes before it is released and
	// rolled back; zero: 1, negative: no bound.
	Keep int
	// Attempt is told to the job as BULLPEN_ATTEMPT; zero: 1. Source sets it.
	Attempt int
	// Want makes what a pool is asked for of a scheduler's demand; nil: see
	// DefaultWant. A demand names the task that asks, so whoever knows its job
	// adds its inputs for the choice of the host: see Inputs.
	Want func(d Demand) pool.Want
	// Progress is called for each message of a guest, one at a time a guest;
	// it must not block.
	Progress func(g *pool.Guest, p diskio.Progress)
	Logger   *slog.Logger // nil: discards
}

const (
	// DefaultSlack is Options.Slack where it is zero.
	DefaultSlack = 30 * time.Second
	// DefaultReadTimeout is Options.ReadTimeout where it is zero.
	DefaultReadTimeout = 5 * time.Minute
)

// Run runs one job on a guest. The guest stays held, also after an error: the
// caller releases it with Result.Release as the reason. The job's own timeout
// bounds the run, prolonged by Options.Slack; a context that ends aborts it.
//
// The error is for what is wrong with the call itself: a job that is not valid,
// a machine without job disks. How the job went, also when the machine died, is
// in the Result, whose Infra says whether it may be tried elsewhere.
func Run(ctx context.Context, g *pool.Guest, j diskio.Job, o Options) (Result, error) {
	attempt := max(o.Attempt, 1)
	results, err := runParts(ctx, g, []part{{id: "job", job: j, attempt: attempt}}, o, nil)
	if err != nil {
		return Result{}, err
	}
	return results[0], nil
}

// part is one task of a batch.
type part struct {
	id      string
	job     diskio.Job
	attempt int
	timeout time.Duration // of the task; zero: the job's
}

// limit is the time that the part may take in the guest; zero: none.
func (p part) limit() time.Duration {
	switch {
	case p.timeout == 0:
		return p.job.Timeout
	case p.job.Timeout == 0:
		return p.timeout
	}
	return min(p.timeout, p.job.Timeout)
}

// document makes what is written on the disk: the job with its attempt and its
// limit.
func (p part) document() diskio.Part {
	j := p.job
	env := make(map[string]string, len(j.Env)+1)
	env["BULLPEN_ATTEMPT"] = fmt.Sprint(p.attempt)
	for k, v := range j.Env {
		env[k] = v
	}
	j.Env, j.Timeout = env, p.limit()
	return diskio.Part{ID: p.id, Job: j}
}

// runParts runs a batch as one document and judges each part. started, where
// not nil, is called when a part begins, from one goroutine at a time.
func runParts(ctx context.Context, g *pool.Guest, parts []part, o Options, started func(id string)) ([]Result, error) {
	docs := make([]diskio.Part, len(parts))
	for i, p := range parts {
		docs[i] = p.document()
	}
	prepared, err := prepare(ctx, g, docs, o)
	if err != nil {
		return refused(ctx, g, parts, err)
	}
	defer prepared.disk.Close()

	runCtx, cancel := deadline(ctx, parts, o)
	defer cancel()
	begun := time.Now()
	end, runErr := vm.Run(runCtx, g.Machine(), vm.RunOptions{
		Go:      prepared.word.Encode(),
		Grace:   o.Grace,
		Message: follow(g, o, started),
	})
	ran, why := time.Since(begun), causeOf(runCtx, g)

	// The records are read also when the run was cancelled: what finished
	// before is shown, and a job that made it counts.
	begun = time.Now()
	read, readErr := prepared.read(ctx, o)
	e := evidence{
		end: end, runErr: runErr, cause: why, results: read,
		readErr: readErr, ran: ran, read: time.Since(begun),
	}
	out := make([]Result, len(parts))
	for i, p := range parts {
		out[i] = conclude(g, p, e)
		if read != nil {
			keepArtifacts(ctx, read, p, &out[i], o)
		}
	}
	return out, nil
}

// deadline bounds the run where each part has a limit of its own.
func deadline(ctx context.Context, parts []part, o Options) (context.Context, context.CancelFunc) {
	var sum time.Duration
	for _, p := range parts {
		if p.limit() <= 0 {
			return context.WithCancel(ctx)
		}
		sum += p.limit()
	}
	slack := o.Slack
	if slack <= 0 {
		slack = DefaultSlack
	}
	return context.WithTimeoutCause(ctx, sum+slack, errTimeout)
}

// causeOf tells why the harness ended a run.
func causeOf(ctx context.Context, g *pool.Guest) cause {
	if err := context.Cause(g.Context()); err != nil {
		return causeLost
	}
	switch err := context.Cause(ctx); {
	case err == nil:
		return causeNone
	case errors.Is(err, errTimeout):
		return causeTimeout
	case errors.Is(err, lease.ErrLost):
		return causeLost
	default:
		return causeAborted
	}
}

// follow hands a guest's messages on.
func follow(g *pool.Guest, o Options, started func(id string)) func(kind uint8, body []byte) {
	return func(kind uint8, body []byte) {
		if kind != diskio.MessageProgress {
			return
		}
		p, err := diskio.DecodeProgress(body)
		if err != nil {
			logger(o).Warn("runner: a message of the guest cannot be read", "machine", g.Name(), "error", err)
			return
		}
		if started != nil && p.What == "started" {
			started(p.Part)
		}
		if o.Progress != nil {
			o.Progress(g, p)
		}
	}
}

func logger(o Options) *slog.Logger {
	if o.Logger == nil {
		return slog.New(slog.DiscardHandler)
	}
	return o.Logger
}
