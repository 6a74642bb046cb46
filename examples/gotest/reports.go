package main

import (
	"bufio"
	"errors"
	"io"
	"os"
	"path/filepath"

	"github.com/bullpen-vm/bullpen/result"
	"github.com/bullpen-vm/bullpen/result/gojson"
	"github.com/bullpen-vm/bullpen/result/junit"
)

// write writes the reports into the folder and says where they are.
func write(w *lines, dir string, r *result.Report) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	xml := filepath.Join(dir, "junit.xml")
	cases := filepath.Join(dir, "cases.jsonl")
	events := filepath.Join(dir, "test2json.jsonl")
	err := errors.Join(
		junit.WriteFile(xml, r, &junit.Options{Name: "gotest", NoOutput: true}),
		writeFile(cases, r.WriteJSONLines),
		writeFile(events, func(w io.Writer) error { return gojson.Write(w, r, nil) }),
	)
	if err == nil {
		w.printf("JUnit: %s\nJSON lines: %s\nas of go test -json: %s\n", xml, cases, events)
	}
	return errors.Join(err, w.err)
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
