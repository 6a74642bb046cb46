package dialin

import (
	"bytes"
	"fmt"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/bullpen-vm/bullpen/diskio/guest"
	"github.com/bullpen-vm/bullpen/lease"
	"github.com/bullpen-vm/bullpen/pool"
	"github.com/bullpen-vm/bullpen/vm"
	"github.com/bullpen-vm/bullpen/vm/fake"
)

var solaris = Worker{Name: "bot-solaris", Secret: "solarispasswd", Properties: map[string]string{"OS": "solaris"}}
var bsd = Worker{Name: "bot-bsd", Secret: "bsdpasswd"}

func TestAWorkerThatWasStartedByHandConnectsByItselfAndRunsCommands(t *testing.T) {
	t.Parallel()
	d, _ := open(t, Config{Workers: []Worker{solaris, bsd}})
	address := listen(t, d)
	m, err := d.Open(t.Context(), "bot-solaris")
	require.NoError(t, err)
	require.ErrorIs(t, m.Start(t.Context()), vm.ErrBusy, "nobody here can start it")
	stop, _ := dial(t, address, "bot-solaris", "solarispasswd")
	require.Eventually(t, func() bool { return m.Start(t.Context()) == nil }, limit, time.Millisecond)
	require.NoError(t, Answers(t.Context(), m))
	var out bytes.Buffer
	exit, err := vm.Exec(t.Context(), m, vm.Command{Argv: []string{"/bin/sh", "-c", "echo on $OS; exit 3"}, Env: []string{"OS=solaris"}, Stdout: &out})
	require.NoError(t, err)
	assert.Equal(t, 3, exit.Code)
	assert.Equal(t, "on solaris\n", out.String())
	i, err := m.Info(t.Context())
	require.NoError(t, err)
	assert.Equal(t, vm.StateRunning, i.State)
	assert.Equal(t, "test", i.Details["agent"])
	all, err := d.List(t.Context())
	require.NoError(t, err)
	require.Len(t, all, 2)
	assert.Equal(t, []vm.State{vm.StateRunning, vm.StateStopped}, []vm.State{all[0].State, all[1].State})

	stop()
	require.Eventually(t, func() bool { return Answers(t.Context(), m) != nil }, limit, time.Millisecond)
	dial(t, address, "bot-solaris", "solarispasswd")
	require.Eventually(t, func() bool { return Answers(t.Context(), m) == nil }, limit, time.Millisecond)
}

func TestImpostorsUnknownNamesAndSecondConnectionsAreRefusedAndLogged(t *testing.T) {
	t.Parallel()
	d, j := open(t, Config{Workers: []Worker{solaris, bsd}})
	address := listen(t, d)
	dial(t, address, "bot-solaris", "solarispasswd")
	m, err := d.Open(t.Context(), "bot-solaris")
	require.NoError(t, err)
	require.Eventually(t, func() bool { return Answers(t.Context(), m) == nil }, limit, time.Millisecond)
	for i, c := range []struct{ name, secret, told, logged string }{
		{"bot-solaris", "guessed-1", "unknown name or wrong secret", "the secret is wrong"},
		{"bot-hpux", "guessed-2", "unknown name or wrong secret", "no worker has this name"},
		{"bot-bsd", "solarispasswd", "unknown name or wrong secret", "the secret is wrong"},
		{"bot-solaris", "solarispasswd", "connected and answers", "and answers"},
	} {
		_, ended := dial(t, address, c.name, c.secret)
		err := <-ended
		require.ErrorIs(t, err, guest.ErrRefused, c.name)
		assert.ErrorContains(t, err, c.told)
		assert.Contains(t, j.String(), c.logged)
		assert.Contains(t, j.String(), fmt.Sprintf("worker=%s from=127.0.0.1", c.name))
		assert.EqualValues(t, i+1, d.Refused())
	}
	require.NoError(t, Answers(t.Context(), m), "the right one is not displaced")
	for _, secret := range []string{"guessed", "passwd"} {
		assert.NotContains(t, j.String(), secret)
		assert.NotContains(t, fmt.Sprintf("%v %+v %#v", solaris, solaris, solaris), secret)
	}
	assert.Equal(t, []string{"bot-solaris up"}, j.all())
}

