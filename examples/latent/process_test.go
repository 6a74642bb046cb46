package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/bullpen-vm/bullpen/vm"
	"github.com/bullpen-vm/bullpen/vm/local"
)

// process is the program in a process of its own.
type process struct {
	cmd *exec.Cmd
	out journal // what it printed, both streams
}

func launch(t *testing.T, args ...string) *process {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	t.Cleanup(cancel)
	p := &process{cmd: exec.CommandContext(ctx, os.Args[0], args...)}
	p.cmd.Env = append(os.Environ(), "BULLPEN_TEST_LATENT=1")
	p.cmd.Stdout, p.cmd.Stderr = &p.out, &p.out
	require.NoError(t, p.cmd.Start())
	t.Cleanup(func() {
		if p.cmd.ProcessState == nil {
			_ = p.cmd.Process.Kill()
			_ = p.cmd.Wait()
		}
	})
	return p
}

// end waits for the process and gives its exit code.
func (p *process) end() int {
	_ = p.cmd.Wait() // the exit code says it
	return p.cmd.ProcessState.ExitCode()
}

// says waits until the process has printed what the pattern finds.
func (p *process) says(t *testing.T, pattern string) []string {
	t.Helper()
	re := regexp.MustCompile(pattern)
	require.Eventually(t, func() bool { return re.MatchString(p.out.String()) }, limit, 5*time.Millisecond, "%s in:\n%s", pattern, &p.out)
	return re.FindStringSubmatch(p.out.String())
}

// site is a folder with a configuration.
func site(t *testing.T, text string) (file, dir string) {
	t.Helper()
	dir, err := os.MkdirTemp("", "lt") // short: it has sockets
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, os.RemoveAll(dir)) })
	file = filepath.Join(dir, "latent.json")
	require.NoError(t, os.WriteFile(file, []byte(text), 0o600))
	return file, dir
}

const whole = `{
	"store": "leases.db", "control": "s", "listen": "127.0.0.1:0", "dir": "work",
	"hosts": [{"name": "here", "driver": "local", "dir": "machines", "slots": 2}],
	"locks": {"laptop": 1},
	"workers": [
		{"type": "latent", "name": "lat", "build_wait_timeout": -1, "properties": {"os": "lenny", "who": "worker"}, "locks": ["laptop"]},
		{"type": "standard", "name": "bot-solaris", "password": "solarispasswd", "properties": {"os": "solaris"}, "locks": ["laptop"]},
		{"type": "standard", "name": "bot-bsd", "password": "bsdpasswd"},
		{"type": "local", "name": "bot1", "properties": {"os": "master's"}}
	],
	"builders": [
		{"name": "latent", "workers": ["lat"], "steps": ["echo on $BULLPEN_OS for $BULLPEN_WHO, $BULLPEN_WHY"], "properties": {"who": "builder", "why": "builder"}},
		{"name": "standard", "workers": ["bot-solaris"], "steps": ["echo on $BULLPEN_OS for $BULLPEN_WHO; touch stays", "test -e stays"], "properties": {"who": "builder"}},
		{"name": "local", "workers": ["bot1"], "steps": ["echo on $BULLPEN_OS"]},
		{"name": "fails", "workers": ["bot1", "lat"], "steps": ["echo seen; exit 3", "echo never"]},
		{"name": "slow", "workers": ["bot1"], "timeout": 0.2, "steps": ["sleep 1000"]}
	]
}`

