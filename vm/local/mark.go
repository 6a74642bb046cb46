package local

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
)

// markVar is the variable that marks a machine's processes.
const markVar = "BULLPEN_MARK"

// rlimitRTTime is RLIMIT_RTTIME of setrlimit(2): how many microseconds a
// process under real-time scheduling may go on without a blocking call.
const rlimitRTTime = 15

// limitMark turns a mark into a value for RLIMIT_RTTIME. Any value above
// 2^61 µs is 73 000 years and thus has no effect but to be seen: limits are
// inherited by all children, exec and a new session do not change them, and only
// a process that is allowed to raise limits could take the mark off.
func limitMark(mark string) uint64 {
	h := sha256.Sum256([]byte("bullpen limit mark\n" + mark))
	return 1<<61 | binary.LittleEndian.Uint64(h[:])>>3
}

// setLimitMark marks this process and all that it starts from now on.
func setLimitMark(mark string) error {
	v := limitMark(mark)
	return syscall.Setrlimit(rlimitRTTime, &syscall.Rlimit{Cur: v, Max: v})
}

// readLimitMark gives the value that setLimitMark set, or zero.
func readLimitMark(pid int) (uint64, error) {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/limits")
	if err != nil {
		return 0, err
	}
	return parseLimitMark(b)
}

// parseLimitMark reads the hard limit in the line "Max realtime timeout" of
// /proc/<pid>/limits.
func parseLimitMark(b []byte) (uint64, error) {
	const name = "Max realtime timeout"
	for line := range bytes.Lines(b) {
		rest, ok := strings.CutPrefix(string(line), name)
		if !ok {
			continue
		}
		f := strings.Fields(rest)
		if len(f) < 2 {
			break
		}
		if f[1] == "unlimited" {
			return 0, nil
		}
		return strconv.ParseUint(f[1], 10, 64)
	}
	return 0, fmt.Errorf("no line %q in /proc/<pid>/limits", name)
}

// marked reports whether a process bears the mark in its limits or in its
// environment. A process that is gone or not to be read bears none.
func marked(pid int, limit uint64, env []byte) (bool, error) {
	v, err := readLimitMark(pid)
	if err != nil && !vanished(err) {
		return false, err
	}
	if err == nil && v == limit {
		return true, nil
	}
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/environ")
	if err != nil && !vanished(err) {
		return false, err
	}
	return hasVar(b, env), nil
}

// hasVar looks for KEY=value among the zero-ended strings of an environment.
func hasVar(environ, kv []byte) bool {
	for v := range bytes.SplitSeq(environ, []byte{0}) {
		if bytes.Equal(v, kv) {
			return true
		}
	}
	return false
}

// vanished: the process ended, or is another user's and thus never ours.
func vanished(err error) bool {
	return errors.Is(err, os.ErrNotExist) || errors.Is(err, os.ErrPermission) || errors.Is(err, syscall.ESRCH)
}
