package lease

import (
	"os"
	"testing"

	"go.uber.org/goleak"

	"github.com/bullpen-vm/bullpen/internal/need"
)

func TestMain(m *testing.M) {
	if os.Getenv("BULLPEN_LEASE_CHILD") != "" {
		os.Exit(childMain())
	}
	goleak.VerifyTestMain(m)
}

// soak multiplies how long the long tests are.
func soak(t testing.TB) int { return need.Soak(t, 1, 20) }
