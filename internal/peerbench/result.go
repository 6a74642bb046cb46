package main

import (
	"bytes"
	"context"
	"encoding/xml"
	"fmt"
	"io"
	"time"

	"github.com/bullpen-vm/bullpen/result"
	"github.com/bullpen-vm/bullpen/result/junit"
)

func resultBars() []bar {
	return []bar{
		{pkg: "result", name: "report and JUnit of 10k cases, to encoding/xml", most: 2, stretch: 1.3, measure: resultJUnit},
		{pkg: "result", name: "add of a case, ns", most: 2000, stretch: 800, unit: " ns", measure: resultAdd},
	}
}

func sampleCases(n int) []result.Case {
	cases := make([]result.Case, n)
	output := result.Output{Head: bytes.Repeat([]byte("=== a line of what a test writes\n"), 6)}
	for i := range cases {
		cases[i] = result.Case{
			Suite: fmt.Sprintf("package/%d", i%50), Name: fmt.Sprintf("TestNumber%d", i), Status: result.Passed, Start: time.Unix(int64(i), 0),
			Duration: time.Duration(i) * time.Microsecond, Output: output,
			Properties: map[string]string{"machine": "vm-1", "template": "debian-12"}, Attempts: []result.Attempt{{Status: result.Passed, Machine: "vm-1"}},
		}
		if i%20 == 0 {
			cases[i].Status, cases[i].Message, cases[i].Attempts[0].Status = result.Failed, "exit 2", result.Failed
		}
	}
	return cases
}

// raw is the same document without what a report does: what the standard library
// takes to write it.
type raw struct {
	XMLName xml.Name   `xml:"testsuites"`
	Suites  []rawSuite `xml:"testsuite"`
}

type rawSuite struct {
	Name  string    `xml:"name,attr"`
	Tests int       `xml:"tests,attr"`
	Cases []rawCase `xml:"testcase"`
}

type rawCase struct {
	Name       string        `xml:"name,attr"`
	Class      string        `xml:"classname,attr"`
	Time       string        `xml:"time,attr"`
	Properties []rawProperty `xml:"properties>property"`
	Failure    *rawFailure   `xml:"failure"`
	Out        string        `xml:"system-out"`
}

type rawProperty struct {
	Name  string `xml:"name,attr"`
	Value string `xml:"value,attr"`
}

type rawFailure struct {
	Message string `xml:"message,attr"`
	Type    string `xml:"type,attr"`
	Text    string `xml:",chardata"`
}

func rawDocument(cases []result.Case) *raw {
	d := &raw{Suites: make([]rawSuite, 50)}
	for i, c := range cases {
		s := &d.Suites[i%50]
		r := rawCase{Name: c.Name, Class: c.Suite, Time: "0.001", Out: string(c.Output.Head), Properties: []rawProperty{{"machine", "vm-1"}, {"template", "debian-12"}}}
		if c.Status == result.Failed {
			r.Failure = &rawFailure{c.Message, "failed", c.Message}
		}
		s.Name, s.Tests, s.Cases = c.Suite, s.Tests+1, append(s.Cases, r)
	}
	return d
}

func resultJUnit(ctx context.Context, full bool) (float64, string, error) {
	n, rounds := 10_000, 9
	if full {
		rounds = 31
	}
	cases := sampleCases(n)
	document := rawDocument(cases)
	return pairs(ctx, rounds, func(context.Context) (time.Duration, error) {
		return timed(func() error {
			var r result.Report
			r.Add(cases...)
			return junit.Write(io.Discard, &r, nil)
		})
	}, func(context.Context) (time.Duration, error) {
		return timed(func() error {
			e := xml.NewEncoder(io.Discard)
			e.Indent("", "  ")
			return e.Encode(document)
		})
	})
}

func resultAdd(context.Context, bool) (float64, string, error) {
	cases := sampleCases(10_000)
	var samples []time.Duration
	for range 15 {
		var r result.Report
		start := time.Now()
		for _, c := range cases {
			r.Add(c)
		}
		samples = append(samples, time.Since(start)/time.Duration(len(cases)))
		if got := r.Len(); got != len(cases) {
			return 0, "", fmt.Errorf("%d cases, want %d", got, len(cases))
		}
	}
	return float64(median(samples)), "", nil
}
