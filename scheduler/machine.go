package scheduler

import (
	"math"
)

// machine is the state of a run and all its decisions. It has no goroutine, no
// clock and no lock: inputs come one at a time with their moment, and decisions
// are left in out for whoever feeds it. The same inputs give the same
// decisions.
type machine struct {
	conf Config

	ids     []string
	byID    map[string]int32
	tasks   []task
	edges   []edge
	conds   []condition
	topo    []int32 // every task after those that it depends on
	loose   []coldTask
	started bool

	bundles   []bundle
	bundleBy  map[bundleKey]int32
	dirty     []int32 // bundles whose urgency is to be told
	dirtied   []int32 // classes whose urgency is to be told
	groups    []string
	groupBy   map[string]int32
	keys      keyTree
	kinds     []kind
	kindBy    map[string]int32
	pairs     map[pair]*pairInfo
	classes   []class
	classBy   map[classKey]int32
	accounts  []account
	accountBy map[string]int32
	shapes    []shape
	shapeBy   map[string]int32
	freeShape []int32
	deadShape []int32
	changed   []int32 // shapes to look at again
	wants     ranking // classes that want workers
	exclusive []int32 // classes of exclusive tasks

	workers     []worker
	freeWorker  []int32
	held        map[string]int32 // workers by name, until they are let go
	demands     []demand
	freeDemand  []int32
	asked       []int32 // demands that are out, withdrawn ones too
	batches     []batch
	freeBatch   []int32
	alive       int // workers that arrived and are not released
	idle        int
	running     int // batches
	exclusively int // of them exclusive
	late        int // demands out that were withdrawn

	switching switching

	timers  timers
	pending pendingLimits

	unfinished, waiting, ready, active int // tasks
	byStatus                           [statuses]int
	holds                              int
	work                               float64 // estimated seconds not yet given to a worker
	total, done                        float64 // of all tasks; of those that ended
	known                              float64 // sum of logarithms of the known estimates
	knownCount                         int
	longest                            float64 // longest known estimate
	critical                           float64 // paths above it are begun with those that were never seen
	stale                              int     // tasks whose addition was not carried up whole
	failures                           int
	retries                            int
	cancelled                          string // why no more is started
	cancelCause                        cause
	now                                int64
	slow                               bool // some task has affinity or a group
	fetched                            int32
	scratch                            []int32
	aside                              []rank
	ends                               []int32 // tasks whose successors are to be told
	telling                            bool
	releasing                          int // workers

	out []action
}

// task is what decisions need to know of one; the rest is in coldTask.
type task struct {
	tail   float64 // seconds from its start to the end of all that hangs on it
	est    float64 // seconds
	at     int64   // when it was queued, or given to a worker
	ready  int64   // when it could run first
	prio   int32
	class  int32
	bundle int32 // -1: a unit of its own
	key    int32 // node in keys; 0: none
	succ   int32 // first of the edges out, -1: none
	pred   int32 // first of the edges in
	waits  int32 // edges in that are not yet met
	batch  int32
	cold   int32 // in loose, -1: nothing special
	tries  int32 // attempts that count
	lost   int32 // of them lost with a worker
	state  taskState
	status status
	unseen bool
	first  bool // it goes before those of its priority; told when it becomes ready, so that it does not change while it is queued
}

// coldTask is what few tasks have.
type coldTask struct {
	attempts int32
	timeout  int64
	limit    int64
	exit     int32
	cause    cause
	by       int32 // the task that blocked it
	root     int32 // the first of all that blocked it
	text     string
	avoid    []string
}

type taskState uint8

const (
	stateWaiting taskState = iota
	stateReady
	stateGiven   // in a batch, not started
	stateStarted // in a batch
	stateEnded
)

// edge says that to depends on from.
type edge struct {
	from, to int32
	nextOut  int32
	nextIn   int32
	cond     int32 // in conds; 0: passed, 1: ended
	met      bool
}

// condition is a Dependency without its task.
type condition struct {
	ended    bool
	statuses []status
	exits    []int32
	words    []string
}

