package daemon

import "syscall"

// child makes a process end with the thread that started it, and run as who.
func child(who *syscall.Credential) *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Credential: who}
}
