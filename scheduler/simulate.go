package scheduler

import (
	"cmp"
	"fmt"
	"math"
	"math/rand/v2"
	"time"
)

// SimConfig says what happens in a simulated run. The zero value runs tasks for
// as long as their estimates say on workers that are there at once and stay.
type SimConfig struct {
	// Config is that of the scheduler; its Log, where set, records the run.
	Config
	// Duration is how long the i-th task truly takes; nil: its estimate, or a
	// second.
	Duration func(i int) time.Duration
	// Boot is how long the n-th demand takes to bring a worker; nil: no time.
	Boot func(n int) time.Duration
	// MaxTasks and Batches are those of the workers; Batches zero: no bound.
	MaxTasks, Batches int
	// Labels of the n-th worker; nil: those that were asked for.
	Labels func(n int, wanted map[string]string) map[string]string
	// MTBF is the mean time between the failures of a worker, exponentially
	// distributed; zero: none fails.
	MTBF time.Duration
	// Fail gives the verdict of the i-th task's n-th attempt (from one); nil:
	// passed.
	Fail func(i, attempt int) Verdict
	// Noise is the standard deviation of the logarithm by which estimates are
	// off the durations: known estimates are multiplied with exp(Noise*N(0,1)).
	Noise float64
	// Switching is what a switch truly costs; zero: Config.Switch, which is what
	// the scheduler is told.
	Switching time.Duration
	// Seed of all that is drawn.
	Seed uint64
	// Until stops the run by a cancellation; zero: never.
	Until time.Duration
	// Begun is called when the tasks were taken in, before the first decision;
	// who measures what decisions cost begins there. Nil: nothing.
	Begun func()
}

// Simulation is what came of it.
type Simulation struct {
	Makespan  time.Duration // when the last task ended
	Bound     time.Duration // no schedule can be shorter; see Bound
	Intervals []Interval    // in the order of their ends
	Statuses  map[string]int
	Switches  int // batches whose key the worker did not know
	// Switch is what the scheduler held a switch to cost at the end, given or
	// measured; zero: not known.
	Switch  time.Duration
	Deaths  int
	Batches int
	Inputs  int
}

// Interval is one attempt at a task.
type Interval struct {
	Task       int // index
	Worker     int // which of the workers that were
	Start, End time.Duration
	Attempt    int
	Lost       bool // the worker died
}

// Ratio returns makespan by bound; 1 for nothing to do.
func (s *Simulation) Ratio() float64 {
	if s.Bound <= 0 {
		return 1
	}
	return float64(s.Makespan) / float64(s.Bound)
}

// Simulate runs tasks on a virtual clock by the same decisions as a real run.
// The same arguments give the same result.
func Simulate[J any](tasks []Task[J], c SimConfig) (*Simulation, error) {
	conf, err := c.Config.filled()
	if err != nil {
		return nil, err
	}
	s := &simulation{c: c, m: newMachine(conf), random: rand.New(rand.NewPCG(c.Seed, 0x5eed)),
		out: &Simulation{Statuses: make(map[string]int)}}
	specs := make([]spec, len(tasks))
	s.truth = make([]int64, len(tasks))
	for i := range tasks {
		specs[i] = specOf(&tasks[i], c.Estimate)
		d := max(0, specs[i].Estimate)
		if specs[i].Estimate < 0 {
			d = time.Second
		}
		if c.Duration != nil {
			d = max(0, c.Duration(i))
		}
		s.truth[i] = int64(min(d, mostSeconds*time.Second))
		if c.Noise > 0 && specs[i].Estimate > 0 {
			off := float64(specs[i].Estimate) * math.Exp(c.Noise*s.random.NormFloat64())
			specs[i].Estimate = time.Duration(min(off, mostSeconds*float64(time.Second)))
		}
	}
	if err := s.feed(&input{Kind: inAdd, Specs: specs}); err != nil {
		return nil, err
	}
	s.out.Intervals = make([]Interval, 0, len(tasks))
	if c.Begun != nil {
		c.Begun()
	}
	if err := s.run(); err != nil {
		return nil, err
	}
	return s.out, nil
}

