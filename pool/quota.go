package pool

import (
	"fmt"
	"slices"
	"time"
)

// account is what an account of Config.Quotas uses. All is under Pool.mu.
type account struct {
	used  int     // machines that its guests hold, or that its waits in the queue want
	short []*wait // those beyond the quota, by arrival; not in the queue
}

// quota gives the limit of the wait's account; ok is false when it has none.
func (p *Pool) quota(w *wait) (n int, ok bool) {
	n, ok = p.config.Quotas[w.want.Account]
	return n, ok && w.want.Account != ""
}

// charge counts a wait against its account, and reports whether it fits in. The
// caller holds p.mu.
func (p *Pool) charge(w *wait) bool {
	n, ok := p.quota(w)
	if !ok {
		return true
	}
	a := p.accounts[w.want.Account]
	if a == nil {
		a = new(account)
		p.accounts[w.want.Account] = a
	}
	if a.used+w.q.Need > n {
		return false
	}
	a.used += w.q.Need
	w.charged = w.q.Need
	return true
}

// enter queues a wait, and reports whether it has all that it needs; beyond the
// quota of its account it waits outside, where it stops nobody else.
func (p *Pool) enter(w *wait) bool {
	p.q.Arrive(&w.q)
	if a := p.accounts[w.want.Account]; a != nil && len(a.short) > 0 || !p.charge(w) {
		a := p.accounts[w.want.Account]
		a.short = append(a.short, w)
		return false
	}
	if p.elsewhere(w, w.since) {
		return false
	}
	return p.add(w)
}

// refund gives back what a wait was charged and did not get, or takes it out of
// those that wait for their quota. It is idempotent.
func (p *Pool) refund(w *wait, now time.Time) {
	w.eager = nil
	a := p.accounts[w.want.Account]
	if a == nil {
		return
	}
	a.short = slices.DeleteFunc(a.short, func(v *wait) bool { return v == w })
	n := w.charged
	w.charged = 0
	p.credit(w.want.Account, n, now)
}

// credit frees machines of an account and lets in those who wait for that, the
// oldest first.
func (p *Pool) credit(name string, n int, now time.Time) {
	a := p.accounts[name]
	if a == nil {
		return
	}
	a.used -= n
	for len(a.short) > 0 && p.charge(a.short[0]) {
		w := a.short[0]
		a.short = slices.Delete(a.short, 0, 1)
		if p.q.Add(&w.q) {
			p.grant(w, now)
		}
	}
	if a.used == 0 && len(a.short) == 0 {
		delete(p.accounts, name)
	}
}

// requota goes by new quotas: who waited for an old one may be let in, or refused
// for good. The caller holds p.mu.
func (p *Pool) requota(now time.Time) {
	for name, a := range p.accounts {
		for _, w := range slices.Clone(a.short) {
			if n, ok := p.quota(w); ok && w.q.Need > n {
				w.err = fmt.Errorf("%w since the pool was changed: the quota of account %s is %d", ErrImpossible, name, n)
				a.short = slices.DeleteFunc(a.short, func(v *wait) bool { return v == w })
				w.over()
			}
		}
		p.credit(name, 0, now)
	}
}

// charged is what the guest counts for. An account that had no quota when the
// guest was handed out is not charged for it, whatever Reload has changed since.
func (g *Guest) charged() int { return g.charge }

// outside says why a wait is not in the queue: for its account's quota, or for a
// machine that is made for it where it avoids nothing.
func (p *Pool) outside(w *wait) string {
	if w.eager != nil {
		return "a machine is made on " + w.eager.host.Name + ", for free ones are to be avoided"
	}
	a := p.accounts[w.want.Account]
	if a == nil || !slices.Contains(a.short, w) {
		return ""
	}
	return fmt.Sprintf("account %s uses %d of its quota of %d", w.want.Account, a.used, p.config.Quotas[w.want.Account])
}
