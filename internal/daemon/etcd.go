package daemon

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"
)

// Etcd starts an etcd of one member: the program that BULLPEN_ETCD names, or "etcd".
func Etcd(ctx context.Context) (_ *Server, err error) {
	program := os.Getenv("BULLPEN_ETCD")
	if program == "" {
		program = "etcd"
	}
	dir, err := os.MkdirTemp("", "bullpen-etcd")
	if err != nil {
		return nil, fmt.Errorf("daemon: %w", err)
	}
	s := &Server{dir: dir, softly: syscall.SIGINT, crashing: syscall.SIGKILL}
	defer func() {
		if err != nil {
			_ = s.Close() // the first error counts
		}
	}()
	client, err := freePort(ctx)
	if err != nil {
		return nil, fmt.Errorf("daemon: %w", err)
	}
	peer, err := freePort(ctx)
	if err != nil {
		return nil, fmt.Errorf("daemon: %w", err)
	}
	s.Address = fmt.Sprintf("127.0.0.1:%d", client)
	here, there := "http://"+s.Address, fmt.Sprintf("http://127.0.0.1:%d", peer)
	s.start = func() *exec.Cmd {
		c := exec.Command(program, "--name", "test", "--data-dir", filepath.Join(dir, "data"), //nolint:gosec,noctx // its life is the Server's
			"--listen-client-urls", here, "--advertise-client-urls", here, "--listen-peer-urls", there,
			"--initial-advertise-peer-urls", there, "--initial-cluster", "test="+there, "--logger", "zap", "--log-level", "error")
		c.SysProcAttr = child(nil)
		return c
	}
	s.ready = func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
		defer cancel()
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, here+"/health", nil)
		if err != nil {
			return err
		}
		answer, err := http.DefaultClient.Do(request)
		if err != nil {
			return err
		}
		defer answer.Body.Close()
		if answer.StatusCode != http.StatusOK {
			return fmt.Errorf("its health is %s", answer.Status)
		}
		return nil
	}
	return s, s.Up(ctx)
}
