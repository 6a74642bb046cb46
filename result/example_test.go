package result_test

import (
	"fmt"
	"time"

	"github.com/bullpen-vm/bullpen/result"
)

func Example() {
	var report result.Report
	report.Add(
		result.Case{Suite: "install", Name: "deb", Status: result.Passed, Duration: 1500 * time.Millisecond, Properties: map[string]string{"machine": "vm-1"}},
		result.Case{Suite: "install", Name: "rpm", Status: result.Failed, Message: "exit 2", Duration: 300 * time.Millisecond, Properties: map[string]string{"machine": "vm-2"}},
	)
	// Another attempt at a test that is in the report already.
	report.Add(result.Case{Suite: "install", Name: "rpm", Status: result.Passed, Duration: 310 * time.Millisecond, Properties: map[string]string{"machine": "vm-1"}})
	fmt.Print(&report)
	fmt.Println("exit code", report.ExitCode())
	// Output:
	// STATUS  DURATION  MACHINE  ATTEMPTS  NAME         MESSAGE
	// passed  1.50s     vm-1     1         install/deb
	// passed  310ms     vm-1     2         install/rpm  flaky; attempt 1 failed: exit 2
	// 2 cases: 2 passed; 1 flaky; 1 took more than one attempt
	// exit code 0
}
