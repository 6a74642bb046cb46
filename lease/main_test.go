package lease

import (
	"os"
	"strconv"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	if os.Getenv("BULLPEN_LEASE_CHILD") != "" {
		os.Exit(childMain())
	}
	goleak.VerifyTestMain(m)
}

// soak multiplies how long the long tests are: BULLPEN_SOAK, 1 without it.
func soak() int {
	n, err := strconv.Atoi(os.Getenv("BULLPEN_SOAK"))
	if err != nil || n < 1 {
		return 1
	}
	return n
}
