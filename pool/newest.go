package pool

import (
	"fmt"
	"maps"
	"slices"
)

// newest names the template of a want for a group. The caller holds p.mu.
func (p *Pool) newest(want *Want, n int) error {
	if want.Group == "" || want.Template != "" {
		return nil
	}
	var best *template
	groups := map[string]bool{}
	lacks := ""
	for _, t := range p.templates {
		if t.Group != "" {
			groups[t.Group] = true
		}
		if t.Group != want.Group {
			continue
		}
		if d := p.q.Demand(t.Name, want.Labels); !p.reaches(d) {
			lacks = p.near(Want{Template: t.Name, Labels: want.Labels}, d, n)
			continue
		}
		if best == nil || !t.Built.Before(best.Built) {
			best = t
		}
	}
	if best != nil {
		want.Template = best.Name
		return nil
	}
	if lacks == "" {
		lacks = fmt.Sprintf("there is no template of group %q; groups are %s", want.Group, orNone(quoted(slices.Sorted(maps.Keys(groups)))))
	}
	return &OpError{Op: "acquire", What: describe(*want, n), Err: fmt.Errorf("%w: %s", ErrImpossible, lacks)}
}

func orNone(s string) string {
	if s == "" {
		return "none"
	}
	return s
}
