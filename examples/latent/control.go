package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"sync"

	"github.com/bullpen-vm/bullpen/result"
)

// request is what the command build says to the master over its socket. The answer
// is one build a line, as each ends, and an answer that is over.
type request struct {
	Builders   []string          `json:"builders"`
	Properties map[string]string `json:"properties,omitempty"`
}

type answer struct {
	Build *build `json:"build,omitempty"`
	Error string `json:"error,omitempty"`
	Over  bool   `json:"over,omitempty"`
}

// mostRequest bounds what a request may have, in bytes.
const mostRequest = 1 << 20

// control takes requests for builds until ctx ends, and then waits for those that
// run. Only this user may connect.
func (m *master) control(ctx context.Context, file string) error {
	if err := os.Remove(file); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "unix", file)
	if err != nil {
		return err
	}
	defer l.Close()
	if err := os.Chmod(file, 0o600); err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { _ = l.Close() })
	defer stop()
	var work sync.WaitGroup
	defer work.Wait()
	for {
		conn, err := l.Accept()
		if err != nil {
			if ctx.Err() != nil {
				return nil //nolint:nilerr // that is how it was told to end
			}
			return err
		}
		work.Go(func() { m.answer(ctx, conn) })
	}
}

// answer serves one connection. Who hangs up cancels its builds.
func (m *master) answer(ctx context.Context, conn net.Conn) {
	defer conn.Close()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { _ = conn.(*net.UnixConn).CloseRead() })
	defer stop()
	var r request
	d := json.NewDecoder(io.LimitReader(conn, mostRequest))
	d.DisallowUnknownFields()
	var mu sync.Mutex
	say := func(a answer) {
		mu.Lock()
		defer mu.Unlock()
		if err := json.NewEncoder(conn).Encode(a); err != nil {
			cancel()
		}
	}
	if err := d.Decode(&r); err != nil {
		say(answer{Error: err.Error(), Over: true})
		return
	}
	var hungUp sync.WaitGroup
	hungUp.Go(func() {
		_, _ = io.Copy(io.Discard, conn) // until its end
		cancel()
	})
	var builds sync.WaitGroup
	for _, b := range r.Builders {
		builds.Go(func() {
			done, err := m.build(ctx, b, r.Properties)
			if err != nil {
				say(answer{Error: err.Error()})
				return
			}
			say(answer{Build: &done})
		})
	}
	builds.Wait()
	say(answer{Over: true})
	cancel()
	hungUp.Wait()
}

// askMaster is the command build: it asks the master and shows the builds.
func askMaster(ctx context.Context, file string, r request, stdout io.Writer) (int, error) {
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, "unix", file)
	if err != nil {
		return 2, fmt.Errorf("is the master there? %w", err)
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	if err := json.NewEncoder(conn).Encode(r); err != nil {
		return 2, err
	}
	code := 0
	for d := json.NewDecoder(conn); ; {
		var a answer
		if err := d.Decode(&a); err != nil {
			return 2, fmt.Errorf("the master went away: %w", err)
		}
		if a.Error != "" {
			return 2, errors.New(a.Error)
		}
		if a.Build != nil {
			show(stdout, *a.Build)
			if a.Build.Status != result.Passed {
				code = 1
			}
		}
		if a.Over {
			return code, nil
		}
	}
}

// show prints a build with what its starts went through.
func show(w io.Writer, b build) {
	fmt.Fprintln(w, b)
	for _, s := range b.Starts {
		fmt.Fprintf(w, "  start: %s on %s, waited %v, boot %v", s.Worker, s.Host, s.Queued.Round(1e6), s.Boot.Round(1e6))
		for _, k := range sorted(s.Details) {
			fmt.Fprintf(w, ", %s=%s", k, s.Details[k])
		}
		fmt.Fprintln(w)
		for _, n := range s.News {
			fmt.Fprintln(w, "    "+n)
		}
	}
	if b.Status != result.Passed && b.Output != "" {
		fmt.Fprintln(w, b.Output)
	}
}
