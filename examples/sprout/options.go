package main

import (
	"flag"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"
)

// options are those of the command line, under their old names; workers find them
// in slave_config.
type options struct {
	Config string `json:"-"`
	// Appliances are static: machines that exist, as host/machine. They win over
	// requesting.
	Appliances list     `json:"appliances"`
	UseSprout  bool     `json:"use_sprout"`
	Group      string   `json:"sprout_group"`
	Count      int      `json:"sprout_appliances"`
	Version    string   `json:"sprout_version,omitempty"`
	Date       string   `json:"sprout_date,omitempty"`
	Lease      minutes  `json:"sprout_timeout"`
	Provision  minutes  `json:"sprout_provision_timeout"`
	Desc       *string  `json:"sprout_desc,omitempty"`
	MaxFail    int      `json:"maxfail"`
	Project    string   `json:"project"` // the folder for .appliance_template, conf and log
	JUnit      string   `json:"junit,omitempty"`
	Args       []string `json:"-"` // tests to run: beginnings of their ids; none: all
}

// list is a flag that may be given several times, and have commas.
type list []string

func (l *list) String() string { return strings.Join(*l, ",") }

func (l *list) Set(s string) error {
	for part := range strings.SplitSeq(s, ",") {
		if part = strings.TrimSpace(part); part == "" {
			return fmt.Errorf("it has an empty name")
		}
		*l = append(*l, strings.TrimSpace(part))
	}
	return nil
}

// minutes is a time in minutes, with decimals where they are wanted.
type minutes float64

func (m *minutes) String() string { return strconv.FormatFloat(float64(*m), 'f', -1, 64) }

func (m *minutes) Set(s string) error {
	n, err := strconv.ParseFloat(s, 64)
	if err != nil || !(n > 0 && n <= 60*24*365) {
		return fmt.Errorf("want a number of minutes above 0")
	}
	*m = minutes(n)
	return nil
}

func (m minutes) duration() time.Duration { return time.Duration(float64(m) * float64(time.Minute)) }

func parseOptions(args []string, stderr io.Writer) (options, error) {
	o := options{Count: 1, Lease: 60, Provision: 60}
	flags := flag.NewFlagSet("sprout", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.StringVar(&o.Config, "config", "sprout.json", "the file that names the store, the hosts, templates and tests")
	flags.Var(&o.Appliances, "appliance", "a static appliance, as host/machine; may be given several times, and wins over -use-sprout")
	flags.BoolVar(&o.UseSprout, "use-sprout", false, "request appliances")
	flags.StringVar(&o.Group, "sprout-group", "", "the group of templates to request from")
	flags.IntVar(&o.Count, "sprout-appliances", o.Count, "how many; one: tests run in this process, more: in workers")
	flags.StringVar(&o.Version, "sprout-version", "", "the version to request (default the newest)")
	flags.StringVar(&o.Date, "sprout-date", "", "the date to request, as 2026-11-20 (default the newest)")
	flags.Var(&o.Lease, "sprout-timeout", "minutes of the lease, which is prolonged while tests run")
	flags.Var(&o.Provision, "sprout-provision-timeout", "minutes to wait for the appliances")
	desc := flags.String("sprout-desc", "", "a description of the pool; one with Jenkins in it names the job, whose old pools are destroyed")
	flags.IntVar(&o.MaxFail, "maxfail", 0, "stop after so many failures; 0: never")
	flags.StringVar(&o.Project, "project", ".", "the folder for .appliance_template, conf and log")
	flags.StringVar(&o.JUnit, "junit", "", "a file for the results as JUnit XML")
	if err := flags.Parse(args); err != nil {
		return o, err
	}
	o.Args = flags.Args()
	flags.Visit(func(f *flag.Flag) {
		if f.Name == "sprout-desc" {
			o.Desc = desc
		}
	})
	return o, o.check()
}

func (o options) check() error {
	for _, a := range o.Appliances {
		if host, machine, ok := strings.Cut(a, "/"); !ok || host == "" || machine == "" {
			return fmt.Errorf("-appliance is %q, want host/machine", a)
		}
	}
	if o.MaxFail < 0 {
		return fmt.Errorf("-maxfail is %d, want 0 (no limit) or more", o.MaxFail)
	}
	if len(o.Appliances) > 0 {
		return nil
	}
	if o.Date != "" {
		if _, err := time.Parse(time.DateOnly, o.Date); err != nil {
			return fmt.Errorf("-sprout-date is %q, want a day such as 2026-11-20", o.Date)
		}
	}
	switch {
	case !o.UseSprout:
		return fmt.Errorf("no appliances: name static ones with -appliance, or request them with -use-sprout")
	case o.Group == "":
		return fmt.Errorf("-sprout-group is empty, want the group of templates to request from")
	case o.Count < 1:
		return fmt.Errorf("-sprout-appliances is %d, want 1 or more", o.Count)
	}
	return nil
}
