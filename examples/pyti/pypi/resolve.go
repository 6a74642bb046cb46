package pypi

import (
	"context"
	"fmt"
	"slices"
	"strings"

	pep440 "github.com/aquasecurity/go-pep440-version"
)

// Dist is a distribution that was chosen and brought.
type Dist struct {
	Name     string // normalised
	Version  pep440.Version
	Kind     Kind
	Filename string
	Path     string // in the cache of the index
	SHA256   string
	Metadata Metadata
	// For are who wanted it; empty for the first.
	For []string
}

// Source is where distributions come from; an Index is one.
type Source interface {
	Links(ctx context.Context, project string) ([]Link, error)
	Fetch(ctx context.Context, link Link) (path, sum string, err error)
}

// mostRounds bounds how often a choice is made anew; each round but the last
// rules out at least one file.
const mostRounds = 200

// Resolve chooses a project's newest version that the requirement allows, and
// what it depends on in an environment, transitively, and brings the files. The
// project itself comes first, the others by name. Python is "3.11" or so.
func Resolve(ctx context.Context, from Source, root Requirement, python string, env Environment) ([]Dist, error) {
	r := &resolver{from: from, python: python, env: env, links: map[string][]Link{}, read: map[string]Dist{}, chosen: map[string]Dist{}}
	for range mostRounds {
		wants := r.demands(root)
		changed := false
		for _, name := range wants.order {
			dist, err := r.choose(ctx, name, wants.of[name])
			if err != nil {
				return nil, err
			}
			if old, ok := r.chosen[name]; !ok || old.Filename != dist.Filename {
				r.chosen[name], changed = dist, true
				break // what it depends on comes before who else
			}
		}
		if changed {
			continue
		}
		var all []Dist
		for _, name := range wants.order {
			d := r.chosen[name]
			for _, w := range wants.of[name] {
				if w.by != "" && !slices.Contains(d.For, w.by) {
					d.For = append(d.For, w.by)
				}
			}
			all = append(all, d)
		}
		slices.SortStableFunc(all[1:], func(a, b Dist) int { return strings.Compare(a.Name, b.Name) })
		return all, nil
	}
	return nil, fmt.Errorf("dependencies of %s: no choice holds after %d rounds: they rule each other out", root.Name, mostRounds)
}

type want struct {
	Requirement
	by string // "name version"
}

func (w want) String() string {
	text := w.Name + w.Specs.String()
	if w.by != "" {
		text += " (for " + w.by + ")"
	}
	return text
}

type resolver struct {
	from   Source
	python string
	env    Environment
	links  map[string][]Link // by project
	read   map[string]Dist   // by file name
	chosen map[string]Dist   // by project
}

// demandSet are the demands of what is chosen now, the root first.
type demandSet struct {
	of     map[string][]want
	extras map[string]map[string]bool
	order  []string
}

// demands walks from the root over what is chosen. A project that gains an extra
// is walked again.
func (r *resolver) demands(root Requirement) *demandSet {
	d := &demandSet{of: map[string][]want{}, extras: map[string]map[string]bool{}}
	var visit func(w want)
	visit = func(w want) {
		known := slices.ContainsFunc(d.of[w.Name], func(o want) bool { return o.by == w.by && o.Text == w.Text })
		if len(d.of[w.Name]) == 0 {
			d.order = append(d.order, w.Name)
		}
		if !known {
			d.of[w.Name] = append(d.of[w.Name], w)
		}
		for _, extra := range append([]string{""}, w.Extras...) {
			if d.extras[w.Name][extra] {
				continue
			}
			if d.extras[w.Name] == nil {
				d.extras[w.Name] = map[string]bool{}
			}
			d.extras[w.Name][extra] = true
			dist, ok := r.chosen[w.Name]
			if !ok {
				continue
			}
			for _, next := range dist.Metadata.Requires {
				if next.Marker.Holds(r.env, extra) {
					visit(want{next, dist.Name + " " + dist.Version.String()})
				}
			}
		}
	}
	visit(want{Requirement: root})
	return d
}

// choose takes the best file of a project that all wants allow.
func (r *resolver) choose(ctx context.Context, project string, wants []want) (Dist, error) {
	if _, ok := r.links[project]; !ok {
		links, err := r.from.Links(ctx, project)
		if err != nil {
			return Dist{}, fmt.Errorf("%s: %w", texts(wants), err)
		}
		r.links[project] = links
	}
	best, seen := r.best(project, wants)
	if best == nil {
		return Dist{}, fmt.Errorf("no file of %s for Python %s is allowed by %s: %w; the index has %s",
			project, r.python, texts(wants), ErrNotFound, listed(seen))
	}
	if d, ok := r.read[best.link.Filename]; ok {
		return d, nil
	}
	path, sum, err := r.from.Fetch(ctx, best.link)
	if err != nil {
		return Dist{}, err
	}
	m, err := ReadMetadata(best.Kind, path)
	if err != nil {
		return Dist{}, fmt.Errorf("file %s: %w", best.link.Filename, err)
	}
	if Normalize(m.Name) != project || !m.Version.Equal(best.Version) {
		return Dist{}, fmt.Errorf("file %s is %s %s by its metadata", best.link.Filename, m.Name, m.Version.String())
	}
	if !r.pythonFits(m.RequiresPython) { // the page may not have said so
		r.links[project] = slices.DeleteFunc(r.links[project], func(l Link) bool { return l.Filename == best.link.Filename })
		return r.choose(ctx, project, wants)
	}
	d := Dist{Name: project, Version: best.Version, Kind: best.Kind, Filename: best.link.Filename, Path: path, SHA256: sum, Metadata: m}
	r.read[d.Filename] = d
	return d, nil
}

type candidate struct {
	File
	link Link
}

// best finds the newest allowed candidate; a final release wins over a
// pre-release that nobody asked for, a wheel over the source of the same version.
func (r *resolver) best(project string, wants []want) (best *candidate, seen []string) {
	pre, pinned := false, false
	for _, w := range wants {
		pre, pinned = pre || w.Specs.AsksForPre(), pinned || w.Specs.pins()
	}
	better := func(a, b *candidate) bool {
		if b == nil {
			return true
		}
		if ap, bp := a.Version.IsPreRelease(), b.Version.IsPreRelease(); ap != bp && !pre {
			return bp
		}
		if c := a.Version.Compare(b.Version); c != 0 {
			return c > 0
		}
		return a.Kind == Wheel && b.Kind != Wheel
	}
	for _, link := range r.links[project] {
		f, err := ParseFilename(project, link.Filename)
		if err != nil {
			continue
		}
		seen = append(seen, link.Filename)
		if !f.Runs(r.python) || !r.pythonFits(link.RequiresPython) || link.Yanked && !pinned {
			continue
		}
		if slices.ContainsFunc(wants, func(w want) bool { return !w.Specs.Allows(f.Version) }) {
			continue
		}
		if c := (&candidate{f, link}); better(c, best) {
			best = c
		}
	}
	return best, seen
}

func (r *resolver) pythonFits(s Specifiers) bool {
	v, err := pep440.Parse(r.env["python_full_version"])
	return err != nil || s.Allows(v)
}

func texts(wants []want) string {
	all := make([]string, len(wants))
	for i, w := range wants {
		all[i] = w.String()
	}
	return strings.Join(all, " and ")
}

func listed(files []string) string {
	switch n := len(files); {
	case n == 0:
		return "no wheel and no .tar.gz of it"
	case n > 8:
		return strings.Join(files[:8], ", ") + fmt.Sprintf(" and %d more", n-8)
	}
	return strings.Join(files, ", ")
}
