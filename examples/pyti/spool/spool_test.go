package spool

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func open(t *testing.T, dir string, o Options) *Spool {
	t.Helper()
	s, err := Open(dir, o)
	require.NoError(t, err)
	return s
}

func drop(t *testing.T, dir, name, text string) {
	t.Helper()
	require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600))
}

func next(t *testing.T, s *Spool) *Claim {
	t.Helper()
	c, err := s.Next(t.Context())
	require.NoError(t, err)
	return c
}

func list(t *testing.T, dir string) (names []string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

type answer struct {
	Ticket string `json:"ticket"`
	Word   string
}

// die ends a slave as a kill does: its lock is free, its claims are there.
func die(t *testing.T, s *Spool) {
	t.Helper()
	require.NoError(t, s.lock.Unlock())
}

func TestARequestIsClaimedOnceByManySlaves(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	const slaves, requests = 8, 50
	for i := range requests {
		drop(t, dir, fmt.Sprintf("r%02d.json", i), "{}")
	}
	var mu sync.Mutex
	claimed := map[string]int{}
	var all sync.WaitGroup
	for range slaves {
		s := open(t, dir, Options{})
		t.Cleanup(func() { require.NoError(t, s.Close()) })
		all.Go(func() {
			for {
				c, err := s.Next(t.Context())
				if err != nil {
					t.Error(err)
				}
				if c == nil {
					return
				}
				mu.Lock()
				claimed[c.Name]++
				mu.Unlock()
				if err := c.Answer(answer{c.Ticket, s.ID()}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
	assert.Len(t, claimed, requests)
	for name, n := range claimed {
		assert.Equal(t, 1, n, name)
		assert.FileExists(t, filepath.Join(dir, name+".result.json"))
	}
	left := slices.DeleteFunc(list(t, dir), func(n string) bool { return strings.HasSuffix(n, ".result.json") || strings.HasPrefix(n, lockStart) })
	assert.Empty(t, left)
}

func TestADeadSlavesClaimIsTakenOverOnceAndALivingOnesIsNot(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	drop(t, dir, "a~b.json", "{}")
	first, second, third := open(t, dir, Options{}), open(t, dir, Options{}), open(t, dir, Options{})
	one := next(t, first)
	assert.Equal(t, "a~b", one.Name)
	assert.Nil(t, next(t, second), "its slave lives")
	die(t, first)
	two := next(t, second)
	require.NotNil(t, two)
	assert.Equal(t, []any{"a~b", one.Ticket, 2, "{}"}, []any{two.Name, two.Ticket, two.Attempt, string(two.Text)})
	assert.Nil(t, next(t, third))
	require.NoError(t, two.Answer(answer{Ticket: two.Ticket}))
	require.NoError(t, second.Close())
	require.NoError(t, third.Close())
	assert.Equal(t, []string{"a~b.result.json"}, list(t, dir), "the dead slave's lock file is gone too")
}

func TestAnAnswerThatADeadSlaveHasWrittenStands(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	drop(t, dir, "a.json", "{}")
	drop(t, dir, "a.result.json", `{"ticket": "of an earlier one"}`)
	first, second := open(t, dir, Options{}), open(t, dir, Options{})
	one := next(t, first)
	claim, err := os.ReadFile(one.path)
	require.NoError(t, err)
	require.NoError(t, one.Answer(answer{one.Ticket, "done"}))
	require.NoError(t, os.WriteFile(one.path, claim, 0o600)) // it died before it could remove the claim
	die(t, first)
	assert.Nil(t, next(t, second), "it is done")
	text, err := os.ReadFile(filepath.Join(dir, "a.result.json"))
	require.NoError(t, err)
	assert.Contains(t, string(text), `"done"`)
	require.NoError(t, second.Close())
	assert.Equal(t, []string{"a.result.json"}, list(t, dir))
}

func TestAnAnswerWithoutTheTicketIsRefused(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	drop(t, dir, "a.json", "{}")
	s := open(t, dir, Options{})
	c := next(t, s)
	require.ErrorContains(t, c.Answer(answer{Ticket: "x"}), "does not bear the claim's ticket")
	require.ErrorContains(t, c.Answer(make(chan int)), "unsupported type")
	require.NoError(t, c.Answer(answer{Ticket: c.Ticket}), "it may be tried again")
	require.NoError(t, s.Close())
}

func TestAFileThatIsStillWrittenIsLeftAloneForAWhile(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := open(t, dir, Options{Settle: time.Hour})
	drop(t, dir, "a.json", `{"half":`)
	assert.Nil(t, next(t, s))
	drop(t, dir, "a.json", `{"half": 1}`)
	assert.NotNil(t, next(t, s))
	drop(t, dir, "b.json", `not json`)
	assert.Nil(t, next(t, s))
	old := time.Now().Add(-2 * time.Hour)
	require.NoError(t, os.Chtimes(filepath.Join(dir, "b.json"), old, old))
	c := next(t, s)
	require.NotNil(t, c)
	assert.Equal(t, "not json", string(c.Text))
	require.NoError(t, s.Close())
}

func TestTheOldestRequestIsFirstAndOthersFilesAreLeftAlone(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := open(t, dir, Options{})
	for i, name := range []string{"c.json", "a.json", "b.json", "b2.json"} {
		drop(t, dir, name, "{}")
		at := time.Unix(int64(1000+min(i, 2)), 0)
		require.NoError(t, os.Chtimes(filepath.Join(dir, name), at, at))
	}
	others := []string{".hidden.json", ".json", "x.txt", "x.result.json", "x~y~z~q.claim", "x~y~0~q.claim", strings.Repeat("n", MostName) + ".json"}
	for _, name := range others {
		drop(t, dir, name, "{}")
	}
	require.NoError(t, os.Mkdir(filepath.Join(dir, "folder.json"), 0o755))
	require.NoError(t, os.Symlink("x.txt", filepath.Join(dir, "link.json")))
	var got []string
	for c := next(t, s); c != nil; c = next(t, s) {
		got = append(got, c.Name)
		require.NoError(t, c.Answer(answer{Ticket: c.Ticket}))
	}
	assert.Equal(t, []string{"c", "a", "b", "b2"}, got)
	require.NoError(t, s.Close())
	for _, name := range append(others, "folder.json", "link.json") {
		assert.Contains(t, list(t, dir), name)
	}
}

func TestARequestThatIsTooLargeIsClaimedWithTheReason(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := open(t, dir, Options{Settle: time.Nanosecond})
	drop(t, dir, "a.json", strings.Repeat(" ", MostRequest+1))
	c := next(t, s)
	require.NotNil(t, c)
	assert.ErrorContains(t, c.Err, "more than 1048576 bytes")
	require.NoError(t, s.Close())
}

// FuzzClaim: a file's name is a claim's only if it comes out the same again.
func FuzzClaim(f *testing.F) {
	f.Add("foo~0011~1~aabb.claim")
	f.Add("a~b~c~2~d.claim")
	f.Fuzz(func(t *testing.T, file string) {
		c, ok := parseClaim(file)
		if !ok {
			return
		}
		again, ok := parseClaim(fmt.Sprintf("%s~%s~%d~%s%s", c.name, c.ticket, c.attempt, c.slave, claimEnd))
		if !ok || again != c || c.attempt < 1 {
			t.Fatalf("%q: %+v, %+v", file, c, again)
		}
	})
}
