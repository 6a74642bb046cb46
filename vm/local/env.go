package local

import (
	"net/netip"
	"os"
	"strings"
)

// The folders of the guest, relative to the machine's.
const (
	guestWork = guestRoot + "/work"
	guestHome = guestRoot + "/home"
	guestTmp  = guestRoot + "/tmp"
	dirtyMark = guestRoot + "/.bullpen-dirty"
)

// passed names the variables of the harness that its machines get too. All
// others are kept from them: a harness's environment holds credentials, and a
// machine's has to be the same wherever it is run.
var passed = []string{"PATH", "LANG", "LANGUAGE", "LC_ALL", "LC_CTYPE", "TZ", "USER", "LOGNAME", "SHELL"}

// defaultPath is for a harness that has no PATH.
const defaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// environment is that of the keeper and the agent, and so the base of jobs'.
func (m *machine) environment(spec specRecord, addr netip.Addr) []string {
	env := []string{"PATH=" + defaultPath}
	for _, name := range passed {
		if v, ok := os.LookupEnv(name); ok {
			env = setVar(env, name+"="+v)
		}
	}
	env = setVar(env, "HOME="+m.path(guestHome))
	env = setVar(env, "TMPDIR="+m.path(guestTmp))
	env = setVar(env, "BULLPEN_ROOT="+m.path(guestRoot)) // what paths of copies are below
	for _, kv := range m.d.conf.Env {
		env = setVar(env, kv)
	}
	env = setVar(env, "BULLPEN_MACHINE="+spec.Incarnation)
	env = setVar(env, addressVar+"="+addr.String())
	return setVar(env, markVar+"="+spec.Mark)
}

// setVar replaces a variable or adds it: of two entries programs see either.
func setVar(env []string, kv string) []string {
	key, _, _ := strings.Cut(kv, "=")
	for i, old := range env {
		if strings.HasPrefix(old, key+"=") {
			env[i] = kv
			return env
		}
	}
	return append(env, kv)
}
