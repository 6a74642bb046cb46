package junit

import (
	"encoding/xml"
	"fmt"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// The order of the fields is the order that Surefire's schema wants.

type suites struct {
	XMLName xml.Name `xml:"testsuites"`
	Name    string   `xml:"name,attr,omitempty"`
	totals
	Suites []*suite `xml:"testsuite"`
}

type suite struct {
	Name string `xml:"name,attr"`
	totals
	Timestamp  string        `xml:"timestamp,attr,omitempty"`
	HostName   string        `xml:"hostname,attr,omitempty"`
	Properties *propertyList `xml:"properties"`
	Cases      []*testcase   `xml:"testcase"`

	first time.Time
}

type totals struct {
	Tests    int    `xml:"tests,attr"`
	Failures int    `xml:"failures,attr"`
	Errors   int    `xml:"errors,attr"`
	Skipped  int    `xml:"skipped,attr"`
	Time     millis `xml:"time,attr"`
}

func (t *totals) add(o totals) {
	t.Tests += o.Tests
	t.Failures += o.Failures
	t.Errors += o.Errors
	t.Skipped += o.Skipped
	t.Time += o.Time
}

type testcase struct {
	Name          string        `xml:"name,attr"`
	Class         string        `xml:"classname,attr"`
	Time          string        `xml:"time,attr"`
	Properties    *propertyList `xml:"properties"`
	Failure       *problem      `xml:"failure"`
	RerunFailures []*rerun      `xml:"rerunFailure"`
	FlakyFailures []*rerun      `xml:"flakyFailure"`
	Skipped       *skipped      `xml:"skipped"`
	Error         *problem      `xml:"error"`
	RerunErrors   []*rerun      `xml:"rerunError"`
	FlakyErrors   []*rerun      `xml:"flakyError"`
	Out           string        `xml:"system-out,omitempty"`
}

type propertyList struct {
	Properties []property `xml:"property"`
}

type property struct {
	Name  string `xml:"name,attr"`
	Value string `xml:"value,attr"`
}

type problem struct {
	Message string `xml:"message,attr,omitempty"`
	Type    string `xml:"type,attr"`
	Text    string `xml:",chardata"`
}

type rerun struct {
	Message string `xml:"message,attr,omitempty"`
	Type    string `xml:"type,attr"`
	Trace   string `xml:"stackTrace"`
	Out     string `xml:"system-out,omitempty"`
}

type skipped struct {
	Message string `xml:"message,attr,omitempty"`
}

// millis is a duration that is written as seconds with three decimals.
type millis time.Duration

func (m millis) String() string {
	ms := time.Duration(m).Milliseconds()
	text := strconv.AppendInt(make([]byte, 0, 16), ms/1000, 10)
	fraction := strconv.Itoa(int(1000 + ms%1000))
	return string(append(append(text, '.'), fraction[1:]...))
}

func (m millis) MarshalXMLAttr(name xml.Name) (xml.Attr, error) {
	return xml.Attr{Name: name, Value: m.String()}, nil
}

// clean makes text that XML 1.0 can carry: control characters, surrogates, the
// two non-characters it excludes and bytes that are no UTF-8 become Go escapes.
// Carriage returns are kept: the encoder writes them as references.
func clean(text string) string {
	if valid(text) {
		return text
	}
	var b strings.Builder
	for i, width := 0, 0; i < len(text); i += width { //nolint:wastedassign // the zero is the loop's first step
		var c rune
		c, width = utf8.DecodeRuneInString(text[i:])
		switch {
		case c == utf8.RuneError && width == 1:
			fmt.Fprintf(&b, `\x%02x`, text[i])
		case allowed(c):
			b.WriteRune(c)
		case c < 0x100:
			fmt.Fprintf(&b, `\x%02x`, c)
		default:
			fmt.Fprintf(&b, `\u%04x`, c)
		}
	}
	return b.String()
}

func valid(text string) bool {
	for i, c := range text {
		if !allowed(c) || c == utf8.RuneError && !strings.HasPrefix(text[i:], "\uFFFD") {
			return false
		}
	}
	return true
}

// allowed is the production Char of XML 1.0, section 2.2.
func allowed(c rune) bool {
	return c == '\t' || c == '\n' || c == '\r' || c >= 0x20 && c <= 0xD7FF || c >= 0xE000 && c <= 0xFFFD || c >= 0x10000 && c <= 0x10FFFF
}
