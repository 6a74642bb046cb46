package libvirt

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"time"
)

// forceAfter is how long libvirt may take to end a domain before the driver
// ends QEMU itself. libvirt waits half a minute for a domain whose start was cut
// short by the death of its process, and ten seconds for a QEMU that is stopped.
const forceAfter = 3 * time.Second

// force ends the QEMU of a domain with that uuid on this computer, unless it is
// told to stop before forceAfter; stop waits for it. libvirt sees its end.
func (d *Driver) force(uuid string) (stop func()) {
	if d.target.remote() || !d.target.guests() || uuid == "" {
		return func() {}
	}
	quit, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		t := time.NewTimer(forceAfter)
		defer t.Stop()
		select {
		case <-quit:
			return
		case <-t.C:
		}
		n, err := killQEMU("/proc", uuid)
		if err != nil || n > 0 {
			d.log.Warn("libvirt did not end a domain in time, so its QEMU was killed", "uuid", uuid, "processes", n, "err", err)
		}
	}()
	return func() {
		close(quit)
		<-done
	}
}

// atOnce is how long a killed QEMU is waited for before libvirt is asked.
const atOnce = 500 * time.Millisecond

// killNow ends the QEMU of a domain with that uuid, where it is on this computer
// and may be: libvirt asks it to end, and then looks again after 200 ms at the
// earliest (virProcessKillPainfully). What it finds gone it leaves at once. Job
// disks are in the host's page cache, so nothing is lost. It reports whether it saw
// it end.
//
// It is for machines that never run again. Older libvirts (9.0 is one) handle an end
// that they did not ask for in a thread of its own, which ends whatever runs as that
// domain by then (processMonitorEOFEvent of src/qemu/qemu_driver.c).
func (d *Driver) killNow(ctx context.Context, uuid string) bool {
	if d.target.remote() || !d.target.guests() || uuid == "" {
		return false
	}
	files, _ := findQEMU("/proc", uuid) // what cannot be looked at cannot be killed either
	if n, err := killQEMU("/proc", uuid); n == 0 || err != nil {
		return false // another user's, or gone: libvirt's way has to do
	}
	for began := time.Now(); slices.ContainsFunc(files, remains); {
		if time.Since(began) > atOnce || sleep(ctx, time.Millisecond) != nil {
			return false
		}
	}
	return true
}

// remains reports whether a killed process is there: one that is about to end, or
// that nobody has reaped, has no arguments any more, but libvirt still finds it.
func remains(cmdline string) bool {
	b, err := os.ReadFile(cmdline)
	return err == nil && (len(b) == 0 || bytes.Contains(b, []byte("\x00-uuid\x00")))
}

// findQEMU gives the processes whose arguments say "-uuid <uuid>". One that has
// ended and is not reaped yet has none.
func findQEMU(proc, uuid string) (files []string, err error) {
	all, err := filepath.Glob(filepath.Join(proc, "[0-9]*", "cmdline"))
	for _, file := range all {
		if saysUUID(file, uuid) {
			files = append(files, file)
		}
	}
	return files, err
}

// killQEMU kills the processes whose arguments say "-uuid <uuid>".
func killQEMU(proc, uuid string) (n int, err error) {
	files, err := findQEMU(proc, uuid)
	if err != nil {
		return 0, err
	}
	for _, file := range files {
		pid, cerr := strconv.Atoi(filepath.Base(filepath.Dir(file)))
		if cerr != nil {
			continue
		}
		p, perr := os.FindProcess(pid) // by a handle: from here on its number is its own
		if perr != nil {
			continue
		}
		if saysUUID(file, uuid) {
			if kerr := p.Kill(); kerr != nil {
				err = kerr
			} else {
				n++
			}
		}
		_ = p.Release()
	}
	return n, err
}

func saysUUID(file, uuid string) bool {
	b, err := os.ReadFile(file) // it may be gone, or another user's
	return err == nil && bytes.Contains(b, []byte("\x00-uuid\x00"+uuid+"\x00"))
}
