package local

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/bullpen-vm/bullpen/vm"
)

// agentConfig is what an agent is told through a pipe: not by its arguments or
// its environment, which others can read.
type agentConfig struct {
	Secret      string  `json:"secret"`
	Incarnation string  `json:"incarnation"`
	JobDisks    []int64 `json:"job_disks"`
	Inputs      int     `json:"inputs"`
	Cache       string  `json:"cache"`
	CacheBytes  int64   `json:"cache_bytes"`
}

const cacheFolder = ".inputs"

func runAgent(dir string) int {
	var conf agentConfig
	pipe := os.NewFile(controlFD, "configuration")
	if err := json.NewDecoder(pipe).Decode(&conf); err != nil {
		fmt.Fprintln(os.Stderr, "local: agent:", err)
		return 1
	}
	pipe.Close()
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGTERM)
	go func() { <-signals; os.Exit(0) }()
	syscall.SetNonblock(channelFD, true)
	io.Copy(io.Discard, os.NewFile(channelFD, "channel"))
	return 1
}

func agentEnd(st syscall.WaitStatus) (vm.EndKind, string) {
	switch {
	case st.Exited() && st.ExitStatus() == 0:
		return vm.EndPoweredOff, "the agent powered off"
	case st.Exited():
		return vm.EndCrashed, fmt.Sprintf("the agent ended with exit code %d", st.ExitStatus())
	case st.Signal() == syscall.SIGKILL:
		return vm.EndKilled, "the agent was ended by signal killed"
	}
	return vm.EndCrashed, "the agent was ended by signal " + st.Signal().String()
}