func TestASecondConnectionTakesThePlaceOfOneThatDoesNotAnswer(t *testing.T) {
	bubble(t, func(t *testing.T) {
		d, j := open(t, Config{Workers: []Worker{solaris}})
		first, err := say(t, d, "bot-solaris", "solarispasswd")
		require.NoError(t, err)
		_, err = say(t, d, "bot-solaris", "solarispasswd")
		require.ErrorIs(t, err, vm.ErrRefused)
		first.deaf.Store("deaf", true)
		_, err = say(t, d, "bot-solaris", "solarispasswd")
		require.NoError(t, err)
		require.Equal(t, []string{"bot-solaris up", "bot-solaris down", "bot-solaris up"}, j.all())
		require.Contains(t, j.String(), "does not answer and is replaced")
	})
}

func TestKeepaliveFindsABrokenConnectionWithinItsInterval(t *testing.T) {
	for name, c := range map[string]struct {
		interval, gone time.Duration // zero: not within a day
	}{
		"every hour by default": {0, time.Hour + DefaultPingTimeout},
		"every minute":          {time.Minute, time.Minute + DefaultPingTimeout},
		"never":                 {-1, 0},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				w := solaris
				w.Keepalive = c.interval
				d, j := open(t, Config{Workers: []Worker{w}})
				begun := time.Now()
				p, err := say(t, d, "bot-solaris", "solarispasswd")
				require.NoError(t, err)
				if c.gone == 0 {
					p.deaf.Store("deaf", true)
					time.Sleep(24 * time.Hour)
					require.Equal(t, []string{"bot-solaris up"}, j.all())
					return
				}
				time.Sleep(10 * c.gone)
				synctest.Wait()
				require.Equal(t, []string{"bot-solaris up"}, j.all(), "one that answers stays")
				age := time.Since(begun)
				p.deaf.Store("deaf", true)
				time.Sleep(c.gone)
				synctest.Wait()
				require.Equal(t, []string{"bot-solaris up", "bot-solaris down"}, j.all(), "deaf since %v", age)
				require.Contains(t, j.String(), "keepalive: no answer within 10s")
			})
		})
	}
}

func TestStrangersAreBoundedInNumberBytesAndTime(t *testing.T) {
	bubble(t, func(t *testing.T) {
		d, j := open(t, Config{Workers: []Worker{solaris}, MostPending: 2})
		begun := time.Now()
		errs := make(chan error, 2)
		for range 2 { // they say nothing
			near, far := net.Pipe()
			defer far.Close()
			go func() { errs <- d.Admit(t.Context(), near, "stranger") }()
		}
		synctest.Wait()
		near, far := net.Pipe()
		require.ErrorContains(t, d.Admit(t.Context(), near, "one more"), "2 connections are on their way in")
		require.NoError(t, far.Close())
		for range 2 {
			require.ErrorIs(t, <-errs, vm.ErrRefused)
		}
		require.Equal(t, DefaultHelloTimeout, time.Since(begun))

		near, far = net.Pipe()
		go func() { errs <- d.Admit(t.Context(), near, "noisy") }()
		noise := bytes.Repeat([]byte("GET / HTTP/1.1\r\n"), helloBytes)
		n, err := far.Write(noise)
		require.Error(t, err)
		require.LessOrEqual(t, n, helloBytes)
		require.ErrorContains(t, <-errs, "said no hello")
		require.Contains(t, j.String(), "from=noisy")
		_, err = say(t, d, "bot-solaris", "solarispasswd")
		require.NoError(t, err, "the door is free again")
	})
}

