package main

import (
	"fmt"
	"net"
	"net/mail"
	"os"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/bullpen-vm/bullpen/vm"
)

// The defaults of the original.
const (
	defaultKeepalive = time.Hour
	defaultMissing   = time.Hour
	defaultTimeout   = time.Hour
)

var (
	goodName     = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9._-]{0,99}$`)
	goodProperty = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)
)

const nameRule = "1 to 100 of [A-Za-z0-9._-], not starting with a dot or a dash"

// said is what is wrong with a value that is better not quoted.
type said string

// bad names a field, its value and the rule that it breaks.
func bad(field string, value any, rule string) error {
	if s, ok := value.(string); ok {
		value = fmt.Sprintf("%q", s)
	}
	return fmt.Errorf("%s is %v, want %s", field, value, rule)
}

// check fills defaults in and reports the first field that breaks a rule.
func (c *config) check() error {
	if c.Name == "" {
		c.Name = "latent"
	}
	if !goodName.MatchString(c.Name) {
		return bad("name", c.Name, nameRule)
	}
	if c.Listen != "" {
		if _, _, err := net.SplitHostPort(c.Listen); err != nil {
			return bad("listen", c.Listen, "host:port")
		}
	}
	if c.TLS != nil && (c.TLS.Certificate == "" || c.TLS.Key == "") {
		return bad("tls", said("incomplete"), "certificate and key")
	}
	if err := c.checkHosts(); err != nil {
		return err
	}
	for name, most := range c.Locks {
		if name == "" || most < 1 {
			return bad(fmt.Sprintf("locks[%q]", name), most, "a name, and how many machines may hold it at once: at least 1")
		}
	}
	names := map[string]int{}
	for i := range c.Workers {
		w := &c.Workers[i]
		field := fmt.Sprintf("workers[%d].", i)
		if err := c.checkWorker(w, field); err != nil {
			return err
		}
		if other, twice := names[w.Name]; twice {
			return bad(field+"name", w.Name, fmt.Sprintf("a name that workers[%d] does not have", other))
		}
		names[w.Name] = i
	}
	if len(c.Workers) == 0 {
		return bad("workers", said("empty"), "at least one")
	}
	if err := c.checkBuilders(names); err != nil {
		return err
	}
	return c.checkMail()
}

func (c *config) checkHosts() error {
	names := map[string]int{}
	for i := range c.Hosts {
		h := &c.Hosts[i]
		field := fmt.Sprintf("hosts[%d].", i)
		switch other, twice := names[h.Name]; {
		case !goodName.MatchString(h.Name) || h.Name == byHand:
			return bad(field+"name", h.Name, nameRule+", and not "+byHand)
		case twice:
			return bad(field+"name", h.Name, fmt.Sprintf("a name that hosts[%d] does not have", other))
		case h.Driver != "local" && h.Driver != "libvirt":
			return bad(field+"driver", h.Driver, "local or libvirt; the command backends has a list")
		case h.Slots < 1:
			return bad(field+"slots", h.Slots, "how many machines there may be: at least 1")
		}
		if err := checkInterval(field+"keepalive_interval", h.Keepalive, true); err != nil {
			return err
		}
		h.Dir = c.path(h.Dir)
		names[h.Name] = i
	}
	return nil
}

// checkInterval wants a positive time where there is one.
func checkInterval(field string, i interval, mayBeNever bool) error {
	switch {
	case i.never && mayBeNever, !i.set:
		return nil
	case i.never:
		return bad(field, said("null"), "seconds above 0")
	case i.Duration <= 0 && mayBeNever:
		return bad(field, i.Seconds(), "seconds above 0, or null for never")
	case i.Duration <= 0:
		return bad(field, i.Seconds(), "seconds above 0")
	}
	return nil
}

func (c *config) checkWorker(w *workerConfig, field string) error {
	if !goodName.MatchString(w.Name) {
		return bad(field+"name", w.Name, nameRule)
	}
	if w.MaxBuilds < 0 {
		return bad(field+"max_builds", w.MaxBuilds, "at least 1")
	}
	w.MaxBuilds = max(w.MaxBuilds, 1)
	for i, l := range w.Locks {
		if c.Locks[l] == 0 {
			return bad(fmt.Sprintf("%slocks[%d]", field, i), l, "a name of locks")
		}
		if slices.Contains(w.Locks[:i], l) {
			return bad(fmt.Sprintf("%slocks[%d]", field, i), l, "each lock once")
		}
	}
	for k := range w.Properties {
		if !goodProperty.MatchString(k) {
			return bad(field+"properties", k, "names of [A-Za-z0-9_], not starting with a digit")
		}
	}
	if err := checkInterval(field+"keepalive_interval", w.Keepalive, true); err != nil {
		return err
	}
	if err := checkInterval(field+"missing_timeout", w.Missing, false); err != nil {
		return err
	}
	if err := checkAddresses(field+"notify_on_missing", w.Notify); err != nil {
		return err
	}
	switch w.Type {
	case typeLatent:
		return c.checkLatent(w, field)
	case typeStandard, typeLocal:
		if w.Wait != nil || len(w.Hosts) > 0 || !w.Machine.zero() {
			return bad(field+"build_wait_timeout, hosts or machine", said("set"), "none: the worker is not latent")
		}
		return c.checkPassword(w, field)
	}
	return bad(field+"type", w.Type, "latent, standard or local")
}

func (m machineConfig) zero() bool {
	return m.Kernel == "" && m.Initrd == "" && m.Cmdline == "" && len(m.Images) == 0 && m.Memory == 0 && m.CPUs == 0 && m.Network == ""
}

func (c *config) checkLatent(w *workerConfig, field string) error {
	switch {
	case w.Password != "" || w.PasswordFile != "":
		return bad(field+"password", said("set"), "none: each start of a latent worker has a secret of its own")
	case w.Keepalive.set:
		return bad(field+"keepalive_interval", said("set"), "none: that of its host counts")
	case len(c.Hosts) == 0:
		return bad("hosts", said("empty"), "at least one for latent worker "+w.Name)
	case w.Machine.Memory < 0 || w.Machine.CPUs < 0:
		return bad(field+"machine", said("negative"), "memory_mib and cpus of 0 (the driver's default) or more")
	}
	if len(w.Hosts) == 0 {
		for _, h := range c.Hosts {
			w.Hosts = append(w.Hosts, h.Name)
		}
	}
	for i, name := range w.Hosts {
		if !slices.ContainsFunc(c.Hosts, func(h hostConfig) bool { return h.Name == name }) {
			return bad(fmt.Sprintf("%shosts[%d]", field, i), name, "the name of a host")
		}
	}
	w.Machine.Kernel, w.Machine.Initrd = c.path(w.Machine.Kernel), c.path(w.Machine.Initrd)
	for i := range w.Machine.Images {
		w.Machine.Images[i] = c.path(w.Machine.Images[i])
	}
	return nil
}

// checkPassword reads the password's file. No error tells a password.
func (c *config) checkPassword(w *workerConfig, field string) error {
	if w.Type == typeLocal {
		if w.Password != "" || w.PasswordFile != "" {
			return bad(field+"password", said("set"), "none: a local worker is in the master's process")
		}
		return nil
	}
	if c.Listen == "" {
		return bad("listen", said("empty"), "host:port for standard worker "+w.Name+" to connect to")
	}
	if (w.Password == "") == (w.PasswordFile == "") {
		return bad(field+"password and password_file", said("none or both"), "exactly one of them")
	}
	if w.PasswordFile != "" {
		text, err := os.ReadFile(c.path(w.PasswordFile))
		if err != nil {
			return fmt.Errorf("%spassword_file: %w", field, err)
		}
		w.Password = vm.Secret(strings.TrimRight(string(text), "\r\n"))
		if w.Password == "" {
			return bad(field+"password_file", w.PasswordFile, "a file with the password in its first line")
		}
	}
	return nil
}

func (c *config) checkBuilders(workers map[string]int) error {
	var names []string
	for i, b := range c.Builds {
		field := fmt.Sprintf("builders[%d].", i)
		switch {
		case !goodName.MatchString(b.Name):
			return bad(field+"name", b.Name, nameRule)
		case slices.Contains(names, b.Name):
			return bad(field+"name", b.Name, "a name that no builder before has")
		case len(b.Workers) == 0:
			return bad(field+"workers", said("empty"), "at least one")
		case len(b.Steps) == 0:
			return bad(field+"steps", said("empty"), "at least one command")
		}
		names = append(names, b.Name)
		for j, w := range b.Workers {
			if _, ok := workers[w]; !ok {
				return bad(fmt.Sprintf("%sworkers[%d]", field, j), w, "the name of a worker")
			}
		}
		for k := range b.Properties {
			if !goodProperty.MatchString(k) {
				return bad(field+"properties", k, "names of [A-Za-z0-9_], not starting with a digit")
			}
		}
		if err := checkInterval(field+"timeout", b.Timeout, true); err != nil {
			return err
		}
	}
	if len(names) == 0 {
		return bad("builders", said("empty"), "at least one")
	}
	if c.Mail != nil && c.Mail.Builders != nil {
		for i, b := range *c.Mail.Builders {
			if !slices.Contains(names, b) {
				return bad(fmt.Sprintf("mail.builders[%d]", i), b, "the name of a builder")
			}
		}
	}
	return nil
}

func (c *config) checkMail() error {
	m := c.Mail
	if m == nil {
		return nil
	}
	if m.From != "" {
		if err := checkAddresses("mail.from", addresses{m.From}); err != nil {
			return err
		}
	}
	if strings.ContainsAny(m.Relay, "/ ") {
		return bad("mail.relayhost", m.Relay, "host or host:port")
	}
	if err := checkAddresses("mail.to", m.To); err != nil {
		return err
	}
	if len(m.To) == 0 && (m.Builders == nil || len(*m.Builders) > 0) {
		return bad("mail.to", said("empty"), `at least one address for mails about builds, or "builders": [] for none`)
	}
	return nil
}

func checkAddresses(field string, all addresses) error {
	for i, a := range all {
		if parsed, err := mail.ParseAddress(a); err != nil || parsed.Address != a {
			return bad(fmt.Sprintf("%s[%d]", field, i), a, "an address such as bob@example.com")
		}
	}
	return nil
}
