package dialin

import (
	"fmt"
	"log/slog"
	"regexp"
	"slices"
	"time"

	"github.com/bullpen-vm/bullpen/vm"
)

// The defaults of Config and Worker.
const (
	DefaultKeepalive    = time.Hour        // Worker.Keepalive
	DefaultHelloTimeout = 30 * time.Second // Config.HelloTimeout
	DefaultPingTimeout  = 10 * time.Second // Config.PingTimeout
	DefaultMostPending  = 64               // Config.MostPending
)

// Worker is a machine that may connect.
type Worker struct {
	// Name is unique, and the machine's ID: 1 to 100 bytes of [A-Za-z0-9._-], not
	// starting with a dot or a dash.
	Name string
	// Secret is what its hello must carry; it is not empty.
	Secret vm.Secret
	// Properties are told to its agent, as those of vm.Spec. Commands get what is
	// in vm.Command.Env.
	Properties map[string]string
	// Keepalive is how often it is asked whether it is there, so that a
	// connection that broke silently is found before it is needed; an answer that
	// takes longer than Config.PingTimeout ends the connection. The worker leaves
	// when it has heard nothing for three times as long. Zero: DefaultKeepalive,
	// negative: it is never asked and never leaves.
	Keepalive time.Duration
}

// Config says who may connect. Workers is needed.
type Config struct {
	// Name is the HostID; empty: "dialin". All drivers that share a lease store
	// have different names.
	Name    string
	Workers []Worker
	// HelloTimeout is how long a connection has to say a right hello and to
	// become ready; zero: DefaultHelloTimeout, or twice PingTimeout if that is
	// more, for the one whose place it takes may be asked first.
	HelloTimeout time.Duration
	// PingTimeout is how long an answer may take; zero: DefaultPingTimeout.
	PingTimeout time.Duration
	// MostPending is how many connections may be on their way in at once; more are
	// closed at once. Zero: DefaultMostPending.
	MostPending int
	// Changed is called when a worker is there (up) and when it has gone, with the
	// reason. The calls for one worker come one after the other; nil: nobody is
	// told. It should be quick.
	Changed func(name string, up bool, why error)
	// Logger is told who comes, who goes and who is refused; nil: it is discarded.
	Logger *slog.Logger
}

var goodName = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9._-]{0,99}$`)

func (c Config) validate() (Config, error) {
	bad := func(field string, value any, want string) (Config, error) {
		return Config{}, fmt.Errorf("dialin: Config.%s is %v, want %s", field, value, want)
	}
	if c.Name == "" {
		c.Name = "dialin"
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	hello := c.HelloTimeout
	for _, d := range []struct {
		field string
		value *time.Duration
		zero  time.Duration
	}{{"HelloTimeout", &c.HelloTimeout, DefaultHelloTimeout}, {"PingTimeout", &c.PingTimeout, DefaultPingTimeout}} {
		if *d.value < 0 {
			return bad(d.field, *d.value, fmt.Sprintf("0 for %v, or more", d.zero))
		}
		if *d.value == 0 {
			*d.value = d.zero
		}
	}
	if hello == 0 {
		c.HelloTimeout = max(c.HelloTimeout, 2*c.PingTimeout)
	}
	if c.MostPending < 0 {
		return bad("MostPending", c.MostPending, fmt.Sprintf("0 for %d, or more", DefaultMostPending))
	}
	if c.MostPending == 0 {
		c.MostPending = DefaultMostPending
	}
	if len(c.Workers) == 0 {
		return bad("Workers", "empty", "at least one")
	}
	c.Workers = slices.Clone(c.Workers)
	names := map[string]int{}
	for i := range c.Workers {
		w := &c.Workers[i]
		field := fmt.Sprintf("Workers[%d].", i)
		switch other, twice := names[w.Name]; {
		case !goodName.MatchString(w.Name):
			return bad(field+"Name", fmt.Sprintf("%q", w.Name), "1 to 100 of [A-Za-z0-9._-], not starting with a dot or a dash")
		case twice:
			return bad(field+"Name", fmt.Sprintf("%q", w.Name), fmt.Sprintf("a name that Workers[%d] does not have", other))
		case w.Secret == "":
			return bad(field+"Secret", "empty", "the worker's secret")
		}
		names[w.Name] = i
		if w.Keepalive == 0 {
			w.Keepalive = DefaultKeepalive
		}
	}
	return c, nil
}
