package scheduler

// urgency orders units: higher hi first, then higher lo. The zero urgency is
// none at all.
type urgency struct {
	hi uint64  // priority, and flags below it
	lo float64 // seconds from its start to the end of all that hangs on it
}

func (u urgency) none() bool { return u.hi == 0 }

func (u urgency) above(v urgency) bool {
	return u.hi > v.hi || u.hi == v.hi && u.lo > v.lo
}

// The flags in urgency.hi below the priority.
const (
	flagAny       = 1 << 0 // hi is never zero
	flagUnseen    = 1 << 1 // no estimate: may be the longest of all; or a path that fills the run
	flagFresh     = 1 << 2 // in the heap of wants: nothing asked yet
	flagExclusive = 1 << 3
	priorityShift = 4
)

func priorityBits(p int32) uint64 {
	return uint64(int64(p)-int64(minPriority)) << priorityShift
}

const (
	minPriority = -1 << 31
	maxPriority = 1<<31 - 1
)

// entry is a unit in a queue: a task (id at least 0) or a bundle (^id).
type entry struct {
	urgency
	id int32
}

// before is a strict order, so that equal inputs give equal runs.
func (e entry) before(f entry) bool {
	if e.hi != f.hi {
		return e.hi > f.hi
	}
	if e.lo != f.lo {
		return e.lo > f.lo
	}
	return e.id < f.id
}

// queue gives the most urgent entry. Entries are deleted lazily: whoever reads
// the top drops it when it is no longer true. What comes in bulk is sorted once
// and read from the front, which costs a third of a heap; the rest is a heap of
// four children.
type queue struct {
	sorted []entry
	head   int
	near   int // pops until the tasks behind are looked at; see approach
	heap   []entry
	fresh  []entry
}

func (q *queue) push(e entry) { q.fresh = append(q.fresh, e) }

// settle brings what was pushed since into order.
func (q *queue) settle() {
	n := len(q.fresh)
	if n == 0 {
		return
	}
	left := len(q.sorted) - q.head
	if n >= 32 && n >= left/2 {
		if left > 0 {
			q.fresh = append(q.fresh, q.sorted[q.head:]...)
		}
		sorted, spare := inOrder(q.fresh, q.sorted)
		q.sorted, q.fresh, q.head = sorted, spare[:0], 0
		q.near = 0
		return
	}
	for _, e := range q.fresh {
		q.heap = append(q.heap, e)
		q.up(len(q.heap) - 1)
	}
	q.fresh = q.fresh[:0]
}

// top returns the most urgent entry, true or not.
func (q *queue) top() (entry, bool) {
	if len(q.fresh) > 0 {
		q.settle()
	}
	if q.head < len(q.sorted) {
		if len(q.heap) == 0 || q.sorted[q.head].before(q.heap[0]) {
			return q.sorted[q.head], true
		}
		return q.heap[0], true
	}
	if len(q.heap) > 0 {
		return q.heap[0], true
	}
	return entry{}, false
}

// pop drops what top returned.
func (q *queue) pop() {
	q.near--
	if q.head < len(q.sorted) && (len(q.heap) == 0 || q.sorted[q.head].before(q.heap[0])) {
		q.head++
		if q.head == len(q.sorted) {
			q.sorted, q.head = q.sorted[:0], 0
		}
		return
	}
	last := len(q.heap) - 1
	q.heap[0] = q.heap[last]
	q.heap = q.heap[:last]
	if last > 1 {
		q.down(0)
	}
}

func (q *queue) up(i int) {
	e := q.heap[i]
	for i > 0 {
		p := (i - 1) / 4
		if !e.before(q.heap[p]) {
			break
		}
		q.heap[i] = q.heap[p]
		i = p
	}
	q.heap[i] = e
}

func (q *queue) down(i int) {
	h := q.heap
	e := h[i]
	for {
		c := 4*i + 1
		if c >= len(h) {
			break
		}
		best := c
		for k := c + 1; k < min(c+4, len(h)); k++ {
			if h[k].before(h[best]) {
				best = k
			}
		}
		if !h[best].before(e) {
			break
		}
		h[i] = h[best]
		i = best
	}
	h[i] = e
}

// ranking is a heap of classes by the urgency of their tops, with places, so
// that a class that became more urgent is moved at once. One that became less
// urgent is moved when it is met at the top.
type ranking struct {
	rows  []rank
	place places
}

// places says where in a ranking each class is: the first classes, which are
// all in most runs, by index, for a map costs more than the decision; the rest,
// which may be a million, by a map.
type places struct {
	low  []int32 // the place and one; zero: not in
	high map[int32]int32
}

const lowClasses = 1024

func (p *places) at(class int32) (int32, bool) {
	if class < lowClasses {
		if int(class) >= len(p.low) {
			return 0, false
		}
		return p.low[class] - 1, p.low[class] > 0
	}
	i, in := p.high[class]
	return i, in
}

func (p *places) set(class, i int32) {
	if class < lowClasses {
		for int(class) >= len(p.low) {
			p.low = append(p.low, 0)
		}
		p.low[class] = i + 1
		return
	}
	if p.high == nil {
		p.high = make(map[int32]int32)
	}
	p.high[class] = i
}

func (p *places) drop(class int32) {
	if class < lowClasses {
		p.low[class] = 0
		return
	}
	delete(p.high, class)
}

type rank struct {
	urgency
	class int32
}

func (a rank) before(b rank) bool {
	if a.hi != b.hi {
		return a.hi > b.hi
	}
	if a.lo != b.lo {
		return a.lo > b.lo
	}
	return a.class < b.class
}

func (r *ranking) put(i int, row rank) {
	r.rows[i] = row
	r.place.set(row.class, int32(i))
}

// raise puts a class in, or moves it up.
func (r *ranking) raise(class int32, u urgency) {
	if len(r.rows) == 1 && r.rows[0].class == class {
		if u.above(r.rows[0].urgency) {
			r.rows[0].urgency = u
		}
		return
	}
	at, in := r.place.at(class)
	i := int(at)
	row := rank{u, class}
	switch {
	case !in:
		i = len(r.rows)
		r.rows = append(r.rows, row)
	case !u.above(r.rows[i].urgency):
		return
	}
	for i > 0 {
		p := (i - 1) / 2
		if !row.before(r.rows[p]) {
			break
		}
		r.put(i, r.rows[p])
		i = p
	}
	r.put(i, row)
}

// lower gives the class at the top its true urgency; none takes it out.
func (r *ranking) lower(u urgency) {
	row := r.rows[0]
	row.urgency = u
	if u.none() {
		r.place.drop(row.class)
		last := len(r.rows) - 1
		row = r.rows[last]
		r.rows = r.rows[:last]
	}
	if len(r.rows) == 0 {
		return
	}
	if len(r.rows) == 1 && !u.none() {
		r.rows[0] = row
		return
	}
	i := 0
	for {
		c := 2*i + 1
		if c >= len(r.rows) {
			break
		}
		if c+1 < len(r.rows) && r.rows[c+1].before(r.rows[c]) {
			c++
		}
		if !r.rows[c].before(row) {
			break
		}
		r.put(i, r.rows[c])
		i = c
	}
	r.put(i, row)
}

// top returns the most urgent class by the truth that now tells.
func (r *ranking) top(now func(class int32) urgency) (rank, bool) {
	for len(r.rows) > 0 {
		row := r.rows[0]
		u := now(row.class)
		if u == row.urgency {
			return row, true
		}
		r.lower(u)
	}
	return rank{}, false
}
