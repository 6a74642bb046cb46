package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/bullpen-vm/bullpen/result/gojson"
	"github.com/bullpen-vm/bullpen/result/junit"
)

// write writes the reports and says where they are.
func (s *session) write(w io.Writer) error {
	if err := os.MkdirAll(s.out, 0o755); err != nil {
		return err
	}
	xml := filepath.Join(s.out, "junit.xml")
	lines := filepath.Join(s.out, "cases.jsonl")
	events := filepath.Join(s.out, "test2json.jsonl")
	err := errors.Join(
		junit.WriteFile(xml, s.report, &junit.Options{Name: "gotest", NoOutput: true}),
		writeFile(lines, s.report.WriteJSONLines),
		writeFile(events, func(w io.Writer) error { return gojson.Write(w, s.report, nil) }),
	)
	if err == nil {
		fmt.Fprintf(w, "JUnit: %s\nJSON lines: %s\nas of go test -json: %s\n", xml, lines, events)
	}
	return err
}

func writeFile(name string, write func(io.Writer) error) (err error) {
	f, err := os.Create(name)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	b := bufio.NewWriter(f)
	if err := write(b); err != nil {
		return err
	}
	return b.Flush()
}
