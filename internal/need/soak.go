package need

import (
	"math"
	"os"
	"strconv"
)

// SoakVariable scales the counts of long tests: 1 is the full count, as .ci/soak
// runs it, 0.02 a fiftieth, as .ci/run does. Unset, each test runs its usual count.
const SoakVariable = "BULLPEN_SOAK"

// Soak is how often a long test does what it does: usual where nothing else is
// asked for, else the full count scaled by BULLPEN_SOAK, and at least one.
func Soak(t TB, usual, full int) int {
	t.Helper()
	s := os.Getenv(SoakVariable)
	if s == "" {
		return usual
	}
	scale, err := strconv.ParseFloat(s, 64)
	if err != nil || scale < 0 || math.IsNaN(scale) || math.IsInf(scale, 0) {
		t.Fatalf("need: %s is %q, want a number that is not negative", SoakVariable, s)
		return usual
	}
	return max(1, int(math.Round(float64(full)*scale)))
}
