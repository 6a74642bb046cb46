package fake

import (
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/bullpen-vm/bullpen/vm"
)

// Hypervisor is a host's machines. Drivers of it stand for the processes that
// use the host. Methods are safe for concurrent use.
type Hypervisor struct {
	c      Config
	faults *injector
	guests sync.WaitGroup // the guests' goroutines

	mu sync.Mutex
	// mu protects the following fields and all fields of records and boots
	// that are not channels.
	machines map[vm.ID]*record
	parents  map[string]*parent
	stock    []string // digests of inputs, the oldest first
	lost     bool
	cut      chan struct{} // closed while it is lost
	peak     int
	made     int
}

// parent is a saved machine.
type parent struct {
	saved  memory
	secret vm.Secret
	inc    string
	made   time.Time
}

// memory is what a guest knows of itself and what is on its root disk.
type memory struct {
	dirty string
	jobs  int
	files map[string]file
}

func (m memory) clone() memory {
	c := m
	c.files = make(map[string]file, len(m.files))
	for k, v := range m.files {
		c.files[k] = v
	}
	return c
}

// record is one machine.
type record struct {
	id      vm.ID
	spec    vm.Spec
	owner   vm.Owner
	created time.Time
	state   vm.State
	end     *vm.End
	busy    string // the change of state under way
	change  int    // counts kills and removals, which cut in on what is under way
	gone    bool
	by      *host // who made it
	boots   int
	from    *parent // nil: not forked
	boot    *boot   // nil: it does not run
	memory  memory
	console []byte
	disks   []*disk
	inputs  map[int]vm.Image
	snaps   []snap
}

type snap struct {
	name    string
	running bool
	saved   memory
}

// NewHypervisor makes a hypervisor without machines.
func NewHypervisor(c Config) *Hypervisor {
	if c.HostID == "" {
		c.HostID = "fake"
	}
	if c.Rung == vm.RungNone {
		c.Rung = vm.RungFork
	}
	if c.Exec == nil {
		c.Exec = BuiltIn
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return &Hypervisor{
		c:        c,
		faults:   newInjector(c.HostID, c.Seed, c.Faults),
		machines: map[vm.ID]*record{},
		parents:  map[string]*parent{},
		cut:      make(chan struct{}),
	}
}

// Driver is one process's way to a hypervisor.
type Driver struct {
	vm.Driver
	hypervisor *Hypervisor
}

// New makes a hypervisor of its own and a driver to it.
func New(c Config) *Driver { return NewHypervisor(c).Driver() }

// Driver opens another way to the hypervisor. Its Close is like the end of the
// process: machines that it made with vm.Die are ended.
func (h *Hypervisor) Driver() *Driver {
	return &Driver{Driver: vm.Intercept(&host{h: h}, vm.Interceptor{Call: h.faults.do}), hypervisor: h}
}

// Hypervisor is the one that the driver reaches.
func (d *Driver) Hypervisor() *Hypervisor { return d.hypervisor }

// As answers for what the hypervisor can do.
func (d *Driver) As(target any) bool { return asDriver(target, d, d.Driver) }

// Inject adds faults; their counts begin now.
func (h *Hypervisor) Inject(faults ...Fault) { h.faults.add(faults) }

// Heal removes all faults, those of the Config too. Guests that run stay as they
// are, and calls that hang go on hanging.
func (h *Hypervisor) Heal() { h.faults.clear() }

// Calls is how often an operation, such as vm.OpStart, was asked for.
func (h *Hypervisor) Calls(op string) int { return h.faults.count(op) }

// Stock makes the inputs of these digests ones that the host has, as if they had
// been put into a machine before.
func (h *Hypervisor) Stock(digests ...string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, d := range digests {
		h.keep(d)
	}
}

// keep puts an input into the stock; beyond the bound the oldest goes. The caller
// holds h.mu.
func (h *Hypervisor) keep(digest string) {
	if digest == "" || h.c.Without.Has(vm.CanStock) || slices.Contains(h.stock, digest) {
		return
	}
	h.stock = append(h.stock, digest)
	if len(h.stock) > maxStock {
		h.stock = slices.Delete(h.stock, 0, 1)
	}
}

// maxStock is how many inputs a host keeps.
const maxStock = 64

// Count is how many machines there are.
func (h *Hypervisor) Count() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.machines)
}

// Peak is the greatest number of machines that ever existed at once.
func (h *Hypervisor) Peak() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.peak
}

// Made is how many machines were made in all.
func (h *Hypervisor) Made() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.made
}

// Crash makes a running guest crash. Like PowerOff and KillOutside it answers
// vm.ErrNotFound for an unknown machine and vm.ErrState for one that does not run.
func (h *Hypervisor) Crash(id vm.ID) error {
	return h.endNow(id, vm.End{Kind: vm.EndCrashed, Detail: "kernel panic"})
}

