package result

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"slices"
	"strconv"
	"syscall"
	"time"

	"github.com/bullpen-vm/bullpen/internal/atomicfile"
)

// A line of the file is the version, the CRC-32C of the rest as eight hex
// digits, and the record as JSON:
//
//	1 5f3a9c21 {"s":"install","n":"deb","v":"passed","t":1740830400000,"d":1500000000,"m":"vm-1"}
const historyVersion = "1"

type historyLine struct {
	Suite    string        `json:"s,omitempty"`
	Name     string        `json:"n"`
	Verdict  Status        `json:"v"`
	Start    int64         `json:"t,omitempty"` // milliseconds since 1970
	Duration time.Duration `json:"d"`
	Machine  string        `json:"m,omitempty"`
	Flaky    bool          `json:"f,omitempty"`
}

func sum(text []byte) uint32 { return crc32.Checksum(text, crc32.MakeTable(crc32.Castagnoli)) }

func appendRecord(text []byte, suite, name string, p Past) []byte {
	l := historyLine{Suite: suite, Name: name, Verdict: p.Status, Duration: p.Duration, Machine: p.Machine, Flaky: p.Flaky}
	if !p.Start.IsZero() {
		l.Start = p.Start.UnixMilli()
	}
	record, err := json.Marshal(l)
	if err != nil { // strings, numbers and bools always encode
		panic(fmt.Sprintf("result: bug: %v", err))
	}
	text = append(text, historyVersion...)
	text = fmt.Appendf(text, " %08x ", sum(record))
	text = append(text, record...)
	return append(text, '\n')
}

// parseHistory reads the whole file; lines that do not check are counted.
func parseHistory(text []byte, perTest int) (map[identity][]Past, int) {
	tests := make(map[identity][]Past)
	damaged := 0
	for line := range bytes.Lines(text) {
		line = bytes.TrimSuffix(line, []byte{'\n'})
		if len(line) == 0 {
			continue
		}
		key, past, ok := parseRecord(line)
		if !ok {
			damaged++
			continue
		}
		tests[key] = trim(append(tests[key], past), perTest)
	}
	return tests, damaged
}

func parseRecord(line []byte) (identity, Past, bool) {
	head := len(historyVersion) + 1 + 8 + 1
	if len(line) <= head || string(line[:len(historyVersion)+1]) != historyVersion+" " || line[head-1] != ' ' {
		return identity{}, Past{}, false
	}
	want, err := strconv.ParseUint(string(line[head-9:head-1]), 16, 32)
	if err != nil || uint32(want) != sum(line[head:]) {
		return identity{}, Past{}, false
	}
	var l historyLine
	if err := json.Unmarshal(line[head:], &l); err != nil || !l.Verdict.Own() {
		return identity{}, Past{}, false
	}
	p := Past{Status: l.Verdict, Duration: l.Duration, Machine: l.Machine, Flaky: l.Flaky}
	if l.Start != 0 {
		p.Start = time.UnixMilli(l.Start)
	}
	return identity{l.Suite, l.Name}, p, true
}

// Compact writes the file anew with only the latest records of each test, under
// an exclusive lock that it waits for until ctx ends. Should that still be more
// than half of MostBytes, the tests that were not seen for longest are dropped.
// Add does this by itself when the file has grown too large.
func (h *History) Compact(ctx context.Context) error {
	if err := h.compact(ctx); err != nil {
		return fmt.Errorf("result: history: compact: %w", err)
	}
	return nil
}

func (h *History) compact(ctx context.Context) (err error) {
	f, err := h.locked(ctx, syscall.LOCK_EX)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	text, err := io.ReadAll(f)
	if err != nil {
		return err
	}
	// Another process may have done it while this one waited.
	tests, damaged := parseHistory(text, h.perTest)
	kept, dropped := latest(tests, h.mostBytes/2)
	info, err := f.Stat()
	if err != nil {
		return err
	}
	// The lock is on the old file: writers that wait for it see that the path
	// leads elsewhere and open the new one.
	err = atomicfile.Write(h.path, info.Mode().Perm(), func(w io.Writer) error {
		for _, k := range kept {
			if _, err := w.Write(k.text); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	h.logger.Info("history compacted", "path", h.path, "bytes", len(text), "tests", len(kept), "dropped", dropped, "damaged", damaged)
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, k := range kept {
		delete(tests, k.key)
	}
	for key := range tests { // what is left was dropped
		delete(h.tests, key)
	}
	h.damaged = 0
	return nil
}

type keptTest struct {
	key  identity
	seen time.Time
	text []byte
}

// latest picks the tests seen last, as many as fit into most bytes, oldest
// first.
func latest(tests map[identity][]Past, most int64) (kept []keptTest, dropped int) {
	all := make([]keptTest, 0, len(tests))
	for key, past := range tests {
		k := keptTest{key: key}
		for _, p := range past {
			k.text = appendRecord(k.text, key.suite, key.name, p)
			if p.Start.After(k.seen) {
				k.seen = p.Start
			}
		}
		all = append(all, k)
	}
	slices.SortFunc(all, func(a, b keptTest) int {
		return cmp.Or(b.seen.Compare(a.seen), cmp.Compare(a.key.suite, b.key.suite), cmp.Compare(a.key.name, b.key.name))
	})
	var size int64
	for i, k := range all {
		if size += int64(len(k.text)); size > most {
			dropped = len(all) - i
			all = all[:i]
			break
		}
	}
	slices.Reverse(all)
	return all, dropped
}
