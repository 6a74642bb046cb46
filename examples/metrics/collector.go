package main

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/bullpen-vm/bullpen/pool"
)

// Metrics turns what a pool tells into metrics: numbers of one moment from its
// Stats, asked for at each scrape, and what happened in between from its Trace.
// Use NewMetrics, put Trace into the pool's Config, and call Watch when the pool
// is made. It is safe for concurrent use.
type Metrics struct {
	registry prometheus.Registerer
	events   *prometheus.CounterVec
	boots    *prometheus.HistogramVec
	waits    *prometheus.HistogramVec
	holds    *prometheus.HistogramVec
}

// NewMetrics registers the metrics that come from events.
func NewMetrics(r prometheus.Registerer) *Metrics {
	seconds := prometheus.ExponentialBuckets(0.01, 4, 10) // 10 ms to 44 min
	histogram := func(name, help string) *prometheus.HistogramVec {
		return prometheus.NewHistogramVec(prometheus.HistogramOpts{Namespace: "bullpen", Name: name, Help: help, Buckets: seconds}, []string{"template", "host"})
	}
	m := &Metrics{
		registry: r,
		events: prometheus.NewCounterVec(prometheus.CounterOpts{
			Namespace: "bullpen", Name: "events_total", Help: "Changes in the pool, by kind: see pool.EventKind.",
		}, []string{"kind", "template", "host"}),
		boots: histogram("ready_seconds", "How long machines took to be made or renewed, until they were proven clean and ready."),
		waits: histogram("wait_seconds", "How long callers waited for the machine that they got."),
		holds: histogram("held_seconds", "How long machines were held."),
	}
	r.MustRegister(m.events, m.boots, m.waits, m.holds)
	return m
}

// Trace is to be the pool's, or to be called by it.
func (m *Metrics) Trace() *pool.Trace { return &pool.Trace{Event: m.event} }

func (m *Metrics) event(e pool.Event) {
	m.events.WithLabelValues(string(e.Kind), e.Template, e.Host).Inc()
	switch e.Kind {
	case pool.EventReady:
		m.boots.WithLabelValues(e.Template, e.Host).Observe(e.Took.Seconds())
	case pool.EventGranted:
		m.waits.WithLabelValues(e.Template, e.Host).Observe(e.Took.Seconds())
	case pool.EventReleased:
		m.holds.WithLabelValues(e.Template, e.Host).Observe(e.Took.Seconds())
	}
}

// Watch registers the metrics that come from the pool's numbers. name tells
// pools of one program apart.
func (m *Metrics) Watch(name string, p *pool.Pool) {
	m.registry.MustRegister(&gauges{pool: p, name: name, descs: describe(name)})
}

// gauges reads one pool at each scrape.
type gauges struct {
	pool  *pool.Pool
	name  string
	descs descs
}

type descs struct{ slots, machines, waiting, quarantined, grants, waited, held, failures, lost, leftovers, adopted *prometheus.Desc }

func describe(name string) descs {
	desc := func(metric, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc("bullpen_"+metric, help, labels, prometheus.Labels{"pool": name})
	}
	return descs{
		slots:       desc("slots", "Slots of all hosts."),
		machines:    desc("machines", "Machines now, by state, template and host.", "state", "template", "host"),
		waiting:     desc("waiting", "Callers that wait now."),
		quarantined: desc("quarantined", "Hosts and templates that are left alone now."),
		grants:      desc("grants_total", "Machines handed out."),
		waited:      desc("waited_seconds_total", "Time that callers waited, all together."),
		held:        desc("machine_held_seconds_total", "Time that machines were held, all together."),
		failures:    desc("failures_total", "Operations on machines or hosts that failed."),
		lost:        desc("leases_lost_total", "Slots whose lease was lost."),
		leftovers:   desc("leftovers_total", "Leftovers of dead runs that were destroyed: leaks that were caught."),
		adopted:     desc("adopted_total", "Machines of dead runs that were taken over."),
	}
}

// Describe tells which metrics there are.
func (g *gauges) Describe(out chan<- *prometheus.Desc) {
	d := g.descs
	for _, x := range []*prometheus.Desc{d.slots, d.machines, d.waiting, d.quarantined, d.grants, d.waited, d.held, d.failures, d.lost, d.leftovers, d.adopted} {
		out <- x
	}
}

// Collect reads the pool.
func (g *gauges) Collect(out chan<- prometheus.Metric) {
	s, d := g.pool.Stats(), g.descs
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	count := func(d *prometheus.Desc, v float64) {
		out <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, v)
	}
	gauge(d.slots, float64(s.Slots))
	gauge(d.waiting, float64(s.Waiting))
	gauge(d.quarantined, float64(s.Quarantined))
	count(d.grants, float64(s.Grants))
	count(d.waited, s.TimeWaited.Seconds())
	count(d.held, s.TimeHeld.Seconds())
	count(d.failures, float64(s.Failures))
	count(d.lost, float64(s.LeasesLost))
	count(d.leftovers, float64(s.Leftovers))
	count(d.adopted, float64(s.Adopted))
	type place struct{ state, template, host string }
	machines := map[place]int{}
	for _, i := range g.pool.Guests() {
		machines[place{i.State, i.Template, i.Host}]++
	}
	for p, n := range machines {
		gauge(d.machines, float64(n), p.state, p.template, p.host)
	}
}
