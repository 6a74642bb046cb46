package main

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
)

// errNotStarted: the worker is not to be started.
var errNotStarted = errors.New("not started")

// registry says which workers there may be: its word goes before that of whoever
// wants to start one. It is safe for concurrent use.
type registry struct {
	mu         sync.Mutex
	next       int
	appliances map[string]appliance // by worker
	running    map[string]executor
	tests      map[string]map[string]bool // that each worker was sent
	spawned    int
	forbidden  bool // no worker is started any more
}

// add makes an appliance a worker's and gives its name.
func (r *registry) add(a appliance) string {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.appliances == nil {
		r.appliances, r.running, r.tests = map[string]appliance{}, map[string]executor{}, map[string]map[string]bool{}
	}
	id := fmt.Sprintf("slave%02d", r.next)
	r.next++
	r.appliances[id] = a
	return id
}

// remove takes a worker out, and ends it when it runs.
func (r *registry) remove(id string) {
	r.mu.Lock()
	delete(r.appliances, id)
	r.mu.Unlock()
	r.stop(id)
}

// replace gives a worker another appliance. One that was taken out stays out.
func (r *registry) replace(id string, a appliance) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, ok := r.appliances[id]; ok {
		r.appliances[id] = a
	}
}

// forbid keeps all from being started from now on.
func (r *registry) forbid() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.forbidden = true
}

// ids are all workers there may be, sorted.
func (r *registry) ids() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Sorted(maps.Keys(r.appliances))
}

// appliance gives a worker's appliance.
func (r *registry) appliance(id string) (appliance, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	a, ok := r.appliances[id]
	return a, ok
}

// start starts a worker with spawn, or gives the one that runs (fresh is false). One
// that is not in the registry, has no URL, or comes after forbid is not started
// (errNotStarted); one that was taken out while it started is ended at once.
func (r *registry) start(id string, spawn func(appliance) (executor, error)) (x executor, fresh bool, err error) {
	r.mu.Lock()
	running, a, err := r.running[id], r.appliances[id], r.mayStart(id)
	r.mu.Unlock()
	if err != nil || running != nil {
		return running, false, err
	}
	if x, err = spawn(a); err != nil {
		return nil, false, err
	}
	r.mu.Lock()
	if err = r.mayStart(id); err == nil {
		r.running[id] = x
		r.spawned++
	}
	r.mu.Unlock()
	if err != nil {
		x.stop()
		return nil, false, err
	}
	return x, true, nil
}

// mayStart is called with mu held.
func (r *registry) mayStart(id string) error {
	a, ok := r.appliances[id]
	switch {
	case r.forbidden:
		return fmt.Errorf("worker %s: %w: the session ends", id, errNotStarted)
	case !ok:
		return fmt.Errorf("worker %s: %w: it was taken out", id, errNotStarted)
	case a.URL == "":
		return fmt.Errorf("worker %s: %w: appliance %s has no URL", id, errNotStarted, a.Name)
	}
	return nil
}

// stop ends a worker that runs, and waits for it.
func (r *registry) stop(id string) {
	r.mu.Lock()
	x := r.running[id]
	delete(r.running, id)
	r.mu.Unlock()
	if x != nil {
		x.stop()
	}
}

// stopAll ends all, and none is started after.
func (r *registry) stopAll() {
	r.forbid()
	var all sync.WaitGroup
	r.mu.Lock()
	ids := slices.Collect(maps.Keys(r.running))
	r.mu.Unlock()
	for _, id := range ids {
		all.Go(func() { r.stop(id) })
	}
	all.Wait()
}

// sent notes which tests a worker was sent.
func (r *registry) sent(id string, tests []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.tests[id] == nil {
		r.tests[id] = map[string]bool{}
	}
	for _, t := range tests {
		r.tests[id][t] = true
	}
}

// counts are how many workers were started, and how many tests each was sent.
func (r *registry) counts() (spawned int, tests map[string]int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	tests = map[string]int{}
	for id, all := range r.tests {
		tests[id] = len(all)
	}
	return r.spawned, tests
}
