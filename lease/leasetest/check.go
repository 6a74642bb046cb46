package leasetest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/bullpen-vm/bullpen/lease"
)

// Harness tells how to get at the store under test.
type Harness struct {
	// Open gives a new, empty store and what closes it (nil: nothing to do).
	// It is called once per rule.
	Open func(ctx context.Context) (lease.Store, func() error, error)
	// Reopen, when the store is durable, gives a second way in to the store
	// that Open gave last: as another process would open it. The rules about
	// that are left out when it is nil.
	Reopen func(ctx context.Context) (lease.Store, func() error, error)
	// Records is how many records the rule on complete lists writes; 0: 1500,
	// more than the pages that databases like to cut lists into.
	Records int
	// Writers and Swaps are the size of the rules on concurrency; 0: 8
	// goroutines with 60 operations each.
	Writers, Swaps int
	// Timeout bounds each rule; 0: one minute.
	Timeout time.Duration
	// Rules names those that are to be checked; empty: all. A name that is no
	// rule's is a violation.
	Rules []string
}

// Violation is one rule that a store breaks.
type Violation struct {
	Rule string // its name
	Why  string // what would go wrong
	Err  error  // what was seen
}

// String is one line.
func (v Violation) String() string {
	return fmt.Sprintf("%s: %v (the rule: %s)", v.Rule, v.Err, v.Why)
}

// rule is one property of stores.
type rule struct {
	name, why string
	check     func(ctx context.Context, s *suite) error
}

// suite is what a rule works with.
type suite struct {
	lease.Store
	h Harness
}

// errNotApplicable: the store does not have what the rule is about.
var errNotApplicable = errors.New("the store does not have this")

func (h Harness) withDefaults() Harness {
	if h.Records == 0 {
		h.Records = 1500
	}
	if h.Writers == 0 {
		h.Writers = 8
	}
	if h.Swaps == 0 {
		h.Swaps = 60
	}
	if h.Timeout == 0 {
		h.Timeout = time.Minute
	}
	return h
}

// rules are all of them.
func rules() []rule {
	return slices.Concat(swapRules(), deleteRules(), listRules(), raceRules(), durableRules(), optionalRules())
}

// rules gives those that are wanted.
func (h Harness) rules() []rule {
	all := rules()
	if len(h.Rules) == 0 {
		return all
	}
	var out []rule
	for _, name := range h.Rules {
		at := slices.IndexFunc(all, func(r rule) bool { return r.name == name })
		if at < 0 {
			out = append(out, rule{name, "a name that is none checks nothing", func(context.Context, *suite) error { return fmt.Errorf("no rule is called %q", name) }})
			continue
		}
		out = append(out, all[at])
	}
	return out
}

// Check runs all rules and returns those that are broken.
func Check(ctx context.Context, h Harness) []Violation {
	h = h.withDefaults()
	var out []Violation
	for _, r := range h.rules() {
		if err := runRule(ctx, h, r); err != nil && !errors.Is(err, errNotApplicable) {
			out = append(out, Violation{Rule: r.name, Why: r.why, Err: err})
		}
	}
	return out
}

// Run runs each rule as a subtest. Rules on what the store does not offer are
// skipped, and say so.
func Run(t *testing.T, h Harness) {
	t.Helper()
	h = h.withDefaults()
	for _, r := range h.rules() {
		t.Run(r.name, func(t *testing.T) {
			err := runRule(t.Context(), h, r)
			if errors.Is(err, errNotApplicable) {
				t.Skip(err)
			}
			if err != nil {
				t.Errorf("%v\nthe rule: %s", err, r.why)
			}
		})
	}
}

func runRule(ctx context.Context, h Harness, r rule) (err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, h.Timeout, fmt.Errorf("the rule took longer than %v", h.Timeout))
	defer cancel()
	store, closeStore, err := h.Open(ctx)
	if err != nil {
		return fmt.Errorf("open: %w", err)
	}
	defer func() {
		if closeStore != nil {
			err = errors.Join(err, closeStore())
		}
	}()
	return r.check(ctx, &suite{Store: store, h: h})
}

// record gives a record with every field set.
func record(key string) lease.Record {
	return lease.Record{
		Key:     key,
		Session: "session/of " + key,
		Owner:   "TestUpgrade on ci-3 (pid 4711)",
		Lock:    "/tmp/run-1/lock",
		Boot:    "boot 1",
		TTL:     time.Minute,
		Margin:  10 * time.Second,
		Since:   time.Date(2026, 2, 3, 4, 5, 6, 789_000, time.UTC),
		Renewed: time.Date(2026, 2, 3, 4, 5, 7, 0, time.UTC),
		Note:    "a note",
	}
}

// create makes a record that is not there yet.
func (s *suite) create(ctx context.Context, key string) (lease.Record, error) {
	rec, err := s.Swap(ctx, lease.Record{}, record(key), true)
	if err != nil {
		return rec, fmt.Errorf("first swap of %q: %w", key, err)
	}
	return rec, nil
}

// same tells how two records differ. Wall times count to the microsecond: they
// are for people.
func same(want, got lease.Record) error {
	a, b := want, got
	a.Since, b.Since = a.Since.Truncate(time.Microsecond).UTC(), b.Since.Truncate(time.Microsecond).UTC()
	a.Renewed, b.Renewed = a.Renewed.Truncate(time.Microsecond).UTC(), b.Renewed.Truncate(time.Microsecond).UTC()
	if !a.Since.Equal(b.Since) || !a.Renewed.Equal(b.Renewed) {
		return fmt.Errorf("times are %v and %v, want %v and %v", b.Since, b.Renewed, a.Since, a.Renewed)
	}
	a.Since, b.Since, a.Renewed, b.Renewed = time.Time{}, time.Time{}, time.Time{}, time.Time{}
	if a != b {
		return fmt.Errorf("record is %+v, want %+v", b, a)
	}
	return nil
}

// stored wants exactly want under its key.
func (s *suite) stored(ctx context.Context, want lease.Record) error {
	got, err := s.Load(ctx, want.Key)
	if err != nil {
		return fmt.Errorf("load %q: %w", want.Key, err)
	}
	if err := same(want, got); err != nil {
		return fmt.Errorf("stored under %q: %w", want.Key, err)
	}
	return nil
}

// conflict wants err to be ErrConflict.
func conflict(err error, after string) error {
	switch {
	case err == nil:
		return fmt.Errorf("%s was done, want ErrConflict", after)
	case !errors.Is(err, lease.ErrConflict):
		return fmt.Errorf("%s gave %w, want ErrConflict", after, err)
	}
	return nil
}
