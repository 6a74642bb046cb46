package main

import (
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/bullpen-vm/bullpen/result"
	"github.com/bullpen-vm/bullpen/vm"
	"github.com/bullpen-vm/bullpen/vm/fake"
)

// notifying has one standard worker with somebody to be told.
func notifying(notify, mail string) string {
	return fmt.Sprintf(`{
		"listen": "127.0.0.1:0",
		"workers": [{"type": "standard", "name": "bot-solaris", "password": "solarispasswd", %s}],
		"builders": [{"name": "full", "workers": ["bot-solaris"], "steps": ["true"]}]%s
	}`, notify, mail)
}

func TestOneMailIsSentForEachLossAfterMissingTimeout(t *testing.T) {
	for name, c := range map[string]struct {
		notify string
		after  time.Duration
		to     string
	}{
		"an hour by default, one address": {`"notify_on_missing": "bob@example.com"`, time.Hour, "bob@example.com"},
		"5 minutes, a list":               {`"notify_on_missing": ["bob@example.com", "alice@example.org"], "missing_timeout": 300`, 5 * time.Minute, "bob@example.com, alice@example.org"},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				w := begin(t, notifying(c.notify, `, "mail": {"from": "buildbot@localhost", "relayhost": "smtp.example.org", "builders": []}`))
				defer w.finish()
				want := "smtp.example.org:25: buildbot@localhost > " + c.to + ": worker bot-solaris is missing"
				begun := time.Now()
				// It never came.
				time.Sleep(c.after - time.Second)
				synctest.Wait()
				require.Empty(t, w.letters.got())
				time.Sleep(8 * time.Hour)
				require.Equal(t, []string{want}, w.letters.got(), "one for this loss, however long it lasts")
				require.Equal(t, c.after, w.letters.at[0].Sub(begun))
				// It comes, and is away for less than the timeout, again and again.
				for range 5 {
					hangUp, err := w.connect("bot-solaris", "solarispasswd")
					require.NoError(t, err)
					time.Sleep(3 * c.after)
					hangUp()
					time.Sleep(c.after - time.Minute)
				}
				require.Len(t, w.letters.got(), 1)
				// It goes again.
				hangUp, err := w.connect("bot-solaris", "solarispasswd")
				require.NoError(t, err)
				hangUp()
				lost := time.Now()
				time.Sleep(8 * time.Hour)
				require.Equal(t, []string{want, want}, w.letters.got(), "one for the next loss")
				require.Equal(t, c.after, w.letters.at[1].Sub(lost))
			})
		})
	}
}

func TestWithoutANotifierMissingMailsHaveADefaultSenderAndRelayHost(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := begin(t, notifying(`"notify_on_missing": "bob@example.com"`, ``))
		defer w.finish()
		time.Sleep(2 * time.Hour)
		require.Len(t, w.letters.got(), 1)
		require.Regexp(t, `^localhost:25: bullpen@\S+ > bob@example.com: worker bot-solaris is missing$`, w.letters.got()[0])
	})
}

func TestABrokenConnectionIsALossBeforeAnyBuildNeedsIt(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := begin(t, notifying(`"notify_on_missing": "bob@example.com", "keepalive_interval": 600, "missing_timeout": 60`, ``))
		defer w.finish()
		hangUp, err := w.connect("bot-solaris", "solarispasswd")
		require.NoError(t, err)
		time.Sleep(5 * time.Hour)
		require.Empty(t, w.letters.got())
		require.Equal(t, result.Passed, w.all(1, "full")[0].Status, "a worker that answers is used")
		hangUp()
		time.Sleep(2 * time.Minute)
		require.Len(t, w.letters.got(), 1)
	})
}

func TestALatentWorkerThatCannotBeStartedIsMissingToo(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := begin(t, five(`, "notify_on_missing": "bob@example.com"`))
		defer w.finish()
		time.Sleep(5 * time.Hour)
		require.Empty(t, w.letters.got(), "a latent worker that nobody needs is not missing")
		w.hyper["h"].Inject(fake.Fault{Op: vm.OpStart, Err: errors.New("no such kernel")})
		for range 3 {
			require.Equal(t, result.Errored, w.all(1, "b0")[0].Status)
		}
		time.Sleep(5 * time.Hour)
		require.Len(t, w.letters.got(), 1)
		require.Contains(t, w.letters.got()[0], "worker lat0 is missing")
		w.hyper["h"].Heal()
		require.Equal(t, result.Passed, w.all(1, "b0")[0].Status)
		time.Sleep(5 * time.Hour)
		require.Len(t, w.letters.got(), 1)
	})
}

func TestAMailIsTriedAgainOnlyWhenItWasNotTaken(t *testing.T) {
	for name, c := range map[string]struct {
		sure bool
		want int
	}{"the relay host was away": {true, 1}, "nobody knows whether it was taken": {false, 0}} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				w := begin(t, notifying(`"notify_on_missing": "bob@example.com"`, ``))
				defer w.finish()
				w.letters.refuse(c.sure, errors.New("on purpose"), errors.New("again"))
				time.Sleep(10 * time.Hour)
				require.Len(t, w.letters.got(), c.want)
				require.Contains(t, w.journal.String(), "a mail could not be sent")
			})
		})
	}
}

func TestMailsAboutBuildsAreThoseOfTheNotifiersBuilders(t *testing.T) {
	for name, c := range map[string]struct {
		builders string
		want     []string
	}{
		"all by default":     {``, []string{"a #1 failed", "b #1 failed"}},
		"those named":        {`, "builders": ["b"]`, []string{"b #1 failed"}},
		"none: missing only": {`, "builders": []`, nil},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				w := begin(t, `{"hosts": [{"name": "h", "driver": "local", "slots": 1}],
					"workers": [{"type": "latent", "name": "lat"}],
					"builders": [{"name": "a", "workers": ["lat"], "steps": ["exit 1"]}, {"name": "b", "workers": ["lat"], "steps": ["exit 1"]}, {"name": "good", "workers": ["lat"], "steps": ["true"]}],
					"mail": {"from": "buildbot@localhost", "relayhost": "smtp.example.org:2525", "to": ["devs@example.com"]`+c.builders+`}}`)
				defer w.finish()
				w.all(1, "good")
				w.all(1, "a")
				w.all(1, "b")
				synctest.Wait()
				require.Len(t, w.letters.got(), len(c.want))
				for i, want := range c.want {
					require.Equal(t, "smtp.example.org:2525: buildbot@localhost > devs@example.com: build "+want, w.letters.got()[i])
				}
			})
		})
	}
}
