package pool

import (
	"fmt"
	"log/slog"
	"maps"
	"slices"

	"github.com/google/uuid"
)

// validate fills in defaults and reports the first field that breaks a rule.
func (c Config) validate() (Config, error) {
	bad := func(field string, value any, want string) (Config, error) {
		return Config{}, fmt.Errorf("pool: Config.%s is %v, want %s", field, value, want)
	}
	if c.Name == "" {
		c.Name = "bullpen"
	}
	if c.Run.ID == "" {
		c.Run.ID = uuid.NewString()
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Poll == 0 {
		c.Poll = DefaultPoll
	}
	if c.Poll < 0 {
		return bad("Poll", c.Poll, "0 (every "+DefaultPoll.String()+") or more")
	}
	if c.Drain < 0 {
		return bad("Drain", c.Drain, "0 (until Close's context ends) or more")
	}
	if c.Kept == 0 {
		c.Kept = DefaultKept
	}
	if len(c.Hosts) == 0 {
		return bad("Hosts", "empty", "at least one host")
	}
	if len(c.Templates) == 0 {
		return bad("Templates", "empty", "at least one template")
	}
	for name, n := range c.Locks {
		if name == "" || n < 1 {
			return bad(fmt.Sprintf("Locks[%q]", name), n, "a name, and 1 or more holders")
		}
	}
	for name, n := range c.Quotas {
		if name == "" || n < 0 {
			return bad(fmt.Sprintf("Quotas[%q]", name), n, "a name, and 0 or more machines")
		}
	}
	c.Quotas = maps.Clone(c.Quotas)
	c.Hosts = slices.Clone(c.Hosts)
	names, ids := map[string]int{}, map[string]int{}
	slots := 0
	for i := range c.Hosts {
		h := &c.Hosts[i]
		field := func(f string) string { return fmt.Sprintf("Hosts[%d].%s", i, f) }
		if h.Driver == nil {
			return bad(field("Driver"), "nil", "an open vm.Driver")
		}
		id := h.Driver.HostID()
		if h.Name == "" {
			h.Name = id
		}
		if j, twice := names[h.Name]; twice {
			return bad(field("Name"), fmt.Sprintf("%q", h.Name), fmt.Sprintf("a name other than that of Hosts[%d]", j))
		}
		if j, twice := ids[id]; twice {
			return bad(field("Driver"), fmt.Sprintf("of host %q", id), fmt.Sprintf("a hypervisor other than that of Hosts[%d]: one host's slots are counted once", j))
		}
		names[h.Name], ids[id] = i, i
		if h.Slots < 0 {
			return bad(field("Slots"), h.Slots, "0 or more")
		}
		if h.Starts < 0 {
			return bad(field("Starts"), h.Starts, "0 (no limit) or more")
		}
		if h.Keepalive < 0 {
			return bad(field("Keepalive"), h.Keepalive, "0 (none) or more")
		}
		slots = max(slots, h.Slots)
		h.Labels, h.Properties = maps.Clone(h.Labels), maps.Clone(h.Properties)
	}
	if slots == 0 && !slices.ContainsFunc(c.Templates, func(t Template) bool { return len(t.Existing) > 0 }) {
		return bad("Hosts", "without a single slot", "at least one host with Slots of 1 or more")
	}
	c.Templates = slices.Clone(c.Templates)
	templates, taken := map[string]int{}, map[Existing]string{}
	for i := range c.Templates {
		t := &c.Templates[i]
		if err := t.validate(c, names, taken); err != nil {
			return Config{}, fmt.Errorf("pool: Config.Templates[%d].%w", i, err)
		}
		if j, twice := templates[t.Name]; twice {
			return bad(fmt.Sprintf("Templates[%d].Name", i), fmt.Sprintf("%q", t.Name), fmt.Sprintf("a name other than that of Templates[%d]", j))
		}
		templates[t.Name] = i
	}
	return c, nil
}

func (t *Template) validate(c Config, hosts map[string]int, taken map[Existing]string) error {
	bad := func(field string, value any, want string) error {
		return fmt.Errorf("%s is %v, want %s", field, value, want)
	}
	if t.Name == "" {
		return bad("Name", "empty", "a name")
	}
	for _, n := range []struct {
		field string
		value int
	}{{"Ready", t.Ready}, {"Most", t.Most}, {"MostUses", t.MostUses}, {"Weight", t.Weight}, {"Failures", t.Failures}} {
		if n.value < 0 {
			return bad(n.field, n.value, "0 or more")
		}
	}
	if t.Most > 0 && t.Ready > t.Most {
		return bad("Ready", t.Ready, fmt.Sprintf("at most Most (%d)", t.Most))
	}
	if t.MostAge < 0 {
		return bad("MostAge", t.MostAge, "0 (no limit) or more")
	}
	if t.BootTimeout < 0 {
		return bad("BootTimeout", t.BootTimeout, "0 ("+DefaultBootTimeout.String()+") or more")
	}
	if t.RenewTimeout < 0 {
		return bad("RenewTimeout", t.RenewTimeout, "0 ("+DefaultBootTimeout.String()+") or more")
	}
	if t.BootTimeout == 0 {
		t.BootTimeout = DefaultBootTimeout
	}
	if t.RenewTimeout == 0 {
		t.RenewTimeout = DefaultBootTimeout
	}
	if t.Failures == 0 {
		t.Failures = DefaultFailures
	}
	if t.Weight == 0 && len(t.Existing) == 0 {
		t.Weight = 1
	}
	for _, l := range t.Locks {
		if _, ok := c.Locks[l]; !ok {
			return bad("Locks", fmt.Sprintf("%q", l), fmt.Sprintf("locks of Config.Locks (%v)", slices.Sorted(maps.Keys(c.Locks))))
		}
	}
	t.Labels, t.Properties = maps.Clone(t.Labels), maps.Clone(t.Properties)
	if len(t.Existing) > 0 {
		return t.validateExisting(c, hosts, taken)
	}
	room := 0
	for _, name := range t.Hosts {
		if _, ok := hosts[name]; !ok {
			return bad("Hosts", fmt.Sprintf("%q", name), fmt.Sprintf("names of hosts (%v)", slices.Sorted(maps.Keys(hosts))))
		}
	}
	for _, h := range c.Hosts {
		if len(t.Hosts) == 0 || slices.Contains(t.Hosts, h.Name) {
			room += h.Slots / t.Weight
		}
	}
	if room == 0 {
		return bad("Weight", t.Weight, "no more than the slots of a host that it can be made on")
	}
	if t.Ready > room {
		return bad("Ready", t.Ready, fmt.Sprintf("at most the %d that its hosts have slots for", room))
	}
	spec := t.Spec
	spec.Name, spec.Owner.Incarnation = "x", "x"
	spec.Properties = mergeAll(spec.Properties, t.Properties)
	if err := spec.Validate(); err != nil {
		return fmt.Errorf("Spec is refused: %w", err)
	}
	return nil
}

// mergeAll puts maps together, later ones over earlier ones; nil when all are
// empty.
func mergeAll(ms ...map[string]string) map[string]string {
	var out map[string]string
	for _, m := range ms {
		for k, v := range m {
			if out == nil {
				out = make(map[string]string, len(m))
			}
			out[k] = v
		}
	}
	return out
}
