package queue

// Queue holds the waiters and the free machines. M is a machine's value and W
// a waiter's. Use New.
type Queue[M, W any] struct {
	classes map[classKey]*Class[M, W]
	list    []*Class[M, W]
	demands map[classKey]*Demand[M, W]
	active  []*Demand[M, W] // demands with waiters, in no order
	sweepAt int
	seq     uint64
	stamp   uint64
	waiting int
	// collectors are the waiters with reservations, in no order: few, for
	// only those who want several machines ever wait with some in hand.
	collectors []*Waiter[M, W]
}

// New makes an empty queue.
func New[M, W any]() *Queue[M, W] {
	return &Queue[M, W]{
		classes: make(map[classKey]*Class[M, W]),
		demands: make(map[classKey]*Demand[M, W]),
		sweepAt: maxIdleDemands,
	}
}

// Item is a machine's place in the queue, to be embedded in the machine. The
// zero value with Value and Class set is outside: neither free nor reserved.
type Item[M, W any] struct {
	Value M
	Class *Class[M, W]

	state      itemState
	stamp      uint64
	owner      *Waiter[M, W] // whose reservation it is
	prev, next *Item[M, W]
}

type itemState uint8

const (
	outside itemState = iota
	free
	reserved
)

// Free reports whether the machine is free: nobody has it or waits for it.
func (i *Item[M, W]) Free() bool { return i.state == free }

// Reserved gives the waiter who has it reserved; nil when nobody has.
func (i *Item[M, W]) Reserved() *Waiter[M, W] { return i.owner }

// Waiter is one who wants machines. Value, Demand, Priority, Need and Avoid are
// set by the caller before Add and not changed while it waits.
type Waiter[M, W any] struct {
	// What a cancellation touches comes first: it is 64 bytes, a line of the
	// processor's cache, and of many waiters none is in the cache.

	Demand     *Demand[M, W]
	level      *level[M, W] // where it waits; nil: it does not
	prev, next *Waiter[M, W]
	Need       int // machines wanted, 1 or more
	// Got are the machines so far. After a grant they belong to the caller.
	Got []*Item[M, W]

	Value    W
	Priority int // higher goes first
	// Avoid reports machines that are taken only when no other is free; nil:
	// none.
	Avoid func(M) bool

	seq uint64
	one [1]*Item[M, W] // room for Got of those who want one
}

// Queued reports whether it waits.
func (w *Waiter[M, W]) Queued() bool { return w.level != nil }

// Lacks is how many machines it still needs.
func (w *Waiter[M, W]) Lacks() int { return w.Need - len(w.Got) }

// before reports whether w goes before v.
func (w *Waiter[M, W]) before(v *Waiter[M, W]) bool {
	if w.Priority != v.Priority {
		return w.Priority > v.Priority
	}
	return w.seq < v.seq
}

// Waiting is the number of waiters.
func (q *Queue[M, W]) Waiting() int { return q.waiting }

// Active are the demands with waiters, in no order; not to be changed.
func (q *Queue[M, W]) Active() []*Demand[M, W] { return q.active }

// Try gives w what it needs when it is there at once and nobody before w wants
// it, and reports whether it did. It never queues and takes nothing otherwise.
// As w comes last among its priority, free machines are wanted by nobody.
func (q *Queue[M, W]) Try(w *Waiter[M, W]) bool {
	have := 0
	for _, c := range w.Demand.classes {
		have += c.nfree
	}
	if have < w.Need {
		return false
	}
	q.takeFree(w)
	return true
}

// Add queues w, or grants at once. A waiter that was granted and gave its
// machines back may be added again and then has its old place. granted are the
// waiters that have all they need now: w or nobody.
func (q *Queue[M, W]) Add(w *Waiter[M, W]) (granted bool) {
	if w.seq == 0 {
		q.seq++
		w.seq = q.seq
	}
	q.takeFree(w)
	if w.Lacks() > 0 && len(q.collectors) > 0 {
		q.steal(w)
	}
	if w.Lacks() == 0 {
		return true
	}
	q.enqueue(w)
	if len(w.Got) > 0 {
		q.collectors = append(q.collectors, w)
	}
	return false
}

// takeFree moves free machines to w, those to be avoided last, the others by
// how recently they came free.
func (q *Queue[M, W]) takeFree(w *Waiter[M, W]) {
	for w.Lacks() > 0 {
		item := w.Demand.pick(w.Avoid)
		if item == nil {
			return
		}
		item.Class.unlink(item)
		q.reserve(w, item)
	}
}

func (d *Demand[M, W]) pick(avoid func(M) bool) *Item[M, W] {
	var best, last *Item[M, W]
	for _, c := range d.classes {
		if avoid == nil {
			if c.free != nil && (best == nil || c.free.stamp > best.stamp) {
				best = c.free
			}
			continue
		}
		for i := c.free; i != nil; i = i.next {
			if avoid(i.Value) {
				if last == nil || i.stamp > last.stamp {
					last = i
				}
				continue
			}
			if best == nil || i.stamp > best.stamp {
				best = i
			}
			break // the rest of the class came free earlier
		}
	}
	if best == nil {
		return last
	}
	return best
}

