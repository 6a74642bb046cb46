package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/bullpen-vm/bullpen/diskio/guest"
	"github.com/bullpen-vm/bullpen/vm"
)

// agent makes the agent of a worker on a connection, which it closes.
func agent(conn io.ReadWriteCloser, name string, password vm.Secret, dir string, log *slog.Logger) (*guest.Agent, error) {
	return guest.New(guest.Config{
		Conn: conn, Secret: password.Reveal(), Incarnation: name, Agent: "latent-worker", WorkDir: dir, Logger: log,
		Disks:   func(int) (guest.Disk, error) { return nil, errors.New("a worker that connects has no job disks") },
		Details: map[string]string{"pid": fmt.Sprint(os.Getpid())},
	})
}

// localWorker is a worker in this process, over a pipe in memory, until the master
// ends.
func (m *master) localWorker(name string, secret vm.Secret) {
	log := m.parts.log.With("worker", name)
	for pause := time.Second; m.running.Err() == nil; pause = min(2*pause, time.Minute) {
		near, far := net.Pipe()
		a, err := agent(far, name, secret, filepath.Join(m.parts.dir, "workers", name), log)
		if err != nil {
			log.Error("a local worker cannot run", "error", err)
			return
		}
		m.work.Go(func() { _ = m.dialin.Admit(m.running, near, "this process") }) // a refusal is logged, and ends the agent
		err = a.Run(m.running)
		if m.running.Err() == nil {
			log.Warn("a local worker ended and is started again", "error", err)
			wait(m.running, pause)
		}
	}
}

// runWorker is the command worker: a standard worker, started by hand.
func runWorker(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	flags := flag.NewFlagSet("latent worker", flag.ContinueOnError)
	flags.SetOutput(stderr)
	address := flags.String("master", "", "host:port of the master")
	name := flags.String("name", "", "the worker's name")
	file := flags.String("password-file", "", "the file with its password: an argument could be read by all users")
	dir := flags.String("dir", "", "the folder to work in (default latent-<name> in the folder for temporary files)")
	ca := flags.String("ca", "", "the certificates that the master's is checked with: the connection is encrypted then")
	if err := flags.Parse(args); err != nil {
		return 2
	}
	fail := func(code int, err error) int {
		fmt.Fprintln(stderr, "latent worker:", err)
		return code
	}
	if *address == "" || *name == "" || *file == "" || flags.NArg() > 0 {
		return fail(2, errors.New("-master, -name and -password-file are needed, and nothing else"))
	}
	text, err := os.ReadFile(*file)
	if err != nil {
		return fail(2, err)
	}
	password := vm.Secret(strings.TrimRight(string(text), "\r\n"))
	if *dir == "" {
		*dir = filepath.Join(os.TempDir(), "latent-"+*name)
	}
	if *dir, err = filepath.Abs(*dir); err != nil {
		return fail(2, err)
	}
	dial, err := dialer(*address, *ca)
	if err != nil {
		return fail(2, err)
	}
	log := slog.New(slog.NewTextHandler(stderr, nil)).With("worker", *name)
	pause := time.Second
	for ctx.Err() == nil {
		conn, err := dial(ctx)
		if err == nil {
			fmt.Fprintf(stdout, "worker %s: connected to %s\n", *name, *address)
			began := time.Now()
			var a *guest.Agent
			if a, err = agent(conn, *name, password, *dir, log); err != nil {
				return fail(2, errors.Join(err, conn.Close()))
			}
			err = a.Run(ctx)
			if errors.Is(err, guest.ErrRefused) {
				return fail(1, err)
			}
			if time.Since(began) > time.Minute {
				pause = time.Second
			}
		}
		if ctx.Err() == nil {
			log.Warn("not connected", "master", *address, "again_in", pause, "error", err)
			wait(ctx, pause+rand.N(pause/2)) // so that all workers of a master that comes back do not come at once
			pause = min(2*pause, time.Minute)
		}
	}
	return 0
}

// dialer connects to a master.
func dialer(address, ca string) (func(ctx context.Context) (net.Conn, error), error) {
	var plain net.Dialer
	if ca == "" {
		return func(ctx context.Context) (net.Conn, error) { return plain.DialContext(ctx, "tcp", address) }, nil
	}
	text, err := os.ReadFile(ca)
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(text) {
		return nil, fmt.Errorf("-ca %s has no certificate", ca)
	}
	secure := tls.Dialer{Config: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS13}}
	return func(ctx context.Context) (net.Conn, error) { return secure.DialContext(ctx, "tcp", address) }, nil
}

func wait(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}
