package local

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/bullpen-vm/bullpen/internal/flock"
	"github.com/bullpen-vm/bullpen/vm/internal/hostdir"
)

// inputStore keeps inputs unpacked in the root, one folder per digest, shared by
// all machines. A folder in use is flocked for as long as its job runs.
//
// Jobs may write where they should not, so each folder is sealed: if any file
// in it has changed since it was unpacked, it is unpacked again. What changes
// under a job that runs at this moment cannot be helped without isolation.
type inputStore struct {
	dir  string
	most int64 // bytes kept, not counting what is in use
	// unpack checks that the image has the digest and lays its tree out in
	// dir, which is there and empty.
	unpack func(ctx context.Context, image, digest, dir string) error
}

// seal is what an unpacked input looked like.
type seal struct {
	Bytes int64  `json:"bytes"`
	Sum   string `json:"sum"` // of every entry's name, inode, mode, size and times
}

const (
	cacheFolder = ".inputs" // in the root
	treeFolder  = "tree"
	sealFile    = "seal.json"
)

// take gives the folder with that input's content, and what to call when it
// is not used any more. private is a folder of the machine's own, for when the
// shared one is damaged and in use.
func (s *inputStore) take(ctx context.Context, image, digest, private string) (string, func() error, error) {
	key, ok := strings.CutPrefix(digest, "sha256:")
	if _, err := hex.DecodeString(key); !ok || err != nil || len(key) != 2*sha256.Size {
		return "", nil, fmt.Errorf("digest is %q, want sha256: and %d hexadecimal digits", digest, 2*sha256.Size)
	}
	if err := os.MkdirAll(s.dir, 0o700); err != nil {
		return "", nil, err
	}
	entry, lock := filepath.Join(s.dir, key), filepath.Join(s.dir, key+".lock")
	for {
		used, err := lockEntry(ctx, lock, syscall.LOCK_SH)
		if err != nil {
			return "", nil, err
		}
		whole, err := sealed(entry)
		if err == nil && whole {
			now := time.Now()
			if err = os.Chtimes(lock, now, now); err == nil { // for evict: it was used
				return filepath.Join(entry, treeFolder), used.Unlock, nil
			}
		}
		_, serr := os.Lstat(entry)
		if err = errors.Join(err, used.Unlock()); err != nil {
			return "", nil, err
		}
		made, err := s.make(ctx, image, digest, entry, lock, serr == nil)
		if err != nil {
			return "", nil, err
		}
		if !made {
			return s.apart(ctx, image, digest, private)
		}
	}
}

// make unpacks an entry, in place of a damaged one if there is one. It answers
// false when the damaged one is in use.
func (s *inputStore) make(ctx context.Context, image, digest, entry, lock string, damaged bool) (made bool, err error) {
	var l *flock.Lock
	if damaged {
		if l, err = flock.Try(lock, os.O_RDWR|os.O_CREATE, syscall.LOCK_EX); errors.Is(err, flock.ErrLocked) {
			return false, nil
		}
	} else {
		l, err = lockEntry(ctx, lock, syscall.LOCK_EX)
	}
	if err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, l.Unlock()) }()
	if whole, err := sealed(entry); err != nil || whole {
		return whole, err // somebody was faster
	}
	fresh, held, err := hostdir.New(ctx, s.dir, 0o700)
	if err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, removeTree(fresh), held.Unlock()) }()
	tree := filepath.Join(fresh, treeFolder)
	if err := os.Mkdir(tree, 0o700); err != nil {
		return false, err
	}
	if err := s.unpack(ctx, image, digest, tree); err != nil {
		return false, err
	}
	if err := readOnly(tree); err != nil {
		return false, err
	}
	if err := removeTree(entry); err != nil {
		return false, err
	}
	if err := os.Rename(fresh, entry); err != nil {
		return false, err
	}
	now, err := look(filepath.Join(entry, treeFolder))
	if err == nil {
		err = writeRecord(filepath.Join(entry, sealFile), now, false)
	}
	if err == nil {
		err = s.evict(filepath.Base(entry))
	}
	return err == nil, err
}

// apart unpacks for one job alone.
func (s *inputStore) apart(ctx context.Context, image, digest, private string) (string, func() error, error) {
	if err := os.Mkdir(private, 0o700); err != nil {
		return "", nil, err
	}
	release := func() error { return removeTree(private) }
	if err := s.unpack(ctx, image, digest, private); err != nil {
		return "", nil, errors.Join(err, release())
	}
	return private, release, nil
}

