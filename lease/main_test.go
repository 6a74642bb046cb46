package lease

import (
	"os"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	if os.Getenv("BULLPEN_LEASE_CHILD") != "" {
		os.Exit(childMain())
	}
	goleak.VerifyTestMain(m)
}