// The main story: a master, workers started by hand, builds that are asked for, and
// a look from outside.
func TestAMasterBuildsOnLatentStandardAndLocalWorkers(t *testing.T) {
	t.Parallel()
	file, dir := site(t, whole)
	master := launch(t, "master", "-config", file)
	address := master.says(t, `workers connect to (\S+)`)[1]
	master.says(t, `builds are asked for at`)

	// A worker by hand; it comes before or after its build is asked for.
	password := filepath.Join(dir, "password")
	require.NoError(t, os.WriteFile(password, []byte("solarispasswd\n"), 0o600))
	standard := launch(t, "build", "-config", file, "standard")
	worker := launch(t, "worker", "-master", address, "-name", "bot-solaris", "-password-file", password, "-dir", filepath.Join(dir, "bot"))
	require.Equal(t, 0, standard.end(), "%s\n%s\n%s", &standard.out, &master.out, &worker.out)
	require.FileExists(t, filepath.Join(dir, "bot", "builds", "standard", "stays"))

	code, out := runHere(t, "build", "-config", file, "-property", "why=asked", "latent", "local")
	require.Equal(t, 0, code, out)
	assert.Regexp(t, `passed +latent #1 on lat \(latent-0-`, out)
	assert.Regexp(t, `passed +local #1 on bot1 \(bot1\)`, out)
	assert.Contains(t, out, "start: lat on here, waited", "how its worker was started is attached")
	assert.Contains(t, out, "from=this process", "a local worker is in the master")
	code, out = runHere(t, "build", "-config", file, "fails", "slow")
	require.Equal(t, 1, code, out)
	assert.Contains(t, out, "exited with code 3")
	assert.Contains(t, out, "seen")
	assert.NotContains(t, out, "\nnever")
	assert.Regexp(t, `timed out +slow #1`, out)

	// Impostors, unknown names and second connections are refused, told and logged.
	wrong := filepath.Join(dir, "wrong")
	require.NoError(t, os.WriteFile(wrong, []byte("guessed"), 0o600))
	for i, c := range []struct{ name, file, logged string }{
		{"bot-solaris", wrong, "the secret is wrong"},
		{"bot-hpux", password, "no worker has this name"},
		{"lat", password, "no worker has this name"}, // nobody can be a latent worker
		{"bot-bsd", password, "the secret is wrong"},
		{"bot-solaris", password, "is connected from"}, // a second instance of one worker
	} {
		code, out := runHere(t, "worker", "-master", address, "-name", c.name, "-password-file", c.file, "-dir", filepath.Join(dir, fmt.Sprint(i)))
		assert.Equal(t, 1, code, out)
		master.says(t, "a connection is refused.*worker="+c.name+".*"+c.logged)
	}
	code, out = runHere(t, "build", "-config", file, "standard")
	require.Equal(t, 0, code, "the right one is still there: %s", out)
	for _, secret := range []string{"guessed", "passwd"} {
		assert.NotContains(t, master.out.String(), secret)
	}

	// From outside: the machine that waits for its next build is held.
	code, out = runHere(t, "build", "-config", file, "latent")
	require.Equal(t, 0, code, out)
	code, out = runHere(t, "leaks", "-config", file)
	require.Equal(t, 0, code, out)
	assert.Contains(t, out, "1 machines are held, 0 are not")
	// One that bears the master's name and that nobody holds.
	stray, err := local.Open(local.Config{Root: filepath.Join(dir, "machines")})
	require.NoError(t, err)
	defer stray.Close()
	m, err := stray.Create(t.Context(), vm.Spec{Name: "neglected", Secret: "x", Owner: vm.Owner{Incarnation: "i", Pool: "latent", Slot: "host/x/slot/9"}})
	require.NoError(t, err)
	require.NoError(t, m.Start(t.Context()))
	code, out = runHere(t, "leaks", "-config", file)
	require.Equal(t, 1, code, out)
	assert.Regexp(t, `LEAK neglected on here \(running\): `, out)
	require.NoError(t, m.Destroy(t.Context()))

	require.NoError(t, master.cmd.Process.Signal(syscall.SIGTERM))
	require.Equal(t, 0, master.end(), &master.out)
	listed, err := stray.List(t.Context())
	require.NoError(t, err)
	assert.Empty(t, listed, "a master that ends takes its machines along")
	worker.says(t, "not connected") // it goes on, and tries again
	require.NoError(t, worker.cmd.Process.Signal(syscall.SIGTERM))
	require.Equal(t, 0, worker.end(), &worker.out)
}

// runHere is the program in this process.
func runHere(t *testing.T, args ...string) (int, string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	var out journal
	code := run(ctx, args, &out, &out)
	return code, out.String()
}

