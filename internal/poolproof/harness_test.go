package poolproof

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	_ "modernc.org/sqlite"

	"github.com/bullpen-vm/bullpen/lease"
	"github.com/bullpen-vm/bullpen/lease/sqlstore"
	"github.com/bullpen-vm/bullpen/pool"
	"github.com/bullpen-vm/bullpen/vm"
	"github.com/bullpen-vm/bullpen/vm/local"
)

// victimVariable makes this program the harness that is killed: the kind of its
// machines, then the folder of everything, then what the kind needs.
const victimVariable = "BULLPEN_POOL_PROOF_VICTIM"

func TestMain(m *testing.M) {
	local.Main()
	if text := os.Getenv(victimVariable); text != "" {
		fmt.Fprintln(os.Stderr, "victim:", victim(strings.Split(text, "|")))
		os.Exit(1)
	}
	os.Exit(m.Run())
}

const (
	slots   = 3 // of the one host, for all harnesses together
	workers = 2 // of each harness: together they want more
)

// harness is a pool with all that it needs.
type harness struct {
	*pool.Pool
	leases *lease.Manager
	driver vm.Driver
	db     *sql.DB
	store  *sqlstore.Store
}

func open(ctx context.Context, args []string, ready int) (_ *harness, err error) {
	h := new(harness)
	defer func() {
		if err != nil {
			err = errors.Join(err, h.close(ctx))
		}
	}()
	dir := args[1]
	path := filepath.Join(dir, "leases.db")
	if h.db, err = sql.Open("sqlite", "file:"+path); err != nil {
		return h, err
	}
	if h.store, err = sqlstore.Open(ctx, h.db, sqlstore.Config{Dialect: sqlstore.SQLite{Path: path}}); err != nil {
		return h, err
	}
	if h.leases, err = lease.New(lease.Config{Store: h.store, Dir: filepath.Join(dir, "run"), TTL: ttl, Margin: margin}); err != nil {
		return h, err
	}
	var spec vm.Spec
	if h.driver, spec, err = drive(ctx, args); err != nil {
		return h, err
	}
	onExit := vm.Die
	if args[0] != "local" {
		onExit = vm.Survive // so that something is left
	}
	h.Pool, err = pool.New(pool.Config{
		Name: "shared", Leases: h.leases, Hosts: []pool.Host{{Name: "here", Driver: h.driver, Slots: slots}},
		Templates: []pool.Template{{Name: "base", Spec: spec, OnExit: onExit, MostUses: 3, Ready: ready, Idle: pool.IdleFor(0)}}, Poll: time.Second, Drain: time.Minute,
	})
	return h, err
}

// drive opens the driver of a kind of machines.
func drive(ctx context.Context, args []string) (vm.Driver, vm.Spec, error) {
	if args[0] == "local" {
		d, err := local.Open(local.Config{Root: filepath.Join(args[1], "machines")})
		return d, vm.Spec{}, err
	}
	return driveReal(ctx, args)
}

// close closes what was opened, in its order.
func (h *harness) close(ctx context.Context) error {
	var errs []error
	if h.Pool != nil {
		errs = append(errs, h.Close(ctx))
	}
	if h.leases != nil {
		errs = append(errs, h.leases.Close(ctx))
	}
	if h.driver != nil {
		errs = append(errs, h.driver.Close())
	}
	if h.store != nil {
		errs = append(errs, h.store.Close())
	}
	if h.db != nil {
		errs = append(errs, h.db.Close())
	}
	return errors.Join(errs...)
}

// use holds one machine for a moment.
func (h *harness) use(ctx context.Context, job string, limit time.Duration) (waited time.Duration, err error) {
	began := time.Now()
	g, err := h.Acquire(ctx, pool.Want{Job: job, Timeout: limit})
	if err != nil {
		return time.Since(began), err
	}
	waited = time.Since(began)
	var out strings.Builder
	_, err = g.Exec(ctx, vm.Command{Argv: []string{"/bin/echo", job}, Stdout: &out})
	if err == nil && out.String() != job+"\n" {
		err = fmt.Errorf("%s said %q", job, out.String())
	}
	time.Sleep(rand.N(50 * time.Millisecond)) // as a job does
	return waited, errors.Join(err, g.Release(context.WithoutCancel(ctx), nil))
}

// idle keeps one machine ready, and says its name, until it is killed.
func idle(ctx context.Context, args []string) error {
	h, err := open(ctx, args, 1)
	if err != nil {
		return err
	}
	for h.Stats().Ready == 0 {
		time.Sleep(10 * time.Millisecond)
	}
	fmt.Println(h.Guests()[0].Name)
	<-ctx.Done()
	return ctx.Err()
}

// victim uses machines until it is killed.
func victim(args []string) error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Hour)
	defer cancel()
	if args[0] == "idle" {
		return idle(ctx, args[1:])
	}
	h, err := open(ctx, args, 0)
	if err != nil {
		return err
	}
	failed := make(chan error, workers)
	for i := range workers {
		go func() {
			for {
				if _, err := h.use(ctx, fmt.Sprintf("victim-%d", i), 0); err != nil {
					failed <- err
					return
				}
				fmt.Println("used")
			}
		}()
	}
	return <-failed
}
