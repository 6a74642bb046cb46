package libvirt

import "sync"

// hub takes the hypervisor's events and wakes those who wait for a machine.
// Its lock is held for moments only: events come on libvirt's own thread.
type hub struct {
	mu    sync.Mutex
	facts map[string]*facts
	wait  map[string]chan struct{}
}

func newHub() *hub { return &hub{facts: map[string]*facts{}, wait: map[string]chan struct{}{}} }

// put takes an event.
func (h *hub) put(e event) {
	h.mu.Lock()
	defer h.mu.Unlock()
	f := h.facts[e.name]
	if f == nil {
		f = &facts{}
		h.facts[e.name] = f
	}
	if f.tell(e); e.event == eventUndefined {
		delete(h.facts, e.name)
	}
	h.wakeLocked(e.name)
}

// of gives what is known of a machine's present run.
func (h *hub) of(name string) facts {
	h.mu.Lock()
	defer h.mu.Unlock()
	if f := h.facts[name]; f != nil {
		return *f
	}
	return facts{}
}

// forget starts anew with a machine.
func (h *hub) forget(name string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.facts, name)
}

// next is closed at the next event of a machine. Ask for it before looking.
func (h *hub) next(name string) <-chan struct{} {
	h.mu.Lock()
	defer h.mu.Unlock()
	c := h.wait[name]
	if c == nil {
		c = make(chan struct{})
		h.wait[name] = c
	}
	return c
}

func (h *hub) wakeLocked(name string) {
	if c := h.wait[name]; c != nil {
		close(c)
		delete(h.wait, name)
	}
}

// wakeAll has everybody look: events may have been missed.
func (h *hub) wakeAll() {
	h.mu.Lock()
	defer h.mu.Unlock()
	for name := range h.wait {
		h.wakeLocked(name)
	}
}
