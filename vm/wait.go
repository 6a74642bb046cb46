package vm

import (
	"context"
	"errors"
	"time"
)

// pollEvery is how often a machine without Waiter is looked at.
const pollEvery = time.Second

// waitEnd waits for a machine's end, by Waiter or by looking.
func waitEnd(ctx context.Context, m Machine) (End, error) {
	if w, ok := As[Waiter](m); ok {
		end, err := w.Wait(ctx)
		if err == nil || !errors.Is(err, errors.ErrUnsupported) {
			return end, err
		}
	}
	t := time.NewTicker(pollEvery)
	defer t.Stop()
	for {
		info, err := m.Info(ctx)
		switch {
		case ctx.Err() != nil:
			return End{}, causeOf(ctx)
		case errors.Is(err, ErrNotFound):
			return End{Kind: EndKilled, Detail: "the machine is gone"}, nil
		case err != nil:
			return End{}, err
		case info.End != nil && info.State != StateRunning && info.State != StatePaused && info.State != StateStarting:
			return *info.End, nil
		case info.State == StateCrashed:
			return End{Kind: EndCrashed}, nil
		case info.State == StateStopped:
			return End{Kind: EndPoweredOff}, nil
		case info.State == StateDefined:
			return End{Kind: EndUnknown, Detail: "the machine does not run"}, nil
		}
		select {
		case <-t.C:
		case <-ctx.Done():
			return End{}, causeOf(ctx)
		}
	}
}

// consoleTail is the end of a machine's console, or nothing where there is none
// to be had: it is only for people.
func consoleTail(ctx context.Context, m Machine) []byte {
	c, ok := As[Consoler](m)
	if !ok {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, consoleWait)
	defer cancel()
	b, err := c.Console(ctx, ConsoleTail)
	if err != nil {
		return nil
	}
	if len(b) > ConsoleTail {
		b = b[len(b)-ConsoleTail:]
	}
	return b
}
