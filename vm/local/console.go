package local

import (
	"errors"
	"fmt"
	"io"
	"os"
	"sync"

	"github.com/bullpen-vm/bullpen/vm/internal/hostdir"
)

// consoleLog appends to a file that never gets longer than a bound: when it
// would, the older half is dropped. Others may append lines of their own, such
// as the last words of a keeper's program.
type consoleLog struct {
	most int64
	mu   sync.Mutex
	to   *os.File // appends
	f    *os.File // the same file, for halve
}

func openConsole(path string, most int64) (*consoleLog, error) {
	to, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return nil, fmt.Errorf("console: %w", err)
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("console: %w", err), to.Close())
	}
	return &consoleLog{most: most, to: to, f: f}, nil
}

// drain takes all that r gives until it ends. It goes on when the file cannot
// be written: a guest must never be held up by its console.
func (c *consoleLog) drain(r io.ReadCloser) {
	defer r.Close()
	b := make([]byte, 32<<10)
	for {
		n, err := r.Read(b)
		if n > 0 {
			_ = c.write(b[:n]) // lost: there is no other place to say it
		}
		if err != nil {
			return
		}
	}
}

func (c *consoleLog) write(b []byte) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	fi, err := c.f.Stat()
	if err != nil {
		return err
	}
	if most := c.most / 2; int64(len(b)) > most {
		b = b[int64(len(b))-most:]
	}
	if fi.Size()+int64(len(b)) > c.most {
		if err := c.halve(fi.Size()); err != nil {
			return err
		}
	}
	_, err = c.to.Write(b)
	return err
}

// halve keeps the newest half of the bound. A reader at this moment may see
// lines twice or torn: the console is for people.
func (c *consoleLog) halve(size int64) error {
	keep := make([]byte, min(c.most/2, size))
	if _, err := c.f.ReadAt(keep, size-int64(len(keep))); err != nil && err != io.EOF {
		return err
	}
	if _, err := c.f.WriteAt(keep, 0); err != nil {
		return err
	}
	return c.f.Truncate(int64(len(keep)))
}

// consoleTail gives at most the last n bytes; nothing when there is no console.
func consoleTail(path string, n int) ([]byte, error) { return hostdir.Tail(path, n) }
