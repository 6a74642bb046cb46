package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// harness is the program as a process of its own.
type harness struct {
	*exec.Cmd
	t     *testing.T
	out   *output
	ended chan struct{}
}

func (p *project) start(args ...string) *harness {
	p.t.Helper()
	h := &harness{t: p.t, Cmd: exec.Command(os.Args[0], args...), out: new(output), ended: make(chan struct{})}
	h.Env = append(os.Environ(), asProgram+"=1")
	h.Stdout, h.Stderr = h.out, h.out
	h.WaitDelay = time.Second
	h.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // as a shell does it
	require.NoError(p.t, h.Cmd.Start())
	go func() {
		defer close(h.ended)
		_ = h.Wait()
	}()
	p.t.Cleanup(func() {
		_ = h.Process.Kill()
		<-h.ended
		if p.t.Failed() {
			p.t.Log(h.out.String())
		}
	})
	return h
}

// until waits until something is true, which the harness must live to see.
func (h *harness) until(what string, is func() bool) {
	h.t.Helper()
	ticker := time.NewTicker(10 * time.Millisecond)
	defer ticker.Stop()
	for !is() {
		select {
		case <-ticker.C:
		case <-h.ended:
			require.True(h.t, is(), "%s: the harness has ended before", what)
		case <-h.t.Context().Done():
			h.t.FailNow()
		}
	}
}

// workers are the worker processes of a harness, by their logs.
func (p *project) workers() map[string]int {
	p.t.Helper()
	pids := map[string]int{}
	logs, err := filepath.Glob(filepath.Join(p.dir, "log", "slave*.log"))
	require.NoError(p.t, err)
	for _, path := range logs {
		text, err := os.ReadFile(path)
		require.NoError(p.t, err)
		for line := range bytes.Lines(text) {
			if _, rest, ok := strings.Cut(string(line), `msg="the worker starts"`); ok && bytes.HasSuffix(line, []byte("\n")) {
				_, rest, _ = strings.Cut(rest, " pid=")
				pid, err := strconv.Atoi(strings.Fields(rest)[0])
				require.NoError(p.t, err)
				pids[strings.TrimSuffix(filepath.Base(path), ".log")] = pid // the last
			}
		}
	}
	return pids
}

// alive tells whether a process runs: not one that is gone, and not one that is
// only not waited for.
func alive(pid int) bool {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return false
	}
	_, rest, _ := strings.Cut(string(text), ") ")
	return !strings.HasPrefix(rest, "Z") && !strings.HasPrefix(rest, "X")
}

// waiting is a suite whose tests tell that they began, and go on when there is a
// file named go.
func (p *project) waiting(modules int) (began func() int, goOn string) {
	p.t.Helper()
	dir := p.t.TempDir()
	goOn = filepath.Join(dir, "go")
	files := map[string]string{}
	for i := range modules {
		files[fmt.Sprintf("test_m%d.sh", i)] = fmt.Sprintf("test_x() {\n\t: >%s/began-$WORKER-$$\n\twhile ! test -e %s; do sleep 0.05; done\n}\n", dir, goOn)
	}
	p.suite(files)
	return func() int {
		all, err := filepath.Glob(filepath.Join(dir, "began-*"))
		require.NoError(p.t, err)
		return len(all)
	}, goOn
}

