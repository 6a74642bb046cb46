package guest

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// cookieKey is the variable by which a job's processes are known, wherever they
// went.
const cookieKey = "BULLPEN_COOKIE"

const (
	reapInterval = time.Second
	// killRounds bounds the hunt for processes that fork while they are killed.
	killRounds = 20
)

// killMarked kills every process that has the cookie in its environment: those
// that left their group.
func (a *Agent) killMarked(cookie string) {
	want := []byte(cookieKey + "=" + cookie)
	for range killRounds {
		found := false
		for _, pid := range processes() {
			if pid == os.Getpid() {
				continue
			}
			env, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid))
			if err != nil || len(env) == 0 {
				continue // gone, a zombie, or another user's
			}
			for kv := range bytes.SplitSeq(env, []byte{0}) {
				if bytes.Equal(kv, want) {
					found = syscall.Kill(pid, syscall.SIGKILL) == nil || found
					break
				}
			}
		}
		if !found {
			return
		}
	}
	a.log.Warn("a job's processes multiply faster than they are killed")
}

// processes lists the PIDs of this namespace; none where there is no /proc.
func processes() []int {
	dir, err := os.Open("/proc")
	if err != nil {
		return nil
	}
	defer dir.Close() // read only
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return nil
	}
	var pids []int
	for _, n := range names {
		if pid, err := strconv.Atoi(n); err == nil {
			pids = append(pids, pid)
		}
	}
	return pids
}

// reapOrphans waits for children that nobody here started. A child that ended is
// taken at its second sighting only, so that whoever started it in this process
// had the time to wait for it.
func (a *Agent) reapOrphans() {
	seen := map[int]bool{}
	for pause(a.context, a.reapEvery) {
		now := map[int]bool{}
		for _, pid := range zombies() {
			if seen[pid] {
				a.reap(pid)
			} else {
				now[pid] = true
			}
		}
		seen = now
	}
}

// reap waits for one child unless it is the agent's own.
func (a *Agent) reap(pid int) {
	a.starting.Lock() // no child is between its start and its entry
	defer a.starting.Unlock()
	a.mu.Lock()
	own := a.children[pid]
	a.mu.Unlock()
	if own {
		return
	}
	var status syscall.WaitStatus
	if _, err := syscall.Wait4(pid, &status, syscall.WNOHANG, nil); err != nil {
		a.log.Debug("reaping", "pid", pid, "err", err)
	}
}

// zombies lists this process's children that have ended.
func zombies() []int {
	var pids []int
	self := os.Getpid()
	for _, pid := range processes() {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil {
			continue
		}
		// pid (name) state ppid ...: the name may hold anything.
		_, rest, ok := strings.Cut(string(b[bytes.LastIndexByte(b, ')')+1:]), " ")
		f := strings.Fields(rest)
		if ok && len(f) >= 2 && f[0] == "Z" && f[1] == strconv.Itoa(self) {
			pids = append(pids, pid)
		}
	}
	return pids
}
