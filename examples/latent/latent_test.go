package main

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/bullpen-vm/bullpen/result"
	"github.com/bullpen-vm/bullpen/vm"
	"github.com/bullpen-vm/bullpen/vm/fake"
)

// five are five configurations, each with a builder of its own, on a laptop that
// stands two machines at once.
func five(worker string) string {
	var workers, builders []string
	for i := range 5 {
		workers = append(workers, fmt.Sprintf(`{"type": "latent", "name": "lat%d", "locks": ["laptop", "disk"]%s}`, i, worker))
		builders = append(builders, fmt.Sprintf(`{"name": "b%d", "workers": ["lat%d"], "steps": ["sleep 1m"]}`, i, i))
	}
	return fmt.Sprintf(`{"hosts": [{"name": "h", "driver": "local", "slots": 5}], "locks": {"laptop": 2, "disk": 3}, "workers": [%s], "builders": [%s]}`,
		strings.Join(workers, ","), strings.Join(builders, ","))
}

func TestFiveConfigurationsNeverHaveMoreThanTwoMachinesAtOnce(t *testing.T) {
	for name, worker := range map[string]string{
		"down after each build": `, "build_wait_timeout": 0`,
		"up for 10 minutes":     ``,
		"up for ever":           `, "build_wait_timeout": -1`,
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				w := begin(t, five(worker))
				defer w.finish()
				begun := time.Now()
				for _, b := range w.all(3, "b0", "b1", "b2", "b3", "b4") {
					require.Equal(t, result.Passed, b.Status, b.Message)
					require.Len(t, b.Starts, 1, "that a lock is taken is no error and no attempt")
				}
				require.Equal(t, 2, w.hyper["h"].Peak(), "the lock lets two exist, and two are used")
				require.Less(t, time.Since(begun), 15*time.Minute, "those that are up and idle make way")
			})
		})
	}
}

func TestALatentWorkerIsStartedWhenABuildIsReadyAndStaysForBuildWaitTimeout(t *testing.T) {
	for name, c := range map[string]struct {
		field string
		stays time.Duration // negative: for ever
	}{
		"10 minutes by default": {``, 10 * time.Minute},
		"at once":               {`, "build_wait_timeout": 0`, 0},
		"90 seconds":            {`, "build_wait_timeout": 90`, 90 * time.Second},
		"never":                 {`, "build_wait_timeout": -1`, -1},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				w := begin(t, five(c.field))
				defer w.finish()
				h := w.hyper["h"]
				time.Sleep(2 * time.Hour)
				require.Zero(t, h.Made(), "nothing is started before a build is ready")
				b := w.all(1, "b0")[0]
				require.Equal(t, result.Passed, b.Status)
				require.GreaterOrEqual(t, b.Starts[0].Boot, 10*time.Second)
				if c.stays < 0 {
					time.Sleep(20 * time.Hour)
					require.Equal(t, 1, h.Count())
					return
				}
				if c.stays > 0 {
					// The machine is rolled back behind the build, which takes a boot.
					time.Sleep(c.stays)
					synctest.Wait()
					require.Equal(t, 1, h.Count(), "it waits for another build")
				}
				time.Sleep(time.Minute)
				synctest.Wait()
				require.Zero(t, h.Count())
			})
		})
	}
}

// refusing has a worker on each of two hosts.
const refusing = `{
	"hosts": [{"name": "h1", "driver": "local", "slots": 1}, {"name": "h2", "driver": "local", "slots": 1}],
	"workers": [{"type": "latent", "name": "a", "hosts": ["h1"]}, {"type": "latent", "name": "b", "hosts": ["h2"]}],
	"builders": [{"name": "full", "workers": ["a", "b"], "steps": ["make"]}]
}`

func TestARefusedStartTriesTheNextWorkerAndIsNoError(t *testing.T) {
	refused := 0
	for host, other := range map[string]string{"h1": "b", "h2": "a"} {
		t.Run(host, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := begin(t, refusing)
				defer w.finish()
				w.hyper[host].Inject(fake.Fault{Op: vm.OpCreate, Err: vm.ErrBusy})
				time.Sleep(time.Minute) // both hosts are known
				b := w.all(1, "full")[0]
				require.Equal(t, result.Passed, b.Status, b.Message)
				require.Len(t, b.Starts, 1)
				require.Equal(t, other, b.Starts[0].Worker)
				require.LessOrEqual(t, w.hyper[host].Calls(vm.OpCreate), 1, "it is not asked again and again")
				require.Zero(t, w.pool.Stats().Failures, "nothing counts as failed")
				if w.hyper[host].Calls(vm.OpCreate) == 1 {
					refused++
					require.Contains(t, b.Starts[0].News[0], "on "+host)
				}
			})
		})
	}
	require.NotZero(t, refused, "one of the two is asked first")
}

