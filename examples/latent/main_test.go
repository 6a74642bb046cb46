package main

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/bullpen-vm/bullpen/diskio"
	"github.com/bullpen-vm/bullpen/lease"
	"github.com/bullpen-vm/bullpen/vm"
	"github.com/bullpen-vm/bullpen/vm/fake"
	"github.com/bullpen-vm/bullpen/vm/local"
)

// The test binary is the program.
func TestMain(m *testing.M) {
	local.Main()
	if os.Getenv("BULLPEN_TEST_LATENT") == "1" {
		main()
	}
	goleak.VerifyTestMain(m)
}

// limit bounds what takes a second or two.
const limit = 2 * time.Minute

// guests run jobs in memory: they read a true job disk and write true records. A
// step is "sleep 1m", "exit 3", "crash", or is printed.
type guests struct {
	mu        sync.Mutex
	now, peak int // jobs that run
	env       []map[string]string
}

func (g *guests) job(ctx context.Context, j *fake.Job) error {
	word, err := diskio.DecodeGo(j.Go)
	if err != nil {
		return err
	}
	disk := j.Disk(word.Disk)
	doc, err := diskio.OpenJob(disk, disk.Size(), word.Nonce)
	if err != nil {
		return err
	}
	rec, err := diskio.NewRecorder(disk, doc, func() error { return nil }, "guests", "1")
	if err != nil {
		return err
	}
	g.mu.Lock()
	g.now++
	g.peak = max(g.peak, g.now)
	g.mu.Unlock()
	defer func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		g.now--
	}()
	for i, part := range doc.Parts() {
		g.mu.Lock()
		g.env = append(g.env, part.Env)
		g.mu.Unlock()
		if err := rec.PartBegin(i); err != nil {
			return err
		}
		for k, step := range part.Steps {
			if err := rec.StepBegin(i, k); err != nil {
				return err
			}
			line := step.Argv[len(step.Argv)-1]
			end := diskio.StepEnd{Stdout: int64(len(line))}
			var pause string
			if line == "crash" {
				j.Crash("kernel panic")
				return nil
			} else if _, err := fmt.Sscanf(line, "exit %d", &end.Exit); err == nil {
			} else if _, err := fmt.Sscanf(line, "sleep %s", &pause); err == nil {
				d, err := time.ParseDuration(pause)
				if err != nil {
					return err
				}
				wait(ctx, d)
			}
			if err := rec.Output(i, k, diskio.Stdout, 0, []byte(line)); err != nil {
				return err
			}
			if err := rec.StepEnd(i, k, end); err != nil {
				return err
			}
		}
		if err := rec.PartEnd(i); err != nil {
			return err
		}
	}
	return rec.Finish()
}

// journal is a log that tests read.
type journal struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (j *journal) Write(p []byte) (int, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.text.Write(p)
}

func (j *journal) String() string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.text.String()
}

// letters are mails that were handed to a relay host in memory.
type letters struct {
	mu   sync.Mutex
	at   []time.Time
	all  []string // "from > to, to: subject"
	fail []error  // for the next ones
	sure bool
}

func (l *letters) post(_ context.Context, relay, from string, to []string, text []byte) (bool, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.fail) > 0 {
		err := l.fail[0]
		l.fail = l.fail[1:]
		return l.sure, err
	}
	_, rest, _ := strings.Cut(string(text), "Subject: ")
	subject, _, _ := strings.Cut(rest, "\r\n")
	l.at = append(l.at, time.Now())
	l.all = append(l.all, fmt.Sprintf("%s: %s > %s: %s", relay, from, strings.Join(to, ", "), subject))
	return true, nil
}

// refuse has the next mails fail.
func (l *letters) refuse(sure bool, errs ...error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.fail, l.sure = errs, sure
}

func (l *letters) got() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return append([]string(nil), l.all...)
}

// world is a master on hypervisors in memory, in a bubble of virtual time.
type world struct {
	*testing.T
	*master
	hyper     map[string]*fake.Hypervisor
	guests    *guests
	letters   *letters
	journal   *journal
	connected sync.WaitGroup
}

// begin makes a world of a configuration, whose hosts are replaced.
func begin(t *testing.T, text string) *world {
	t.Helper()
	c, err := parse([]byte(text), t.TempDir())
	require.NoError(t, err)
	w := &world{T: t, hyper: map[string]*fake.Hypervisor{}, guests: &guests{}, letters: &letters{}, journal: &journal{}}
	p := parts{
		store: lease.NewMemStore(), noLock: true, dir: t.TempDir(), post: w.letters.post,
		log: slog.New(slog.NewTextHandler(w.journal, nil)),
	}
	for _, h := range c.Hosts {
		w.hyper[h.Name] = fake.NewHypervisor(fake.Config{HostID: h.Name, Job: w.guests.job, Times: fake.Times{Boot: 10 * time.Second}})
		p.hosts = append(p.hosts, opened{hostConfig: h, driver: w.hyper[h.Name].Driver()})
	}
	w.master, err = newMaster(c, p)
	require.NoError(t, err)
	return w
}

// finish ends the world and wants nothing left.
func (w *world) finish() {
	w.Helper()
	require.NoError(w, w.close(w.Context()))
	for _, h := range w.parts.hosts {
		require.NoError(w, h.driver.Close())
		require.Zero(w, w.hyper[h.Name].Count(), "machines are left")
		require.NoError(w, w.hyper[h.Name].Close())
	}
	w.connected.Wait()
}

// all runs n builds of each builder at once.
func (w *world) all(n int, builders ...string) []build {
	w.Helper()
	var mu sync.Mutex
	var done []build
	var work sync.WaitGroup
	for _, b := range builders {
		for range n {
			work.Go(func() {
				one, err := w.build(w.Context(), b, nil)
				if err != nil {
					w.Error(err)
				}
				mu.Lock()
				defer mu.Unlock()
				done = append(done, one)
			})
		}
	}
	work.Wait()
	return done
}

// connect has a standard worker's true agent connect; hangUp ends it.
func (w *world) connect(name, password string) (hangUp func(), err error) {
	w.Helper()
	near, far := net.Pipe()
	a, err := agent(far, name, vm.Secret(password), w.TempDir(), w.parts.log)
	require.NoError(w, err)
	ctx, cancel := context.WithCancel(w.Context())
	over := make(chan struct{})
	w.connected.Go(func() {
		defer close(over)
		_ = a.Run(ctx)
	})
	err = w.dialin.Admit(w.Context(), near, "pipe of "+name)
	return func() {
		cancel()
		<-over
		synctest.Wait()
	}, err
}

func bubble(t *testing.T, f func(t *testing.T)) {
	t.Helper()
	t.Parallel()
	synctest.Test(t, f)
}

func discard() *slog.Logger { return slog.New(slog.DiscardHandler) }
