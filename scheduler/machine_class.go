package scheduler

import (
	"sort"
	"strings"
)

// pair is one label with its value.
type pair struct{ key, value string }

// pairInfo holds what a pair is wanted by and who has it.
type pairInfo struct {
	kinds  []int32 // anchored here: of all their pairs the one with the fewest
	shapes []int32
}

// kind is a set of wanted labels. Failures to get workers are counted by it.
type kind struct {
	labels  map[string]string
	pairs   []pair
	text    string
	classes []int32

	fails     int    // one after the other
	level     int    // of the back-off
	lastFail  string // what the last one said
	notBefore int64  // back-off
	dead      cause  // no worker will come
	deadText  string
}

// class is a kind together with the limits that its tasks are under: tasks of
// one class are the same to a decision but for their urgency.
type class struct {
	classKey
	accounts []int32
	avoiding []string

	q       queue
	units   int // ready: tasks and pieces of bundles
	waiting int // tasks that are not ready yet
	demands []int32
	shapes  []int32
	turns   int              // how often a demand was taken back for its age
	aged    bool             // a demand of it goes without an answer for too long
	watched bool             // has a timer for that
	lanes   map[int32]*queue // by key: the units that a worker may know
	dirty   bool
}

type classKey struct {
	kind, account     int32
	executor          int32 // among the accounts; -1: none
	serial, exclusive bool
	avoid             string
	apart             string
}

// account bounds how many batches run at once.
type account struct {
	name    string
	limit   int // 0: none
	used    int
	work    float64
	classes []int32
}

// shape is what a set of workers has of the labels that are wanted at all.
type shape struct {
	pairs   []pair
	text    string
	ranking ranking
	classes []int32
	idle    []int32 // workers with room
	alive   int
	changed bool
	free    bool
}

const serialAccount = "\x00serial"

// executorAccount is the account of an executor's jobs.
const executorAccount = "\x00executor "

// executorOf interns the executor that labels name; -1 without a limit.
func (m *machine) executorOf(labels map[string]string) int32 {
	if len(m.conf.Executors) == 0 {
		return -1
	}
	name := labels[ExecutorLabel]
	if limit := m.conf.Executors[name]; limit > 0 {
		return m.account(executorAccount+name, limit)
	}
	return -1
}

// account interns a name; -1 without a limit.
func (m *machine) account(name string, limit int) int32 {
	if limit == 0 {
		return -1
	}
	if id, is := m.accountBy[name]; is {
		return id
	}
	id := int32(len(m.accounts))
	m.accounts = append(m.accounts, account{name: name, limit: limit})
	m.accountBy[name] = id
	return id
}

func sortedPairs(labels map[string]string) []pair {
	pairs := make([]pair, 0, len(labels))
	for k, v := range labels {
		pairs = append(pairs, pair{k, v})
	}
	sort.Slice(pairs, func(i, j int) bool { return pairs[i].key < pairs[j].key })
	return pairs
}

func pairsText(pairs []pair) string {
	var s strings.Builder
	for _, p := range pairs {
		s.WriteString(p.key)
		s.WriteByte(0)
		s.WriteString(p.value)
		s.WriteByte(1)
	}
	return s.String()
}

// kindOf interns a set of wanted labels.
func (m *machine) kindOf(labels map[string]string) int32 {
	if len(labels) == 0 {
		if id, is := m.kindBy[""]; is {
			return id
		}
	}
	pairs := sortedPairs(labels)
	text := pairsText(pairs)
	if id, is := m.kindBy[text]; is {
		return id
	}
	id := int32(len(m.kinds))
	m.kinds = append(m.kinds, kind{labels: labels, pairs: pairs, text: text})
	m.kindBy[text] = id
	var anchor *pairInfo
	for _, p := range pairs {
		info := m.pairs[p]
		if info == nil {
			info = &pairInfo{}
			m.pairs[p] = info
			m.reshape(p)
		}
		if anchor == nil || len(info.kinds) < len(anchor.kinds) {
			anchor = info
		}
	}
	if anchor == nil {
		return id
	}
	anchor.kinds = append(anchor.kinds, id)
	return id
}

// reshape gives workers that have a pair that nobody wanted before their new
// shape. That happens once per pair and costs one look at each worker.
func (m *machine) reshape(p pair) {
	for w := range m.workers {
		k := &m.workers[w]
		if k.state == workerGone || k.labels[p.key] != p.value {
			continue
		}
		if _, has := k.labels[p.key]; !has {
			continue
		}
		m.leaveShape(int32(w))
		m.joinShape(int32(w))
	}
}

