package queue

// level is the waiters of one demand and priority, by arrival.
type level[M, W any] struct {
	priority   int
	head, tail *Waiter[M, W]
}

// enqueue puts w in its place and makes its demand active.
func (q *Queue[M, W]) enqueue(w *Waiter[M, W]) {
	d := w.Demand
	at := 0
	for at < len(d.levels) && d.levels[at].priority > w.Priority {
		at++
	}
	if at == len(d.levels) || d.levels[at].priority != w.Priority {
		d.levels = append(d.levels, nil)
		copy(d.levels[at+1:], d.levels[at:])
		l := d.spare
		if l == nil {
			l = new(level[M, W])
		}
		d.spare, l.priority = nil, w.Priority
		d.levels[at] = l
	}
	d.levels[at].insert(w)
	q.waiting++
	d.waiting++
	d.needed += w.Lacks()
	if d.waiting == 1 {
		// It may have been forgotten while it had no waiters.
		q.demands[d.key] = d
		q.active = append(q.active, d)
		for _, c := range d.classes {
			c.active = append(c.active, d)
		}
	}
}

// dequeue takes w out of its place; its reservations stay in its hand.
func (q *Queue[M, W]) dequeue(w *Waiter[M, W]) {
	d := w.Demand
	l := w.level
	l.remove(w)
	if l.head == nil {
		for i, have := range d.levels {
			if have == l {
				copy(d.levels[i:], d.levels[i+1:])
				d.levels[len(d.levels)-1] = nil
				d.levels = d.levels[:len(d.levels)-1]
				d.spare = l
				break
			}
		}
	}
	q.waiting--
	d.waiting--
	d.needed -= w.Lacks()
	if d.waiting == 0 {
		q.active = without(q.active, d)
		for _, c := range d.classes {
			c.active = without(c.active, d)
		}
	}
}

func without[T comparable](list []T, gone T) []T {
	for i, v := range list {
		if v == gone {
			last := len(list) - 1
			list[i] = list[last]
			var zero T
			list[last] = zero
			return list[:last]
		}
	}
	return list
}

// insert puts w behind those who came before it. New ones go to the end at
// once; one that comes back with its old place is near the front.
func (l *level[M, W]) insert(w *Waiter[M, W]) {
	w.level = l
	if l.tail == nil {
		l.head, l.tail, w.prev, w.next = w, w, nil, nil
		return
	}
	if l.tail.seq < w.seq {
		w.prev, w.next = l.tail, nil
		l.tail.next, l.tail = w, w
		return
	}
	at := l.head
	for at.seq < w.seq {
		at = at.next
	}
	w.prev, w.next = at.prev, at
	at.prev = w
	if w.prev == nil {
		l.head = w
	} else {
		w.prev.next = w
	}
}

func (l *level[M, W]) remove(w *Waiter[M, W]) {
	if w.prev == nil {
		l.head = w.next
	} else {
		w.prev.next = w.next
	}
	if w.next == nil {
		l.tail = w.prev
	} else {
		w.next.prev = w.prev
	}
	w.prev, w.next, w.level = nil, nil, nil
}

// link puts an item on the class's stack of free ones.
func (c *Class[M, W]) link(i *Item[M, W]) {
	i.state, i.prev, i.next = free, nil, c.free
	if c.free != nil {
		c.free.prev = i
	}
	c.free = i
	c.nfree++
}

func (c *Class[M, W]) unlink(i *Item[M, W]) {
	if i.prev == nil {
		c.free = i.next
	} else {
		i.prev.next = i.next
	}
	if i.next != nil {
		i.next.prev = i.prev
	}
	i.prev, i.next, i.state = nil, nil, outside
	c.nfree--
}

// EachFree calls yield with the free machines of the class, the one that came
// free last first, until it answers false. yield must not change the queue.
func (c *Class[M, W]) EachFree(yield func(M) bool) {
	for i := c.free; i != nil; i = i.next {
		if !yield(i.Value) {
			return
		}
	}
}

// Next says how a walk over the waiters goes on.
type Next uint8

// The ways to go on.
const (
	Go         Next = iota // to the next waiter
	SkipDemand             // pass over all further waiters of this demand
	Stop
)

// Walk calls visit with the waiters in their order. visit must not change the
// queue. It costs the number of demands per waiter visited.
func (q *Queue[M, W]) Walk(visit func(*Waiter[M, W]) Next) {
	switch len(q.active) {
	case 0:
		return
	case 1: // the common case: no merging, no memory
		for _, l := range q.active[0].levels {
			for w := l.head; w != nil; w = w.next {
				if visit(w) != Go {
					return
				}
			}
		}
		return
	}
	type cursor struct {
		d     *Demand[M, W]
		level int
		at    *Waiter[M, W]
	}
	cursors := make([]cursor, 0, len(q.active))
	for _, d := range q.active {
		cursors = append(cursors, cursor{d: d, at: d.levels[0].head})
	}
	for len(cursors) > 0 {
		first := 0
		for i := range cursors {
			if cursors[i].at.before(cursors[first].at) {
				first = i
			}
		}
		c := &cursors[first]
		switch visit(c.at) {
		case Stop:
			return
		case SkipDemand:
			c.at = nil
		default:
			c.at = c.at.next
			if c.at == nil && c.level+1 < len(c.d.levels) {
				c.level++
				c.at = c.d.levels[c.level].head
			}
		}
		if c.at == nil {
			cursors[first] = cursors[len(cursors)-1]
			cursors = cursors[:len(cursors)-1]
		}
	}
}

// Place is how many waiters go before w; -1 when it does not wait.
func (q *Queue[M, W]) Place(w *Waiter[M, W]) int {
	if !w.Queued() {
		return -1
	}
	n := 0
	for _, d := range q.active {
		for _, l := range d.levels {
			if l.priority < w.Priority {
				break
			}
			for v := l.head; v != nil && v.before(w); v = v.next {
				n++
			}
		}
	}
	return n
}
