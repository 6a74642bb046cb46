package need

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// fakeTB notes how it ended.
type fakeTB struct{ skipped, failed string }

func (f *fakeTB) Helper()                        {}
func (f *fakeTB) Skipf(format string, a ...any)  { f.skipped = fmt.Sprintf(format, a...) }
func (f *fakeTB) Fatalf(format string, a ...any) { f.failed = fmt.Sprintf(format, a...) }

func missing(context.Context) error { return errors.New("nobody at home") }
func present(context.Context) error { return nil }

func TestAMissingThingSkipsWithTheReasonAndTheCommand(t *testing.T) {
	t.Setenv(Variable, "")
	var tb fakeTB
	Thing(&tb, "gadget", present, missing)
	assert.Equal(t, "needs gadget: nobody at home (BULLPEN_REQUIRE=gadget makes this a failure)", tb.skipped)
	assert.Empty(t, tb.failed)

	t.Setenv("PATH", "")
	t.Setenv("BULLPEN_ETCD", "")
	if _, err := lookPath("etcd"); err != nil {
		tb = fakeTB{}
		Thing(&tb, "etcd")
		assert.Contains(t, tb.skipped, "needs etcd: BULLPEN_ETCD is not set, and no program etcd in PATH, /usr/sbin or /sbin; provide it with: apt-get install etcd-server (")
	}
}

func TestARequiredThingThatIsMissingFails(t *testing.T) {
	for _, demands := range []string{"gadget", "qemu, gadget", "all"} {
		t.Setenv(Variable, demands)
		var tb fakeTB
		Thing(&tb, "gadget", missing)
		assert.Equal(t, "needs gadget: nobody at home (BULLPEN_REQUIRE demands it)", tb.failed)
		assert.Empty(t, tb.skipped)
	}
	t.Setenv(Variable, "qemu")
	var tb fakeTB
	Thing(&tb, "gadget", missing)
	assert.NotEmpty(t, tb.skipped)
	assert.Empty(t, tb.failed)
}

func TestAThingThatIsThereLetsTheTestRun(t *testing.T) {
	t.Setenv(Variable, "gadget")
	var tb fakeTB
	Thing(&tb, "gadget", present, present)
	assert.Equal(t, fakeTB{}, tb)
}

func TestATypingErrorInTheDemandsFails(t *testing.T) {
	t.Setenv(Variable, "qmeu,all")
	var tb fakeTB
	Thing(&tb, "gadget", present)
	assert.Contains(t, tb.failed, "need: BULLPEN_REQUIRE names qmeu, want some of: all, dnsmasq, e2fsck, etcd")
}

func TestAnUnknownThingWithoutAProbeFails(t *testing.T) {
	t.Setenv(Variable, "")
	var tb fakeTB
	Thing(&tb, "libvrit")
	assert.Contains(t, tb.failed, `need: no thing is called "libvrit" and no probe is given`)
}

func TestAProbeThatHangsIsEndedWithItsReason(t *testing.T) {
	t.Setenv(Variable, "")
	synctest.Test(t, func(t *testing.T) {
		var tb fakeTB
		Thing(&tb, "gadget", func(ctx context.Context) error {
			<-ctx.Done()
			return ctx.Err()
		})
		assert.Contains(t, tb.skipped, "needs gadget: context deadline exceeded (no answer within 10s)")
	})
}

func TestToolGivesThePath(t *testing.T) {
	t.Setenv(Variable, "")
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "gadget"), []byte("#!/bin/sh\n"), 0o700))
	t.Setenv("PATH", dir)
	var tb fakeTB
	assert.Equal(t, filepath.Join(dir, "gadget"), Tool(&tb, "gadget"))
	assert.Equal(t, fakeTB{}, tb)
	assert.Empty(t, Tool(&tb, "no-such-gadget"))
	assert.Contains(t, tb.skipped, "no program no-such-gadget in PATH")
}

func TestNamesAreSortedAndHaveACommand(t *testing.T) {
	assert.True(t, slices.IsSorted(Names()))
	for _, name := range []string{"libvirt", "qemu", "postgres", "etcd", "kvm", "mount", "e2fsck"} {
		found, ok := find(name)
		require.True(t, ok, name)
		assert.NotEmpty(t, found.provide)
		err := found.probe(t.Context()) // whatever it says, it returns
		t.Logf("%s: %v", name, err)
	}
}

func TestProbesSeeWhatIsThere(t *testing.T) {
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "sock"), nil, 0o600))
	ctx := t.Context()
	require.NoError(t, file(filepath.Join(dir, "s*k"))(ctx))
	require.ErrorContains(t, file(filepath.Join(dir, "x*"))(ctx), "no file")
	require.Error(t, file("[")(ctx))
	require.NoError(t, device("/dev/null")(ctx))
	require.Error(t, device(filepath.Join(dir, "none"))(ctx))
	t.Setenv("BULLPEN_TEST_GADGET", "1")
	require.NoError(t, variable("BULLPEN_TEST_GADGET")(ctx))
	require.NoError(t, either(missing, present)(ctx))
	require.EqualError(t, either(missing, missing)(ctx), "nobody at home, and nobody at home")
	require.NoError(t, both(present, present)(ctx))
	require.Error(t, both(present, missing)(ctx))
	assert.Equal(t, os.Geteuid() == 0, root(ctx) == nil)
}
