package etcdstore

import (
	"math"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/bullpen-vm/bullpen/lease"
)

func TestRecordsComeBackAsTheyWere(t *testing.T) {
	for _, r := range []lease.Record{
		{Key: "k", Token: 7},
		{
			Key: "k", Token: 5, Renewals: math.MaxUint64, Session: "session/\xff\x00", Owner: "TestUpgrade on ci-3", Lock: "/tmp/\xfe", Boot: "b\x80", Note: "<&>",
			TTL: math.MaxInt64, Margin: -1, Since: time.Unix(1<<40, 999_999_999).UTC(), Renewed: time.Unix(-5, 1).UTC(),
		},
	} {
		text, err := encode(&r)
		require.NoError(t, err)
		got, err := decode(r.Key, []byte(text), 7)
		require.NoError(t, err)
		r.Since, r.Renewed = unstamp(stamp(r.Since)), unstamp(stamp(r.Renewed))
		require.Equal(t, r, got)
	}
}

func FuzzDecode(f *testing.F) {
	f.Add([]byte(`{"token":3,"renewals":2,"session":"cw==","since":[1,2]}`), int64(9))
	f.Add([]byte(`{}`), int64(1))
	f.Add([]byte(`{"token":3}`), int64(2))
	f.Fuzz(func(t *testing.T, text []byte, revision int64) {
		r, err := decode("k", text, revision)
		if err != nil {
			return
		}
		if r.Zero() || r.Key != "k" {
			t.Fatalf("%q at %d became %+v: a record that is there must not look like none", text, revision, r)
		}
		again, err := encode(&r)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := decode("k", []byte(again), revision); err != nil || got != r {
			t.Fatalf("%+v (%v), want %+v", got, err, r)
		}
	})
}
