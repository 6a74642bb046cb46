//go:build cgo && (libvirt || libvirt_dlopen)

package libvirt

// The binding keeps what it is given for a stream's events for as long as the
// process lives: its EventRemoveCallback does not free it. A harness opens a channel
// for each job, so it is registered here instead, by libvirt's C interface and by a
// number, behind which there is nothing once the channel is closed.

/*
#cgo LDFLAGS: -ldl
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>

extern void bullpenStreamEvent(uintptr_t number, int events);

static void onStreamEvent(void *stream, int events, void *opaque)
{
	(void)stream;
	bullpenStreamEvent((uintptr_t)opaque, events);
}

// addStreamEvent gives 0, or -1 with libvirt's text, or -2 when libvirt.so.0 is not
// loaded or lacks the function.
static int addStreamEvent(void *stream, int events, uintptr_t number, char *text, size_t size)
{
	void *lib = dlopen("libvirt.so.0", RTLD_LAZY | RTLD_NOLOAD);
	int (*add)(void *, int, void (*)(void *, int, void *), void *, void (*)(void *)) = 0;
	const char *(*last)(void) = 0;
	int result = -2;

	if (!lib)
		return result;
	*(void **)&add = dlsym(lib, "virStreamEventAddCallback");
	*(void **)&last = dlsym(lib, "virGetLastErrorMessage");
	if (add && last) {
		result = add(stream, events, onStreamEvent, (void *)number, 0);
		if (result)
			snprintf(text, size, "%s", last()); // of this thread
	}
	dlclose(lib);
	return result;
}
*/
import "C"

import (
	"errors"
	"fmt"
	"reflect"
	"sync"

	lv "libvirt.org/go/libvirt"
)

// streamCalls are those that want a stream's events, by number.
type streamCalls struct {
	mu   sync.Mutex
	last uintptr
	all  map[uintptr]func(lv.StreamEventType)
}

// put calls the one with that number, if it is still there.
func (s *streamCalls) put(number uintptr, e lv.StreamEventType) {
	s.mu.Lock()
	f := s.all[number]
	s.mu.Unlock()
	if f != nil {
		f(e)
	}
}

// add asks for a stream's events. The number is for remove.
func (s *streamCalls) add(stream *lv.Stream, want lv.StreamEventType, f func(lv.StreamEventType)) (uintptr, error) {
	// The binding gives no way to its pointer, but it has nothing else.
	v := reflect.ValueOf(stream).Elem()
	if v.NumField() == 0 || v.Field(0).Kind() != reflect.Pointer {
		return 0, fmt.Errorf("the binding's Stream is no pointer of libvirt's any more, but %v: %w", v.Type(), errors.ErrUnsupported)
	}
	s.mu.Lock()
	if s.all == nil {
		s.all = map[uintptr]func(lv.StreamEventType){}
	}
	s.last++
	number := s.last
	s.all[number] = f
	s.mu.Unlock()
	var text [200]C.char
	got := C.addStreamEvent(v.Field(0).UnsafePointer(), C.int(want), C.uintptr_t(number), &text[0], C.size_t(len(text)))
	if got == 0 {
		return number, nil
	}
	s.remove(number)
	if got == -2 {
		return 0, fmt.Errorf("libvirt.so.0 is not loaded or has no virStreamEventAddCallback: %w", errors.ErrUnsupported)
	}
	return 0, fmt.Errorf("libvirt: %s", C.GoString(&text[0]))
}

// remove forgets a number. An event that is under way may still be put.
func (s *streamCalls) remove(number uintptr) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.all, number)
}
