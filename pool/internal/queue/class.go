package queue

import (
	"encoding/binary"
	"slices"
)

// Class is a set of machines between which no constraint can tell: those of
// one template on hosts of equal labels.
type Class[M, W any] struct {
	id       int
	template string
	labels   map[string]string
	// free is a stack: the machine that came free last is handed out first,
	// so that what is surplus stays unused and its idle time runs out.
	free   *Item[M, W]
	nfree  int
	active []*Demand[M, W] // demands that accept this class and have waiters
}

// Free is how many machines of the class are free.
func (c *Class[M, W]) Free() int { return c.nfree }

// Index counts the classes of a queue from zero, in the order of their making.
func (c *Class[M, W]) Index() int { return c.id }

// Template is the template's name.
func (c *Class[M, W]) Template() string { return c.template }

// Labels are the class's labels; not to be changed.
func (c *Class[M, W]) Labels() map[string]string { return c.labels }

// Class gives the class of a template and labels, always the same one for
// equal arguments. Labels are kept and must not change.
func (q *Queue[M, W]) Class(template string, labels map[string]string) *Class[M, W] {
	key := classKey{template, labelKey(labels)}
	if c := q.classes[key]; c != nil {
		return c
	}
	c := &Class[M, W]{id: len(q.list), template: template, labels: labels}
	q.classes[key] = c
	q.list = append(q.list, c)
	for _, d := range q.demands {
		if d.wants(c) {
			d.accept(c)
			if d.waiting > 0 {
				c.active = append(c.active, d)
			}
		}
	}
	return c
}

// Demand is a constraint on machines: a template (empty: any) and labels that
// a machine must have with equal values.
type Demand[M, W any] struct {
	key     classKey
	labels  map[string]string
	classes []*Class[M, W]
	bits    []uint64
	levels  []*level[M, W] // by priority, highest first; none is empty
	spare   *level[M, W]   // the one that became empty last, to be used again
	waiting int            // waiters
	needed  int            // machines that they lack together
}

// Classes are the classes that the demand accepts; not to be changed.
func (d *Demand[M, W]) Classes() []*Class[M, W] { return d.classes }

// Accepts reports whether machines of the class satisfy the demand.
func (d *Demand[M, W]) Accepts(c *Class[M, W]) bool {
	word := c.id >> 6
	return word < len(d.bits) && d.bits[word]&(1<<(c.id&63)) != 0
}

// Waiting is the number of waiters, Needed how many machines they lack.
func (d *Demand[M, W]) Waiting() int { return d.waiting }

// Needed is how many machines the demand's waiters lack together.
func (d *Demand[M, W]) Needed() int { return d.needed }

func (d *Demand[M, W]) wants(c *Class[M, W]) bool {
	if d.key.template != "" && d.key.template != c.template {
		return false
	}
	for k, v := range d.labels {
		if have, ok := c.labels[k]; !ok || have != v {
			return false
		}
	}
	return true
}

func (d *Demand[M, W]) accept(c *Class[M, W]) {
	for len(d.bits) <= c.id>>6 {
		d.bits = append(d.bits, 0)
	}
	d.bits[c.id>>6] |= 1 << (c.id & 63)
	d.classes = append(d.classes, c)
}

// maxIdleDemands bounds how many demands without waiters are remembered:
// labels may come from users and be unique.
const maxIdleDemands = 1024

// Demand gives the demand of a template and labels, the same one for equal
// arguments for as long as it has waiters.
func (q *Queue[M, W]) Demand(template string, labels map[string]string) *Demand[M, W] {
	// Most ask for no labels, in a goroutine that is new: it must not need a
	// larger stack only for the key's room.
	if len(labels) == 0 {
		if d := q.demands[classKey{template, ""}]; d != nil {
			return d
		}
		return q.newDemand(classKey{template, ""}, nil)
	}
	return q.labelled(template, labels)
}

//go:noinline
func (q *Queue[M, W]) labelled(template string, labels map[string]string) *Demand[M, W] {
	var room [128]byte // most keys fit, and a demand that is known costs no memory
	text := appendLabels(room[:0], labels)
	if d := q.demands[classKey{template, string(text)}]; d != nil {
		return d
	}
	return q.newDemand(classKey{template, string(text)}, labels)
}

// newDemand makes the demand of a key that has none.
//
//go:noinline
func (q *Queue[M, W]) newDemand(key classKey, labels map[string]string) *Demand[M, W] {
	if len(q.demands) >= q.sweepAt {
		for k, d := range q.demands {
			if d.waiting == 0 {
				delete(q.demands, k)
			}
		}
		q.sweepAt = len(q.demands) + maxIdleDemands
	}
	own := make(map[string]string, len(labels))
	for k, v := range labels {
		own[k] = v
	}
	d := &Demand[M, W]{key: key, labels: own}
	for _, c := range q.list {
		if d.wants(c) {
			d.accept(c)
		}
	}
	q.demands[key] = d
	return d
}

type classKey struct{ template, labels string }

// labelKey is a text that is equal for equal sets of labels only: lengths keep
// keys and values apart whatever they contain.
func labelKey(labels map[string]string) string {
	return string(appendLabels(nil, labels))
}

func appendLabels(b []byte, labels map[string]string) []byte {
	if len(labels) == 0 {
		return b
	}
	var room [8]string
	keys := room[:0]
	for k := range labels {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	for _, k := range keys {
		b = appendSized(b, k)
		b = appendSized(b, labels[k])
	}
	return b
}

func appendSized(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}
