package diskio

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/bullpen-vm/bullpen/diskio/internal/ext4"
)

// Cache keeps images in a folder by what is in them, so that a tree is packed
// once, by whoever needs it first. Any number of processes may use one folder;
// those that die leave nothing that is not removed by the next.
//
// An image is used while an Image of it is open. The size of the folder is kept
// below a bound by removing what was not used for the longest time; what is in
// use is never removed, so that the bound may be exceeded by it.
//
// It is safe for concurrent use and needs no closing; the zero value is not
// usable.
type Cache struct {
	dir    string
	bytes  int64
	logger *slog.Logger

	mu    sync.Mutex
	turns map[string]*turn // of goroutines that want the same
}

// CacheOptions are for NewCache. Nil means the zero value.
type CacheOptions struct {
	// Bytes is the bound on what images take on the disk; zero: 20 GiB,
	// negative: none.
	Bytes  int64
	Logger *slog.Logger // nil: discards
}

// DefaultCacheBytes is the bound of a Cache that is not told one.
const DefaultCacheBytes = 20 << 30

// NewCache opens a cache in a folder, which is made if it is missing and which
// nothing else should use: files whose names are not the cache's are never
// touched. What dead processes left half-done is removed.
func NewCache(dir string, o *CacheOptions) (*Cache, error) {
	if o == nil {
		o = &CacheOptions{}
	}
	if dir == "" {
		return nil, &OpError{Op: "cache", Err: errors.New("no folder is given, want one that the cache may fill")}
	}
	c := &Cache{dir: dir, bytes: o.Bytes, logger: o.Logger, turns: map[string]*turn{}}
	if c.bytes == 0 {
		c.bytes = DefaultCacheBytes
	}
	if c.logger == nil {
		c.logger = slog.New(slog.DiscardHandler)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, &OpError{Op: "cache", Name: dir, Err: pathCause(err)}
	}
	if err := c.removeLeftovers(); err != nil {
		return nil, &OpError{Op: "cache", Name: dir, Err: pathCause(err)}
	}
	return c, nil
}

// Pack gives an image of a tree: the one that is kept, or a new one. Its bytes
// are those that the function Pack makes, and its Digest is known. The caller
// closes the image, which lets the cache remove it when room is needed.
//
// To find out whether a tree is known all of its files are read, unless it
// consists of folders of the host and single files, and an earlier Pack saw the
// same files at the same times: then looking at the folders is enough.
func (c *Cache) Pack(ctx context.Context, src Tree, o *PackOptions) (*Image, error) {
	options := o.orDefault()
	if err := errors.Join(options.check(), src.check()); err != nil {
		return nil, &OpError{Op: "pack", Err: err}
	}
	found, err := scanTree(ctx, &src, options)
	if err != nil {
		return nil, err
	}
	defer found.close()
	if err := found.apart(filepath.Join(c.dir, "image")); err != nil {
		return nil, err
	}
	plan, err := found.plan()
	if err != nil {
		return nil, err
	}
	key, err := c.key(ctx, found, plan)
	if err != nil {
		return nil, err
	}
	image, _, err := c.open(ctx, key)
	if image != nil || err != nil {
		return image, err
	}
	if image, err = c.build(ctx, key, found, plan); err != nil {
		return nil, err
	}
	// The room is made now, while nobody waits for a lock of this key.
	if err := c.Trim(ctx); err != nil {
		c.logger.WarnContext(ctx, "cache is not trimmed", "dir", c.dir, "err", err)
	}
	return image, nil
}

