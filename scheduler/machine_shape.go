package scheduler

import (
	"slices"
	"sort"
)

func (m *machine) match(s, c int32) {
	m.shapes[s].classes = append(m.shapes[s].classes, c)
	m.classes[c].shapes = append(m.classes[c].shapes, s)
	if u := m.classUrgency(c); !u.none() {
		m.shapes[s].ranking.raise(c, u)
		m.lookAt(s)
	}
}

// joinShape finds or makes the shape of a worker.
func (m *machine) joinShape(w int32) {
	k := &m.workers[w]
	pairs := make([]pair, 0, len(k.labels))
	for key, v := range k.labels {
		if m.pairs[pair{key, v}] != nil {
			pairs = append(pairs, pair{key, v})
		}
	}
	sort.Slice(pairs, func(i, j int) bool { return pairs[i].key < pairs[j].key })
	text := pairsText(pairs)
	s, is := m.shapeBy[text]
	if !is {
		s = m.newShape(pairs, text)
	}
	k.shape = s
	m.shapes[s].alive++
	if k.state == workerIdle {
		m.putIdle(w)
	}
}

func (m *machine) newShape(pairs []pair, text string) int32 {
	var s int32
	if n := len(m.freeShape); n > 0 {
		s = m.freeShape[n-1]
		m.freeShape = m.freeShape[:n-1]
	} else {
		s = int32(len(m.shapes))
		m.shapes = append(m.shapes, shape{})
	}
	m.shapes[s] = shape{pairs: pairs, text: text}
	m.shapeBy[text] = s
	fit := func(kinds []int32) {
		for _, k := range kinds {
			if fits(m.kinds[k].pairs, pairs) {
				for _, c := range m.kinds[k].classes {
					m.match(s, c)
				}
			}
		}
	}
	for _, p := range pairs {
		info := m.pairs[p]
		info.shapes = append(info.shapes, s)
		fit(info.kinds)
	}
	if id, is := m.kindBy[""]; is {
		fit([]int32{id})
	}
	return s
}

// keptShapes is how many shapes without workers are kept for the next of
// theirs: with one worker at a time a shape would be built for each batch.
const keptShapes = 64

func (m *machine) leaveShape(w int32) {
	k := &m.workers[w]
	if k.state == workerIdle {
		m.takeIdle(w)
	}
	sh := &m.shapes[k.shape]
	if sh.alive--; sh.alive > 0 {
		return
	}
	m.deadShape = append(m.deadShape, k.shape)
	for len(m.deadShape) > keptShapes {
		s := m.deadShape[0]
		m.deadShape = m.deadShape[1:]
		if d := &m.shapes[s]; d.alive == 0 && !d.free && !slices.Contains(m.deadShape, s) {
			m.dropShape(s)
		}
	}
}

func (m *machine) dropShape(s int32) {
	sh := &m.shapes[s]
	remove := func(list []int32) []int32 {
		if i := slices.Index(list, s); i >= 0 {
			list[i] = list[len(list)-1]
			list = list[:len(list)-1]
		}
		return list
	}
	for _, c := range sh.classes {
		m.classes[c].shapes = remove(m.classes[c].shapes)
	}
	for _, p := range sh.pairs {
		m.pairs[p].shapes = remove(m.pairs[p].shapes)
	}
	delete(m.shapeBy, sh.text)
	*sh = shape{free: true}
	m.freeShape = append(m.freeShape, s)
}

// lookAt marks a shape for the next pass.
func (m *machine) lookAt(s int32) {
	if sh := &m.shapes[s]; !sh.changed && len(sh.idle) > 0 {
		sh.changed = true
		m.changed = append(m.changed, s)
	}
}
