package runner_test

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/bullpen-vm/bullpen/diskio"
	"github.com/bullpen-vm/bullpen/pool"
	"github.com/bullpen-vm/bullpen/pool/runner"
	"github.com/bullpen-vm/bullpen/result"
	"github.com/bullpen-vm/bullpen/scheduler"
	"github.com/bullpen-vm/bullpen/vm"
	"github.com/bullpen-vm/bullpen/vm/fake"
)

// scripted is a guest in memory that reads a true job disk and writes true
// records. What a step does is its program's name.
func scripted(ctx context.Context, j *fake.Job) error {
	g, err := diskio.DecodeGo(j.Go)
	if err != nil {
		return err
	}
	disk := j.Disk(g.Disk)
	doc, err := diskio.OpenJob(disk, disk.Size(), g.Nonce)
	if err != nil {
		return err
	}
	rec, err := diskio.NewRecorder(disk, doc, func() error { return nil }, "scripted", "1")
	if err != nil {
		return err
	}
	must := func(err error) {
		if err != nil {
			panic(err)
		}
	}
	for i, part := range doc.Parts() {
		must(rec.PartBegin(i))
		j.Send(diskio.MessageProgress, diskio.Progress{Part: part.ID, Step: -1, What: "started"}.Encode())
		for k, step := range part.Steps {
			must(rec.StepBegin(i, k))
			must(rec.Output(i, k, diskio.Stdout, 0, []byte("on "+string(j.Machine))))
			end := diskio.StepEnd{Duration: time.Second, Stdout: int64(len("on " + string(j.Machine)))}
			switch step.Argv[0] {
			case "fail":
				end.Exit = 3
			case "crash":
				j.Crash("kernel panic")
				return nil
			case "crash-once":
				if part.Env["BULLPEN_ATTEMPT"] == "1" {
					j.Crash("kernel panic")
					return nil
				}
			case "poweroff":
				j.PowerOff()
				return nil
			case "lie": // says done without the completion record
				return nil
			case "hang":
				j.Hang()
				return nil
			case "wait":
				<-ctx.Done()
				end.Exit = 130
			}
			must(rec.StepEnd(i, k, end))
		}
		must(rec.PartEnd(i))
	}
	must(rec.Finish())
	return nil
}

func task(id, program string) runner.Task {
	return runner.Task{ID: id, Payload: diskio.Job{Steps: []diskio.Step{{Name: program, Argv: []string{program}}}}}
}

// inBubble runs tasks on two hosts of two fake machines each, under virtual
// time, and gives the cases by name.
func inBubble(t *testing.T, tasks []runner.Task, o runner.Options, conf scheduler.Config, faults ...fake.Fault) map[string]result.Case {
	t.Helper()
	cases := map[string]result.Case{}
	synctest.Test(t, func(t *testing.T) {
		var hosts []pool.Host
		for _, name := range []string{"h1", "h2"} {
			h := fake.NewHypervisor(fake.Config{HostID: name, Job: scripted, Faults: faults})
			defer h.Close()
			hosts = append(hosts, pool.Host{Name: name, Driver: h.Driver(), Slots: 2})
		}
		p, err := pool.New(pool.Config{Hosts: hosts, Templates: []pool.Template{{Name: "base", Labels: map[string]string{"os": "linux"}}}})
		require.NoError(t, err)
		conf.Workers = 4
		s, err := scheduler.New(runner.Source(p, o), conf)
		require.NoError(t, err)
		require.NoError(t, s.Add(tasks...))
		for outcome := range s.Run(t.Context()) {
			for _, c := range runner.Cases(outcome) {
				_, twice := cases[c.Name]
				assert.False(t, twice, "%s is in the outcome twice", c.Name)
				cases[c.Name] = c
			}
		}
		ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), time.Hour)
		defer cancel()
		require.NoError(t, p.Close(ctx))
	})
	return cases
}

