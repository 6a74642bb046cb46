package scheduler

import (
	"math"
	"math/rand/v2"
	"slices"
	"sort"
	"testing"

	"github.com/stretchr/testify/assert"
)

func TestManyEntriesAreSortedAsFewAre(t *testing.T) {
	t.Parallel()
	r := rand.New(rand.NewPCG(1, 2))
	for name, draw := range map[string]func(i int) urgency{
		"durations":  func(int) urgency { return urgency{1, 2 * math.Exp(r.NormFloat64())} },
		"equal":      func(int) urgency { return urgency{1, 3} },
		"few":        func(int) urgency { return urgency{1, float64(r.IntN(3))} },
		"given":      func(i int) urgency { return urgency{1, -float64(i)} },
		"priorities": func(int) urgency { return urgency{priorityBits(int32(r.Uint32())) | uint64(r.IntN(4)), r.Float64()} },
		"signs": func(int) urgency {
			return urgency{uint64(r.IntN(2)), []float64{-1, math.Copysign(0, -1), 0, 1e-300, -1e300, 1e9, math.Inf(1), math.Inf(-1)}[r.IntN(8)]}
		},
	} {
		for _, n := range []int{0, 1, radixLeast - 1, radixLeast, 3 * radixLeast} {
			for _, ordered := range []bool{true, false} {
				all := make([]entry, n)
				for i := range all {
					all[i] = entry{draw(i), int32(i)}
				}
				if !ordered {
					r.Shuffle(n, func(i, j int) { all[i], all[j] = all[j], all[i] })
				}
				want := slices.Clone(all)
				sort.Slice(want, func(i, j int) bool { return want[i].before(want[j]) })
				got, left := inOrder(all, make([]entry, n/2))
				assert.Equal(t, len(want), len(got))
				for i := range got {
					if got[i].id != want[i].id {
						t.Fatalf("%s, %d, ordered %v: at %d is %v, want %v", name, n, ordered, i, got[i], want[i])
					}
				}
				if n > 0 && cap(left) > 0 {
					assert.NotSame(t, &got[0], &left[:1][0])
				}
			}
		}
	}
}
