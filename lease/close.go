package lease

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
)

// closeWorkers is how many leases Close releases at once.
const closeWorkers = 16

// Close ends the Manager: waiters get ErrClosed, leases that are still held
// are released, and only then do the renewals stop, the session record goes,
// and with it the flock file and its directory. Fixed terms stay in the store
// until they are over; their handles end. The error names the leases that had
// to be released and what could not be done; what stays in the store then
// expires by itself, or at once for those who can see that the flock is free.
//
// Close blocks until all goroutines have ended or ctx has; every operation on
// the store is bounded by itself, and a context that has ended before the call
// still gives it half a TTL to clean up. Later calls wait for the first and give its error.
func (m *Manager) Close(ctx context.Context) error {
	ctx, cancel := m.bounds(ctx)
	defer cancel()
	m.mu.Lock()
	if m.closing {
		m.mu.Unlock()
		select {
		case <-m.closed:
			return m.closeErr
		case <-ctx.Done():
			return fmt.Errorf("lease: close: still closing: %w", context.Cause(ctx))
		}
	}
	m.closing = true
	close(m.stop)
	making := m.making
	left, after := m.closeLeases()
	m.mu.Unlock()
	for _, call := range after {
		call()
	}

	ended := make(chan struct{})
	go func() { // ends at the latest when the store answers
		defer close(ended)
		if making != nil {
			<-making
		}
		m.closeErr = m.shutDown(context.WithoutCancel(ctx), left)
		close(m.closed)
	}()
	select {
	case <-ended:
		return m.closeErr
	case <-ctx.Done():
		return fmt.Errorf("lease: close: the store has not answered yet; still closing: %w", context.Cause(ctx))
	}
}

// bounds gives what ends a Close: ctx, unless it had ended before, as the
// contexts of tests have when they are cleaned up.
func (m *Manager) bounds(ctx context.Context) (context.Context, context.CancelFunc) {
	if ctx.Err() == nil {
		return ctx, func() {}
	}
	return context.WithTimeout(context.WithoutCancel(ctx), 3*m.timeout)
}

// closeLeases ends all leases here. Called with mu held.
func (m *Manager) closeLeases() (left []*Lease, after []func()) {
	for _, l := range m.held {
		switch {
		case l.state.CompareAndSwap(statePending, stateClosed):
			// Who asks for it gives it back when the store has answered.
		case l.sess.Load().lease != nil && l.state.CompareAndSwap(stateHeld, stateClosed):
			delete(m.held, l.key)
			after = append(after, l.end())
		case l.state.CompareAndSwap(stateHeld, stateReleased):
			left = append(left, l)
			after = append(after, l.end())
		}
	}
	after = slices.DeleteFunc(after, func(f func()) bool { return f == nil })
	return left, after
}

func (m *Manager) shutDown(ctx context.Context, left []*Lease) error {
	m.mu.Lock()
	again := make([]*Lease, 0, len(left)+len(m.undone))
	for l := range m.undone {
		again = append(again, l)
	}
	m.mu.Unlock()
	errs := m.releaseAll(ctx, append(again, left...))
	m.tidy(ctx)

	s := m.cur.Load()
	var err error
	if s != nil {
		m.mu.Lock()
		gone := s.gone
		if !gone {
			close(s.done)
			s.gone, s.err = true, ErrClosed
		}
		m.mu.Unlock()
		m.cur.CompareAndSwap(s, nil)
	}
	m.wg.Wait()
	if s != nil {
		if err = s.remove(ctx); err != nil {
			errs = append(errs, fmt.Errorf("lease: close: session record: %w", err))
		}
	}
	if m.run != nil {
		// With leases left in the store the directory stays: that its flock is
		// free proves to others that they may take them.
		if err := m.run.close(len(errs) == 0); err != nil {
			errs = append(errs, err)
		}
	}
	if len(left) > 0 {
		errs = append([]error{fmt.Errorf("lease: close: %d still held, released: %s", len(left), names(left))}, errs...)
	}
	return errors.Join(errs...)
}

func (m *Manager) releaseAll(ctx context.Context, leases []*Lease) []error {
	var wg sync.WaitGroup
	errs := make([]error, len(leases))
	slots := make(chan struct{}, closeWorkers)
	for i, l := range leases {
		slots <- struct{}{}
		wg.Go(func() {
			errs[i] = l.Release(ctx)
			<-slots
		})
	}
	wg.Wait()
	return slices.DeleteFunc(errs, func(err error) bool { return err == nil })
}

// names lists some of the keys.
func names(leases []*Lease) string {
	const most = 5
	var keys []string
	for _, l := range leases {
		keys = append(keys, fmt.Sprintf("%s (token %d)", l.key, l.Token()))
	}
	slices.Sort(keys)
	if len(keys) > most {
		keys = append(keys[:most], fmt.Sprintf("and %d more", len(keys)-most))
	}
	return strings.Join(keys, ", ")
}