// lockEntry takes a lock on a file that evict may remove meanwhile.
func lockEntry(ctx context.Context, path string, how int) (*flock.Lock, error) {
	for {
		l, err := flock.Wait(ctx, path, os.O_RDWR|os.O_CREATE, how)
		if err != nil {
			return nil, err
		}
		have, err := l.File().Stat()
		if err == nil {
			var now fs.FileInfo
			if now, err = os.Lstat(path); err == nil && os.SameFile(have, now) {
				return l, nil
			}
		}
		if errors.Is(err, fs.ErrNotExist) {
			err = nil
		}
		if err = errors.Join(err, l.Unlock()); err != nil {
			return nil, err
		}
	}
}

// sealed reports whether an entry is there, whole and unchanged.
func sealed(entry string) (bool, error) {
	var was seal
	if err := readRecord(filepath.Join(entry, sealFile), &was); err != nil {
		return false, nil //nolint:nilerr // not there, half made or damaged: all the same
	}
	now, err := look(filepath.Join(entry, treeFolder))
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) {
			return false, nil
		}
		return false, err
	}
	return now == was, nil
}

// look describes a tree by what the kernel says of each entry. The time of the
// inode's last change is among it, which no program can set back.
func look(tree string) (seal, error) {
	var s seal
	h := sha256.New()
	err := filepath.WalkDir(tree, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		fi, err := os.Lstat(path)
		if err != nil {
			return err
		}
		st := fi.Sys().(*syscall.Stat_t)
		if fi.Mode().IsRegular() {
			s.Bytes += st.Blocks * 512
		}
		b := append([]byte(path), 0)
		for _, v := range []uint64{st.Ino, uint64(st.Mode), uint64(st.Size), uint64(st.Mtim.Nano()), uint64(st.Ctim.Nano())} {
			b = binary.LittleEndian.AppendUint64(b, v)
		}
		_, err = h.Write(b)
		return err
	})
	s.Sum = hex.EncodeToString(h.Sum(nil))
	return s, err
}

// readOnly takes the right to write off the files of a tree: a job that does it
// by mistake gets an error, unless it is root. Folders keep it, so that whoever
// owns the root can remove it by any means.
func readOnly(tree string) error {
	return filepath.WalkDir(tree, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.Type()&fs.ModeSymlink != 0 {
			return err
		}
		fi, err := e.Info()
		if err != nil {
			return err
		}
		if e.IsDir() {
			return os.Chmod(path, fi.Mode().Perm()|0o700)
		}
		return os.Chmod(path, fi.Mode().Perm()&^0o222)
	})
}

// evict removes the entries that were not used for longest until the rest fits,
// and what was left half made or half removed. Entries in use and the one to
// keep stay.
func (s *inputStore) evict(keep string) error {
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return err
	}
	type aged struct {
		key   string
		bytes int64
		used  time.Time
	}
	var all []aged
	var total int64
	for _, e := range entries {
		path := filepath.Join(s.dir, e.Name())
		switch {
		case !e.IsDir() || e.Name() == keep:
			continue
		case strings.HasPrefix(e.Name(), newPrefix):
			if err := hostdir.RemoveUnlocked(path, nil, removeTree); err != nil {
				return err
			}
			continue
		}
		var was seal
		if err := readRecord(filepath.Join(path, sealFile), &was); err != nil {
			was.Bytes = s.most + 1 // not usable: the first to go
		}
		a := aged{key: e.Name(), bytes: was.Bytes}
		if fi, err := os.Lstat(path + ".lock"); err == nil && was.Sum != "" {
			a.used = fi.ModTime()
		}
		all = append(all, a)
		total += a.bytes
	}
	slices.SortFunc(all, func(a, b aged) int { return a.used.Compare(b.used) })
	for _, a := range all {
		if total <= s.most {
			break
		}
		lock := filepath.Join(s.dir, a.key+".lock")
		l, err := flock.Try(lock, os.O_RDWR|os.O_CREATE, syscall.LOCK_EX)
		if errors.Is(err, flock.ErrLocked) {
			continue
		}
		if err != nil {
			return err
		}
		if err := errors.Join(removeTree(filepath.Join(s.dir, a.key)), os.Remove(lock), l.Unlock()); err != nil {
			return err
		}
		total -= a.bytes
	}
	return nil
}
