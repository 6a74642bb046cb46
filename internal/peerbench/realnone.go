//go:build !(linux && cgo && (libvirt || libvirt_dlopen))

package main

import "os"

// realBars are those of real machines, which want -tags libvirt_dlopen.
func realBars() []bar { return nil }

func start() int { return run(os.Args[1:], os.Stdout, os.Stderr) }