// reserve puts an item that is outside into w's hand.
func (q *Queue[M, W]) reserve(w *Waiter[M, W], item *Item[M, W]) {
	item.state, item.owner = reserved, w
	if w.Got == nil {
		w.Got = w.one[:0]
	}
	w.Got = append(w.Got, item)
	if w.Queued() {
		w.Demand.needed--
	}
}

// steal gives w what those behind it have reserved, from the last one first.
// Who is robbed need not look further: it lacked a machine before, so by the
// rule nobody behind it had one that it accepts.
func (q *Queue[M, W]) steal(w *Waiter[M, W]) {
	for w.Lacks() > 0 {
		var from *Waiter[M, W]
		at := -1
		for _, v := range q.collectors {
			if !w.before(v) || from != nil && v.before(from) {
				continue
			}
			for i, item := range v.Got {
				if w.Demand.Accepts(item.Class) {
					from, at = v, i
					break
				}
			}
		}
		if from == nil {
			return
		}
		item := from.Got[at]
		q.unreserve(from, at)
		q.reserve(w, item)
	}
}

// unreserve takes w's machine at index i out of its hand.
func (q *Queue[M, W]) unreserve(w *Waiter[M, W], i int) {
	item := w.Got[i]
	item.state, item.owner = outside, nil
	last := len(w.Got) - 1
	w.Got[i] = w.Got[last]
	w.Got[last] = nil
	w.Got = w.Got[:last]
	if w.Queued() {
		w.Demand.needed++
	}
	if len(w.Got) == 0 {
		q.uncollect(w)
	}
}

func (q *Queue[M, W]) uncollect(w *Waiter[M, W]) {
	for i, v := range q.collectors {
		if v == w {
			last := len(q.collectors) - 1
			q.collectors[i] = q.collectors[last]
			q.collectors[last] = nil
			q.collectors = q.collectors[:last]
			return
		}
	}
}

// Offer brings in a machine that is outside: it goes to the first waiter who
// accepts it, or is free. The waiter that has all it needs now is returned and
// no longer queued; its machines are in Got.
func (q *Queue[M, W]) Offer(item *Item[M, W]) (granted *Waiter[M, W]) {
	var first *Waiter[M, W]
	for _, d := range item.Class.active {
		if h := d.levels[0].head; first == nil || h.before(first) {
			first = h
		}
	}
	if first == nil {
		q.stamp++
		item.stamp = q.stamp
		item.Class.link(item)
		return nil
	}
	q.reserve(first, item)
	if first.Lacks() > 0 {
		if len(first.Got) == 1 {
			q.collectors = append(q.collectors, first)
		}
		return nil
	}
	q.dequeue(first)
	if len(first.Got) > 1 {
		q.uncollect(first)
	}
	return first
}

// Take removes a free machine from the queue and reports whether it was free.
func (q *Queue[M, W]) Take(item *Item[M, W]) bool {
	if item.state != free {
		return false
	}
	item.Class.unlink(item)
	return true
}

// Drop removes a machine whether free or reserved: it is not to be handed out
// any more. The waiter who loses it keeps its place.
func (q *Queue[M, W]) Drop(item *Item[M, W]) bool {
	switch item.state {
	case free:
		item.Class.unlink(item)
	case reserved:
		w := item.owner
		for i, have := range w.Got {
			if have == item {
				q.unreserve(w, i)
				break
			}
		}
	default:
		return false
	}
	return true
}

// Leave clears the hand of a granted waiter: its machines are outside now and
// the caller's.
func (w *Waiter[M, W]) Leave() {
	for i, item := range w.Got {
		item.state, item.owner = outside, nil
		w.Got[i] = nil
	}
	w.Got = w.Got[:0]
}

// Remove takes a waiter out who does not want to wait any more, and gives what
// it had reserved to the next ones: those who have all they need now are
// returned. A waiter that is not queued is left as it is.
func (q *Queue[M, W]) Remove(w *Waiter[M, W]) (granted []*Waiter[M, W]) {
	if !w.Queued() {
		return nil
	}
	q.dequeue(w)
	if len(w.Got) == 0 {
		return nil
	}
	q.uncollect(w)
	had := w.Got
	w.Got = nil
	for _, item := range had {
		item.state, item.owner = outside, nil
		if v := q.Offer(item); v != nil {
			granted = append(granted, v)
		}
	}
	return granted
}

// Arrive gives w its place by arrival now, for an Add that comes later.
func (q *Queue[M, W]) Arrive(w *Waiter[M, W]) {
	if w.seq == 0 {
		q.seq++
		w.seq = q.seq
	}
}
