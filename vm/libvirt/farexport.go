//go:build cgo && (libvirt || libvirt_dlopen)

package libvirt

// #include <stdint.h>
import "C"

import lv "libvirt.org/go/libvirt"

// bullpenStreamEvent is what libvirt's loop calls, by way of farevent.go.
//
//export bullpenStreamEvent
func bullpenStreamEvent(number C.uintptr_t, what C.int) {
	events.streams.put(uintptr(number), lv.StreamEventType(what))
}
