package vm

import (
	"context"
	"fmt"
)

// ProveClean waits until the guest is ready and proves that nothing has run on
// it since its known state: it bears no mark, its agent has seen no job, command
// or copy in this boot, neither before it was ready nor since, it answers, and
// the incarnation that it was told is the one written on the machine. Otherwise
// the error wraps ErrDirty. Without Messenger nothing can be proved:
// errors.ErrUnsupported. The context is the only deadline.
func ProveClean(ctx context.Context, m Machine) error {
	fail := func(err error) error { return &OpError{Op: OpProve, ID: m.ID(), Err: err} }
	msgr, err := need[Messenger](m, OpProve, "", m.ID())
	if err != nil {
		return err
	}
	ch, err := msgr.Channel(ctx)
	if err != nil {
		return fail(err)
	}
	g, err := ch.Ready(ctx)
	if err != nil {
		return fail(err)
	}
	info, err := m.Info(ctx)
	if err != nil {
		return fail(err)
	}
	opened := ch.Stats().Opened
	switch {
	case g.Dirty != "":
		return fail(fmt.Errorf("%w: it bears the mark %q", ErrDirty, clip(g.Dirty)))
	case g.Jobs != 0:
		return fail(fmt.Errorf("%w: its agent has seen %d jobs, commands or copies in this boot", ErrDirty, g.Jobs))
	case opened != 0:
		return fail(fmt.Errorf("%w: %d jobs, commands or copies were started since it was ready", ErrDirty, opened))
	case info.Owner.Incarnation != ch.Incarnation():
		return fail(fmt.Errorf("%w: the guest is incarnation %q, the machine %q", ErrDirty, ch.Incarnation(), info.Owner.Incarnation))
	}
	// It may have been ready long ago.
	if _, err := ch.Ping(ctx); err != nil {
		return fail(err)
	}
	return nil
}
