package diskio

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/bullpen-vm/bullpen/diskio/internal/ext4"
)

// key names the image of a tree: a digest of its layout and of all that is in
// its files. Where the tree is on the host and none of it changed since its key
// was last made, that is looked up instead.
func (c *Cache) key(ctx context.Context, s *scan, plan *ext4.Plan) (string, error) {
	s.sortFiles()
	look, sure := s.lookKey(plan)
	if look != "" {
		if b, err := os.ReadFile(c.lookPath(look)); err == nil && keyPattern.Match(b) {
			now := time.Now()
			_ = os.Chtimes(c.lookPath(look), now, now) // or it is removed early, no harm
			return string(b), nil
		}
	}
	digests, err := s.digests(ctx)
	if err != nil {
		return "", err
	}
	hash := sha256.New()
	layout := plan.Fingerprint()
	hash.Write(layout[:])
	for _, d := range digests {
		hash.Write(d[:])
	}
	key := hex.EncodeToString(hash.Sum(nil))
	if look != "" && sure {
		if err := c.replace(c.lookPath(look), []byte(key)); err != nil {
			c.logger.WarnContext(ctx, "tree will be read again", "err", err)
		}
	}
	return key, nil
}

var keyPattern = regexp.MustCompile(`^[0-9a-f]{64}$`)

func (c *Cache) lookPath(look string) string { return filepath.Join(c.dir, "look-"+look) }

// lookKey is a digest of the layout and of what the host says about each file:
// device, inode, size and times. It is not sure as long as a file could change
// again without a change of its times. Empty: the tree is not only on the host.
func (s *scan) lookKey(plan *ext4.Plan) (look string, sure bool) {
	hash := sha256.New()
	layout := plan.Fingerprint()
	hash.Write(layout[:])
	sure = true
	b := make([]byte, 0, 128)
	for _, p := range s.files {
		switch {
		case p.fsys != nil:
			return "", false
		case p.dir != nil:
			b = b[:0]
			for _, v := range []int64{int64(p.stamp.dev), int64(p.stamp.ino), p.stamp.size, p.stamp.mtime.Nano(), p.stamp.ctime.Nano()} {
				b = binary.BigEndian.AppendUint64(b, uint64(v))
			}
			hash.Write(b)
			sure = sure && settled(p.stamp.ctime, s.began)
		default:
			sum := sha256.Sum256(p.data)
			hash.Write(sum[:])
		}
	}
	return hex.EncodeToString(hash.Sum(nil)), sure
}

// settled tells whether a file was last changed so long before it was looked at
// that a change since then has another time. File systems keep time in steps of
// some milliseconds, old ones of up to two seconds.
func settled(ctime syscall.Timespec, looked time.Time) bool {
	step := 100 * time.Millisecond
	if ctime.Nsec == 0 {
		step = 2500 * time.Millisecond
	}
	return time.Unix(0, ctime.Nano()).Add(step).Before(looked)
}

// digests reads all files.
func (s *scan) digests(ctx context.Context) ([][sha256.Size]byte, error) {
	digests := make([][sha256.Size]byte, len(s.files))
	var next atomic.Int64
	var exclusive sync.Map
	group, ctx := errgroup.WithContext(ctx)
	for range runtime.GOMAXPROCS(0) {
		group.Go(func() error {
			c := &copier{exclusive: &exclusive, buf: make([]byte, gathered)}
			defer c.close()
			const step = 16 // neighbours are in the same folder
			for {
				from := int(next.Add(step)) - step
				if from >= len(s.files) {
					return nil
				}
				for i := from; i < min(from+step, len(s.files)); i++ {
					if err := s.files[i].digest(ctx, c, &digests[i]); err != nil {
						return s.files[i].fail(err)
					}
				}
			}
		})
	}
	return digests, group.Wait()
}

// digest reads one file, as the copying will.
func (p *packFile) digest(ctx context.Context, c *copier, sum *[sha256.Size]byte) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if p.dir == nil && p.fsys == nil {
		*sum = sha256.Sum256(p.data)
		return nil
	}
	if p.node.Size <= int64(len(c.buf)) {
		b := c.buf[:p.node.Size]
		if err := c.read(p, b); err != nil {
			return err
		}
		*sum = sha256.Sum256(b)
		return nil
	}
	hash := sha256.New()
	if p.fsys != nil {
		err := c.readFS(p, func(r io.Reader) error {
			n, err := io.CopyBuffer(hash, withContext(ctx, io.LimitReader(r, p.node.Size)), c.buf)
			if err == nil && n < p.node.Size {
				err = io.ErrUnexpectedEOF
			}
			return err
		})
		hash.Sum(sum[:0])
		return err
	}
	fd, err := c.open(p)
	if err != nil {
		return err
	}
	in := os.NewFile(uintptr(fd), p.name)
	defer in.Close()
	for run := range p.node.Runs { // holes are in the layout
		n, err := io.CopyBuffer(hash, withContext(ctx, io.NewSectionReader(in, run.Offset, run.Length)), c.buf)
		if err != nil {
			return err
		}
		if n != run.Length {
			return ErrChanged
		}
	}
	hash.Sum(sum[:0])
	return p.same(fd)
}