func TestAPoolLeasesWorkersThatConnectAndPassesOverThoseThatAreNot(t *testing.T) {
	bubble(t, func(t *testing.T) {
		d, _ := open(t, Config{Workers: []Worker{solaris, bsd}})
		latent := fake.New(fake.Config{})
		leases, err := lease.New(lease.Config{Store: lease.NewMemStore(), NoLock: true})
		require.NoError(t, err)
		byHand := func(name string) pool.Template {
			return pool.Template{Name: name, Labels: map[string]string{"builder": "full"}, Clean: Answers, Idle: pool.IdleFor(0),
				Existing: []pool.Existing{{Host: "by hand", Machine: vm.ID(name)}}}
		}
		p, err := pool.New(pool.Config{
			Leases: leases,
			Hosts:  []pool.Host{{Name: "by hand", Driver: d}, {Name: "here", Driver: latent, Slots: 1}},
			Templates: []pool.Template{byHand("bot-solaris"), byHand("bot-bsd"),
				{Name: "lat1", Labels: map[string]string{"builder": "full"}, Hosts: []string{"here"}}},
		})
		require.NoError(t, err)
		g, err := p.Acquire(t.Context(), pool.Want{Labels: map[string]string{"builder": "full"}})
		require.NoError(t, err)
		require.Equal(t, "lat1", g.Template(), "the others are not connected")
		got := make(chan *pool.Guest, 1)
		go func() {
			g, err := p.Acquire(t.Context(), pool.Want{Template: "bot-bsd"})
			assert.NoError(t, err)
			got <- g
		}()
		time.Sleep(3 * time.Hour)
		synctest.Wait()
		require.Empty(t, got)
		begun := time.Now()
		_, err = say(t, d, "bot-bsd", "bsdpasswd")
		require.NoError(t, err)
		b := <-got
		require.Equal(t, "bot-bsd", b.Name())
		require.Less(t, time.Since(begun), time.Minute, "a worker that comes after hours is used soon: that it was away counts for nothing")
		require.NoError(t, b.Release(t.Context(), nil))
		require.NoError(t, g.Release(t.Context(), nil))
		require.NoError(t, p.Close(t.Context()))
		require.NoError(t, leases.Close(t.Context()))
		require.NoError(t, latent.Hypervisor().Close())
		require.NoError(t, latent.Close())
	})
}

func TestWhatBreaksARuleIsNamed(t *testing.T) {
	t.Parallel()
	for want, c := range map[string]Config{
		"Workers is empty":                     {},
		`Workers[0].Name is "-x"`:              {Workers: []Worker{{Name: "-x", Secret: "s"}}},
		"Workers[0].Secret is empty":           {Workers: []Worker{{Name: "x"}}},
		"a name that Workers[0] does not have": {Workers: []Worker{solaris, solaris}},
		"HelloTimeout is -1s":                  {Workers: []Worker{solaris}, HelloTimeout: -time.Second},
		"PingTimeout is -1s":                   {Workers: []Worker{solaris}, PingTimeout: -time.Second},
		"MostPending is -1":                    {Workers: []Worker{solaris}, MostPending: -1},
	} {
		_, err := Open(c)
		assert.ErrorContains(t, err, want)
	}
}

func TestWhatAWorkerIsNotAskedForIsRefused(t *testing.T) {
	t.Parallel()
	d, err := Open(Config{Workers: []Worker{solaris}})
	require.NoError(t, err)
	_, err = d.Create(t.Context(), vm.Spec{Name: "x"})
	require.ErrorContains(t, err, "started by hand")
	_, err = d.Open(t.Context(), "x")
	require.ErrorIs(t, err, vm.ErrNotFound)
	m, err := d.Open(t.Context(), "bot-solaris")
	require.NoError(t, err)
	require.ErrorContains(t, m.Destroy(t.Context()), "belongs to who started it")
	require.NoError(t, m.Kill(t.Context()))
	require.NoError(t, m.Stop(t.Context()))
	require.NoError(t, d.Close())
	require.NoError(t, d.Close())
	_, err = d.List(t.Context())
	require.ErrorIs(t, err, vm.ErrClosed)
	require.ErrorIs(t, m.Start(t.Context()), vm.ErrClosed)
	near, far := net.Pipe()
	defer far.Close()
	require.Error(t, d.Admit(t.Context(), near, "late"))
}
