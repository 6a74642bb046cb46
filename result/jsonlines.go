package result

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"strconv"
	"time"
	"unicode/utf8"
)

// JSONLinesVersion is the version that WriteJSONLines writes in each line.
// Readers refuse a higher one; new optional fields do not raise it.
const JSONLinesVersion = 1

// MostLine bounds one line that ReadJSONLines takes, in bytes.
const MostLine = 64 << 20

// WriteJSONLines writes one case a line, in the order of Cases, with everything
// that a case holds: {"v":1,"suite":"...","name":"...","status":"passed",...}.
// Durations are whole nanoseconds, times RFC 3339, outputs text where they are
// valid UTF-8 and base64 (head64, tail64) where they are not. In names and
// messages U+FFFD stands for invalid UTF-8.
func (r *Report) WriteJSONLines(w io.Writer) error {
	buffered := bufio.NewWriter(w)
	for _, c := range r.snapshot() {
		line, err := EncodeJSON(*c)
		if err != nil {
			return err
		}
		_, _ = buffered.Write(append(line, '\n')) // its error is Flush's too
	}
	if err := buffered.Flush(); err != nil {
		return fmt.Errorf("result: write JSON lines: %w", err)
	}
	return nil
}

// EncodeJSON gives the line of one case, without its end.
func EncodeJSON(c Case) ([]byte, error) {
	l := line{
		V: JSONLinesVersion, Suite: c.Suite, Name: c.Name, Status: c.Status, Flaky: c.Flaky, Message: c.Message,
		Start: c.Start, Duration: c.Duration, Exit: c.ExitCode, Output: toWire(c.Output), Properties: c.Properties,
	}
	for _, a := range c.Artifacts {
		l.Artifacts = append(l.Artifacts, artifact(a))
	}
	for _, a := range c.Attempts {
		l.Attempts = append(l.Attempts, attempt{
			Number: a.Number, Status: a.Status, Message: a.Message, Machine: a.Machine, Host: a.Host, Start: a.Start,
			Duration: a.Duration, Phases: phases(a.Phases), Output: toWire(a.Output),
		})
	}
	for name, v := range c.Metrics {
		if l.Metrics == nil {
			l.Metrics = make(map[string]number)
		}
		l.Metrics[name] = number(v)
	}
	text, err := json.Marshal(l)
	if err != nil {
		return nil, fmt.Errorf("result: encode case %q: %w", c.FullName(), err)
	}
	return text, nil
}

// DecodeJSON reads one line that EncodeJSON wrote.
func DecodeJSON(text []byte) (Case, error) {
	var l line
	if err := json.Unmarshal(text, &l); err != nil {
		return Case{}, fmt.Errorf("result: decode case: %w", err)
	}
	if l.V < 1 || l.V > JSONLinesVersion {
		return Case{}, fmt.Errorf("result: decode case: version is %d, want 1 to %d", l.V, JSONLinesVersion)
	}
	if !l.Status.Valid() {
		return Case{}, fmt.Errorf("result: decode case %q: status %q is not one of %s", l.Name, l.Status, statusNames())
	}
	if l.Output.Cut < 0 {
		return Case{}, fmt.Errorf("result: decode case %q: cut is %d bytes, want 0 or more", l.Name, l.Output.Cut)
	}
	c := Case{
		Suite: l.Suite, Name: l.Name, Status: l.Status, Flaky: l.Flaky, Message: l.Message, Start: l.Start,
		Duration: l.Duration, ExitCode: l.Exit, Output: l.Output.output(), Properties: l.Properties,
	}
	for _, a := range l.Artifacts {
		c.Artifacts = append(c.Artifacts, Artifact(a))
	}
	for _, a := range l.Attempts {
		c.Attempts = append(c.Attempts, Attempt{
			Number: a.Number, Status: a.Status, Message: a.Message, Machine: a.Machine, Host: a.Host, Start: a.Start,
			Duration: a.Duration, Phases: Phases(a.Phases), Output: a.Output.output(),
		})
	}
	for name, v := range l.Metrics {
		if c.Metrics == nil {
			c.Metrics = make(map[string]float64)
		}
		c.Metrics[name] = float64(v)
	}
	return c, nil
}

