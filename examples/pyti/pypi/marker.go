package pypi

import (
	"fmt"
	"regexp"
	"strings"

	pep440 "github.com/aquasecurity/go-pep440-version"
)

// Environment is what markers are about: python_version, sys_platform and so
// on, see PEP 508. What is missing is the empty text.
type Environment map[string]string

// Linux is the environment of CPython on 64-bit Linux in the given version, such
// as "3.11": the rule by which slaves decide what is installed.
func Linux(python string) Environment {
	full := python
	if strings.Count(full, ".") < 2 {
		full += ".0"
	}
	return Environment{
		"python_version": majorMinor(python), "python_full_version": full,
		"os_name": "posix", "sys_platform": "linux", "platform_system": "Linux", "platform_machine": "x86_64",
		"platform_python_implementation": "CPython", "implementation_name": "cpython", "implementation_version": full,
	}
}

func majorMinor(python string) string {
	parts := strings.SplitN(python, ".", 3)
	return strings.Join(parts[:min(2, len(parts))], ".")
}

// Marker is a condition on an environment. The zero Marker always holds.
type Marker struct{ root node }

// Holds evaluates the marker; extra is the extra that is asked for, or empty.
func (m Marker) Holds(env Environment, extra string) bool {
	return m.root == nil || m.root.holds(env, extra)
}

type node interface {
	holds(env Environment, extra string) bool
}

type (
	either     [2]node
	both       [2]node
	comparison struct {
		left, right operand
		op          string
	}
	operand struct {
		text     string
		variable bool
	}
)

func (e either) holds(env Environment, extra string) bool {
	return e[0].holds(env, extra) || e[1].holds(env, extra)
}

func (b both) holds(env Environment, extra string) bool {
	return b[0].holds(env, extra) && b[1].holds(env, extra)
}

func (o operand) value(env Environment, extra string) string {
	switch {
	case !o.variable:
		return o.text
	case o.text == "extra":
		return extra
	}
	return env[o.text]
}

func (c comparison) holds(env Environment, extra string) bool {
	left, right := c.left.value(env, extra), c.right.value(env, extra)
	if c.left.text == "extra" || c.right.text == "extra" {
		left, right = Normalize(left), Normalize(right)
	}
	switch c.op {
	case "in":
		return strings.Contains(right, left)
	case "not in":
		return !strings.Contains(right, left)
	}
	// Versions where both sides are some, else texts: PEP 508's rule.
	if v, err := pep440.Parse(left); err == nil {
		if s, err := ParseSpecifiers(c.op + right); err == nil {
			return s.Allows(v)
		}
	}
	switch c.op {
	case "==", "===":
		return left == right
	case "!=":
		return left != right
	case "<":
		return left < right
	case "<=":
		return left <= right
	case ">":
		return left > right
	case ">=":
		return left >= right
	}
	return false // ~= of what is no version
}

var (
	markerToken    = regexp.MustCompile(`^\s*(?:(===|==|~=|!=|<=|>=|<|>|\(|\))|'([^']*)'|"([^"]*)"|([a-z_]+(?:\.[a-z_]+)*))`)
	markerVariable = map[string]string{ // with the old spellings of PEP 345
		"python_version": "", "python_full_version": "", "os_name": "", "sys_platform": "", "platform_release": "",
		"platform_system": "", "platform_version": "", "platform_machine": "", "platform_python_implementation": "",
		"implementation_name": "", "implementation_version": "", "extra": "",
		"os.name": "os_name", "sys.platform": "sys_platform", "platform.version": "platform_version",
		"platform.machine": "platform_machine", "platform.python_implementation": "platform_python_implementation",
		"python_implementation": "platform_python_implementation",
	}
)

// deepest is how many parentheses a marker may open.
const deepest = 50

// ParseMarker reads an environment marker.
func ParseMarker(text string) (Marker, error) {
	p := &markerParser{rest: text}
	p.next()
	n, err := p.or()
	if err == nil && (p.token != "" || p.quoted) {
		err = fmt.Errorf("%q is left over", p.token)
	}
	if err == nil && strings.TrimSpace(p.rest) != "" {
		err = fmt.Errorf("%q is not understood", strings.TrimSpace(p.rest))
	}
	if err != nil {
		return Marker{}, fmt.Errorf("marker is %q: %w", strings.TrimSpace(text), err)
	}
	return Marker{n}, nil
}

type markerParser struct {
	rest   string
	token  string // empty: the end, or what is not understood
	quoted bool
	depth  int
}

func (p *markerParser) next() {
	m := markerToken.FindStringSubmatchIndex(p.rest)
	p.token, p.quoted = "", false
	if m == nil {
		return
	}
	for group := 1; group <= 4; group++ {
		if at := m[2*group]; at >= 0 {
			p.token, p.quoted = p.rest[at:m[2*group+1]], group == 2 || group == 3
		}
	}
	p.rest = p.rest[m[1]:]
}

func (p *markerParser) word(w string) bool {
	if p.quoted || p.token != w {
		return false
	}
	p.next()
	return true
}

func (p *markerParser) or() (node, error) {
	n, err := p.and()
	for err == nil && p.word("or") {
		var right node
		right, err = p.and()
		n = either{n, right}
	}
	return n, err
}

func (p *markerParser) and() (node, error) {
	n, err := p.one()
	for err == nil && p.word("and") {
		var right node
		right, err = p.one()
		n = both{n, right}
	}
	return n, err
}

func (p *markerParser) one() (node, error) {
	if p.word("(") {
		if p.depth++; p.depth > deepest {
			return nil, fmt.Errorf("more than %d parentheses", deepest)
		}
		n, err := p.or()
		if err == nil && !p.word(")") {
			err = fmt.Errorf("a parenthesis is not closed")
		}
		return n, err
	}
	var c comparison
	var err error
	if c.left, err = p.operand(); err != nil {
		return nil, err
	}
	switch {
	case p.word("in"):
		c.op = "in"
	case p.word("not"):
		if !p.word("in") {
			return nil, fmt.Errorf("not without in")
		}
		c.op = "not in"
	case !p.quoted && clauseForm.MatchString(p.token+"0"):
		c.op = p.token
		p.next()
	default:
		return nil, fmt.Errorf("an operator is missing behind %q", c.left.text)
	}
	c.right, err = p.operand()
	return c, err
}

func (p *markerParser) operand() (operand, error) {
	o := operand{text: p.token, variable: !p.quoted}
	if o.variable {
		now, ok := markerVariable[o.text]
		if !ok {
			return o, fmt.Errorf("%q is no variable of PEP 508", o.text)
		}
		if now != "" {
			o.text = now
		}
	}
	p.next()
	return o, nil
}
