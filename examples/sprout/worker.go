package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"strings"
	"sync"
	"syscall"

	"github.com/bullpen-vm/bullpen/pool"
)

// workerMain runs a worker when this process was started as one, and says so; in
// every other process it returns at once. It is to be called after local.Main.
func workerMain() (code int, is bool) {
	if os.Getenv(workerRole) == "" {
		return 0, false
	}
	// Only the master ends a worker; an interrupt of the terminal is its affair.
	signal.Ignore(syscall.SIGINT, syscall.SIGHUP)
	log := slog.New(slog.NewTextHandler(os.Stderr, nil)).With("worker", strings.Join(os.Args[1:min(2, len(os.Args))], ""))
	if err := runWorker(log); err != nil {
		log.Error("the worker ends", "error", err)
		return 1, true
	}
	log.Info("the worker ends")
	return 0, true
}

func runWorker(log *slog.Logger) error {
	if len(os.Args) != 4 {
		return fmt.Errorf("%d arguments, want id, appliance and stamp", len(os.Args)-1)
	}
	if err := os.Unsetenv(workerRole); err != nil {
		return err
	}
	id, stamp := os.Args[1], os.Args[3]
	var a appliance
	if err := json.Unmarshal([]byte(os.Args[2]), &a); err != nil {
		return fmt.Errorf("the appliance: %w", err)
	}
	file := os.NewFile(workerSocket, "master")
	conn, err := net.FileConn(file)
	if err != nil {
		return err
	}
	if err := file.Close(); err != nil {
		return err
	}
	l := newLink(conn)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	go func() {
		<-l.over
		if ctx.Err() == nil {
			os.Exit(3) // the master is gone; nothing here may go on
		}
	}()
	log.Info("the worker starts", "pid", os.Getpid(), "stamp", stamp, "appliance", a.Name, "url", a.URL)
	hello, err := l.Receive(ctx)
	if err != nil {
		return err
	}
	t, guest, err := prepareWorker(ctx, id, stamp, a, hello, log)
	if err != nil {
		return errors.Join(err, l.Send(ctx, message{Kind: sayDone, Error: err.Error()}))
	}
	defer func() { _ = guest.Release(context.Background(), nil) }() // the handle; the guest is the master's
	if err := l.Send(ctx, message{Kind: sayReady}); err != nil {
		return err
	}
	return serve(ctx, l, t)
}

// prepareWorker reads slave_config and opens the appliance.
func prepareWorker(ctx context.Context, id, stamp string, a appliance, hello message, log *slog.Logger) (*tester, *pool.Guest, error) {
	c, err := readSlaveConfig(hello.Config)
	if err != nil {
		return nil, nil, err
	}
	if c.Runtime.Stamp != stamp {
		return nil, nil, fmt.Errorf("%s is of run %s, and this worker of run %s", hello.Config, c.Runtime.Stamp, stamp)
	}
	guest, err := pool.OpenHandle(ctx, hello.Handle)
	if err != nil {
		return nil, nil, err
	}
	return newTester(guest, c.Suite, c.Runtime.environment(id, a), log), guest, nil
}

// serve does what the master says, until it says that it is over.
func serve(ctx context.Context, l *link, t *tester) error {
	var running sync.WaitGroup
	defer running.Wait()
	stop := func(error) {}
	defer func() { stop(nil) }()
	for {
		m, err := l.Receive(ctx)
		if err != nil {
			return err
		}
		switch m.Kind {
		case sayStop:
			stop(errors.New("the master says stop"))
		case sayShutdown:
			return nil
		case sayCollect, sayRun:
			running.Wait() // the master does not ask twice at once
			var does context.Context
			var cancel context.CancelCauseFunc
			does, cancel = context.WithCancelCause(ctx)
			stop = cancel
			running.Go(func() {
				defer cancel(nil)
				answer(ctx, does, l, t, m)
			})
		default:
			return fmt.Errorf("the master says %q", m.Kind)
		}
	}
}

// answer collects or runs, as long as does lasts. The master is told as long as ctx
// lasts; when it cannot be told, the process ends by the link's end.
func answer(ctx, does context.Context, l *link, t *tester, m message) {
	said := message{Kind: sayCollected}
	var err error
	if m.Kind == sayCollect {
		said.Tests, err = t.collect(does)
	} else {
		said.Kind = sayDone
		err = t.runTests(does, m.Group, m.Tests, func(e event) {
			if err := l.Send(ctx, message{Kind: sayEvent, Event: &e}); err != nil {
				t.log.Error("an event was not taken", "test", e.Test, "error", err)
			}
		})
	}
	if err != nil {
		said.Error, said.Faulty = err.Error(), errors.Is(err, errMachine)
	}
	if err := l.Send(ctx, said); err != nil {
		t.log.Error("the answer was not taken", "kind", said.Kind, "error", err)
	}
}
