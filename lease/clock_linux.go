package lease

import (
	"syscall"
	"time"
	"unsafe"
)

// Clock ids of clock_gettime(2).
const (
	clockMonotonic = 1
	clockBoottime  = 7
)

// suspended tells how long this machine was suspended since it booted:
// CLOCK_BOOTTIME minus CLOCK_MONOTONIC, both read from the kernel and so
// independent of any fake time. The answer is never too small, and too large
// by less than a millisecond.
func suspended() (time.Duration, bool) {
	for range 10 {
		before, ok1 := kernelClock(clockMonotonic)
		boot, ok2 := kernelClock(clockBoottime)
		after, ok3 := kernelClock(clockMonotonic)
		if !ok1 || !ok2 || !ok3 {
			return 0, false
		}
		if after-before < time.Millisecond { // else we were interrupted in between
			return boot - before, true
		}
	}
	return 0, false
}

func kernelClock(id uintptr) (time.Duration, bool) {
	var t syscall.Timespec
	_, _, errno := syscall.RawSyscall(syscall.SYS_CLOCK_GETTIME, id, uintptr(unsafe.Pointer(&t)), 0)
	return time.Duration(t.Nano()), errno == 0
}
