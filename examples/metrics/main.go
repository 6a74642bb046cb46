// Command metrics runs a pool whose numbers Prometheus can scrape:
//
//	cd examples/metrics && go run . -listen 127.0.0.1:9477
//	curl http://127.0.0.1:9477/metrics
//
// collector.go is what to copy into a harness.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/bullpen-vm/bullpen/pool"
	"github.com/bullpen-vm/bullpen/vm"
	"github.com/bullpen-vm/bullpen/vm/local"
)

func main() {
	local.Main() // a process that was started as a machine's agent runs it here
	listen := flag.String("listen", "127.0.0.1:9477", "where to serve /metrics")
	work := flag.Duration("work", time.Second, "how long each of the callers keeps its machine")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, *listen, *work, os.Stdout)
	if stop(); err != nil {
		fmt.Fprintln(os.Stderr, "metrics:", err)
		os.Exit(2)
	}
}

// run serves the metrics of a pool with more callers than machines until ctx
// ends.
func run(ctx context.Context, listen string, work time.Duration, out io.Writer) error {
	registry := prometheus.NewRegistry()
	metrics := NewMetrics(registry)
	driver, err := local.Open(local.Config{})
	if err != nil {
		return err
	}
	defer driver.Close()
	machines, err := pool.New(pool.Config{
		Name:      "metrics",
		Hosts:     []pool.Host{{Name: "here", Driver: driver, Slots: 2}},
		Templates: []pool.Template{{Name: "base", Ready: 1}},
		Trace:     metrics.Trace(),
	})
	if err != nil {
		return err
	}
	defer machines.Close(context.WithoutCancel(ctx))
	metrics.Watch("metrics", machines)

	at, err := new(net.ListenConfig).Listen(ctx, "tcp", listen)
	if err != nil {
		return err
	}
	mux := http.NewServeMux()
	mux.Handle("/metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{}))
	server := &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second}
	fmt.Fprintf(out, "http://%s/metrics\n", at.Addr())
	var all sync.WaitGroup
	defer all.Wait()
	defer server.Close()
	failed := make(chan error, 1)
	all.Go(func() { failed <- server.Serve(at) })
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	for i := range 3 {
		all.Go(func() { use(ctx, machines, fmt.Sprintf("caller-%d", i), work) })
	}
	select {
	case <-ctx.Done():
		return nil
	case err := <-failed:
		return err
	}
}

// use keeps a machine for a while, again and again.
func use(ctx context.Context, machines *pool.Pool, job string, work time.Duration) {
	for ctx.Err() == nil {
		g, err := machines.Acquire(ctx, pool.Want{Job: job})
		if err != nil {
			if !errors.Is(err, context.Canceled) {
				fmt.Fprintln(os.Stderr, "metrics:", err)
			}
			return
		}
		_, err = g.Exec(ctx, vm.Command{Argv: []string{"sleep", fmt.Sprint(work.Seconds())}})
		if err := g.Release(context.WithoutCancel(ctx), err); err != nil {
			fmt.Fprintln(os.Stderr, "metrics:", err)
		}
	}
}
