package pool

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/bullpen-vm/bullpen/vm"
)

// askTimeout is how long a host may take to say which parents and inputs it has.
const askTimeout = 10 * time.Second

// holdings are what a host has of what machines are made from (parents) and given
// (inputs), as far as the pool knows. All is under Pool.mu.
type holdings struct {
	parents, inputs known
	asked, told     uint64 // counts of questions: an answer that was overtaken is dropped
}

// known is one kind of holdings. What is not in names the host may lack or have:
// nothing is ever decided against it for that.
type known struct {
	names map[string]bool
	err   error // why it is not known; the last listing
	done  bool  // listed once
}

func (k *known) has(name string) bool { return k.names[name] }

// set takes a listing over. After an error nothing is known.
func (k *known) set(names []string, err error) {
	k.names, k.err, k.done = nil, err, true
	if err != nil {
		return
	}
	k.names = make(map[string]bool, len(names))
	for _, n := range names {
		k.names[n] = true
	}
}

// add and drop take over what a boot has shown.
func (k *known) add(name string) {
	if k.names == nil {
		k.names = map[string]bool{}
	}
	k.names[name] = true
}

func (k *known) drop(name string) { delete(k.names, name) }

// forks reports whether the template's machines may be made from its parent in
// the way of the host's driver.
func (h *host) forks(t *template) bool {
	return t.Parent != "" && h.way != vm.RungNone && (len(t.Rungs) == 0 || slices.Contains(t.Rungs, h.way))
}

// holds is how many of the inputs the host is known to have.
func (h *host) holds(inputs []string) int {
	n := 0
	for _, digest := range inputs {
		if h.have.inputs.has(digest) {
			n++
		}
	}
	return n
}

// wants says which listings of the host are of use.
func (h *host) wants() (parents, inputs bool) {
	for t := range h.places {
		parents = parents || h.forks(t)
	}
	return parents, len(h.places) > 0
}

// inspect asks a host which parents and inputs it has. It is called beside each
// listing of the host, never with the lock. A host that cannot tell is none that
// has nothing.
func (p *Pool) inspect(ctx context.Context, h *host) {
	p.mu.Lock()
	wantParents, wantInputs := h.wants()
	h.have.asked++
	turn := h.have.asked
	p.mu.Unlock()
	asked := func(list func(context.Context) ([]string, error)) ([]string, error) {
		actx, cancel := context.WithTimeoutCause(ctx, askTimeout, fmt.Errorf("no answer within %v", askTimeout))
		defer cancel()
		names, err := list(actx)
		return names, because(actx, err)
	}
	var parents, inputs []string
	var perr, ierr error
	forker, forks := vm.As[vm.Forker](h.Driver)
	if forks = forks && wantParents; forks {
		parents, perr = asked(forker.Parents)
	}
	stocker, stocks := vm.As[vm.Stocker](h.Driver)
	if stocks = stocks && wantInputs; stocks {
		inputs, ierr = asked(stocker.Stock)
	}
	if ctx.Err() != nil {
		return
	}
	p.mu.Lock()
	defer p.unlock()
	if turn < h.have.told {
		return
	}
	h.have.told = turn
	for _, l := range []struct {
		of    *known
		what  string
		asked bool
		names []string
		err   error
	}{{&h.have.parents, "listing parents", forks, parents, perr}, {&h.have.inputs, "listing inputs", stocks, inputs, ierr}} {
		if !l.asked {
			*l.of = known{}
			continue
		}
		if l.err != nil && l.of.err == nil { // once each time
			p.note(Event{Kind: EventFailed, Host: h.Name, Reason: l.what, Err: l.err})
		}
		l.of.set(l.names, l.err)
	}
}

// learn takes over what the making of a machine has shown. The caller holds p.mu.
func (p *Pool) learn(u *unit, r vm.Renewed) {
	u.rung = r.Rung
	h, t := u.host, u.template
	switch r.Rung {
	case vm.RungFork, vm.RungRestore:
		p.stats.fromParent++
		h.have.parents.add(t.Parent)
	case vm.RungCold:
		p.stats.cold++
		if h.forks(t) { // it is no help there until it is listed again
			h.have.parents.drop(t.Parent)
		}
	}
}

// given takes the inputs of a call for those of the host that it got a machine of,
// until the host is listed next: calls for the same ones would else go to other
// hosts until then. The caller holds p.mu.
func (h *host) given(inputs []string) {
	if len(inputs) == 0 || h.have.inputs.names == nil {
		return
	}
	for _, digest := range inputs {
		h.have.inputs.add(digest)
	}
}

// origin says how the machine was made, where its template has a parent.
func (u *unit) origin() string {
	switch {
	case u.template.Parent == "" || u.rung == vm.RungNone:
		return ""
	case u.rung == vm.RungCold:
		return "booted from cold"
	}
	return "made from parent " + u.template.Parent
}

// whereParent says on which hosts of those in the set the template's parent is;
// empty where there is nothing to say. The caller holds p.mu.
func (p *Pool) whereParent(t *template, hosts map[*host]bool) string {
	var on, unknown []string
	any := false
	for _, h := range p.hosts {
		if !hosts[h] || h.places[t] == nil || !h.forks(t) {
			continue
		}
		any = true
		switch k := &h.have.parents; {
		case k.has(t.Parent):
			on = append(on, h.Name)
		case k.err != nil:
			unknown = append(unknown, fmt.Sprintf("%s (%v)", h.Name, k.err))
		case !k.done:
			unknown = append(unknown, h.Name)
		}
	}
	if !any {
		return ""
	}
	return where("parent "+t.Parent, "is", on, unknown)
}

// whereInputs is whereParent for inputs.
func (p *Pool) whereInputs(inputs []string, hosts map[*host]bool) string {
	if len(inputs) == 0 {
		return ""
	}
	var on, unknown []string
	for _, h := range p.hosts {
		if !hosts[h] {
			continue
		}
		if n := h.holds(inputs); n > 0 {
			on = append(on, fmt.Sprintf("%s (%d of %d)", h.Name, n, len(inputs)))
		} else if err := h.have.inputs.err; err != nil {
			unknown = append(unknown, fmt.Sprintf("%s (%v)", h.Name, err))
		}
	}
	return where("inputs", "are", on, unknown)
}

func where(what, verb string, on, unknown []string) string {
	s := what + " " + verb + " on no host"
	if len(on) > 0 {
		s = what + " " + verb + " on " + strings.Join(on, ", ")
	}
	if len(unknown) > 0 {
		s += ", not known of " + strings.Join(unknown, ", ")
	}
	return s
}
