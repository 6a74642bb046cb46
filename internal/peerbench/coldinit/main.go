// Command coldinit is the whole guest of peerbench's peer: as a kernel's first
// process it does what a test's job does on our side, which is to say a line,
// and powers the machine off.
package main

import (
	"fmt"
	"os"
	"strings"
	"syscall"
)

func main() {
	if os.Getpid() != 1 {
		fmt.Fprintln(os.Stderr, "coldinit: not the first process of a machine")
		os.Exit(2)
	}
	_ = syscall.Mkdir("/proc", 0o755)
	_ = syscall.Mount("proc", "/proc", "proc", 0, "")
	text, _ := os.ReadFile("/proc/cmdline") // without it nothing is said, and the bench fails
	for _, word := range strings.Fields(string(text)) {
		if say, ok := strings.CutPrefix(word, "say="); ok {
			fmt.Println(say)
		}
	}
	_ = syscall.Reboot(syscall.LINUX_REBOOT_CMD_POWER_OFF)
}
