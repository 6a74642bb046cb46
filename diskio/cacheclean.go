package diskio

import (
	"cmp"
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

// keepLooks is how long what is known about a tree on the host is kept without
// being asked for.
const keepLooks = 30 * 24 * time.Hour

// kept is an image in the cache.
type kept struct {
	key   string
	used  time.Time
	bytes int64 // on the disk
}

// images lists the cache.
func (c *Cache) images() ([]kept, error) {
	entries, err := os.ReadDir(c.dir)
	if err != nil {
		return nil, err
	}
	var all []kept
	for _, e := range entries {
		key, ok := strings.CutSuffix(e.Name(), ".img")
		if !ok || !keyPattern.MatchString(key) {
			continue
		}
		info, err := e.Info()
		if errors.Is(err, fs.ErrNotExist) {
			continue // another process was faster
		}
		if err != nil {
			return nil, err
		}
		k := kept{key: key, used: info.ModTime(), bytes: info.Sys().(*syscall.Stat_t).Blocks * 512}
		if note, err := os.Stat(c.notePath(key)); err == nil {
			k.used = note.ModTime()
		}
		all = append(all, k)
	}
	return all, nil
}

// Trim removes what was not used for the longest time until the cache is within
// its bound, and what dead processes left. It does not wait for anybody. Pack
// calls it after each new image.
func (c *Cache) Trim(ctx context.Context) error {
	fail := func(err error) error { return &OpError{Op: "cache", Name: c.dir, Err: pathCause(err)} }
	if err := c.removeLeftovers(); err != nil {
		return fail(err)
	}
	all, err := c.images()
	if err != nil {
		return fail(err)
	}
	total := int64(0)
	for _, k := range all {
		total += k.bytes
	}
	slices.SortFunc(all, func(a, b kept) int { return cmp.Or(a.used.Compare(b.used), cmp.Compare(a.key, b.key)) })
	var errs []error
	for _, k := range all {
		if c.bytes < 0 || total <= c.bytes {
			break
		}
		if ctx.Err() != nil {
			return fail(context.Cause(ctx))
		}
		gone, err := c.evict(k.key)
		if err != nil {
			errs = append(errs, fail(err))
		}
		if gone {
			total -= k.bytes
			c.logger.InfoContext(ctx, "cached image removed to make room", "image", c.imagePath(k.key), "bytes", k.bytes, "last used", k.used)
		}
	}
	return errors.Join(errs...)
}

// evict removes an image unless it is in use.
func (c *Cache) evict(key string) (bool, error) {
	f, err := os.Open(c.imagePath(key))
	if errors.Is(err, fs.ErrNotExist) {
		return true, nil
	}
	if err != nil {
		return false, err
	}
	defer closeLocked(f) //nolint:errcheck // closing unlocks too
	free, err := lockExclusive(f)
	if err != nil || !free {
		return false, err
	}
	// Another process may have put a new one in its place meanwhile.
	mine, err := linked(f)
	if err != nil || !mine {
		return false, err
	}
	return true, c.remove(key)
}

// removeLeftovers removes half-done files whose process is dead: its lock ended
// with it. Notes without an image and old looks go too.
func (c *Cache) removeLeftovers() error {
	entries, err := os.ReadDir(c.dir)
	if err != nil {
		return err
	}
	var errs []error
	for _, e := range entries {
		name := filepath.Join(c.dir, e.Name())
		switch {
		case strings.HasPrefix(e.Name(), "tmp-"):
			errs = append(errs, removeUnlocked(name))
		case strings.HasPrefix(e.Name(), "look-"):
			if info, err := e.Info(); err == nil && time.Since(info.ModTime()) > keepLooks {
				errs = append(errs, gone(os.Remove(name)))
			}
		}
	}
	return errors.Join(errs...)
}

func removeUnlocked(name string) error {
	f, err := os.Open(name)
	if err != nil {
		return gone(err)
	}
	defer closeLocked(f) //nolint:errcheck // closing unlocks too
	free, err := lockExclusive(f)
	if err != nil || !free {
		return err
	}
	return gone(os.Remove(name))
}

// gone takes it for success that a file is not there any more.
func gone(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// Verify reads all images and removes those whose bytes are not what was
// packed, even if nothing else shows it. It gives the paths of what it removed.
func (c *Cache) Verify(ctx context.Context) (removed []string, err error) {
	all, err := c.images()
	if err != nil {
		return nil, &OpError{Op: "cache", Name: c.dir, Err: pathCause(err)}
	}
	for _, k := range all {
		why, err := c.verify(ctx, k.key)
		if err != nil {
			return removed, err
		}
		if why == nil {
			continue
		}
		c.logger.WarnContext(ctx, "cached image removed", "image", c.imagePath(k.key), "why", why)
		removed = append(removed, c.imagePath(k.key))
	}
	return removed, nil
}

// verify checks one image, and removes it under the lock that its makers take.
func (c *Cache) verify(ctx context.Context, key string) (why, err error) {
	done, err := c.wait(ctx, key)
	if err != nil {
		return nil, err
	}
	defer done()
	image, why, err := c.open(ctx, key)
	if err != nil || image == nil && why == nil {
		return nil, err
	}
	if image != nil {
		defer image.Close()
		want := image.Digest()
		image.digest.Store(nil)
		got, err := image.Sum(ctx)
		if err != nil {
			return nil, err
		}
		if got == want {
			return nil, nil
		}
		why = &OpError{Op: "cache", Name: image.Path(), Err: ErrCorrupt}
	}
	if err := c.remove(key); err != nil {
		return nil, &OpError{Op: "cache", Name: c.imagePath(key), Err: pathCause(err)}
	}
	return why, nil
}
