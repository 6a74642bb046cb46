package result

import (
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"
)

// Metric reads one number out of a test's output. The number is the group named
// "value", else the first group, else the whole match.
type Metric struct {
	Name    string // the key in Case.Metrics
	Pattern *regexp.Regexp
	// Scale multiplies what was read; zero: 1.
	Scale float64
	// Last takes the last match instead of the first.
	Last bool
}

// Measure applies the metrics to an output. What does not match is not in the
// map. A match that is no number is an error that names it; the other metrics
// are still given. Nothing is matched across the cut of an output.
func Measure(o Output, metrics ...Metric) (map[string]float64, error) {
	values := make(map[string]float64)
	var problems []error
	parts := [][]byte{o.Head, o.Tail}
	if o.Cut == 0 {
		parts = [][]byte{append(o.Head[:len(o.Head):len(o.Head)], o.Tail...)}
	}
	for _, m := range metrics {
		if m.Name == "" || m.Pattern == nil {
			problems = append(problems, fmt.Errorf("result: Metric %q with Pattern %v, want a name and a pattern", m.Name, m.Pattern))
			continue
		}
		var text string
		found := false
		for _, part := range parts {
			if found && !m.Last {
				break
			}
			if t, ok := m.find(part); ok {
				text, found = t, true
			}
		}
		if !found {
			continue
		}
		v, err := strconv.ParseFloat(strings.TrimSpace(text), 64)
		if err != nil {
			problems = append(problems, fmt.Errorf("result: Metric %s: %q is no number", m.Name, Shorten(text, 40)))
			continue
		}
		if m.Scale != 0 {
			v *= m.Scale
		}
		values[m.Name] = v
	}
	return values, errors.Join(problems...)
}

func (m Metric) find(part []byte) (string, bool) {
	var match [][]byte
	if m.Last {
		if all := m.Pattern.FindAllSubmatch(part, -1); len(all) > 0 {
			match = all[len(all)-1]
		}
	} else {
		match = m.Pattern.FindSubmatch(part)
	}
	if match == nil {
		return "", false
	}
	if at := m.Pattern.SubexpIndex("value"); at > 0 {
		return string(match[at]), true
	}
	return string(match[min(1, len(match)-1)]), true
}
