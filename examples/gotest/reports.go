package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/bullpen-vm/bullpen/result"
	"github.com/bullpen-vm/bullpen/result/gojson"
	"github.com/bullpen-vm/bullpen/result/junit"
)

// write writes the reports into the folder and says where they are.
func write(w io.Writer, dir string, r *result.Report) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	xml := filepath.Join(dir, "junit.xml")
	lines := filepath.Join(dir, "cases.jsonl")
	events := filepath.Join(dir, "test2json.jsonl")
	err := errors.Join(
		junit.WriteFile(xml, r, &junit.Options{Name: "gotest", NoOutput: true}),
		writeFile(lines, r.WriteJSONLines),
		writeFile(events, func(w io.Writer) error { return gojson.Write(w, r, nil) }),
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