func TestSeveralAppliancesAreParallelModeWithAWorkerEach(t *testing.T) {
	t.Parallel()
	p := newProject(t, nil)
	began, goOn := p.waiting(4)
	old := filepath.Join(p.dir, "conf", "slave_config.json")
	require.NoError(t, os.MkdirAll(filepath.Dir(old), 0o755))
	require.NoError(t, os.WriteFile(old, []byte(`{"args": ["of another run"]}`), 0o600))
	h := p.start(p.args("-sprout-appliances", "2", "-sprout-desc", "Jenkins cfme #42", "test_m")...)
	h.until("both run", func() bool { return began() == 2 })

	// As they are while they run.
	var c slaveConfig
	require.NoError(t, json.Unmarshal([]byte(p.file("conf/slave_config.json")), &c))
	assert.Equal(t, []string{"test_m"}, c.Args)
	assert.False(t, c.Options.UseSprout, "workers request nothing")
	assert.True(t, c.Sprout, "but the appliances were requested")
	assert.Equal(t, "downstream-511", c.Options.Group)
	assert.Equal(t, "fd:3", c.Endpoint)
	assert.Len(t, c.ApplianceData, 2)
	for address, data := range c.ApplianceData {
		assert.Equal(t, [2]string{"cfme-5.11.4-20261118", "vsphere55"}, data)
		assert.Contains(t, address, "127.")
	}
	assert.NotEmpty(t, c.Runtime.Stamp)
	assert.Contains(t, c.ApplianceData, strings.TrimSuffix(strings.TrimPrefix(c.Runtime.BaseURL, "https://"), "/"), "base_url is one of them")
	pids := p.workers()
	require.Len(t, pids, 2)
	for id, pid := range pids {
		line, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		require.NoError(t, err)
		args := strings.Split(strings.TrimRight(string(line), "\x00"), "\x00")
		require.Len(t, args, 4)
		assert.Equal(t, id, args[1])
		var a appliance
		require.NoError(t, json.Unmarshal([]byte(args[2]), &a), "the appliance as JSON")
		assert.Contains(t, c.ApplianceData, a.Address)
		assert.Equal(t, c.Runtime.Stamp, args[3], "the run's stamp")
		assert.NotContains(t, string(line), "secret", "what opens the appliance is not for everybody")
		out, err := os.Readlink(fmt.Sprintf("/proc/%d/fd/1", pid))
		require.NoError(t, err)
		assert.Equal(t, os.DevNull, out, "stdout is null")
		out, err = os.Readlink(fmt.Sprintf("/proc/%d/fd/2", pid))
		require.NoError(t, err)
		assert.Equal(t, filepath.Join(p.dir, "log", id+".log"), out, "stderr is the log")
	}
	require.NoError(t, os.WriteFile(goOn, nil, 0o600))
	<-h.ended
	assert.Equal(t, 0, h.ProcessState.ExitCode())
	out := h.out.String()
	inOrder(t, out,
		"Requesting 2 appliances from Sprout at "+p.conf.Store+", hosts lab", "Pool ", ". Waiting for fulfillment ...", "fulfilled at 100%", "Fulfilled: true",
		"Provisioning took ", "Appliances were provided:\n- https://127.", "/ is sprout-", "- https://127.", "Appliance lease timer is running ...",
		"appliance_template=\"cfme-5.11.4-20261118\";\n", "Parallelized Sprout setup finished.", "appliance_provider=\"vsphere55\";",
		"(slave00) using appliance https://127.", "(slave01) using appliance https://127.", "4 tests are collected by 2 of 2 workers", "4 passed",
	)
	for id, pid := range pids {
		assert.False(t, alive(pid), "worker %s is left", id)
		assert.Contains(t, p.file("log/"+id+".log"), "the worker ends")
	}
	assert.Contains(t, p.file("log/master.log"), "tests remaining to send")
	p.noMachines()
}

func TestAWorkerThatIsKilledIsStartedAgainAndItsGroupIsRunAgain(t *testing.T) {
	t.Parallel()
	p := newProject(t, nil)
	began, goOn := p.waiting(3)
	h := p.start(p.args("-sprout-appliances", "2")...)
	h.until("both run", func() bool { return began() == 2 })
	first := p.workers()["slave00"]
	require.NoError(t, syscall.Kill(first, syscall.SIGKILL))
	h.until("it is started again", func() bool { return p.workers()["slave00"] != first })
	require.NoError(t, os.WriteFile(goOn, nil, 0o600))
	<-h.ended
	assert.Equal(t, 0, h.ProcessState.ExitCode())
	assert.Contains(t, h.out.String(), "(slave00) worker slave00: run test_m")
	assert.Contains(t, h.out.String(), "3 passed")
	p.noMachines()
}

func TestAKilledHarnessTakesItsWorkersWithItAndTheNextOneRemovesItsMachines(t *testing.T) {
	t.Parallel()
	p := newProject(t, nil)
	began, goOn := p.waiting(2)
	h := p.start(p.args("-sprout-appliances", "2", "-sprout-desc", "Jenkins cfme #42")...)
	h.until("both run", func() bool { return began() == 2 })
	pids, machines := p.workers(), p.machines()
	require.Len(t, pids, 2)
	require.Len(t, machines, 2)
	for _, pid := range pids {
		require.True(t, alive(pid))
		require.NoError(t, syscall.Kill(pid, syscall.SIGSTOP), "one that hears nothing dies as well")
	}
	require.NoError(t, h.Process.Kill())
	<-h.ended
	require.Eventually(t, func() bool {
		for _, pid := range pids {
			if alive(pid) {
				return false
			}
		}
		return true
	}, time.Minute, 10*time.Millisecond, "workers are left")
	require.NoError(t, os.WriteFile(goOn, nil, 0o600))
	code, out := p.run(t.Context(), p.args("-sprout-appliances", "2", "-sprout-desc", "Jenkins cfme #43")...)
	assert.Equal(t, 0, code)
	inOrder(t, out, "Check if pool already exists for this 'Jenkins cfme #' Jenkins job", "Destroying the old pool ", "Requesting 2 appliances")
	for _, m := range machines {
		assert.Contains(t, out, "Destroyed the leftover "+m+" on lab")
	}
	p.noMachines()
}

