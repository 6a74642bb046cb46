package diskio

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"os"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"

	"golang.org/x/sync/errgroup"

	"github.com/bullpen-vm/bullpen/diskio/internal/ext4"
)

// How content is copied. Small files are gathered into one large write, since
// what they cost is calls; large ones are copied by the kernel in pieces, which
// bounds how long a cancelled Pack goes on.
const (
	smallFile = 128 << 10
	gathered  = 1 << 20
	piece     = 64 << 20
)

// packWorkers is how many goroutines pack. More do not pay: they all write to
// one file, and the kernel lets in one writer at a time.
func packWorkers() int { return min(2, runtime.GOMAXPROCS(0)) }

// copyJob is a stretch of small files, or a piece of a large one.
type copyJob struct {
	files []*packFile
	run   ext4.Run // of files[0], unless small
	small bool
}

// write fills the image file.
func (s *scan) write(ctx context.Context, f *os.File, plan *ext4.Plan) error {
	if err := f.Truncate(plan.Size()); err != nil {
		return &OpError{Op: "pack", Name: f.Name(), Err: pathCause(err)}
	}
	jobs := s.copyJobs()
	var next atomic.Int64
	var exclusive sync.Map // one mutex for each fs.FS
	group, ctx := errgroup.WithContext(ctx)
	for i := range packWorkers() {
		group.Go(func() error {
			if i == 0 {
				if err := plan.WriteStructures(f); err != nil {
					return &OpError{Op: "pack", Name: f.Name(), Err: pathCause(err)}
				}
			}
			c, err := newCopier(f, &exclusive)
			if err != nil {
				return err
			}
			defer c.close()
			for {
				k := int(next.Add(1)) - 1
				if k >= len(jobs) {
					return nil
				}
				if ctx.Err() != nil {
					return &OpError{Op: "pack", Name: f.Name(), Err: context.Cause(ctx)}
				}
				if err := c.do(ctx, &jobs[k]); err != nil {
					return err
				}
			}
		})
	}
	return group.Wait()
}

// copyJobs cuts the work, in the order that data has in the image.
func (s *scan) copyJobs() []copyJob {
	s.sortFiles()
	var jobs []copyJob
	open := int64(0) // bytes in the last job, while more small files may join
	for i, p := range s.files {
		if p.node.Data == nil && p.node.Size <= smallFile {
			if open > 0 && open < gathered {
				last := &jobs[len(jobs)-1]
				last.files = last.files[:len(last.files)+1]
			} else {
				jobs, open = append(jobs, copyJob{files: s.files[i : i+1 : len(s.files)], small: true}), 0
			}
			open += max(512, (p.node.Size+ext4.BlockSize-1)/ext4.BlockSize*ext4.BlockSize)
			continue
		}
		open = 0
		most := int64(piece)
		if p.fsys != nil {
			most = p.node.Size // can only be read from front to back
		}
		any := false
		for run := range p.node.Runs {
			for any = true; run.Length > 0; {
				part := run
				part.Length = min(run.Length, most)
				jobs = append(jobs, copyJob{files: s.files[i : i+1], run: part})
				run.Offset, run.At, run.Length = run.Offset+part.Length, run.At+part.Length, run.Length-part.Length
			}
		}
		if !any { // nothing but a hole, but it must still be the same file
			jobs = append(jobs, copyJob{files: s.files[i : i+1]})
		}
	}
	return jobs
}

// sortFiles puts files in the order of their data in the planned image.
func (s *scan) sortFiles() {
	byNumber := func(a, b *packFile) int { return cmp.Compare(a.node.Number(), b.node.Number()) }
	if !slices.IsSortedFunc(s.files, byNumber) {
		slices.SortFunc(s.files, byNumber)
	}
}

// copier is one worker's state.
type copier struct {
	out       *os.File // with an offset of its own
	dev       uint64
	buf       []byte
	dir       *hostDir
	dirFile   *os.File
	dirFD     int // its descriptor: each os.File.Fd costs a call
	exclusive *sync.Map
}

func newCopier(f *os.File, exclusive *sync.Map) (*copier, error) {
	out, err := os.OpenFile(f.Name(), os.O_RDWR, 0)
	if err != nil {
		return nil, &OpError{Op: "pack", Name: f.Name(), Err: pathCause(err)}
	}
	info, err := out.Stat()
	if err != nil {
		out.Close()
		return nil, &OpError{Op: "pack", Name: f.Name(), Err: pathCause(err)}
	}
	return &copier{out: out, dev: uint64(info.Sys().(*syscall.Stat_t).Dev), exclusive: exclusive}, nil
}

