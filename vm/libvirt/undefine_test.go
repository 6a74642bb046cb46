//go:build cgo && (libvirt || libvirt_dlopen)

package libvirt

import (
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	lv "libvirt.org/go/libvirt"
	"libvirt.org/go/libvirtxml"

	"github.com/bullpen-vm/bullpen/vm"
)

// FIELD (c) 31: undefine is refused while there are snapshots, nvram, checkpoints or
// a saved state.
//
// libvirt refuses to undefine a domain that has any of these, unless it is told to
// let go of each; and what it keeps for the name would be found by the next domain
// of that name.
func TestDestroyRemovesWhatLibvirtKeepsForAMachine(t *testing.T) {
	for _, c := range []struct {
		name string
		what string // that libvirt says when it is not told
		keep func(t *testing.T, m vm.Machine, dom *lv.Domain)
		hook func(t *testing.T) func(*libvirtxml.Domain) error
	}{
		{name: "a managed save", keep: func(t *testing.T, m vm.Machine, dom *lv.Domain) {
			require.NoError(t, m.Start(t.Context()))
			require.NoError(t, dom.ManagedSave(0))
			has, err := dom.HasManagedSaveImage(0)
			require.NoError(t, err)
			require.True(t, has)
		}},
		{name: "a snapshot of its user's", keep: func(t *testing.T, _ vm.Machine, dom *lv.Domain) {
			s, err := dom.CreateSnapshotXML("<domainsnapshot><name>mine</name></domainsnapshot>", 0)
			require.NoError(t, err)
			require.NoError(t, s.Free())
		}},
		{name: "a checkpoint", keep: func(t *testing.T, m vm.Machine, dom *lv.Domain) {
			require.NoError(t, m.Start(t.Context()))
			p, err := dom.CreateCheckpointXML("<domaincheckpoint><name>mine</name></domaincheckpoint>", 0)
			require.NoError(t, err)
			require.NoError(t, p.Free())
		}},
		{name: "an nvram file", hook: pflash, keep: func(t *testing.T, m vm.Machine, dom *lv.Domain) {
			require.NoError(t, m.Start(t.Context()))
			text, err := dom.GetXMLDesc(0)
			require.NoError(t, err)
			var x libvirtxml.Domain
			require.NoError(t, x.Unmarshal(text))
			require.FileExists(t, x.OS.NVRam.NVRam)
			require.Contains(t, x.OS.NVRam.NVRam, string(m.ID()), "it is found below by its name")
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			d, g := openEmbed(t)
			s := guestSpec(g)
			s.JobDisks, s.Inputs = nil, 0
			s.Disks = []vm.Disk{{Format: "qcow2", Size: 1 << 20}}
			if c.hook != nil {
				d.conf.Domain = c.hook(t)
			}
			m, err := d.Create(t.Context(), s)
			require.NoError(t, err)
			before := filesNaming(t, s.Name)
			withRaw(t, d, s.Name, func(dom *lv.Domain) {
				c.keep(t, m, dom)
				require.NoError(t, m.Kill(t.Context()))
				require.Error(t, dom.Undefine(), "libvirt lets go of %s unasked", c.name)
			})
			require.Greater(t, len(filesNaming(t, s.Name)), len(before), "what libvirt keeps")
			require.NoError(t, m.Destroy(t.Context()))
			// A driver of another test may be removing the folder of the domain that is gone.
			assert.Eventually(t, func() bool { return len(filesNaming(t, s.Name)) == 0 }, 10*time.Second, 10*time.Millisecond, "something is left")
			_, err = d.Open(t.Context(), m.ID())
			require.ErrorIs(t, err, vm.ErrNotFound)
		})
	}
}

// pflash gives a domain firmware whose variables are in a file of its own. It is
// never run to an end, so any bytes will do.
func pflash(t *testing.T) func(*libvirtxml.Domain) error {
	dir := t.TempDir()
	code, vars := filepath.Join(dir, "code.fd"), filepath.Join(dir, "vars.fd")
	require.NoError(t, os.WriteFile(code, make([]byte, 1<<20), 0o644))
	require.NoError(t, os.WriteFile(vars, make([]byte, 64<<10), 0o644))
	return func(d *libvirtxml.Domain) error {
		d.OS.Loader = &libvirtxml.DomainLoader{Path: code, Readonly: "yes", Type: "pflash"}
		d.OS.NVRam = &libvirtxml.DomainNVRam{Template: vars}
		return nil
	}
}

// filesNaming are those below the embedded driver's root whose paths have a word
// in them.
func filesNaming(t *testing.T, word string) (found []string) {
	t.Helper()
	root := filepath.Join(shared.dir, "e")
	require.NoError(t, filepath.WalkDir(root, func(path string, _ fs.DirEntry, err error) error {
		if os.IsNotExist(err) {
			return nil // others' machines come and go
		}
		if err == nil && strings.Contains(path, word) {
			found = append(found, path)
		}
		return err
	}))
	return found
}
