package need

import (
	"testing"

	"github.com/stretchr/testify/assert"
)

func TestSoakScalesTheFullCount(t *testing.T) {
	for _, c := range []struct {
		value  string
		want   int
		failed bool
	}{
		{"", 3, false}, {"1", 200, false}, {"0.02", 4, false}, {"0.001", 1, false}, {"2", 400, false},
		{"many", 3, true}, {"-1", 3, true}, {"NaN", 3, true},
	} {
		t.Run(c.value, func(t *testing.T) {
			t.Setenv(SoakVariable, c.value)
			tb := &fakeTB{}
			assert.Equal(t, c.want, Soak(tb, 3, 200))
			assert.Equal(t, c.failed, tb.failed != "", tb.failed)
		})
	}
}
