package scheduler

import (
	"cmp"
	"math"
	"slices"
)

// radixLeast is from how many entries on they are sorted by digits.
const radixLeast = 4096

// inOrder sorts entries, the most urgent first, and returns them with the memory
// that is left over; spare is memory that may be used. Many are sorted by the
// bytes of their urgency, the last first (LSD radix sort), which costs a third of
// a sort by comparisons. It keeps the order of equals, so it is for entries that
// came by their numbers.
func inOrder(all, spare []entry) (sorted, left []entry) {
	if len(all) < radixLeast || !slices.IsSortedFunc(all, func(a, b entry) int { return cmp.Compare(a.id, b.id) }) {
		slices.SortFunc(all, func(a, b entry) int {
			switch {
			case a.hi != b.hi:
				return cmp.Compare(b.hi, a.hi)
			case a.lo > b.lo:
				return -1
			case a.lo < b.lo:
				return 1
			}
			return cmp.Compare(a.id, b.id)
		})
		return all, spare
	}
	if cap(spare) < len(all) {
		spare = make([]entry, len(all))
	}
	spare = spare[:len(all)]
	const digits = 16 // bytes of lo, then of hi
	var counts [digits][256]int32
	for i := range all {
		lo, hi := descending(all[i].lo), ^all[i].hi
		for d := range 8 {
			counts[d][byte(lo>>(8*d))]++
			counts[8+d][byte(hi>>(8*d))]++
		}
	}
	first := descending(all[0].lo)
	for d := range digits {
		c := &counts[d]
		digit := byte(first >> (8 * (d & 7)))
		if d >= 8 {
			digit = byte(^all[0].hi >> (8 * (d - 8)))
		}
		if int(c[digit]) == len(all) {
			continue // all have the same
		}
		at := int32(0)
		for i := range c {
			c[i], at = at, at+c[i]
		}
		shift := 8 * (d & 7)
		if d < 8 {
			for i := range all {
				k := byte(descending(all[i].lo) >> shift)
				spare[c[k]] = all[i]
				c[k]++
			}
		} else {
			for i := range all {
				k := byte(^all[i].hi >> shift)
				spare[c[k]] = all[i]
				c[k]++
			}
		}
		all, spare = spare, all
		first = descending(all[0].lo)
	}
	return all, spare
}

// descending gives a number that is the smaller the greater f is, and equal for
// equal ones.
func descending(f float64) uint64 {
	b := math.Float64bits(f + 0) // of the two zeros, the one
	if b>>63 == 1 {
		return b
	}
	return ^b &^ (1 << 63)
}
