package main

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// chooseTemplate gives the newest template of a group that has the version and the
// date, where those are asked for.
func chooseTemplate(all []template, group, version, date string) (template, error) {
	var fit []template
	var groups, offers []string
	for _, t := range all {
		groups = append(groups, t.Group)
		if t.Group != group {
			continue
		}
		offers = append(offers, fmt.Sprintf("%s (version %s, date %s)", t.Name, t.Version, t.Date))
		if (version == "" || t.Version == version) && (date == "" || t.Date == date) {
			fit = append(fit, t)
		}
	}
	if len(offers) == 0 {
		slices.Sort(groups)
		return template{}, fmt.Errorf("no template is of group %q; there are: %s", group, strings.Join(slices.Compact(groups), ", "))
	}
	if len(fit) == 0 {
		return template{}, fmt.Errorf("no template of group %q has version %q and date %q; there are: %s", group, version, date, strings.Join(offers, ", "))
	}
	return slices.MaxFunc(fit, func(a, b template) int {
		return cmp.Or(compareVersions(a.Version, b.Version), cmp.Compare(a.Date, b.Date), cmp.Compare(a.Name, b.Name))
	}), nil
}

// compareVersions orders dotted versions by their numbers: 5.9 is before 5.11, and
// 5.11.0 before 5.11.0.1. What is no number is before all numbers (5.11.rc1).
func compareVersions(a, b string) int {
	as, bs := strings.Split(a, "."), strings.Split(b, ".")
	for i := range min(len(as), len(bs)) {
		x, y := as[i], bs[i]
		nx, ny := isNumber(x), isNumber(y)
		switch {
		case nx && ny:
			x, y = strings.TrimLeft(x, "0"), strings.TrimLeft(y, "0")
			if c := cmp.Or(cmp.Compare(len(x), len(y)), strings.Compare(x, y)); c != 0 {
				return c
			}
		case nx != ny:
			if nx {
				return 1
			}
			return -1
		default:
			if c := strings.Compare(x, y); c != 0 {
				return c
			}
		}
	}
	return cmp.Compare(len(as), len(bs))
}

func isNumber(s string) bool {
	return s != "" && strings.Trim(s, "0123456789") == ""
}