func (c *copier) close() {
	if c.out != nil {
		c.out.Close()
	}
	if c.dirFile != nil {
		c.dirFile.Close()
	}
}

func (c *copier) do(ctx context.Context, j *copyJob) error {
	if c.buf == nil {
		c.buf = make([]byte, gathered+2*smallFile)
	}
	if j.small {
		return c.gather(j.files)
	}
	p := j.files[0]
	if err := c.copy(ctx, p, j.run); err != nil {
		return p.fail(err)
	}
	return nil
}

// fail names the file.
func (p *packFile) fail(err error) error {
	name := p.path
	if p.dir != nil {
		name = p.dir.path(p.name)
	}
	return &OpError{Op: "pack", Name: name, Err: pathCause(err)}
}

// gather reads small files into one buffer, each up to its last block, and
// writes them at once.
func (c *copier) gather(files []*packFile) error {
	n, at := 0, int64(-1)
	for _, p := range files {
		size := int(p.node.Size)
		for r := range p.node.Runs {
			if at < 0 {
				at = r.At
			}
			n = int(r.At - at)
		}
		end := (n + size + ext4.BlockSize - 1) / ext4.BlockSize * ext4.BlockSize
		if end > len(c.buf) {
			c.buf = append(c.buf, make([]byte, end-len(c.buf))...)
		}
		if err := c.read(p, c.buf[n:n+size]); err != nil {
			return p.fail(err)
		}
		clear(c.buf[n+size : end])
		if size > 0 {
			n = end
		}
	}
	if at < 0 {
		return nil
	}
	if _, err := c.out.WriteAt(c.buf[:n], at); err != nil {
		return &OpError{Op: "pack", Name: c.out.Name(), Err: pathCause(err)}
	}
	return nil
}

// read fills b with a whole file and makes sure that it is one.
func (c *copier) read(p *packFile, b []byte) error {
	switch {
	case p.dir != nil:
		fd, err := c.open(p)
		if err != nil {
			return err
		}
		defer syscall.Close(fd)
		for n := 0; n < len(b); {
			k, err := ignoringEINTR(func() (int, error) { return syscall.Read(fd, b[n:]) })
			if err != nil {
				return err
			}
			if k == 0 {
				return fmt.Errorf("%w: it had %d bytes and has %d", ErrChanged, len(b), n)
			}
			n += k
		}
		return p.same(fd)
	case p.fsys != nil:
		return c.readFS(p, func(r io.Reader) error {
			_, err := io.ReadFull(r, b)
			return err
		})
	}
	copy(b, p.data)
	return nil
}

// copy copies a run of a large file.
func (c *copier) copy(ctx context.Context, p *packFile, run ext4.Run) error {
	switch {
	case p.dir != nil:
		fd, err := c.open(p)
		if err != nil {
			return err
		}
		in := os.NewFile(uintptr(fd), p.name)
		defer in.Close()
		if err := c.copyHost(in, p.stamp.dev, run); err != nil {
			return err
		}
		return p.same(fd)
	case p.fsys != nil:
		return c.readFS(p, func(r io.Reader) error {
			out := io.NewOffsetWriter(c.out, run.At)
			n, err := io.CopyBuffer(struct{ io.Writer }{out}, withContext(ctx, io.LimitReader(r, run.Length)), c.buf[:gathered])
			if err == nil && n < run.Length {
				err = io.ErrUnexpectedEOF
			}
			return err
		})
	}
	_, err := c.out.WriteAt(p.data[run.Offset:][:run.Length], run.At)
	return err
}

// copyHost lets the kernel copy where it can: os.File.ReadFrom calls
// copy_file_range, which works within one file system; between two it would
// fall back to small reads, so these are made here, large.
func (c *copier) copyHost(in *os.File, dev uint64, run ext4.Run) error {
	var n int64
	var err error
	if dev == c.dev {
		if _, err = in.Seek(run.Offset, io.SeekStart); err != nil {
			return err
		}
		if _, err = c.out.Seek(run.At, io.SeekStart); err != nil {
			return err
		}
		n, err = c.out.ReadFrom(io.LimitReader(in, run.Length))
	} else {
		n, err = io.CopyBuffer(struct{ io.Writer }{io.NewOffsetWriter(c.out, run.At)},
			struct{ io.Reader }{io.NewSectionReader(in, run.Offset, run.Length)}, c.buf[:gathered])
	}
	if err == nil && n < run.Length {
		err = fmt.Errorf("%w: it ends %d bytes early", ErrChanged, run.Length-n)
	}
	return err
}
