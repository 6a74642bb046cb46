package scheduler

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"
)

// Log records the inputs of one run: all that its decisions came from. The zero
// value is ready; it is safe for concurrent use and grows by about three
// entries per task. Replay runs it again.
type Log struct {
	mu      sync.Mutex
	head    logHead
	entries []logEntry
	sum     decisionSum
}

// logHead is what of the configuration decisions depend on.
type logHead struct {
	Workers     int            `json:"workers"`
	Accounts    map[string]int `json:"accounts,omitempty"`
	Order       Order          `json:"order"`
	Seed        uint64         `json:"seed,omitempty"`
	Switch      time.Duration  `json:"switch,omitempty"`
	Whole       bool           `json:"whole,omitempty"`
	Keys        int            `json:"keys"`
	Attempts    int            `json:"attempts"`
	Retries     int            `json:"retries,omitempty"`
	PoisonAfter int            `json:"poisonAfter"`
	Respawns    int            `json:"respawns"`
	Backoff     time.Duration  `json:"backoff"`
	MostBackoff time.Duration  `json:"mostBackoff"`
	Failures    int            `json:"mostFailures,omitempty"`
	Grace       time.Duration  `json:"grace"`
	GraceMargin time.Duration  `json:"graceMargin"`
	Idle        time.Duration  `json:"idle"`
	Executors   map[string]int `json:"executors,omitempty"`
	Rotate      time.Duration  `json:"rotate,omitempty"`
}

type logEntry struct {
	input
	Sum uint64 `json:"sum"` // over all decisions up to here
}

func (c Config) head() logHead {
	return logHead{c.Workers, c.Accounts, c.Order, c.Seed, c.Switch, c.Whole, c.Keys, c.Attempts, c.Retries,
		c.PoisonAfter, c.Respawns, c.Backoff, c.MostBackoff, c.MostFailures, c.Grace, c.GraceMargin, c.Idle, c.Executors, c.Rotate}
}

func (h logHead) config() Config {
	return Config{Workers: h.Workers, Accounts: h.Accounts, Order: h.Order, Seed: h.Seed, Switch: h.Switch,
		Whole: h.Whole, Keys: h.Keys, Attempts: h.Attempts, Retries: h.Retries, PoisonAfter: h.PoisonAfter,
		Respawns: h.Respawns, Backoff: h.Backoff, MostBackoff: h.MostBackoff, MostFailures: h.Failures,
		Grace: h.Grace, GraceMargin: h.GraceMargin, Idle: h.Idle, Executors: h.Executors, Rotate: h.Rotate}
}

// decisionSum is FNV-1a over decisions.
type decisionSum uint64

func (d *decisionSum) add(actions []action) {
	h := uint64(*d)
	if h == 0 {
		h = 14695981039346656037
	}
	mix := func(v uint64) {
		for range 5 {
			h = (h ^ v&0xff) * 1099511628211
			v >>= 8
		}
	}
	for i := range actions {
		a := &actions[i]
		mix(uint64(a.kind))
		mix(uint64(uint32(a.id)))
		mix(uint64(uint32(a.worker)))
		mix(uint64(len(a.text)))
	}
	*d = decisionSum(h)
}

func (l *Log) record(c Config, in *input, out []action) {
	if l == nil {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.entries) == 0 {
		l.head = c.head()
	}
	l.sum.add(out)
	l.entries = append(l.entries, logEntry{*in, uint64(l.sum)})
}

// Len returns the number of inputs.
func (l *Log) Len() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.entries)
}

// WriteTo writes the log as JSON lines, the configuration first.
func (l *Log) WriteTo(w io.Writer) (int64, error) {
	l.mu.Lock()
	head, entries := l.head, l.entries[:len(l.entries):len(l.entries)]
	l.mu.Unlock()
	c := &counting{w: w}
	e := json.NewEncoder(c)
	if err := e.Encode(head); err != nil {
		return c.n, err
	}
	for i := range entries {
		if err := e.Encode(&entries[i]); err != nil {
			return c.n, err
		}
	}
	return c.n, nil
}

type counting struct {
	w io.Writer
	n int64
}

func (c *counting) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	c.n += int64(n)
	return n, err
}

