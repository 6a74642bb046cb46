package atomicfile

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
)

// Write makes the file at path hold what fill writes, with the given permission
// bits: a new file beside it, synced and renamed over it. When fill or anything
// else fails, the old file stays as it was and the new one is removed. Two
// writers at once are safe; the later rename wins. What writers that were killed
// have left beside the file is removed.
func Write(path string, mode os.FileMode, fill func(io.Writer) error) (err error) {
	_ = Sweep(path) // not what was asked for; the next Write tries again
	f, err := create(path)
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	defer func() {
		if err != nil {
			err = fmt.Errorf("write %s: %w", path, errors.Join(err, os.Remove(f.Name()), f.Close()))
		}
	}()
	buffered := bufio.NewWriter(f)
	if err := fill(buffered); err != nil {
		return err
	}
	if err := buffered.Flush(); err != nil {
		return err
	}
	if err := f.Chmod(mode); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return err
	}
	_ = f.Close() // it is on the disk; its lock had to outlive its name
	return nil
}
