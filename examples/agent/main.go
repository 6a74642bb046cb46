// Command agent is the first process of a test guest: the agent of
// diskio/guest with what a machine needs around it. It is built static and put
// into an initramfs; see diskio/guest/initramfs.
//
//	CGO_ENABLED=0 go build -trimpath -ldflags=-s -o agent ./examples/agent
package main

import (
	"context"
	"fmt"
	"os"

	"github.com/bullpen-vm/bullpen/diskio/guest/boot"
)

func main() {
	if err := boot.Run(context.Background(), boot.Config{}); err != nil {
		fmt.Fprintln(os.Stderr, "agent:", err)
		os.Exit(1)
	}
}
