package runner

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/bullpen-vm/bullpen/diskio"
	"github.com/bullpen-vm/bullpen/pool"
	"github.com/bullpen-vm/bullpen/result"
	"github.com/bullpen-vm/bullpen/vm"
)

// prepared is a guest whose disks are ready for a batch.
type prepared struct {
	disk   vm.JobDisk
	ticket diskio.Ticket
	word   diskio.Go
}

// badJob is an error of the job itself: no machine could run it, so it is
// neither the machine's fault nor tried elsewhere.
type badJob struct{ err error }

func (e badJob) Error() string { return e.err.Error() }
func (e badJob) Unwrap() error { return e.err }

// prepare puts the inputs into their places and writes the job disk.
func prepare(ctx context.Context, g *pool.Guest, docs []diskio.Part, o Options) (_ *prepared, err error) {
	if err := diskio.ValidateParts(docs); err != nil {
		return nil, badJob{err}
	}
	attacher, ok := vm.As[vm.Attacher](g.Machine())
	if !ok {
		return nil, badJob{fmt.Errorf("runner: machine %s of template %s takes no disks (vm.Attacher), only commands and copies: %w",
			g.Name(), g.Template(), errors.ErrUnsupported)}
	}
	p := &prepared{word: diskio.Go{Disk: o.Disk}}
	if p.word.Inputs, err = insert(ctx, attacher, docs); err != nil {
		return nil, err
	}
	if p.disk, err = attacher.JobDisk(ctx, o.Disk); err != nil {
		return nil, fmt.Errorf("runner: job disk %d of %s: %w", o.Disk, g.Name(), err)
	}
	defer func() {
		if err != nil {
			p.disk.Close()
		}
	}()
	w := &watched{WriterAt: p.disk}
	if p.ticket, err = diskio.WriteJob(ctx, w, p.disk.Size(), docs, &diskio.JobOptions{OutputHead: o.OutputHead, OutputTail: o.OutputTail}); err != nil {
		var small *diskio.TooSmallError
		switch {
		case errors.As(err, &small):
			return nil, badJob{fmt.Errorf("runner: job disk %d of template %s: set the template's Spec.JobDisks to %d or more, or Job.Results to less: %w",
				o.Disk, g.Template(), small.Needed, err)}
		case w.err == nil && ctx.Err() == nil:
			return nil, badJob{err} // such as a file that cannot be read
		}
		return nil, fmt.Errorf("runner: job disk %d of %s: %w", o.Disk, g.Name(), err)
	}
	if err = p.disk.Sync(ctx); err != nil {
		return nil, fmt.Errorf("runner: job disk %d of %s: %w", o.Disk, g.Name(), err)
	}
	p.word.Nonce = p.ticket.Nonce
	return p, nil
}

// watched remembers an error of the machine's disk, to tell it from one of the
// job's files.
type watched struct {
	io.WriterAt
	err error
}

// WriteAt writes through.
func (w *watched) WriteAt(b []byte, off int64) (int, error) {
	n, err := w.WriterAt.WriteAt(b, off)
	if err != nil {
		w.err = err
	}
	return n, err
}

// insert puts each distinct image into a place of its own.
func insert(ctx context.Context, a vm.Attacher, docs []diskio.Part) ([]diskio.GoInput, error) {
	var inputs []diskio.GoInput
	places := map[string]int{} // by digest
	named := map[string]string{}
	for _, d := range docs {
		for _, in := range d.Job.Inputs {
			digest := in.Image.Digest()
			if named[in.Name] == digest {
				continue
			}
			if named[in.Name] != "" {
				return nil, badJob{fmt.Errorf("runner: tasks of one batch have different inputs of the name %q: put them into different groups", in.Name)}
			}
			named[in.Name] = digest
			place, ok := places[digest]
			if !ok {
				place = len(places)
				places[digest] = place
				if err := a.Insert(ctx, place, in.Image); err != nil {
					return nil, fmt.Errorf("runner: input %q into place %d: %w", in.Name, place, err)
				}
			}
			inputs = append(inputs, diskio.GoInput{Name: in.Name, Place: place, Digest: digest, Size: in.Image.Size()})
		}
	}
	return inputs, nil
}

// read reads the records, with a bound of its own when the run was cancelled.
func (p *prepared) read(ctx context.Context, o Options) (*diskio.Results, error) {
	bound := o.ReadTimeout
	if bound <= 0 {
		bound = DefaultReadTimeout
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), bound)
	defer cancel()
	return diskio.ReadResults(ctx, p.disk, p.disk.Size(), p.ticket, nil)
}

// refused is the outcome of a batch that could not be prepared.
func refused(ctx context.Context, g *pool.Guest, parts []part, err error) ([]Result, error) {
	var bad badJob
	out := make([]Result, len(parts))
	for i, p := range parts {
		r := base(g, p)
		switch {
		case errors.As(err, &bad):
			// One bad job spoils a batch; the others are tried again alone.
			r.Status, r.Message = result.Errored, err.Error()
			if diskioErr := diskio.ValidateJob(p.job); len(parts) > 1 && diskioErr == nil {
				r.Infra = fmt.Errorf("runner: not run, for another task of its batch is not valid: %w", err)
			}
		case ctx.Err() != nil && causeOf(ctx, g) == causeAborted:
			r.Status, r.Message = result.Aborted, "the run was aborted before the job started"
		default:
			r.Status, r.Message, r.Infra = result.Errored, err.Error(), err
			r.Release = err
		}
		out[i] = r
	}
	return out, nil
}

// since is the time from begun to now, at least one nanosecond, so that a phase
// that took place never reads as one that did not.
func since(begun time.Time) time.Duration { return max(time.Since(begun), 1) }