type simulation struct {
	c       SimConfig
	m       *machine
	random  *rand.Rand
	out     *Simulation
	truth   []int64
	now     int64
	events  timers // kind is simEvent, gen tells stale ones
	workers []simWorker
	batches []simBatch
	demands int
	arrived int
	boots   []int64 // of the first demands, for the bound
	acting  []action
	in      input // of the events that come with each task
}

type simWorker struct {
	number int
	dies   int64
}

type simBatch struct {
	tasks []int32
	next  int
	begun int64
	gen   int32
}

const (
	simArrives timerKind = iota // id: demand
	simEnds                     // id: batch: its task that runs
	simDies                     // id: batch: the worker under it
	simGone                     // id: worker
	simUntil
)

func (s *simulation) feed(in *input) error {
	in.At = time.Duration(s.now)
	s.out.Inputs++
	if err := s.m.feed(in); err != nil {
		return err
	}
	s.c.Log.record(s.m.conf, in, s.m.out)
	for len(s.m.out) > 0 {
		s.acting, s.m.out = s.m.out, s.acting[:0]
		for i := range s.acting {
			s.act(&s.acting[i])
		}
	}
	return nil
}

func (s *simulation) at(delay int64, kind timerKind, id, gen int32) {
	s.events.add(timer{at: s.now + max(0, delay), kind: kind, id: id, gen: gen})
}

func (s *simulation) run() error {
	if s.c.Until > 0 {
		s.at(int64(s.c.Until), simUntil, 0, 0)
	}
	if err := s.feed(&input{Kind: inStart}); err != nil {
		return err
	}
	for !s.m.quiet() {
		tick, ticks := s.m.next()
		if len(s.events.rows) == 0 && !ticks {
			return &OpError{Op: "simulate", Err: fmt.Errorf("stuck with %d tasks unfinished: %d ready, %d waiting, %d running",
				s.m.unfinished, s.m.ready, s.m.waiting, s.m.active)}
		}
		if len(s.events.rows) == 0 || ticks && tick < s.events.rows[0].at {
			s.now = max(s.now, tick)
			if err := s.feed(&input{Kind: inTick}); err != nil {
				return err
			}
			continue
		}
		s.now = s.events.rows[0].at
		e, _ := s.events.due(s.now)
		if err := s.event(e); err != nil {
			return err
		}
	}
	for s.demands < s.m.conf.Workers && len(s.boots) < len(s.truth) { // those that were never asked for
		s.boot()
	}
	for status, n := range s.m.byStatus {
		if n > 0 {
			s.out.Statuses[statusWords[status]] = n
		}
	}
	s.out.Switch = fromSeconds(s.m.switchCost())
	s.out.Bound = boundOf(s.m, s.truth, s.boots, max(1, s.c.MaxTasks))
	return nil
}

func (s *simulation) event(e timer) error {
	switch e.kind {
	case simUntil:
		return s.feed(&input{Kind: inCancel, Text: "the simulated time is over"})
	case simArrives:
		n := s.arrived
		s.arrived++
		wanted := s.m.kinds[s.m.classes[s.m.demands[e.id].class].kind].labels
		labels := wanted
		if s.c.Labels != nil {
			labels = s.c.Labels(n, wanted)
		}
		batches := s.c.Batches
		if batches == 0 {
			batches = -1
		}
		return s.feed(&input{Kind: inArrived, ID: e.id, Name: fmt.Sprint("w", n), Labels: labels, MaxTasks: s.c.MaxTasks, Batches: batches})
	case simGone:
		return s.feed(&input{Kind: inReleased, ID: e.id})
	case simEnds:
		return s.taskEnds(e)
	case simDies:
		return s.workerDies(e)
	}
	return nil
}

func (s *simulation) act(a *action) {
	switch a.kind {
	case doAsk:
		s.at(s.boot(), simArrives, a.id, 0)
	case doRun:
		s.begin(a)
	case doInterrupt:
		s.at(0, simDies, a.id, s.batches[a.id].gen)
	case doRelease:
		s.at(0, simGone, a.id, 0)
	}
}

