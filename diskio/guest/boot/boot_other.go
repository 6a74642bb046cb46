//go:build !linux

package boot

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"
)

// Config says what the machine is like; see the documentation for Linux.
type Config struct {
	Port, Modules, WorkDir, InDir, Mark string
	PortTimeout                         time.Duration
	Logger                              *slog.Logger
}

// ErrNotInit: Run was called by a process that is not the first of its machine.
var ErrNotInit = errors.New("not the first process of a machine")

// Run answers that this system is not supported.
func Run(context.Context, Config) error {
	return fmt.Errorf("boot: machines boot Linux: %w", errors.ErrUnsupported)
}
