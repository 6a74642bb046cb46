package local

import (
	"fmt"
	"os"
	"strings"
)

// roleVar tells a process that it was started as "keeper:<dir>" or
// "agent:<dir>" of the machine in that folder.
const roleVar = "BULLPEN_LOCAL_AGENT"

// What a machine's processes find where.
const (
	channelFD = 3 // keeper, agent: the channel's guest side
	controlFD = 4 // keeper: the socket to the driver; agent: a pipe with its agentConfig
)

// Main runs the keeper or the agent of a machine when this process was started
// as one, and then does not return. In every other process it returns at once.
// Call it in the first line of main, and of TestMain in tests that start
// machines: what runs before it runs in keepers and agents too.
func Main() {
	role := os.Getenv(roleVar)
	if role == "" {
		return
	}
	// A job may run a program that calls Main itself: it must not become an
	// agent.
	code := 1
	if err := os.Unsetenv(roleVar); err != nil {
		fmt.Fprintln(os.Stderr, "local:", err)
		os.Exit(code)
	}
	kind, dir, _ := strings.Cut(role, ":")
	switch kind {
	case "keeper":
		code = runKeeper(dir)
	case "agent":
		code = runAgent(dir)
	default:
		fmt.Fprintf(os.Stderr, "local: %s is %q, want keeper:<dir> or agent:<dir>; it is set by the driver only\n", roleVar, role)
	}
	os.Exit(code)
}
