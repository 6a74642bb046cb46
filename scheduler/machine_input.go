package scheduler

import "time"

// inputKind names what can happen to a machine.
type inputKind string

const (
	inAdd      inputKind = "add"      // Specs
	inStart    inputKind = "start"    // the run begins
	inHold     inputKind = "hold"     // a generator will add more
	inUnhold   inputKind = "unhold"   // it will not
	inArrived  inputKind = "arrived"  // ID: demand; Name, Labels, MaxTasks, Batches, OwnLimits
	inRefused  inputKind = "refused"  // ID: demand; Text, Impossible; an ended context when it was withdrawn
	inStarted  inputKind = "started"  // ID: batch; Task
	inEnded    inputKind = "ended"    // ID: batch; Task; Status, Exit, Infra, Final, Text
	inOver     inputKind = "over"     // ID: batch: Run returned; Text: the error, Panic
	inReleased inputKind = "released" // ID: worker
	inTick     inputKind = "tick"     // time passed
	inCancel   inputKind = "cancel"   // Text: why
)

// input is one thing that happened. It is what a Log holds.
type input struct {
	At         time.Duration     `json:"at"` // since the start of the machine
	Kind       inputKind         `json:"kind"`
	ID         int32             `json:"id,omitempty"`
	Task       int32             `json:"task,omitempty"`
	Status     string            `json:"status,omitempty"`
	Exit       int               `json:"exit,omitempty"`
	Infra      bool              `json:"infra,omitempty"`
	Impossible bool              `json:"impossible,omitempty"`
	Panic      bool              `json:"panic,omitempty"`
	Final      bool              `json:"final,omitempty"` // an Infra that is not tried again
	Text       string            `json:"text,omitempty"`
	Name       string            `json:"name,omitempty"`
	Labels     map[string]string `json:"labels,omitempty"`
	MaxTasks   int               `json:"maxTasks,omitempty"`
	Batches    int               `json:"batches,omitempty"`
	OwnLimits  bool              `json:"ownLimits,omitempty"`
	Specs      []spec            `json:"specs,omitempty"`
}

// feed lets a machine decide on one input. Only inAdd can give an error; then
// nothing has changed.
func (m *machine) feed(in *input) error {
	m.now = max(m.now, int64(in.At))
	switch in.Kind {
	case inAdd:
		if err := m.add(in.Specs); err != nil {
			return err
		}
	case inStart:
		m.start()
	case inHold:
		m.holds++
	case inUnhold:
		m.holds--
	case inArrived:
		m.arrived(in)
	case inRefused:
		m.refused(in)
	case inStarted:
		m.taskStarted(in.ID, in.Task)
	case inEnded:
		m.taskEnded(in)
	case inOver:
		m.over(in)
	case inReleased:
		m.released(in.ID)
	case inTick:
		m.tick()
	case inCancel:
		m.cancel(causeAborted, in.Text)
	}
	m.pump()
	return nil
}