// classOf interns a class.
func (m *machine) classOf(key classKey) int32 {
	if id, is := m.classBy[key]; is {
		return id
	}
	id := int32(len(m.classes))
	c := class{classKey: key}
	if key.avoid != "" {
		c.avoiding = strings.Split(key.avoid, "\x00")
	}
	if key.account >= 0 {
		c.accounts = append(c.accounts, key.account)
	}
	if key.executor >= 0 {
		c.accounts = append(c.accounts, key.executor)
	}
	if key.serial {
		c.accounts = append(c.accounts, m.account(serialAccount, 1))
	}
	m.classBy[key] = id
	m.classes = append(m.classes, c)
	for _, a := range c.accounts {
		m.accounts[a].classes = append(m.accounts[a].classes, id)
	}
	if key.exclusive {
		m.exclusive = append(m.exclusive, id)
	}
	k := &m.kinds[key.kind]
	k.classes = append(k.classes, id)
	// The shapes that fit are among those with the rarest of the pairs.
	var candidates []int32
	if len(k.pairs) == 0 {
		for s := range m.shapes {
			candidates = append(candidates, int32(s))
		}
	} else {
		for i, p := range k.pairs {
			if has := m.pairs[p].shapes; i == 0 || len(has) < len(candidates) {
				candidates = has
			}
		}
	}
	for _, s := range candidates {
		if sh := &m.shapes[s]; !sh.free && fits(k.pairs, sh.pairs) {
			m.match(s, id)
		}
	}
	return id
}

// fits says whether all wanted pairs are among those that there are; both are
// sorted by key.
func fits(want, has []pair) bool {
	i := 0
	for _, p := range want {
		for i < len(has) && has[i].key < p.key {
			i++
		}
		if i == len(has) || has[i] != p {
			return false
		}
	}
	return true
}

// blocked says whether nothing of a class may start now.
func (m *machine) blocked(c *class) bool {
	if c.exclusive && m.running > 0 {
		return true
	}
	for _, a := range c.accounts {
		if m.accounts[a].used >= m.accounts[a].limit {
			return true
		}
	}
	return false
}

// top returns the most urgent unit of a class that is still one.
func (m *machine) top(c int32) (entry, bool) {
	q := &m.classes[c].q
	for {
		e, ok := q.top()
		if q.near <= 0 {
			m.approach(q)
		}
		if !ok || m.isUnit(e, c) {
			return e, ok
		}
		q.pop()
	}
}

// lookAhead is how many tasks are fetched from memory at once.
const lookAhead = 16

// approach looks at the tasks that are next in a queue, or near its top in the
// heap, and at the first that depends on each. In order of urgency they lie
// anywhere in memory, and to fetch one costs more than all the rest of a decision;
// fetches that do not wait for each other cost little more than one.
func (m *machine) approach(q *queue) {
	q.near = lookAhead
	m.fetch(q.sorted[q.head:min(q.head+lookAhead, len(q.sorted))])
	if len(q.heap) > 0 {
		q.near = lookAhead / 2 // for what is behind these comes in between
		m.fetch(q.heap[:min(1+4+16, len(q.heap))])
	}
}

func (m *machine) fetch(entries []entry) {
	sum := int32(0)
	for i := range entries {
		if entries[i].id < 0 {
			continue
		}
		t := &m.tasks[entries[i].id]
		sum += int32(t.state) + t.prio // at both ends, which may be in two lines
		if t.succ >= 0 {
			sum += m.edges[t.succ].to
		}
	}
	m.fetched = sum // so that the compiler leaves the loop in
}

// isUnit says whether an entry is still true for a class.
func (m *machine) isUnit(e entry, c int32) bool {
	if e.id >= 0 {
		t := &m.tasks[e.id]
		return t.state == stateReady && t.class == c && t.bundle < 0
	}
	b := &m.bundles[^e.id]
	return b.count > 0 && b.urgency == e.urgency
}

// classUrgency is what a class competes with; none when it is empty or blocked.
// Work that a limit makes run one after the other is a path like any other.
func (m *machine) classUrgency(c int32) urgency {
	k := &m.classes[c]
	if k.units == 0 || m.blocked(k) {
		return urgency{}
	}
	e, ok := m.top(c)
	if !ok {
		return urgency{}
	}
	u := e.urgency
	if m.conf.Order == ByDuration {
		for _, a := range k.accounts {
			u.lo = max(u.lo, m.accounts[a].work/float64(m.accounts[a].limit))
		}
	}
	return u
}

// announce tells the shapes and the wants that a class became more urgent.
func (m *machine) announce(c int32) {
	u := m.classUrgency(c)
	if u.none() {
		return
	}
	k := &m.classes[c]
	for _, s := range k.shapes {
		m.shapes[s].ranking.raise(c, u)
		m.lookAt(s)
	}
	m.wantMore(c)
}

// enqueue puts a unit into its class and into the lanes of its keys.
func (m *machine) enqueue(c, key int32, e entry) {
	k := &m.classes[c]
	k.q.push(e)
	for n := key; n > 0; n = m.keys.nodes[n].parent {
		q := k.lanes[n]
		if q == nil {
			if k.lanes == nil {
				k.lanes = make(map[int32]*queue)
			}
			q = &queue{}
			k.lanes[n] = q
			m.keys.nodes[n].lanes = append(m.keys.nodes[n].lanes, lane{class: c, queue: q})
		}
		q.push(e)
	}
	m.dirtyClass(c)
}