func TestEachEndOfAMachineBecomesTheRightVerdict(t *testing.T) {
	t.Parallel()
	hang := task("hang", "hang")
	hang.Timeout = time.Minute
	cases := inBubble(t, []runner.Task{
		task("pass", "pass"), task("fail", "fail"), task("crash", "crash"), task("once", "crash-once"),
		task("poweroff", "poweroff"), task("lie", "lie"), hang,
	}, runner.Options{Grace: time.Second}, scheduler.Config{})
	want := map[string]string{
		"pass": "passed 1", "fail": "failed 1", "crash": "errored 3", "once": "passed 2",
		"poweroff": "errored 3", "lie": "errored 3", "hang": "timed out 1",
	}
	got := map[string]string{}
	for name, c := range cases {
		got[name] = fmt.Sprintf("%s %d", c.Status, len(c.Attempts))
		if c.Status == result.Errored || c.Status == result.TimedOut {
			assert.NotEmpty(t, c.Message, name)
		}
	}
	assert.Equal(t, want, got)
	assert.Contains(t, cases["crash"].Message, "crashed")
	assert.Contains(t, cases["poweroff"].Message, "powered off")
	assert.Contains(t, cases["lie"].Message, "said done")
	machines := map[string]bool{}
	for _, a := range cases["crash"].Attempts {
		assert.False(t, machines[a.Machine], "tried again on the machine that died")
		machines[a.Machine] = true
	}
	c := cases["pass"]
	assert.Equal(t, "base", c.Properties["template"])
	assert.NotEmpty(t, c.Properties["machine"])
	assert.NotEmpty(t, c.Properties["host"])
	assert.NotEmpty(t, c.Properties["token"])
	assert.Contains(t, c.Output.String(), "on "+c.Properties["machine"])
}

func TestWhatBrokeIsTriedOnAnotherHostWhereOneIsFree(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var hosts []pool.Host
		for _, name := range []string{"h1", "h2"} {
			h := fake.NewHypervisor(fake.Config{HostID: name, Job: scripted})
			defer h.Close()
			hosts = append(hosts, pool.Host{Name: name, Driver: h.Driver(), Slots: 2})
		}
		p, err := pool.New(pool.Config{Hosts: hosts, Templates: []pool.Template{{Name: "base", Ready: 4}}})
		require.NoError(t, err)
		time.Sleep(time.Minute) // until all four are warm
		require.Equal(t, 4, p.Stats().Ready)
		s, err := scheduler.New(runner.Source(p), scheduler.Config{})
		require.NoError(t, err)
		require.NoError(t, s.Add(task("once", "crash-once")))
		for o := range s.Run(t.Context()) {
			a := runner.Cases(o)[0].Attempts
			require.Len(t, a, 2)
			assert.NotEqual(t, a[0].Host, a[1].Host)
		}
		require.NoError(t, p.Close(t.Context()))
	})
}

func TestTheBeforeScriptOfAnExecutorGoesBeforeTheJobsOwn(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var before []string
		h := fake.NewHypervisor(fake.Config{HostID: "h1", Job: func(ctx context.Context, j *fake.Job) error {
			g, err := diskio.DecodeGo(j.Go)
			require.NoError(t, err)
			doc, err := diskio.OpenJob(j.Disk(g.Disk), j.Disk(g.Disk).Size(), g.Nonce)
			require.NoError(t, err)
			before = append(before, doc.Parts()[0].Before)
			return scripted(ctx, j)
		}})
		defer h.Close()
		p, err := pool.New(pool.Config{Hosts: []pool.Host{{Name: "h1", Driver: h.Driver(), Slots: 1}}, Templates: []pool.Template{{Name: "base"}}})
		require.NoError(t, err)
		var executors scheduler.Registry[diskio.Job, runner.Result]
		require.NoError(t, executors.Register(scheduler.Executor[diskio.Job, runner.Result]{Name: "vms", Source: runner.Source(p), BeforeScript: "umask 077"}))
		with, without := task("with", "pass"), task("without", "pass")
		with.Payload.Before, with.Priority = "export A=1", 1
		tasks := []runner.Task{with, without}
		require.NoError(t, executors.Assign(tasks))
		s, err := scheduler.New(&executors, scheduler.Config{})
		require.NoError(t, err)
		require.NoError(t, s.Add(tasks...))
		for o := range s.Run(t.Context()) {
			assert.Equal(t, scheduler.Passed, o.Verdict.Status, o.Task)
		}
		assert.Equal(t, []string{"umask 077\nexport A=1\n", "umask 077\n"}, before)
		require.NoError(t, p.Close(t.Context()))
	})
}

