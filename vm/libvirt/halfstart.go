package libvirt

import (
	"encoding/xml"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

// A libvirt that is killed between the beginning of a start and QEMU's process id
// leaves a status file that says that the domain runs, has a start under way, and
// has no process (qemuProcessInit saves it, qemuProcessReconnectHelper passes over
// what has no pid). The next libvirt believes it: nobody ends that start, and each
// change of the domain answers "cannot acquire state change lock" for ever. QEMU
// itself is gone: it waits for a word of the libvirt that started it, and ends when
// that ends (virCommandRequireHandshake).

// freeHalfStarted removes the status files of such domains from a directory of
// libvirt's (run/qemu below an embedded driver's root), so that the next libvirt
// takes them for off, and gives their names. No libvirt may be using the directory.
func freeHalfStarted(dir string) (names []string, err error) {
	files, err := filepath.Glob(filepath.Join(dir, "*.xml"))
	if err != nil {
		return nil, err
	}
	for _, file := range files {
		half, uuid, rerr := halfStarted(file)
		if rerr != nil {
			err = errors.Join(err, rerr)
			continue
		}
		if !half {
			continue
		}
		if _, kerr := killQEMU("/proc", uuid); kerr != nil {
			err = errors.Join(err, kerr)
			continue
		}
		if rerr := os.Remove(file); rerr != nil {
			err = errors.Join(err, rerr)
			continue
		}
		names = append(names, filepath.Base(file))
	}
	return names, err
}

// halfStarted reads a status file.
func halfStarted(file string) (half bool, uuid string, err error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return false, "", err
	}
	var status struct {
		XMLName xml.Name `xml:"domstatus"`
		PID     string   `xml:"pid,attr"`
		UUID    string   `xml:"domain>uuid"`
	}
	// What is something else, or damaged, is libvirt's to judge.
	ok := xml.Unmarshal(text, &status) == nil
	return ok && status.PID == "0" && status.UUID != "", status.UUID, nil
}

// freeEmbedded is freeHalfStarted for an embedded driver's root. Where another
// process has the root open it does nothing: libvirt will say so.
func freeEmbedded(root string) (names []string, err error) {
	dir := filepath.Join(root, "run", "qemu")
	f, err := os.OpenFile(filepath.Join(dir, "driver.pid"), os.O_RDWR, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil // it was never opened
	}
	if err != nil {
		return nil, err
	}
	defer f.Close() // which gives up the lock
	lock := syscall.Flock_t{Type: syscall.F_WRLCK, Whence: 0, Start: 0, Len: 1}
	if err := syscall.FcntlFlock(f.Fd(), syscall.F_SETLK, &lock); err != nil {
		if errors.Is(err, syscall.EAGAIN) || errors.Is(err, syscall.EACCES) {
			return nil, nil
		}
		return nil, fmt.Errorf("lock %s: %w", f.Name(), err)
	}
	return freeHalfStarted(dir)
}