func (c *condition) met(s status, exit int32) bool {
	if c.ended {
		return true
	}
	if len(c.statuses) == 0 && len(c.exits) == 0 {
		return s == statusPassed
	}
	if len(c.statuses) > 0 {
		found := false
		for _, want := range c.statuses {
			found = found || want == s
		}
		if !found {
			return false
		}
	}
	if len(c.exits) > 0 {
		if !s.ran() {
			return false // an exit code of nothing that ran
		}
		for _, want := range c.exits {
			if want == exit {
				return true
			}
		}
		return false
	}
	return true
}

// bundle is the ready tasks of one group that fit the same workers.
type bundle struct {
	q      queue
	count  int
	sum    float64
	pieces int // what it counts for among its class's units
	class  int32
	group  int32
	key    int32
	urgency
	dirty bool
}

type bundleKey struct{ group, class, key int32 }

// cause says why a task ended without a verdict of its own.
type cause uint8

const (
	causeNone cause = iota
	causeBlocked
	causeAborted
	causeMostFailures
	causePending
	causePoison
	causeAttempts
	causeBudget
	causeImpossible
	causeRespawns
	causeStatus
	causeFinal
)

// action is a decision for the runtime.
type action struct {
	kind   actionKind
	id     int32 // demand, worker, batch or task
	worker int32
	at     int64 // of an attempt: its start
	text   string
}

type actionKind uint8

const (
	doAsk       actionKind = iota // id: demand
	doWithdraw                    // id: demand
	doDesert                      // id: demand: stop waiting for the source
	doRun                         // id: batch, worker
	doInterrupt                   // id: batch
	doAbandon                     // id: batch: stop waiting for it
	doRelease                     // id: worker; text: why, empty for healthy
	doOutcome                     // id: task
	doAttempt                     // id: task: an attempt that gave no verdict; text: why
	doNote                        // text: for the log
)

func (m *machine) do(a action) { m.out = append(m.out, a) }

// newMachine returns a machine for a configuration that was filled.
func newMachine(c Config) *machine {
	m := &machine{
		conf:      c,
		byID:      make(map[string]int32),
		conds:     []condition{{}, {ended: true}},
		bundleBy:  make(map[bundleKey]int32),
		groupBy:   make(map[string]int32),
		kindBy:    make(map[string]int32),
		pairs:     make(map[pair]*pairInfo),
		classBy:   make(map[classKey]int32),
		accountBy: make(map[string]int32),
		shapeBy:   make(map[string]int32),
		held:      make(map[string]int32),
	}
	m.keys.init()
	return m
}

// typical is the estimate of a task that was never seen: the median of the
// known ones, as far as they are lognormal, and a second without any.
func (m *machine) typical() float64 {
	if m.knownCount == 0 {
		return 1
	}
	return math.Exp(m.known / float64(m.knownCount))
}

// score is what orders tasks of one priority.
func (m *machine) score(t int32) float64 {
	switch m.conf.Order {
	case Given:
		return -float64(t)
	case Random:
		x := m.conf.Seed + 0x9e3779b97f4a7c15*uint64(t+1) // splitmix64
		x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
		x = (x ^ x>>27) * 0x94d049bb133111eb
		return float64((x ^ x>>31) >> 11)
	}
	return m.tasks[t].tail
}

// urgencyOf a task that is a unit of its own, or within its bundle.
func (m *machine) urgencyOf(t int32) urgency {
	k := &m.tasks[t]
	u := urgency{hi: priorityBits(k.prio) | flagAny, lo: m.score(t)}
	if k.first {
		u.hi |= flagUnseen
	}
	if m.classes[k.class].exclusive {
		u.hi |= flagExclusive
	}
	return u
}

// finished says that every task has ended and nothing more can come.
func (m *machine) finished() bool {
	return m.started && m.unfinished == 0 && (m.holds == 0 || m.cancelled != "")
}

// quiet says that nothing is out any more either.
func (m *machine) quiet() bool {
	return m.finished() && m.alive == 0 && len(m.asked) == 0
}
