//go:build !linux

package daemon

import "syscall"

func child(who *syscall.Credential) *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Credential: who}
}
