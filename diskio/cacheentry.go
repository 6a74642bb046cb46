package diskio

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// note is what is known about an image, in a file beside it. Its time of change
// is when the image was last asked for.
type note struct {
	Size   int64  `json:"size"`
	Digest string `json:"digest"`
	// Boot and Modified tell whether the digest must be checked again: after
	// the machine was started anew (it may have gone down before all was on
	// the disk), and when the file was written to.
	Boot     string `json:"boot"`
	Modified int64  `json:"modified"` // nanoseconds since 1970
}

func (c *Cache) imagePath(key string) string { return filepath.Join(c.dir, key+".img") }
func (c *Cache) notePath(key string) string  { return filepath.Join(c.dir, key+".json") }

// bootID names the time since the machine was started. Empty where it is not
// known: then images are checked each time.
func bootID() string {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}

func (c *Cache) writeNote(key string, n note) error {
	b, err := json.Marshal(n)
	if err != nil {
		return err
	}
	return c.replace(c.notePath(key), b)
}

// replace writes a small file in one step.
func (c *Cache) replace(name string, b []byte) error {
	tmp, err := c.temp()
	if err != nil {
		return err
	}
	defer closeLocked(tmp) //nolint:errcheck // closing unlocks too
	_, err = tmp.Write(b)
	if err == nil {
		err = os.Rename(tmp.Name(), name)
	}
	if err != nil {
		os.Remove(tmp.Name())
	}
	return err
}

func (c *Cache) readNote(key string) (note, error) {
	b, err := os.ReadFile(c.notePath(key))
	if err != nil {
		return note{}, err
	}
	var n note
	if err := json.Unmarshal(b, &n); err != nil {
		return note{}, err
	}
	if n.Size <= 0 || !strings.HasPrefix(n.Digest, "sha256:") {
		return note{}, errors.New("its note is incomplete")
	}
	return n, nil
}

// open opens an image that is kept, in use from then on. None is there without
// an error when it is missing, or damaged: then why is set.
func (c *Cache) open(ctx context.Context, key string) (image *Image, why, err error) {
	for {
		f, err := os.Open(c.imagePath(key))
		if errors.Is(err, fs.ErrNotExist) {
			return nil, nil, nil
		}
		if err != nil {
			return nil, nil, &OpError{Op: "cache", Name: c.imagePath(key), Err: pathCause(err)}
		}
		used, err := lockShared(f)
		if err == nil && used {
			if used, err = linked(f); used {
				return c.check(ctx, f, key)
			}
		}
		_ = closeLocked(f)
		if err != nil {
			return nil, nil, &OpError{Op: "cache", Name: c.imagePath(key), Err: pathCause(err)}
		}
		// It is being removed, or was while it was opened.
		if err := pause(ctx, time.Millisecond); err != nil {
			return nil, nil, &OpError{Op: "cache", Name: c.imagePath(key), Err: err}
		}
	}
}

// check makes sure that an image is what was packed. It takes over f.
func (c *Cache) check(ctx context.Context, f *os.File, key string) (_ *Image, why, err error) {
	image, err := newImage(f, c.imagePath(key))
	if err != nil {
		_ = closeLocked(f)
		return nil, nil, &OpError{Op: "cache", Name: c.imagePath(key), Err: err}
	}
	image.locked = true
	keep := false
	defer func() {
		if !keep {
			image.Close()
		}
	}()
	n, err := c.readNote(key)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrCorrupt, pathCause(err)), nil
	}
	info, err := image.Stat()
	if err != nil {
		return nil, nil, &OpError{Op: "cache", Name: c.imagePath(key), Err: pathCause(err)}
	}
	if image.Size() != n.Size {
		return nil, fmt.Errorf("%w: it has %d bytes, want %d", ErrCorrupt, image.Size(), n.Size), nil
	}
	now := note{Size: n.Size, Digest: n.Digest, Boot: bootID(), Modified: info.ModTime().UnixNano()}
	if now.Boot == "" || now != n {
		digest, err := image.Sum(ctx)
		if err != nil {
			return nil, nil, err
		}
		if digest != n.Digest {
			return nil, fmt.Errorf("%w: its digest is %s, want %s", ErrCorrupt, digest, n.Digest), nil
		}
		if err := c.writeNote(key, now); err != nil {
			c.logger.WarnContext(ctx, "cached image will be checked again", "image", image.Path(), "err", err)
		}
	} else if err := os.Chtimes(c.notePath(key), time.Time{}, time.Now()); err != nil {
		c.logger.DebugContext(ctx, "use of a cached image is not noted", "image", image.Path(), "err", err)
	}
	image.digest.Store(&n.Digest)
	keep = true
	return image, nil, nil
}

// remove takes an image out of the cache. Those who use it keep it. The note
// goes first: a new image's might be there as soon as the old image is gone.
func (c *Cache) remove(key string) error {
	var errs []error
	for _, name := range []string{c.notePath(key), c.imagePath(key)} {
		if err := os.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// temp makes a file that is locked by this process as long as it is open, so
// that others leave it alone.
func (c *Cache) temp() (*os.File, error) {
	for {
		f, err := createTemp(c.dir, "tmp-")
		if err != nil {
			return nil, err
		}
		// Somebody may have taken it for a leftover before it was locked.
		mine, err := lockExclusive(f)
		if err == nil && mine {
			if mine, err = linked(f); mine {
				return f, nil
			}
		}
		_ = closeLocked(f)
		if err != nil {
			return nil, err
		}
	}
}

// linked tells whether an open file still has a name.
func linked(f *os.File) (bool, error) {
	info, err := f.Stat()
	if err != nil {
		return false, err
	}
	return info.Sys().(*syscall.Stat_t).Nlink > 0, nil
}
