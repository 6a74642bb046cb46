package scheduler

import "strings"

// keyTree holds the affinity keys, cut at slashes: a worker that knows a/b/c
// knows a/b and a too. A group is a last segment of its own, so that the rest
// of a group goes to who ran a part of it.
type keyTree struct {
	nodes []keyNode
	by    map[keyStep]int32
}

type keyNode struct {
	segment string
	parent  int32
	depth   int32
	lanes   []lane  // of the classes that have, or had, units under it
	workers []int32 // that know it, or a key under it, once for each
}

// lane is the units of a class under a key.
type lane struct {
	class int32
	queue *queue
}

type keyStep struct {
	parent  int32
	segment string
}

func (k *keyTree) init() {
	k.nodes = []keyNode{{parent: -1}}
	k.by = make(map[keyStep]int32)
}

// node interns an affinity and a group; 0 for neither.
func (k *keyTree) node(affinity, group string) int32 {
	at := int32(0)
	if affinity != "" {
		for segment := range strings.SplitSeq(affinity, "/") {
			at = k.step(at, segment)
		}
	}
	if group != "" {
		at = k.step(at, "\x00"+group)
	}
	return at
}

func (k *keyTree) step(parent int32, segment string) int32 {
	s := keyStep{parent, segment}
	id, is := k.by[s]
	if !is {
		id = int32(len(k.nodes))
		k.nodes = append(k.nodes, keyNode{segment: segment, parent: parent, depth: k.nodes[parent].depth + 1})
		k.by[s] = id
	}
	return id
}

// common returns the depth of the longest key that both share.
func (k *keyTree) common(a, b int32) int32 {
	for a != b {
		if k.nodes[a].depth >= k.nodes[b].depth {
			a = k.nodes[a].parent
		} else {
			b = k.nodes[b].parent
		}
	}
	return k.nodes[a].depth
}

// knows returns how much of a key a worker knows, in segments.
func (m *machine) knows(w, key int32) int32 {
	best := int32(0)
	if key == 0 {
		return 0
	}
	for _, known := range m.workers[w].known {
		best = max(best, m.keys.common(known, key))
	}
	return best
}

// learn notes that a worker ran a key; the oldest beyond the limit is
// forgotten.
func (m *machine) learn(w, key int32) {
	if key == 0 || m.conf.Keys < 0 {
		return
	}
	k := &m.workers[w]
	for i, known := range k.known {
		if known == key {
			copy(k.known[i:], k.known[i+1:])
			k.known[len(k.known)-1] = key
			return
		}
	}
	if len(k.known) >= m.conf.Keys {
		m.forget(w, k.known[0])
		copy(k.known, k.known[1:])
		k.known = k.known[:len(k.known)-1]
	}
	k.known = append(k.known, key)
	for n := key; n > 0; n = m.keys.nodes[n].parent {
		m.keys.nodes[n].workers = append(m.keys.nodes[n].workers, w)
	}
}

// forget takes a worker off the lists of one key.
func (m *machine) forget(w, key int32) {
	for n := key; n > 0; n = m.keys.nodes[n].parent {
		list := m.keys.nodes[n].workers
		for i, x := range list {
			if x == w {
				list[i] = list[len(list)-1]
				m.keys.nodes[n].workers = list[:len(list)-1]
				break
			}
		}
	}
}

// learnBatch notes the key of a batch and says whether it was not known whole.
func (m *machine) learnBatch(w, key int32) bool {
	if key == 0 {
		return false
	}
	unknown := m.knows(w, key) < m.keys.nodes[key].depth
	m.learn(w, key)
	return unknown
}
