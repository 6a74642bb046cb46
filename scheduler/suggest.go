package scheduler

import (
	"fmt"
	"sort"
	"strings"
)

// suggest returns `, did you mean "x" or "y"?` with the names nearest to one
// that is not known, or nothing.
func suggest(name string, known func(yield func(string) bool)) string {
	type near struct {
		name string
		d    int
	}
	limit := max(1, min(5, (len(name)+1)/3))
	var best []near
	for k := range known {
		d := distance(strings.ToLower(name), strings.ToLower(k), limit)
		if d > limit {
			continue
		}
		best = append(best, near{k, d})
		sort.Slice(best, func(i, j int) bool {
			return best[i].d < best[j].d || best[i].d == best[j].d && best[i].name < best[j].name
		})
		best = best[:min(len(best), 3)]
	}
	if len(best) == 0 {
		return ""
	}
	words := make([]string, len(best))
	for i, b := range best {
		words[i] = fmt.Sprintf("%q", b.name)
	}
	return ", did you mean " + strings.Join(words, " or ") + "?"
}

// distance is the edit distance (Levenshtein), or limit+1 if it is more.
func distance(a, b string, limit int) int {
	if len(a)-len(b) > limit || len(b)-len(a) > limit {
		return limit + 1
	}
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := 1; i <= len(a); i++ {
		diagonal, least := row[0], i
		row[0] = i
		for j := 1; j <= len(b); j++ {
			cost := diagonal
			if a[i-1] != b[j-1] {
				cost++
			}
			diagonal = row[j]
			row[j] = min(cost, row[j]+1, row[j-1]+1)
			least = min(least, row[j])
		}
		if least > limit {
			return limit + 1
		}
	}
	return min(row[len(b)], limit+1)
}
