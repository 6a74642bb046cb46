package daemon

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"syscall"
	"time"
)

// PostgreSQL starts the newest PostgreSQL of this machine with one superuser, who
// needs no password. Where this is root it runs as postgres or nobody.
func PostgreSQL(ctx context.Context) (_ *Server, err error) {
	found, err := filepath.Glob("/usr/lib/postgresql/*/bin/initdb")
	if err != nil || len(found) == 0 {
		return nil, errors.New("daemon: no /usr/lib/postgresql/*/bin/initdb")
	}
	slices.Sort(found)
	bin := filepath.Dir(found[len(found)-1])
	who, err := unprivileged()
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "bullpen-postgres")
	if err != nil {
		return nil, fmt.Errorf("daemon: %w", err)
	}
	s := &Server{dir: dir, softly: syscall.SIGINT, crashing: syscall.SIGQUIT} // which its children hear of too
	defer func() {
		if err != nil {
			_ = s.Close() // the first error counts
		}
	}()
	as := func(name string, args ...string) *exec.Cmd {
		c := exec.Command(filepath.Join(bin, name), args...) //nolint:gosec,noctx // its life is the Server's
		c.Dir = dir
		c.Env = []string{"PATH=" + os.Getenv("PATH"), "LC_ALL=C", "HOME=" + dir}
		c.SysProcAttr = child(who)
		return c
	}
	data := filepath.Join(dir, "data")
	if err := os.Mkdir(data, 0o700); err != nil {
		return nil, fmt.Errorf("daemon: %w", err)
	}
	if who != nil {
		for _, d := range []string{dir, data} {
			if err := os.Chown(d, int(who.Uid), int(who.Gid)); err != nil {
				return nil, fmt.Errorf("daemon: %w", err)
			}
		}
	}
	// The superuser is called as the address says; only the loopback is open.
	if out, err := as("initdb", "-D", data, "-U", "bullpen", "-A", "trust", "-E", "UTF8", "--no-sync").CombinedOutput(); err != nil {
		return nil, fmt.Errorf("daemon: initdb: %w: %s", err, out)
	}
	port, err := freePort(ctx)
	if err != nil {
		return nil, fmt.Errorf("daemon: %w", err)
	}
	s.Address = fmt.Sprintf("postgres://bullpen@127.0.0.1:%d/postgres?sslmode=disable", port)
	s.start = func() *exec.Cmd {
		return as("postgres", "-D", data, "-p", strconv.Itoa(port), "-k", "", "-c", "listen_addresses=127.0.0.1", "-c", "max_connections=250", "-c", "shared_buffers=64MB")
	}
	s.ready = func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
		defer cancel()
		out, err := exec.CommandContext(ctx, filepath.Join(bin, "pg_isready"), "-h", "127.0.0.1", "-p", strconv.Itoa(port)).CombinedOutput() //nolint:gosec // its own port
		if err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		return nil
	}
	return s, s.Up(ctx)
}

// unprivileged gives the user that PostgreSQL runs as where this is root.
func unprivileged() (*syscall.Credential, error) {
	if os.Getuid() != 0 {
		return nil, nil //nolint:nilnil // nobody else
	}
	for _, name := range []string{"postgres", "nobody"} {
		u, err := user.Lookup(name)
		if err != nil {
			continue
		}
		uid, err1 := strconv.ParseUint(u.Uid, 10, 32)
		gid, err2 := strconv.ParseUint(u.Gid, 10, 32)
		if err1 == nil && err2 == nil {
			return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}, nil
		}
	}
	return nil, errors.New("daemon: no user postgres or nobody to run PostgreSQL as")
}
