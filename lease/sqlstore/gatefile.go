package sqlstore

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"syscall"
)

// The gate file has two lines of a fixed size, overwritten in place: what the
// database is known to have reached, and who took the gate last. They are not
// synced: they outlive processes, and after a crash of the machine an older first
// line is true as well, for the database itself was synced before it was written.
const (
	gateLine  = 128
	gateMagic = "bullpen-gate-1"
)

// reached is what a database must know at least.
type reached struct {
	id      string
	commits int64
}

func (r reached) String() string {
	return gateMagic + " " + r.id + " " + strconv.FormatInt(r.commits, 10) + " " + checksum(r.commits, 0, r.id, gateMagic)
}

func parseReached(line []byte) (reached, error) {
	line = bytes.TrimRight(line, "\x00 \n")
	if len(line) == 0 {
		return reached{}, nil // new, or not on the disk yet when the machine crashed
	}
	fields := strings.Fields(string(line))
	if len(fields) != 4 || fields[0] != gateMagic {
		return reached{}, fmt.Errorf("%w: the first line of the gate file is %.40q", ErrDamaged, line)
	}
	n, err := strconv.ParseInt(fields[2], 10, 64)
	r := reached{id: fields[1], commits: n}
	if err != nil || r.String() != string(line) {
		return reached{}, fmt.Errorf("%w: the first line of the gate file does not fit its checksum", ErrDamaged)
	}
	return r, nil
}

// read reads both lines. Called when the gate was taken.
func (g *gate) read() error {
	n, err := g.file.ReadAt(g.lines[:], 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return fmt.Errorf("sqlstore: read %s: %w", g.path, err)
	}
	clear(g.lines[n:])
	return nil
}

// reached tells what was noted when the gate was taken. Called with the gate held.
func (g *gate) reached() (reached, error) {
	line := g.lines[:gateLine]
	if bytes.Equal(line, g.last) { // nobody else wrote since
		return g.known, nil
	}
	r, err := parseReached(line)
	if err != nil {
		return r, fmt.Errorf("%s: %w", g.path, err)
	}
	return r, nil
}

// note writes down what was reached. Called with the gate held.
func (g *gate) note(r reached) error {
	line := lineOf(r.String())
	if _, err := g.file.WriteAt(line, 0); err != nil {
		return fmt.Errorf("sqlstore: write %s: %w", g.path, err)
	}
	copy(g.lines[:], line)
	g.known, g.last = r, line
	return nil
}

// lineOf gives a line of the gate file.
func lineOf(text string) []byte {
	line := bytes.Repeat([]byte(" "), gateLine)
	copy(line[:gateLine-1], text)
	line[gateLine-1] = '\n'
	return line
}

// sign writes down who holds the gate, for people, where the file does not say so.
func (g *gate) sign() {
	if !bytes.Equal(g.lines[gateLine:], g.mine) {
		_, _ = g.file.WriteAt(g.mine, gateLine) // a word in a message
	}
}

// holder says who holds the gate: by what the kernel says where it tells, else by
// what the last one wrote.
func (g *gate) holder() string {
	line := make([]byte, gateLine)
	n, _ := g.file.ReadAt(line, gateLine) // empty is an answer too
	text := strings.TrimRight(string(line[:n]), "\x00 \n")
	if pid := g.lockPID(); pid > 0 && !strings.HasPrefix(text, fmt.Sprintf("pid %d ", pid)) {
		return fmt.Sprintf("pid %d", pid)
	}
	if text == "" {
		return "an unknown process"
	}
	return text
}

// lockPID finds the lock in /proc/locks; 0 when it is not there.
func (g *gate) lockPID() int {
	info, err := g.file.Stat()
	if err != nil {
		return 0
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return 0
	}
	text, err := os.ReadFile("/proc/locks")
	if err != nil {
		return 0
	}
	return findLock(string(text), stat.Ino)
}

// findLock gives the pid of the flock on an inode:
//
//	1: FLOCK  ADVISORY  WRITE 4711 fe:00:123456 0 EOF
func findLock(locks string, inode uint64) int {
	suffix := ":" + strconv.FormatUint(inode, 10)
	for line := range strings.Lines(locks) {
		f := strings.Fields(line)
		if len(f) >= 6 && f[1] == "FLOCK" && strings.HasSuffix(f[5], suffix) {
			if pid, err := strconv.Atoi(f[4]); err == nil && pid > 0 {
				return pid
			}
		}
	}
	return 0
}
