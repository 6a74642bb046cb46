package lease

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/google/uuid"
)

// A run directory is <dir>/run-<uuid> with the file lock in it, which its
// process holds a flock on for as long as it lives. It comes into being under
// a name new-<uuid> of its own, so that run-<uuid> never exists without its lock; dead
// ones are removed by SweepRuns, which leaves the file dead/<uuid> as the
// proof that it was.
const (
	runPrefix = "run-"
	newPrefix = "new-"
	lockName  = "lock"
	deadName  = "dead"
	// keepProof is how long the proof of a death is kept.
	keepProof = 30 * 24 * time.Hour
)

type runDir struct {
	lock string
	file *os.File
}

// DefaultDir is where run directories are made when Config.Dir is empty.
func DefaultDir() string {
	return filepath.Join(os.TempDir(), fmt.Sprintf("bullpen-%d", os.Getuid()))
}

// secureDir makes dir, or checks that what is there is a directory of this
// user that nobody else can write to: in a shared folder for temporary files
// anyone could have made it.
func secureDir(dir string) error {
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		return fmt.Errorf("lease: Config.Dir: %w", err)
	}
	if err := os.Mkdir(dir, 0o700); err == nil || !errors.Is(err, fs.ErrExist) {
		if err != nil {
			err = fmt.Errorf("lease: Config.Dir: %w", err)
		}
		return err
	}
	info, err := os.Lstat(dir)
	if err != nil {
		return fmt.Errorf("lease: Config.Dir: %w", err)
	}
	bad := func(what string) error {
		return fmt.Errorf("lease: Config.Dir is %s, which %s; want a directory of uid %d that nobody else can write to: remove it or choose another", dir, what, os.Geteuid())
	}
	switch stat, ok := info.Sys().(*syscall.Stat_t); {
	case info.Mode()&fs.ModeSymlink != 0:
		return bad("is a symbolic link")
	case !info.IsDir():
		return bad("is not a directory")
	case ok && int(stat.Uid) != os.Geteuid():
		return bad(fmt.Sprintf("belongs to uid %d", stat.Uid))
	case info.Mode().Perm()&0o022 != 0:
		return bad(fmt.Sprintf("others can write to (mode %04o)", info.Mode().Perm()))
	}
	return nil
}

// makeRunDir makes the run directory of lockPath and locks it.
func makeRunDir(lockPath, owner, boot string) (*runDir, error) {
	run := filepath.Dir(lockPath)
	dir := filepath.Dir(run)
	if err := secureDir(dir); err != nil {
		return nil, err
	}
	// A sweep may take the new directory for one that was left behind by a
	// crash: then another is made.
	const tries = 100
	var last error
	for range tries {
		r, err := tryRunDir(dir, run, fmt.Sprintf("owner %s\nboot %s\n", owner, boot))
		if err == nil {
			return r, nil
		}
		last = err
		if !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, syscall.EWOULDBLOCK) && !errors.Is(err, fs.ErrExist) {
			break
		}
	}
	return nil, fmt.Errorf("lease: run directory %s: %w", run, last)
}

func tryRunDir(dir, run, text string) (_ *runDir, err error) {
	fresh := filepath.Join(dir, newPrefix+uuid.NewString())
	if err := os.Mkdir(fresh, 0o700); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(filepath.Join(fresh, lockName), os.O_RDWR|os.O_CREATE|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			f.Close()
		}
	}()
	if err := flock(f, syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		return nil, err
	}
	if _, err := f.WriteString(text); err != nil {
		return nil, err
	}
	if err := os.Rename(fresh, run); err != nil {
		return nil, err
	}
	lock := filepath.Join(run, lockName)
	if !sameFile(f, lock) {
		return nil, fs.ErrNotExist
	}
	return &runDir{lock: lock, file: f}, nil
}

// close unlocks the directory, and removes it first when nothing is left that
// its free lock would have to prove the end of.
func (r *runDir) close(remove bool) error {
	var err error
	if remove {
		err = os.RemoveAll(filepath.Dir(r.lock))
	}
	return errors.Join(err, r.file.Close())
}

// SweepRuns removes the run directories under dir whose processes are dead,
// with all that is in them, and returns their lock paths. That they were dead
// can be asked of OwnerAlive for another 30 days. It is safe beside processes
// that start or sweep at the same time. A dir that does not exist has none.
func SweepRuns(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("lease: run directories: %w", err)
	}
	var dead []string
	var errs []error
	for _, e := range entries {
		name := e.Name()
		id, ok := strings.CutPrefix(name, runPrefix)
		if !ok {
			if id, ok = strings.CutPrefix(name, newPrefix); !ok {
				continue
			}
		}
		lock := filepath.Join(dir, name, lockName)
		gone, err := sweepRun(dir, lock, id, name == runPrefix+id)
		if err != nil {
			errs = append(errs, fmt.Errorf("lease: run directory %s: %w", filepath.Join(dir, name), err))
		}
		if gone {
			dead = append(dead, lock)
		}
	}
	errs = append(errs, forgetProofs(filepath.Join(dir, deadName)))
	return dead, errors.Join(errs...)
}

// sweepRun removes one run directory if its lock is free.
func sweepRun(dir, lock, id string, proof bool) (bool, error) {
	f, err := os.OpenFile(lock, os.O_RDWR|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if errors.Is(err, fs.ErrNotExist) {
		// Just being made, or removed, or left so by a crash: only an empty
		// directory goes, and who is making it makes it again.
		_ = syscall.Rmdir(filepath.Dir(lock))
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer f.Close()
	if !localLocks(f) {
		return false, nil
	}
	if err := flock(f, syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return false, nil // alive
		}
		return false, err
	}
	// Renamed into place, or removed, since we opened it: then it is another's.
	if !sameFile(f, lock) {
		return false, nil
	}
	if !proof {
		// Who is making it may put a new lock there as soon as this one is
		// gone; then the directory is not empty and stays.
		err := os.Remove(lock)
		_ = syscall.Rmdir(filepath.Dir(lock))
		return false, err
	}
	if err := bury(dir, id); err != nil {
		return false, err
	}
	return true, os.RemoveAll(filepath.Dir(lock))
}

// bury keeps the proof that a run is dead.
func bury(dir, id string) error {
	proofs := filepath.Join(dir, deadName)
	if err := os.Mkdir(proofs, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	f, err := os.OpenFile(filepath.Join(proofs, id), os.O_WRONLY|os.O_CREATE|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		return err
	}
	return f.Close()
}

// buried tells whether the run of lockPath was found dead and removed.
func buried(lockPath string) bool {
	run := filepath.Dir(lockPath)
	id, ok := strings.CutPrefix(filepath.Base(run), runPrefix)
	if !ok || filepath.Base(lockPath) != lockName {
		return false
	}
	_, err := os.Lstat(filepath.Join(filepath.Dir(run), deadName, id))
	return err == nil
}

func forgetProofs(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			err = nil
		}
		return err
	}
	var errs []error
	for _, e := range entries {
		info, err := e.Info()
		if err == nil && time.Since(info.ModTime()) > keepProof {
			err = os.Remove(filepath.Join(dir, e.Name()))
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// SweepRuns removes the run directories of dead processes beside this
// Manager's own; see the function of that name. Call it when nothing needs
// what is in them any more.
func (m *Manager) SweepRuns() ([]string, error) { return SweepRuns(m.config.Dir) }