// build makes an image, unless another goroutine or process has made it by the
// time that this one has its turn.
func (c *Cache) build(ctx context.Context, key string, found *scan, plan *ext4.Plan) (*Image, error) {
	done, err := c.wait(ctx, key)
	if err != nil {
		return nil, err
	}
	defer done()
	image, damaged, err := c.open(ctx, key)
	if image != nil || err != nil {
		return image, err
	}
	if damaged != nil {
		c.logger.WarnContext(ctx, "cached image is made anew", "image", c.imagePath(key), "why", damaged)
		if err := c.remove(key); err != nil {
			return nil, &OpError{Op: "cache", Name: c.imagePath(key), Err: pathCause(err)}
		}
	}
	tmp, err := c.temp()
	if err != nil {
		return nil, &OpError{Op: "cache", Name: c.dir, Err: pathCause(err)}
	}
	defer closeLocked(tmp) //nolint:errcheck // closing unlocks too
	image, err = c.fill(ctx, tmp, key, found, plan)
	if err != nil {
		os.Remove(tmp.Name())
		return nil, err
	}
	return image, nil
}

// fill writes the image and gives it its name.
func (c *Cache) fill(ctx context.Context, tmp *os.File, key string, found *scan, plan *ext4.Plan) (*Image, error) {
	if err := found.write(ctx, tmp, plan); err != nil {
		return nil, err
	}
	fail := func(err error) (*Image, error) {
		return nil, &OpError{Op: "cache", Name: c.imagePath(key), Err: pathCause(err)}
	}
	if err := tmp.Chmod(0o444); err != nil {
		return fail(err)
	}
	read, err := os.Open(tmp.Name())
	if err != nil {
		return fail(err)
	}
	image, err := newImage(read, c.imagePath(key))
	if err != nil {
		read.Close()
		return fail(err)
	}
	if err := c.name(ctx, image, tmp, key); err != nil {
		image.Close()
		return nil, err
	}
	return image, nil
}

// name gives a finished image its name and marks it as in use. The builder's
// lock goes over to the user's while it has its name: should it be evicted in
// between, then the user has an image that is not kept, which does no harm.
func (c *Cache) name(ctx context.Context, image *Image, tmp *os.File, key string) error {
	digest, err := image.Sum(ctx)
	if err != nil {
		return err
	}
	info, err := image.Stat()
	if err == nil {
		err = c.writeNote(key, note{Size: image.Size(), Digest: digest, Boot: bootID(), Modified: info.ModTime().UnixNano()})
	}
	if err == nil {
		err = os.Rename(tmp.Name(), c.imagePath(key))
	}
	if err == nil {
		err = unlock(tmp)
	}
	for used := false; err == nil && !used; {
		used, err = lockShared(image.f)
		image.locked = used
		if err == nil && !used {
			err = pause(ctx, time.Millisecond) // it is being looked at, or removed
		}
	}
	if err != nil {
		return &OpError{Op: "cache", Name: c.imagePath(key), Err: pathCause(err)}
	}
	return nil
}

// turn is a place in the queue of the goroutines of this process that want the
// same image.
type turn struct {
	room  chan struct{} // for one
	users int
}

// wait waits for the right to make an image, among the goroutines of this
// process and then among processes.
func (c *Cache) wait(ctx context.Context, key string) (done func(), err error) {
	c.mu.Lock()
	t := c.turns[key]
	if t == nil {
		t = &turn{room: make(chan struct{}, 1)}
		c.turns[key] = t
	}
	t.users++
	c.mu.Unlock()
	leave := func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		if t.users--; t.users == 0 {
			delete(c.turns, key)
		}
	}
	select {
	case t.room <- struct{}{}:
	case <-ctx.Done():
		leave()
		return nil, &OpError{Op: "cache", Name: c.imagePath(key), Err: context.Cause(ctx)}
	}
	f, err := lockFile(ctx, filepath.Join(c.dir, "lock-"+key[:2]))
	if err != nil {
		<-t.room
		leave()
		return nil, &OpError{Op: "cache", Name: c.imagePath(key), Err: fmt.Errorf("waiting for another process that packs: %w", pathCause(err))}
	}
	return func() {
		_ = closeLocked(f) // only a lock
		<-t.room
		leave()
	}, nil
}