func TestWhenAllRefuseTheBuildWaitsWithoutALoop(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := begin(t, refusing)
		defer w.finish()
		for _, h := range w.hyper {
			h.Inject(fake.Fault{Op: vm.OpCreate, Err: vm.ErrBusy})
		}
		done := make(chan build, 1)
		go func() { done <- w.all(1, "full")[0] }()
		time.Sleep(6 * time.Hour)
		synctest.Wait()
		require.Empty(t, done)
		for name, h := range w.hyper {
			require.LessOrEqual(t, h.Calls(vm.OpCreate), 6*60+10, "about once a minute on %s", name)
			h.Heal()
		}
		b := <-done
		require.Equal(t, result.Passed, b.Status, b.Message)
		require.Zero(t, w.pool.Stats().Failures)
		require.Contains(t, strings.Join(b.Starts[0].News, "\n"), "busy a on h1: vm: renew", "the refusals are attached to the build")
	})
}

func TestWhatIsKnownOfTheStartIsAttachedToTheBuild(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := begin(t, refusing)
		defer w.finish()
		for _, h := range w.hyper {
			h.Inject(fake.Fault{Op: vm.OpInfo, Lie: func(i *vm.Info) { i.Details = map[string]string{"accelerator": "kvm", "image": "lenny.qcow2"} }})
		}
		b := w.all(1, "full")[0]
		require.Len(t, b.Starts, 1)
		s := b.Starts[0]
		require.Equal(t, map[string]string{"a": "h1", "b": "h2"}[s.Worker], s.Host)
		require.Equal(t, map[string]string{"accelerator": "kvm", "image": "lenny.qcow2"}, s.Details)
		require.NotZero(t, s.Token)
		require.Equal(t, 10*time.Second, s.Boot)
		require.Equal(t, "lenny.qcow2", b.Case.Properties["start.image"], "and to its case")
		require.Equal(t, s.Machine, b.Case.Properties["machine"])
		var out strings.Builder
		show(&out, b)
		require.Contains(t, out.String(), "accelerator=kvm, image=lenny.qcow2")
	})
}

func TestMaxBuildsRunAtOnceOnOneMachine(t *testing.T) {
	for most, c := range map[int]struct{ peak int }{1: {1}, 2: {2}, 3: {3}} {
		t.Run(fmt.Sprint(most), func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				w := begin(t, five(fmt.Sprintf(`, "max_builds": %d`, most)))
				defer w.finish()
				done := w.all(6, "b0")
				require.Len(t, done, 6)
				for _, b := range done {
					require.Equal(t, result.Passed, b.Status, b.Message)
				}
				require.Equal(t, c.peak, w.guests.peak)
				require.Equal(t, 1, w.hyper["h"].Peak(), "one machine has them all")
			})
		})
	}
}

func TestABuildWhoseMachineDiesIsTriedAgainAndAFailureIsNot(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := begin(t, `{"hosts": [{"name": "h", "driver": "local", "slots": 1}],
			"workers": [{"type": "latent", "name": "a"}],
			"builders": [{"name": "dies", "workers": ["a"], "steps": ["crash"]}, {"name": "fails", "workers": ["a"], "steps": ["exit 3", "never"]}]}`)
		defer w.finish()
		b := w.all(1, "dies")[0]
		require.Equal(t, result.Errored, b.Status)
		require.Len(t, b.Starts, mostAttempts)
		b = w.all(1, "fails")[0]
		require.Equal(t, result.Failed, b.Status)
		require.Len(t, b.Starts, 1)
		require.Contains(t, b.Message, "exited with code 3")
	})
}

func TestKeepaliveFindsALatentWorkerThatDoesNotAnswerBeforeABuild(t *testing.T) {
	for name, c := range map[string]struct {
		field string
		found time.Duration // zero: never
	}{
		"every hour by default": {``, time.Hour},
		"every 5 minutes":       {`, "keepalive_interval": 300`, 5 * time.Minute},
		"off":                   {`, "keepalive_interval": null`, 0},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				w := begin(t, strings.Replace(five(`, "build_wait_timeout": -1`), `"slots": 5`, `"slots": 5`+c.field, 1))
				defer w.finish()
				h := w.hyper["h"]
				w.all(1, "b0")
				time.Sleep(5 * time.Hour)
				require.Equal(t, 1, h.Count(), "one that answers stays")
				h.Inject(fake.Fault{Op: vm.OpPing, Hang: true})
				time.Sleep(max(c.found, 0) + time.Minute)
				if c.found == 0 {
					time.Sleep(20 * time.Hour)
					require.Equal(t, 1, h.Count())
				} else {
					require.Zero(t, h.Count())
				}
				h.Heal()
				made := h.Made()
				require.Equal(t, result.Passed, w.all(1, "b0")[0].Status)
				require.GreaterOrEqual(t, h.Made(), made)
			})
		})
	}
}