func TestABatchKeepsTheBordersOfItsTasks(t *testing.T) {
	t.Parallel()
	var tasks []runner.Task
	for i, program := range []string{"pass", "fail", "pass"} {
		x := task(fmt.Sprintf("t%d", i), program)
		x.Group = "g"
		tasks = append(tasks, x)
	}
	cases := inBubble(t, tasks, runner.Options{}, scheduler.Config{Whole: true})
	assert.Equal(t, result.Passed, cases["t0"].Status)
	assert.Equal(t, result.Failed, cases["t1"].Status)
	assert.Equal(t, result.Passed, cases["t2"].Status, "a failed step skips the rest of its own part only")
	assert.Equal(t, cases["t0"].Properties["machine"], cases["t2"].Properties["machine"])
	assert.Equal(t, "g", cases["t0"].Suite)
}

func TestATaskThatKillsItsMachineDoesNotTakeItsGroupWithIt(t *testing.T) {
	t.Parallel()
	var tasks []runner.Task
	for i, program := range []string{"pass", "pass", "crash", "pass", "pass"} {
		x := task(fmt.Sprintf("t%d", i), program)
		x.Group = "g"
		tasks = append(tasks, x)
	}
	cases := inBubble(t, tasks, runner.Options{}, scheduler.Config{Whole: true, Retries: 100})
	for name, c := range cases {
		want := result.Passed
		if name == "t2" {
			want = result.Errored
		}
		assert.Equal(t, want, c.Status, "%s: %s", name, c.Message)
	}
	assert.Len(t, cases, 5)
}

func TestAJobThatIsNotValidSpoilsOnlyItself(t *testing.T) {
	t.Parallel()
	bad := runner.Task{ID: "bad", Group: "g"}
	good := task("good", "pass")
	good.Group = "g"
	cases := inBubble(t, []runner.Task{good, bad}, runner.Options{}, scheduler.Config{Whole: true})
	assert.Equal(t, result.Passed, cases["good"].Status, cases["good"].Message)
	assert.Equal(t, result.Errored, cases["bad"].Status)
	assert.Contains(t, cases["bad"].Message, "Steps")
	assert.Len(t, cases["bad"].Attempts, 1, "what no machine can run is not tried elsewhere")
}

func TestALabelThatNobodyHasIsErroredAtOnce(t *testing.T) {
	t.Parallel()
	x := task("x", "pass")
	x.Labels = map[string]string{"os": "plan9"}
	y := task("y", "pass")
	y.Labels = map[string]string{"template": "nothing"}
	cases := inBubble(t, []runner.Task{x, y, task("z", "pass")}, runner.Options{}, scheduler.Config{})
	assert.Equal(t, result.Errored, cases["x"].Status)
	assert.Contains(t, cases["x"].Message, "plan9")
	assert.Equal(t, result.Errored, cases["y"].Status)
	assert.Equal(t, result.Passed, cases["z"].Status)
}

func TestKeepLetsAWorkerTakeFurtherBatches(t *testing.T) {
	t.Parallel()
	var tasks []runner.Task
	for i := range 20 {
		tasks = append(tasks, task(fmt.Sprintf("t%d", i), "pass"))
	}
	used := func(o runner.Options) int {
		machines := map[string]bool{}
		for _, c := range inBubble(t, tasks, o, scheduler.Config{}) {
			assert.Equal(t, result.Passed, c.Status, c.Message)
			machines[c.Properties["machine"]] = true
		}
		return len(machines)
	}
	assert.Equal(t, 20, used(runner.Options{}), "by default each batch has a machine that was rolled back")
	assert.LessOrEqual(t, used(runner.Options{Keep: -1}), 4)
}

func TestBootsThatFailAreNotTheTasksFault(t *testing.T) {
	t.Parallel()
	var tasks []runner.Task
	for i := range 8 {
		tasks = append(tasks, task(fmt.Sprintf("t%d", i), "pass"))
	}
	cases := inBubble(t, tasks, runner.Options{}, scheduler.Config{},
		fake.Fault{Op: vm.OpStart, Times: 2, Guest: fake.Guest{Fail: true}},
		fake.Fault{Op: vm.OpStart, From: 4, Times: 2, Err: vm.ErrBusy})
	for name, c := range cases {
		assert.Equal(t, result.Passed, c.Status, "%s: %s", name, c.Message)
	}
	assert.Len(t, cases, 8)
}
