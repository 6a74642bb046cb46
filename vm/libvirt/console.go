package libvirt

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/bullpen-vm/bullpen/vm/internal/hostdir"
)

// consoleTail gives at most the last n bytes; nothing when there is no console.
func consoleTail(path string, n int) ([]byte, error) { return hostdir.Tail(path, n) }

// consoleTail gives the end of a machine's console, wherever it is.
func (d *Driver) consoleTail(ctx context.Context, spec specRecord, n int) ([]byte, error) {
	if spec.FarConsole == "" {
		return consoleTail(spec.Console, n)
	}
	var b []byte
	err := d.line.use(ctx, true, func(c conn) error {
		all, err := c.Volumes(d.conf.Pool, spec.FarConsole)
		if err != nil || len(all) == 0 || n <= 0 {
			return err
		}
		// virtlogd may begin it anew at any moment: then it is shorter.
		b = make([]byte, min(int64(n), all[0].size))
		if len(b) == 0 {
			return nil
		}
		return c.Download(d.conf.Pool, spec.FarConsole, all[0].size-int64(len(b)), b)
	})
	if err != nil {
		return nil, fmt.Errorf("console: volume %s of pool %s: %w", spec.FarConsole, d.conf.Pool, err)
	}
	return b, nil
}

// trimConsole keeps the newest half of a console that got longer than the bound.
// QEMU appends, so it goes on at the new end. What it writes just now may be
// lost or torn: the console is for people.
func trimConsole(path string, most int64) error {
	fi, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) || err == nil && (fi.Size() <= most || !fi.Mode().IsRegular()) {
		return nil
	}
	if err != nil {
		return err
	}
	keep, err := consoleTail(path, int(most/2))
	if err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	// In this order: a reader sees lines twice, but never an empty console.
	if _, err = f.WriteAt(keep, 0); err == nil {
		err = f.Truncate(int64(len(keep)))
	}
	return errors.Join(err, f.Close())
}