func TestAnInterruptWhileTestsRunDestroysThePool(t *testing.T) {
	t.Parallel()
	for name, count := range map[string]string{"single": "1", "parallel": "2"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := newProject(t, nil)
			began, _ := p.waiting(3)
			h := p.start(p.args("-sprout-appliances", count)...)
			h.until("they run", func() bool { return fmt.Sprint(began()) == count })
			pids := p.workers()
			require.NoError(t, syscall.Kill(-h.Process.Pid, syscall.SIGINT)) // as a terminal does it
			<-h.ended
			assert.Equal(t, 2, h.ProcessState.ExitCode())
			assert.Contains(t, h.out.String(), "3 aborted")
			for id, pid := range pids {
				assert.False(t, alive(pid))
				assert.Contains(t, p.file("log/"+id+".log"), "the worker ends", "the master ended it, not the terminal")
			}
			p.noMachines()
		})
	}
}

func TestAPoolThatIsDestroyedWhileTestsRunEndsTheHarness(t *testing.T) {
	t.Parallel()
	p := newProject(t, nil)
	began, _ := p.waiting(2)
	h := p.start(p.args("-sprout-appliances", "2", "-sprout-desc", "Jenkins cfme #42")...)
	h.until("both run", func() bool { return began() == 2 })
	c := p.client()
	c.destroyPrevious(t.Context(), "Jenkins cfme #43", newTerminal(t.Output()))
	<-h.ended
	assert.Equal(t, 2, h.ProcessState.ExitCode())
	inOrder(t, h.out.String(), "does not exist any more, disabling the timer.", "2 aborted")
	p.noMachines()
}

func TestStaticAppliancesAreUsedInsteadOfRequesting(t *testing.T) {
	t.Parallel()
	for _, count := range []int{1, 2} {
		t.Run(fmt.Sprint(count), func(t *testing.T) {
			t.Parallel()
			p := newProject(t, nil)
			names := p.foreign(count)
			args := p.args("-sprout-appliances", "3") // loses
			for _, name := range names {
				args = append(args, "-appliance", "lab/"+name)
			}
			code, out := p.run(t.Context(), args...)
			assert.Equal(t, 0, code)
			assert.NotContains(t, out, "Requesting ", "nothing is requested")
			assert.NotContains(t, out, "lease timer", "and nothing leased for a time")
			assert.Contains(t, out, "8 passed")
			if count == 1 {
				assert.Contains(t, out, "Single appliance")
			} else {
				inOrder(t, out, "(slave00) using appliance", "(slave01) using appliance")
				var c slaveConfig
				require.NoError(t, json.Unmarshal([]byte(p.file("conf/slave_config.json")), &c))
				assert.False(t, c.Sprout)
			}
			assert.ElementsMatch(t, names, p.machines(), "they stay: others made them")
		})
	}
}

func TestTheLinesOfAWorkerAreInItsOwnLog(t *testing.T) {
	t.Parallel()
	p := newProject(t, nil)
	code, _ := p.run(t.Context(), p.args("-sprout-appliances", "2")...)
	require.Equal(t, 0, code)
	ran := 0
	for _, id := range []string{"slave00", "slave01"} {
		lines := bufio.NewScanner(strings.NewReader(p.file("log/" + id + ".log")))
		for lines.Scan() {
			assert.Contains(t, lines.Text(), "worker="+id)
			if strings.Contains(lines.Text(), " msg=test ") {
				ran++
			}
		}
	}
	assert.Equal(t, 8, ran)
	assert.Contains(t, p.file("log/master.log"), "worker=master")
}

func TestAnApplianceThatDiesIsReplacedAndItsGroupIsRunAgain(t *testing.T) {
	t.Parallel()
	for name, count := range map[string]string{"single": "1", "parallel": "2"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := newProject(t, nil)
			once := filepath.Join(t.TempDir(), "once")
			p.suite(map[string]string{
				"test_a.sh": fmt.Sprintf("test_unlucky() {\n\tif mkdir %s; then eval \"$BULLPEN_CRASH\"; fi\n}\n", once),
				"test_b.sh": "test_good() {\n\ttrue\n}\n",
			})
			code, out := p.run(t.Context(), p.args("-sprout-appliances", count)...)
			assert.Equal(t, 0, code)
			inOrder(t, out, "(slave00) the appliance failed: pool: ", "2 passed; 1 took more than one attempt")
			if count == "1" { // else the other worker may be faster
				inOrder(t, out, "replacing appliance sprout-", "using appliance https://127.", "2 passed")
			}
			p.noMachines()
		})
	}
}

func TestAWorkerEndsWithItsSocket(t *testing.T) {
	t.Parallel()
	ours, theirs, err := socketPair()
	require.NoError(t, err)
	text, err := json.Marshal(appliance{Name: "m"})
	require.NoError(t, err)
	c := exec.Command(os.Args[0], "slave00", string(text), "1")
	c.Env = append(os.Environ(), workerRole+"=1")
	c.ExtraFiles = []*os.File{theirs}
	require.NoError(t, c.Start()) // without a parent-death signal
	require.NoError(t, theirs.Close())
	require.NoError(t, ours.Close())
	var exit *exec.ExitError
	require.ErrorAs(t, c.Wait(), &exit)
}
