package local

import "runtime"

// launcher runs functions on one thread that lives until it is closed. A
// parent-death signal comes when the thread that made the child ends, not its
// process, and the runtime ends threads when it likes: so keepers are started
// from here.
type launcher struct {
	todo chan func()
	done chan struct{}
}

func newLauncher() *launcher {
	l := &launcher{make(chan func()), make(chan struct{})}
	go func() {
		defer close(l.done)
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		for f := range l.todo {
			f()
		}
	}()
	return l
}

// do runs f and waits for it. Not after close.
func (l *launcher) do(f func()) {
	ran := make(chan struct{})
	l.todo <- func() {
		defer close(ran)
		f()
	}
	<-ran
}

func (l *launcher) close() {
	close(l.todo)
	<-l.done
}