// ReadLog reads what WriteTo wrote. A last line that is cut off is an error, as
// any other that does not parse; what was read before is returned with it.
func ReadLog(r io.Reader) (*Log, error) {
	d := json.NewDecoder(r)
	l := &Log{}
	if err := d.Decode(&l.head); err != nil {
		return l, &OpError{Op: "read log", Err: err}
	}
	for {
		var e logEntry
		if err := d.Decode(&e); errors.Is(err, io.EOF) {
			return l, nil
		} else if err != nil {
			return l, &OpError{Op: "read log", Err: fmt.Errorf("entry %d: %w", len(l.entries), err)}
		}
		l.entries = append(l.entries, e)
	}
}

// Decision is one decision of a run, for people and tests.
type Decision struct {
	At     time.Duration // since the scheduler was made
	What   string        // "ask", "withdraw", "run", "interrupt", "abandon", "release", "outcome", ...
	Task   string        // for ask: whose demand; for outcome and attempt
	Tasks  []string      // for run
	Worker string        // for run and release
	Status string        // for outcome
	Text   string
}

var actionWords = [...]string{"ask", "withdraw", "desert", "run", "interrupt", "abandon", "release", "outcome", "attempt", "note"}

// Replay runs the machine on a log and returns all its decisions. An error says
// where they differ from those that were made: then this is not the code, or
// not the log, of that run.
func Replay(l *Log) ([]Decision, error) { return replay(l, true) }

func replay(l *Log, verify bool) ([]Decision, error) {
	l.mu.Lock()
	head, entries := l.head, l.entries[:len(l.entries):len(l.entries)]
	l.mu.Unlock()
	if len(entries) == 0 {
		return nil, nil
	}
	conf, err := head.config().filled()
	if err != nil {
		return nil, &OpError{Op: "replay", Err: err}
	}
	m := newMachine(conf)
	var all []Decision
	var sum decisionSum
	for i := range entries {
		in := entries[i].input
		if err := m.check(&in); err != nil {
			return all, &OpError{Op: "replay", Err: fmt.Errorf("entry %d: %w", i, err)}
		}
		if err := m.feed(&in); err != nil {
			return all, &OpError{Op: "replay", Err: fmt.Errorf("entry %d: %w", i, err)}
		}
		sum.add(m.out)
		for k := range m.out {
			all = append(all, m.decision(&m.out[k]))
		}
		m.out = m.out[:0]
		if verify && uint64(sum) != entries[i].Sum {
			return all, &OpError{Op: "replay", Err: fmt.Errorf("entry %d (%s): the decisions differ from those of the run", i, in.Kind)}
		}
	}
	return all, nil
}

// check refuses inputs that name what is not there, as a damaged log may.
func (m *machine) check(in *input) error {
	limit := map[inputKind]int{inArrived: len(m.demands), inRefused: len(m.demands), inStarted: len(m.batches),
		inEnded: len(m.batches), inOver: len(m.batches), inReleased: len(m.workers)}
	n, has := limit[in.Kind]
	ok := !has || in.ID >= 0 && int(in.ID) < n
	switch in.Kind {
	case inAdd, inStart, inHold, inUnhold, inTick, inCancel:
	case inArrived, inRefused:
		ok = ok && m.demands[in.ID].state != demandFree
	case inStarted, inEnded:
		ok = ok && in.Task >= 0 && int(in.Task) < len(m.tasks)
	case inOver:
		ok = ok && m.batches[in.ID].state != batchFree
	case inReleased:
		ok = ok && m.workers[in.ID].state == workerReleasing
	default:
		return fmt.Errorf("unknown input %q", in.Kind)
	}
	if !ok {
		return fmt.Errorf("input %s names %d (task %d), which is not there", in.Kind, in.ID, in.Task)
	}
	return nil
}

func (m *machine) decision(a *action) Decision {
	d := Decision{At: time.Duration(m.now), What: actionWords[a.kind], Text: a.text}
	switch a.kind {
	case doAsk, doWithdraw, doDesert:
		d.Task = m.ids[m.demands[a.id].task]
	case doRun:
		for _, t := range m.batches[a.id].tasks {
			d.Tasks = append(d.Tasks, m.ids[t])
		}
		d.Worker = m.workers[a.worker].name
	case doRelease:
		d.Worker = m.workers[a.id].name
	case doOutcome:
		d.Task = m.ids[a.id]
		d.Status = m.tasks[a.id].status.String()
	case doAttempt:
		d.Task = m.ids[a.id]
		d.Worker = m.workers[a.worker].name
	}
	return d
}
