package junit_test

import (
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/bullpen-vm/bullpen/result"
	"github.com/bullpen-vm/bullpen/result/junit"
)

func BenchmarkWrite(b *testing.B) {
	var r result.Report
	output := result.Output{Head: []byte(strings.Repeat("=== a line of what a test writes\n", 6))}
	for i := range 1000 {
		r.Add(result.Case{Suite: fmt.Sprint("package/", i%50), Name: fmt.Sprint("Test", i), Status: result.Passed, Output: output, Properties: map[string]string{"machine": "vm-1", "template": "debian-12"}})
	}
	b.ReportAllocs()
	for b.Loop() {
		if err := junit.Write(io.Discard, &r, nil); err != nil {
			b.Fatal(err)
		}
	}
}