// boot returns the delay of the next demand.
func (s *simulation) boot() int64 {
	delay := int64(0)
	if s.c.Boot != nil {
		delay = max(0, int64(s.c.Boot(s.demands)))
	}
	s.demands++
	if len(s.boots) < s.m.conf.Workers {
		s.boots = append(s.boots, delay)
	}
	return delay
}

func (s *simulation) begin(a *action) {
	for int(a.id) >= len(s.batches) {
		s.batches = append(s.batches, simBatch{})
	}
	for int(a.worker) >= len(s.workers) {
		s.workers = append(s.workers, simWorker{number: -1})
	}
	w := &s.workers[a.worker]
	if gen := int(s.m.workers[a.worker].gen); w.number != gen {
		*w = simWorker{number: gen, dies: math.MaxInt64}
		if s.c.MTBF > 0 {
			w.dies = s.now + int64(s.random.ExpFloat64()*float64(s.c.MTBF))
		}
	}
	b := &s.batches[a.id]
	b.tasks = append(b.tasks[:0], s.m.batches[a.id].tasks...)
	b.next, b.begun = 0, s.now
	b.gen++
	s.out.Batches++
	if s.m.batches[a.id].switched {
		s.out.Switches++
		b.begun += int64(cmp.Or(s.c.Switching, s.c.Switch))
	}
	s.nextTask(a.id)
}

// nextTask says when the task that runs now ends, or its worker dies.
func (s *simulation) nextTask(id int32) {
	b := &s.batches[id]
	w := &s.workers[s.m.batches[id].worker]
	end := b.begun + s.truth[b.tasks[b.next]]
	if w.dies < end {
		s.at(w.dies-s.now, simDies, id, b.gen)
		return
	}
	s.at(end-s.now, simEnds, id, b.gen)
}

func (s *simulation) taskEnds(e timer) error {
	b := &s.batches[e.id]
	if b.gen != e.gen {
		return nil
	}
	t := b.tasks[b.next]
	attempt := int(s.m.tasks[t].tries) + 1
	worker := s.m.batches[e.id].worker
	v := Verdict{Status: Passed}
	if s.c.Fail != nil {
		v = s.c.Fail(int(t), attempt)
	}
	s.out.Intervals = append(s.out.Intervals, Interval{Task: int(t), Worker: int(worker), Start: time.Duration(b.begun),
		End: time.Duration(s.now), Attempt: attempt})
	s.out.Makespan = max(s.out.Makespan, time.Duration(s.now))
	s.in = input{Kind: inEnded, ID: e.id, Task: t, Status: v.Status, Exit: v.Exit}
	in := &s.in
	if v.Infra != nil {
		in.Infra, in.Text = true, v.Infra.Error()
	}
	b.next++
	b.begun = s.now
	last := b.next == len(b.tasks)
	gen := b.gen
	if err := s.feed(in); err != nil {
		return err
	}
	b = &s.batches[e.id]
	if last && b.gen == gen {
		b.gen++
		s.in = input{Kind: inOver, ID: e.id}
		return s.feed(&s.in)
	}
	if b.gen == gen {
		s.nextTask(e.id)
	}
	return nil
}

func (s *simulation) workerDies(e timer) error {
	b := &s.batches[e.id]
	if b.gen != e.gen {
		return nil
	}
	b.gen++
	worker := s.m.batches[e.id].worker
	t := b.tasks[b.next]
	if b.begun <= s.now {
		s.out.Intervals = append(s.out.Intervals, Interval{Task: int(t), Worker: int(worker), Start: time.Duration(b.begun),
			End: time.Duration(s.now), Attempt: int(s.m.tasks[t].tries) + 1, Lost: true})
		if err := s.feed(&input{Kind: inStarted, ID: e.id, Task: t}); err != nil {
			return err
		}
	}
	text := "interrupted"
	if s.m.cancelled == "" {
		s.out.Deaths++
		text = "the worker died"
	}
	return s.feed(&input{Kind: inOver, ID: e.id, Text: text})
}
