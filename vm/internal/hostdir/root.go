package hostdir

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

// MakeRoot makes the folder of a driver's machines, or checks that it is this
// user's and may be used by others no more than mode says, which is 0700 or 0711:
// with the latter, others get through to what they are told of, and list nothing.
// It gives the real path. Its errors name the field Config.Root.
func MakeRoot(path string, mode fs.FileMode) (string, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return "", fmt.Errorf("root: %w", err)
	}
	if err := os.MkdirAll(filepath.Dir(path), mode); err != nil {
		return "", fmt.Errorf("root: %w", err)
	}
	if err := Mkdir(path, mode); err != nil {
		return "", fmt.Errorf("root: %w", err)
	}
	fi, err := os.Lstat(path)
	if err != nil {
		return "", fmt.Errorf("root: %w", err)
	}
	if !fi.IsDir() {
		return "", fmt.Errorf("Config.Root %s is a %v, want a folder (symbolic links are refused)", path, fi.Mode().Type())
	}
	if uid := fi.Sys().(*syscall.Stat_t).Uid; int(uid) != os.Geteuid() {
		return "", fmt.Errorf("Config.Root %s belongs to user %d, want %d: choose another root", path, uid, os.Geteuid())
	}
	if fi.Mode().Perm()&^mode != 0 || fi.Mode().Perm()&0o700 != 0o700 {
		if err := os.Chmod(path, mode); err != nil {
			return "", fmt.Errorf("root: %w", err)
		}
	}
	return filepath.EvalSymlinks(path)
}

// Mkdir makes a folder with that mode, unless it is there. The umask has no say: a
// hypervisor that runs as another user would not get through.
func Mkdir(path string, mode fs.FileMode) error {
	err := os.Mkdir(path, mode)
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	if err != nil {
		return err
	}
	return os.Chmod(path, mode)
}
