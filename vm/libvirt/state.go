package libvirt

import (
	"bytes"
	"fmt"

	"github.com/bullpen-vm/bullpen/vm"
)

// virDomainState, and of the reasons those that matter; see
// https://libvirt.org/html/libvirt-libvirt-domain.html.
const (
	domNoState     = 0
	domRunning     = 1
	domBlocked     = 2
	domPaused      = 3
	domShutdown    = 4 // on its way off
	domShutoff     = 5
	domCrashed     = 6
	domPMSuspended = 7

	pausedCrashed    = 10
	pausedStartingUp = 11

	offUnknown      = 0
	offShutdown     = 1
	offDestroyed    = 2
	offCrashed      = 3
	offMigrated     = 4
	offSaved        = 5
	offFailed       = 6
	offFromSnapshot = 7
	offDaemon       = 8
)

// virDomainEventType and details.
const (
	eventDefined   = 0
	eventUndefined = 1
	eventStarted   = 2
	eventSuspended = 3
	eventResumed   = 4
	eventStopped   = 5
	eventShutdown  = 6
	eventCrashed   = 8

	shutdownHost = 2 // a signal came from the host
)

// active reports whether a domain has a process, or may have one.
func active(state int) bool {
	switch state {
	case domShutoff, domCrashed:
		return false
	}
	return true
}

// stateOf maps a domain's state. ran: the machine was started at least once.
func stateOf(d domain, ran bool) vm.State {
	switch d.state {
	case domRunning, domBlocked, domShutdown:
		return vm.StateRunning
	case domPaused:
		if d.reason == pausedStartingUp {
			return vm.StateStarting
		}
		return vm.StatePaused
	case domPMSuspended:
		return vm.StatePaused
	case domCrashed:
		return vm.StateCrashed
	case domShutoff:
		if !ran {
			return vm.StateDefined
		}
		return vm.StateStopped // or crashed: its end says so
	}
	return vm.StateUnknown
}

// facts are what events have told of a domain's present run, beyond what its
// state says later.
type facts struct {
	panicked bool // the guest said so, by pvpanic
	signal   bool // the host told QEMU to end
	stopped  bool
	reason   int // of stopped: an event's detail
}

// tell adds an event.
func (f *facts) tell(e event) {
	switch e.event {
	case eventStarted:
		*f = facts{}
	case eventCrashed:
		f.panicked = true
	case eventShutdown:
		f.signal = f.signal || e.detail == shutdownHost
	case eventStopped:
		f.stopped, f.reason = true, e.detail
	}
}

// reasons of virDomainEventStoppedDetailType, as those of the state shutoff.
var stoppedReasons = [...]int{offShutdown, offDestroyed, offCrashed, offMigrated, offSaved, offFailed, offFromSnapshot}

// qemuDied is the detail of an end of which libvirt knows nothing else.
const qemuDied = "QEMU ended without a word: it died or was killed"

// endOf says how a domain that is off came to its end. Poweroff, restart and, for
// a guest without pvpanic, panic look alike to libvirt; the console tells.
func endOf(d domain, f facts, console []byte) vm.End {
	reason := d.reason
	if d.state == domShutoff && reason == offUnknown && f.stopped && f.reason >= 0 && f.reason < len(stoppedReasons) {
		reason = stoppedReasons[f.reason]
	}
	panicked := bytes.Contains(console, []byte("Kernel panic - not syncing"))
	switch {
	case f.panicked, d.state == domCrashed, reason == offCrashed && panicked:
		return vm.End{Kind: vm.EndCrashed, Detail: "the guest panicked"}
	case reason == offCrashed:
		// Also what a libvirtd says that was away when QEMU ended.
		return vm.End{Kind: vm.EndCrashed, Detail: qemuDied}
	case reason == offDestroyed:
		return vm.End{Kind: vm.EndKilled, Detail: "libvirt was told to destroy it"}
	case reason == offShutdown && f.signal:
		return vm.End{Kind: vm.EndKilled, Detail: "QEMU was told to end by a signal from the host"}
	case reason == offShutdown && panicked:
		return vm.End{Kind: vm.EndCrashed, Detail: "the guest panicked, as its console says, and restarted"}
	case reason == offShutdown:
		return vm.End{Kind: vm.EndPoweredOff, Detail: "the guest powered off or restarted"}
	case reason == offFailed:
		return vm.End{Kind: vm.EndCrashed, Detail: qemuDied}
	case reason == offDaemon:
		return vm.End{Kind: vm.EndKilled, Detail: "libvirtd ended it"}
	case reason == offSaved:
		return vm.End{Kind: vm.EndKilled, Detail: "it was saved"}
	case reason == offFromSnapshot:
		return vm.End{Kind: vm.EndKilled, Detail: "a snapshot of a machine that was off was reverted"}
	case reason == offUnknown:
		return vm.End{Kind: vm.EndUnknown, Detail: "libvirt does not know: libvirtd was started anew since"}
	}
	return vm.End{Kind: vm.EndUnknown, Detail: fmt.Sprintf("libvirt says state %d, reason %d", d.state, reason)}
}
