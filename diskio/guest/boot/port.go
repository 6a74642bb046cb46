//go:build linux

package boot

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"
)

// poll is how often is looked for what the kernel has not found yet, and for a
// host on a port without one.
const poll = 5 * time.Millisecond

// findPort waits for the virtio-serial port of that name. The number in vport0p1
// is the order of probing and says nothing.
func findPort(ctx context.Context, sys, name string) (string, error) {
	for {
		names, err := filepath.Glob(filepath.Join(sys, "class/virtio-ports/*/name"))
		if err != nil {
			return "", err
		}
		for _, file := range names {
			text, err := os.ReadFile(file)
			if err == nil && strings.TrimSpace(string(text)) == name {
				return "/dev/" + filepath.Base(filepath.Dir(file)), nil
			}
		}
		if err := pause(ctx); err != nil {
			return "", fmt.Errorf("boot: no virtio-serial port named %q: %w", name, err)
		}
	}
}

func pause(ctx context.Context) error {
	t := time.NewTimer(poll)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// port is the guest's end of the channel. Reads of a port that no host is
// connected to answer end of file at once, so they are tried again until there
// is one. Once a host was heard, an end of file means that it has left: the
// channel has ended, and is opened again for the next host, such as that of a
// machine made from this one's saved state.
type port struct {
	f     *os.File
	heard bool // used by Read alone
	once  sync.Once
	done  chan struct{}
}

func openPort(ctx context.Context, path string) (*port, error) {
	for {
		f, err := os.OpenFile(path, os.O_RDWR, 0)
		if err == nil {
			return &port{f: f, done: make(chan struct{})}, nil
		}
		// The device node comes a moment after its name in /sys.
		if perr := pause(ctx); perr != nil {
			return nil, fmt.Errorf("boot: %w: %w", err, perr)
		}
	}
}

func (p *port) Read(b []byte) (int, error) {
	t := time.NewTimer(0)
	defer t.Stop()
	for {
		n, err := p.f.Read(b)
		if n > 0 || err != nil && !errors.Is(err, io.EOF) || p.heard {
			p.heard = true
			if n == 0 && err == nil {
				err = io.EOF
			}
			return n, err
		}
		t.Reset(poll)
		select {
		case <-t.C:
		case <-p.done:
			return 0, os.ErrClosed
		}
	}
}

func (p *port) Write(b []byte) (int, error) { return p.f.Write(b) }

func (p *port) Close() error {
	p.once.Do(func() { close(p.done) })
	return p.f.Close()
}
