package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"

	"github.com/bullpen-vm/bullpen/lease"
	"github.com/bullpen-vm/bullpen/vm"
)

// leak is a machine that exists and that nobody holds.
type leak struct {
	host    string
	machine vm.Info
	why     string
}

// String is one line.
func (l leak) String() string {
	return fmt.Sprintf("LEAK %s on %s (%v): %s", l.machine.ID, l.host, l.machine.State, l.why)
}

// findLeaks compares the machines of this master's name that the hosts list with
// what the leases say. It believes neither the master nor its pool: it asks the
// hypervisors and the store.
func findLeaks(ctx context.Context, name string, leases *lease.Manager, hosts []opened) (leaks []leak, held int, err error) {
	store, err := leases.StoreID(ctx)
	if err != nil {
		return nil, 0, err
	}
	for _, h := range hosts {
		// The machines first: one whose lease is given back in between is gone by
		// then, for a slot is kept until its machine is destroyed.
		machines, err := h.driver.List(ctx)
		if err != nil {
			return nil, 0, fmt.Errorf("host %s: %w", h.Name, err)
		}
		all, err := leases.Inspect(ctx, "host/"+h.driver.HostID()+"/slot/")
		if err != nil {
			return nil, 0, err
		}
		records := map[string]lease.Holding{}
		for _, r := range all {
			records[r.Key] = r
		}
		newest := map[string]uint64{} // of the machines in a slot
		for _, m := range machines {
			if m.Owner.Pool == name && m.Owner.Store == store {
				newest[m.Owner.Slot] = max(newest[m.Owner.Slot], m.Owner.Token)
			}
		}
		for _, m := range machines {
			if m.Owner.Pool != name {
				continue // somebody else's
			}
			if why := unheld(m, store, records[m.Owner.Slot], newest[m.Owner.Slot]); why != "" {
				leaks = append(leaks, leak{h.Name, m, why})
			} else {
				held++
			}
		}
	}
	return leaks, held, nil
}

// unheld says why nobody holds a machine; empty: somebody does.
func unheld(m vm.Info, store string, r lease.Holding, newest uint64) string {
	switch {
	case m.Owner.Store != store:
		return "its slot is in another lease store"
	case r.Record.Zero():
		return "nobody has a lease on its slot " + m.Owner.Slot
	case r.Orphan:
		return "the session of the lease on its slot " + m.Owner.Slot + " is gone"
	case r.Known && r.Dead:
		return "who has the lease on its slot " + m.Owner.Slot + " is dead: " + r.Record.Owner
	case m.Owner.Session != r.Record.Session:
		return "its slot " + m.Owner.Slot + " is leased by another session than the one that made it"
	case m.Owner.Token < newest:
		return "a newer machine has its slot " + m.Owner.Slot
	}
	return ""
}

// runLeaks is the command leaks: exit code 0 when each machine is held, 1 when one
// is not, 2 when that could not be told.
func runLeaks(ctx context.Context, c *config, stdout io.Writer, log *slog.Logger) (int, error) {
	if c.Store == "" {
		return 2, bad("store", "", "the file with the leases: those in memory are the master's alone")
	}
	store, closeStore, err := openStore(ctx, c.path(c.Store))
	if err != nil {
		return 2, err
	}
	ends := []func() error{closeStore}
	defer func() {
		for i := range ends {
			if err := ends[len(ends)-1-i](); err != nil {
				log.Warn("leaks: closing", "error", err)
			}
		}
	}()
	leases, err := lease.New(lease.Config{Store: store, Owner: c.Name + " leaks", NoLock: true, Logger: log})
	if err != nil {
		return 2, err
	}
	ends = append(ends, func() error { return leases.Close(context.WithoutCancel(ctx)) })
	var hosts []opened
	for _, h := range c.Hosts {
		o, err := openHost(ctx, h, true, log)
		if err != nil {
			return 2, err
		}
		hosts = append(hosts, o)
		ends = append(ends, o.driver.Close)
	}
	if len(hosts) == 0 {
		return 2, errors.New("no hosts are configured")
	}
	leaks, held, err := findLeaks(ctx, c.Name, leases, hosts)
	if err != nil {
		return 2, err
	}
	for _, l := range leaks {
		fmt.Fprintln(stdout, l)
	}
	fmt.Fprintf(stdout, "%d machines are held, %d are not\n", held, len(leaks))
	if len(leaks) > 0 {
		return 1, nil
	}
	return 0, nil
}