// PowerOff makes a running guest power off without a word.
func (h *Hypervisor) PowerOff(id vm.ID) error {
	return h.endNow(id, vm.End{Kind: vm.EndPoweredOff, Detail: "powered off by itself"})
}

// KillOutside ends a running machine as somebody outside would.
func (h *Hypervisor) KillOutside(id vm.ID) error {
	return h.endNow(id, vm.End{Kind: vm.EndKilled, Detail: "killed from outside"})
}

func (h *Hypervisor) endNow(id vm.ID, end vm.End) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	r := h.machines[id]
	if r == nil {
		return fmt.Errorf("fake: %s: %w", id, vm.ErrNotFound)
	}
	if r.boot == nil {
		return fmt.Errorf("fake: %s does not run: %w", id, vm.ErrState)
	}
	h.finish(r, r.boot, end)
	return nil
}

// Remove takes a machine away without a trace, whatever it does.
func (h *Hypervisor) Remove(id vm.ID) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	r := h.machines[id]
	if r == nil {
		return fmt.Errorf("fake: %s: %w", id, vm.ErrNotFound)
	}
	h.remove(r)
	return nil
}

// Forget removes the ownership that is written on a machine.
func (h *Hypervisor) Forget(id vm.ID) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	r := h.machines[id]
	if r == nil {
		return fmt.Errorf("fake: %s: %w", id, vm.ErrNotFound)
	}
	r.owner = vm.Owner{}
	return nil
}

// Lose cuts the hypervisor off (true) or brings it back: while it is lost every
// operation answers vm.ErrHostLost, and channels have ended. Machines live on.
func (h *Hypervisor) Lose(lost bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.lost == lost {
		return
	}
	if h.lost = lost; !lost {
		h.cut = make(chan struct{})
		return
	}
	close(h.cut)
	for _, r := range h.machines {
		if r.boot != nil && r.boot.line != nil {
			_ = r.boot.line.Close() // in memory: it cannot fail
		}
	}
}

// Close ends every machine and waits for the guests' goroutines. A Job or Exec
// that does not heed its context is waited for.
func (h *Hypervisor) Close() error {
	h.mu.Lock()
	var channels []*vm.Channel
	for _, r := range h.machines {
		if r.boot == nil {
			continue
		}
		if r.boot.channel != nil {
			channels = append(channels, r.boot.channel)
		}
		h.finish(r, r.boot, vm.End{Kind: vm.EndKilled, Detail: "the hypervisor was closed"})
	}
	h.mu.Unlock()
	for _, c := range channels {
		_ = c.Close()
	}
	h.guests.Wait()
	return nil
}

// remove takes a machine out. The caller holds mu.
func (h *Hypervisor) remove(r *record) {
	r.change++
	if r.boot != nil {
		h.finish(r, r.boot, vm.End{Kind: vm.EndKilled, Detail: "destroyed"})
	}
	r.gone = true
	if h.machines[r.id] == r {
		delete(h.machines, r.id)
	}
}

// finish ends a boot. The caller holds mu.
func (h *Hypervisor) finish(r *record, b *boot, end vm.End) {
	if r.boot != b {
		return
	}
	r.print(fmt.Sprintf("%s: %s\n", end.Kind, end.Detail))
	end.Console = r.tail(vm.ConsoleTail)
	r.end, r.boot, r.state = &end, nil, vm.StateStopped
	if end.Kind == vm.EndCrashed {
		r.state = vm.StateCrashed
	}
	b.end = end
	b.stop()
}

// print adds to the console, of which the last part is kept.
func (r *record) print(s string) {
	const most = 64 << 10
	r.console = append(r.console, s...)
	if n := len(r.console) - most; n > 0 {
		r.console = slices.Clone(r.console[n:])
	}
}

func (r *record) tail(n int) []byte {
	return slices.Clone(r.console[max(len(r.console)-n, 0):])
}

func (r *record) info() vm.Info {
	i := vm.Info{
		ID: r.id, Template: r.spec.Template, State: r.state, Owner: r.owner, Created: r.created,
		Details: map[string]string{"accelerator": "none: a fake"},
	}
	if r.end != nil {
		end := *r.end
		i.End = &end
	}
	return i
}

// sorted are the machines by name. The caller holds mu.
func (h *Hypervisor) sorted() []*record {
	all := make([]*record, 0, len(h.machines))
	for _, r := range h.machines {
		all = append(all, r)
	}
	slices.SortFunc(all, func(a, b *record) int { return strings.Compare(string(a.id), string(b.id)) })
	return all
}
