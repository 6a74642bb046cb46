package libvirt

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
)

// logFolder is where libvirt's QEMU driver keeps a log for each name that a domain
// ever had (https://libvirt.org/kbase/debuglogs.html); empty: nobody knows here.
// It never removes one, and each incarnation has a name of its own.
func (t target) logFolder() string {
	switch {
	case t.remote():
		return ""
	case t.kind == kindEmbed:
		return filepath.Join(t.root, "log", "qemu")
	case t.kind == kindSession:
		dir, err := os.UserCacheDir()
		if err != nil {
			return ""
		}
		return filepath.Join(dir, "libvirt", "qemu", "log")
	case t.kind == kindSystem:
		return "/var/log/libvirt/qemu"
	}
	return ""
}

// removeLog removes the log of a domain that was undefined, with the older parts
// that virtlogd keeps. What cannot be removed, such as by another user than the
// daemon's, stays.
func (d *Driver) removeLog(name string) {
	dir := d.target.logFolder()
	if dir == "" || !isMachineName(name) {
		return
	}
	files := []string{filepath.Join(dir, name+".log")}
	for _, part := range []string{".0", ".1", ".2"} {
		files = append(files, files[0]+part)
	}
	for _, file := range files {
		if err := os.Remove(file); err != nil && !errors.Is(err, fs.ErrNotExist) {
			d.log.Debug("a domain's log stays", "file", file, "err", err)
		}
	}
}
