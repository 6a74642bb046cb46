package main

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"sync"
	"time"

	"github.com/bullpen-vm/bullpen/lease"
	"github.com/bullpen-vm/bullpen/pool"
	"github.com/bullpen-vm/bullpen/vm"
	"github.com/bullpen-vm/bullpen/vm/dialin"
)

// parts are what a master works with; tests put fakes in.
type parts struct {
	store lease.Store
	hosts []opened
	post  post // sends mails; nil: by SMTP
	log   *slog.Logger
	dir   string // for work folders and what builds bring back
	// noLock is for stores of a test that no other process sees.
	noLock bool
}

// master runs builds on workers. newMaster makes it, close ends it.
type master struct {
	config *config
	parts  parts
	leases *lease.Manager
	dialin *dialin.Driver // nil: all workers are latent
	pool   *pool.Pool
	mail   *mailer
	absent *absences
	desk   *desk

	running context.Context // of local workers and listeners
	stop    context.CancelFunc
	work    sync.WaitGroup
	address net.Addr // where standard workers connect

	mu      sync.Mutex
	numbers map[string]int // of builds, by builder
}

func newMaster(c *config, p parts) (*master, error) {
	m := &master{config: c, parts: p, numbers: map[string]int{}}
	m.running, m.stop = context.WithCancel(context.Background())
	var err error
	m.leases, err = lease.New(lease.Config{Store: p.store, Owner: c.Name, NoLock: p.noLock, Logger: p.log})
	if err != nil {
		return nil, err
	}
	m.mail = newMailer(c.Mail, p.post, p.log)
	m.absent = newAbsences(c, m.mail)
	m.desk = newDesk(c)
	secrets := map[string]vm.Secret{}
	for _, w := range c.Workers {
		if w.Type == typeLocal {
			secrets[w.Name] = vm.Secret(rand.Text())
		}
	}
	var connected vm.Driver
	if d := c.dialinConfig(secrets); len(d.Workers) > 0 {
		d.Logger = p.log
		d.Changed = func(name string, up bool, why error) { m.absent.changed(name, up, why) }
		if m.dialin, err = dialin.Open(d); err != nil {
			return nil, errors.Join(err, m.close(context.Background()))
		}
		connected = m.dialin
	}
	pc := c.poolConfig(p.hosts, connected)
	pc.Leases, pc.Logger = m.leases, p.log
	pc.Trace = &pool.Trace{Event: func(e pool.Event) {
		m.desk.heard(e)
		m.absent.heard(e)
	}}
	if m.pool, err = pool.New(pc); err != nil {
		return nil, errors.Join(err, m.close(context.Background()))
	}
	for name, secret := range secrets {
		m.work.Go(func() { m.localWorker(name, secret) })
	}
	return m, nil
}

// listen lets standard workers connect.
func (m *master) listen() error {
	if m.config.Listen == "" || m.dialin == nil {
		return nil
	}
	var lc net.ListenConfig
	l, err := lc.Listen(m.running, "tcp", m.config.Listen)
	if err != nil {
		return err
	}
	m.address = l.Addr()
	if t := m.config.TLS; t != nil {
		cert, err := tls.LoadX509KeyPair(m.config.path(t.Certificate), m.config.path(t.Key))
		if err != nil {
			return errors.Join(fmt.Errorf("tls: %w", err), l.Close())
		}
		l = tls.NewListener(l, &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS13})
	}
	m.work.Go(func() {
		if err := m.dialin.Serve(m.running, l); err != nil && !errors.Is(err, vm.ErrClosed) {
			m.parts.log.Error("workers cannot connect any more", "error", err)
		}
	})
	return nil
}

// closeTime bounds the end of a master beside the caller's context.
const closeTime = 2 * time.Minute

// close ends everything that the master started, latent machines included. Builds
// have ended before. It closes neither the store nor the hosts' drivers.
func (m *master) close(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeTime)
	defer cancel()
	var errs []error
	if m.pool != nil {
		errs = append(errs, m.pool.Close(ctx))
	}
	m.absent.close()
	m.stop()
	if m.dialin != nil {
		errs = append(errs, m.dialin.Close())
	}
	m.work.Wait()
	m.mail.close()
	errs = append(errs, m.leases.Close(ctx))
	return errors.Join(errs...)
}

// openMaster opens what the file names, and a master on it. end closes all.
func openMaster(ctx context.Context, c *config, log *slog.Logger) (m *master, end func(context.Context) error, err error) {
	p := parts{log: log, dir: c.path(c.Dir)}
	var ends []func() error // of what is open, the first last
	closeAll := func(ctx context.Context) error {
		var errs []error
		if m != nil {
			errs = append(errs, m.close(ctx))
		}
		for i := range ends {
			errs = append(errs, ends[len(ends)-1-i]())
		}
		return errors.Join(errs...)
	}
	fail := func(err error) (*master, func(context.Context) error, error) {
		return nil, nil, errors.Join(err, closeAll(ctx))
	}
	if p.dir == "" {
		if p.dir, err = os.MkdirTemp("", "latent-"); err != nil {
			return fail(err)
		}
		ends = append(ends, func() error { return os.RemoveAll(p.dir) })
	}
	store, closeStore, err := openStore(ctx, c.path(c.Store))
	if err != nil {
		return fail(err)
	}
	p.store = store
	ends = append(ends, closeStore)
	for _, h := range c.Hosts {
		o, err := openHost(ctx, h, false, log)
		if err != nil {
			return fail(err)
		}
		p.hosts = append(p.hosts, o)
		ends = append(ends, o.driver.Close)
	}
	if m, err = newMaster(c, p); err != nil {
		return fail(err)
	}
	if err := m.listen(); err != nil {
		return fail(err)
	}
	return m, closeAll, nil
}
