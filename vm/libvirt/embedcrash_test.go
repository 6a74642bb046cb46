//go:build cgo && (libvirt || libvirt_dlopen)

package libvirt

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bullpen-vm/bullpen/internal/need"
)

// cleanerRole makes the test program the next harness of a root.
const cleanerRole = "BULLPEN_TEST_CLEANER"

// cleaner destroys what it finds, as the next harness's reconcile would.
func cleaner() {
	part := strings.Split(os.Getenv(cleanerRole), "\n")
	ctx := context.Background()
	d, err := Open(ctx, Config{URI: part[0], Root: part[1], ForceTCG: true})
	if err != nil {
		fmt.Println("failed:", err)
		os.Exit(1)
	}
	all, err := d.List(ctx)
	for _, i := range all {
		m, oerr := d.Open(ctx, i.ID)
		if oerr == nil {
			oerr = m.Destroy(ctx)
		}
		if oerr != nil {
			err = oerr
		}
	}
	if left, lerr := d.List(ctx); err == nil && (lerr != nil || len(left) > 0) {
		err = fmt.Errorf("%d are left, %w", len(left), lerr)
	}
	if cerr := d.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		fmt.Println("failed:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

// FIELD (c) 35: a process of QEMU is left for each harness that died.
//
// An embedded driver has no AUTODESTROY: its machines outlive a killed harness,
// and the next one finds them.
func TestSoakNothingIsLeftOfAKilledHarnessOnAnEmbeddedDriver(t *testing.T) {
	t.Parallel()
	g := testGuest(t)
	dir, err := os.MkdirTemp("", "bpe")
	require.NoError(t, err)
	defer os.RemoveAll(dir)
	uri, root := "qemu:///embed?root="+dir, filepath.Join(dir, "r")
	for i, k := range moments(t, need.Soak(t, 4, 20)) {
		killHarness(t, uri, root, g, k.word, k.after)
		cmd := exec.Command("/proc/self/exe")
		cmd.Env = append(os.Environ(), cleanerRole+"="+uri+"\n"+root)
		text, err := cmd.CombinedOutput()
		require.NoError(t, err, "round %d, %v after %q: %s", i, k.after, k.word, text)
		require.Empty(t, processesWith(t, dir), "round %d", i)
		leftFiles(t, root)
	}
}

// leftFiles wants nothing but folders that are a driver's own, and files of
// these names.
func leftFiles(t *testing.T, root string, but ...string) {
	t.Helper()
	require.NoError(t, filepath.WalkDir(root, func(path string, e os.DirEntry, err error) error {
		if err == nil && !e.IsDir() && !slices.Contains(but, e.Name()) {
			t.Errorf("%s is left", path)
		}
		return err
	}))
}

// roles runs what this program was started for instead of tests.
func roles() {
	switch {
	case os.Getenv(harnessRole) != "":
		harness()
	case os.Getenv(cleanerRole) != "":
		cleaner()
	}
}