// ReadJSONLines reads what WriteJSONLines wrote; empty lines are passed over. At
// the first line that is damaged, too long or of a newer version it stops: the
// cases before it are returned beside the error, which has the line's number.
func ReadJSONLines(r io.Reader) ([]Case, error) {
	scanner := bufio.NewScanner(r)
	scanner.Buffer(make([]byte, 0, 64<<10), MostLine)
	var cases []Case
	n := 0
	for scanner.Scan() {
		n++
		if len(scanner.Bytes()) == 0 {
			continue
		}
		c, err := DecodeJSON(scanner.Bytes())
		if err != nil {
			return cases, fmt.Errorf("line %d: %w", n, err)
		}
		cases = append(cases, c)
	}
	err := scanner.Err()
	if errors.Is(err, bufio.ErrTooLong) {
		err = fmt.Errorf("longer than %d bytes: %w", MostLine, err)
	}
	if err != nil {
		return cases, fmt.Errorf("line %d: result: read JSON lines: %w", n+1, err)
	}
	return cases, nil
}

type line struct {
	V          int               `json:"v"`
	Suite      string            `json:"suite,omitempty"`
	Name       string            `json:"name"`
	Status     Status            `json:"status"`
	Flaky      bool              `json:"flaky,omitempty"`
	Message    string            `json:"message,omitempty"`
	Start      time.Time         `json:"start,omitzero"`
	Duration   time.Duration     `json:"duration_ns,omitempty"`
	Exit       int               `json:"exit,omitempty"`
	Output     wireOutput        `json:"output,omitzero"`
	Artifacts  []artifact        `json:"artifacts,omitempty"`
	Properties map[string]string `json:"properties,omitempty"`
	Metrics    map[string]number `json:"metrics,omitempty"`
	Attempts   []attempt         `json:"attempts,omitempty"`
}

type attempt struct {
	Number   int           `json:"number"`
	Status   Status        `json:"status"`
	Message  string        `json:"message,omitempty"`
	Machine  string        `json:"machine,omitempty"`
	Host     string        `json:"host,omitempty"`
	Start    time.Time     `json:"start,omitzero"`
	Duration time.Duration `json:"duration_ns,omitempty"`
	Phases   phases        `json:"phases_ns,omitzero"`
	Output   wireOutput    `json:"output,omitzero"`
}

type phases struct {
	Queued   time.Duration `json:"queued,omitempty"`
	Placed   time.Duration `json:"placed,omitempty"`
	Boot     time.Duration `json:"boot,omitempty"`
	Run      time.Duration `json:"run,omitempty"`
	Read     time.Duration `json:"read,omitempty"`
	Rollback time.Duration `json:"rollback,omitempty"`
}

type artifact struct {
	Path   string `json:"path"`
	File   string `json:"file,omitempty"`
	Size   int64  `json:"size"`
	Digest string `json:"digest,omitempty"`
}

type wireOutput struct {
	Head   string `json:"head,omitempty"`
	Head64 []byte `json:"head64,omitempty"`
	Cut    int64  `json:"cut,omitempty"`
	Tail   string `json:"tail,omitempty"`
	Tail64 []byte `json:"tail64,omitempty"`
}

func (w wireOutput) IsZero() bool {
	return w.Cut == 0 && w.Head == "" && w.Tail == "" && len(w.Head64) == 0 && len(w.Tail64) == 0
}

func toWire(o Output) wireOutput {
	w := wireOutput{Cut: o.Cut}
	if utf8.Valid(o.Head) {
		w.Head = string(o.Head)
	} else {
		w.Head64 = o.Head
	}
	if utf8.Valid(o.Tail) {
		w.Tail = string(o.Tail)
	} else {
		w.Tail64 = o.Tail
	}
	return w
}

func (w wireOutput) output() Output {
	o := Output{Head: w.Head64, Tail: w.Tail64, Cut: w.Cut}
	if w.Head != "" {
		o.Head = []byte(w.Head)
	}
	if w.Tail != "" {
		o.Tail = []byte(w.Tail)
	}
	return o
}

// number is a float64 that JSON can carry where it is no finite number: then it
// is a string.
type number float64

func (n number) MarshalJSON() ([]byte, error) {
	f := float64(n)
	if math.IsNaN(f) || math.IsInf(f, 0) {
		return strconv.AppendQuote(nil, strconv.FormatFloat(f, 'g', -1, 64)), nil
	}
	return json.Marshal(f)
}

func (n *number) UnmarshalJSON(text []byte) error {
	if s, err := strconv.Unquote(string(text)); err == nil {
		text = []byte(s)
	}
	f, err := strconv.ParseFloat(string(text), 64)
	if err != nil {
		return fmt.Errorf("metric %q is no number", text)
	}
	*n = number(f)
	return nil
}