func TestPropertiesAreSeenInTheGuestAndInTheCase(t *testing.T) {
	t.Parallel()
	file, _ := site(t, strings.Replace(whole, `"control": "s",`, "", 1))
	c, err := load(file)
	require.NoError(t, err)
	m, end, err := openMaster(t.Context(), c, discard())
	require.NoError(t, err)
	defer func() { require.NoError(t, end(t.Context())) }()
	b, err := m.build(t.Context(), "latent", map[string]string{"why": "asked"})
	require.NoError(t, err)
	assert.Contains(t, b.Output, "on lenny for worker, asked", "who asks goes over the worker, and the worker over the builder")
	assert.Equal(t, "lenny", b.Case.Properties["os"])
	assert.Equal(t, "lat", b.Case.Properties["worker"])
	b, err = m.build(t.Context(), "local", nil)
	require.NoError(t, err)
	assert.Contains(t, b.Output, "on master's")
	assert.Equal(t, "master's", b.Case.Properties["os"])
	_, err = m.build(t.Context(), "local", map[string]string{"a b": ""})
	require.ErrorContains(t, err, `property is "a b"`)
	_, err = m.build(t.Context(), "nothing", nil)
	require.ErrorContains(t, err, `builder is "nothing"`)
}

// As many as there are processors, and more: each waits in its build for all others.
func TestAsManyLocalWorkersAsAreConfiguredBuildAtOnce(t *testing.T) {
	t.Parallel()
	const n = 12
	all := map[string]any{}
	var workers, builders []map[string]any
	meet := filepath.Join(t.TempDir(), "meet")
	require.NoError(t, os.Mkdir(meet, 0o700))
	for i := range n {
		name := fmt.Sprintf("bot%d", i+1)
		workers = append(workers, map[string]any{"type": "local", "name": name})
		builders = append(builders, map[string]any{"name": name, "workers": []string{name}, "steps": []string{
			fmt.Sprintf(`touch %[1]s/%[2]s; until test $(ls %[1]s | wc -l) -eq %[3]d; do sleep 0.05; done; echo $PPID`, meet, name, n),
		}})
	}
	all["workers"], all["builders"] = workers, builders
	text, err := json.Marshal(all)
	require.NoError(t, err)
	file, _ := site(t, string(text))
	code, out := runHere(t, "master", "-config", file, "-once", "all")
	require.Equal(t, 0, code, out)
	assert.Contains(t, out, fmt.Sprintf("%d passed", n))
}

func TestTheBackEndsAreListed(t *testing.T) {
	t.Parallel()
	code, out := runHere(t, "backends")
	require.Equal(t, 0, code)
	for _, b := range backends {
		assert.Contains(t, out, b[2])
		if b[0] == typeLatent {
			_, err := parse([]byte(strings.Replace(five(""), `"driver": "local"`, `"driver": "`+b[1]+`"`, 1)), t.TempDir())
			assert.NoError(t, err, "what is listed is taken")
		}
	}
	_, err := parse([]byte(strings.Replace(five(""), `"driver": "local"`, `"driver": "ec2"`, 1)), t.TempDir())
	assert.ErrorContains(t, err, `hosts[0].driver is "ec2", want local or libvirt`)
}

func TestWhatCannotBeDoneIsSaid(t *testing.T) {
	t.Parallel()
	file, dir := site(t, five(""))
	for want, args := range map[string][]string{
		"want one of master":        {},
		"want one of":               {"start", "-config", file},
		"no such file":              {"check", "-config", filepath.Join(dir, "none")},
		"control is \"\"":           {"master", "-config", file},
		"want the file of the mast": {"build", "-config", file, "b0"},
		"store is \"\"":             {"leaks", "-config", file},
		"are needed":                {"worker", "-name", "x"},
	} {
		code, out := runHere(t, args...)
		assert.Equal(t, 2, code, want)
		assert.Contains(t, out, want)
	}
	code, out := runHere(t, "check", "-config", file)
	assert.Equal(t, 0, code)
	assert.Contains(t, out, "5 workers, 5 builders")
	code, _ = runHere(t, "check", "-config", "latent.json")
	assert.Equal(t, 0, code, "the README's configuration")
}
