package lease

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// Dead tells whether the owner of r is proven dead: r was written on this
// machine, in this boot and these namespaces, and the flock that its owner
// held for life is free. known is false when that cannot be told; unknown is
// not dead. A fixed term has no lock, for it outlives its owner.
func Dead(r Record) (dead, known bool) {
	if r.Lock == "" || r.Boot == "" || r.Boot != bootText() {
		return false, false
	}
	alive, known := OwnerAlive(r.Lock)
	return known && !alive, known
}

// OwnerAlive tells from the flock file of a run directory, as Manager.LockPath
// gives it, whether the process that made it lives. The paths are unique, so
// one that exists here was made here; one that was removed as dead by
// SweepRuns is remembered for a while. known is false for any other path that
// does not exist, cannot be read, or lies on a network file system, where
// locks may be of each machine's own.
func OwnerAlive(lockPath string) (alive, known bool) {
	if !filepath.IsAbs(lockPath) {
		return false, false
	}
	f, err := os.OpenFile(lockPath, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return false, buried(lockPath)
	}
	if err != nil {
		return false, false
	}
	defer f.Close()
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() || !localLocks(f) {
		return false, false
	}
	// Shared, so that those who ask do not look alive to each other.
	switch err := flock(f, syscall.LOCK_SH|syscall.LOCK_NB); {
	case err == nil:
		// A lock that was taken off its path meanwhile is no proof.
		return false, sameFile(f, lockPath)
	case errors.Is(err, syscall.EWOULDBLOCK):
		return true, true
	}
	return false, false
}

func flock(f *os.File, how int) error {
	for {
		err := syscall.Flock(int(f.Fd()), how)
		if !errors.Is(err, syscall.EINTR) {
			return err
		}
	}
}

// sameFile tells whether path still names the open file.
func sameFile(f *os.File, path string) bool {
	a, err1 := f.Stat()
	b, err2 := os.Lstat(path)
	return err1 == nil && err2 == nil && os.SameFile(a, b)
}

// bootText names this boot of this machine and the namespaces of processes and
// mounts in which paths and flocks mean what the owner meant; empty where that
// cannot be told.
func bootText() string {
	boot, err1 := os.ReadFile("/proc/sys/kernel/random/boot_id")
	pid, err2 := os.Readlink("/proc/self/ns/pid")
	mnt, err3 := os.Readlink("/proc/self/ns/mnt")
	if err1 != nil || err2 != nil || err3 != nil {
		return ""
	}
	return strings.TrimSpace(string(boot)) + " " + pid + " " + mnt
}
