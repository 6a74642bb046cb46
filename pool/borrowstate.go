package pool

import (
	"context"
	"fmt"
	"io"

	"github.com/bullpen-vm/bullpen/pool/internal/loan"
)

// named asks for something that is done with a snapshot.
func (m *farMachine) named(ctx context.Context, op, name string) error {
	_, _, err := m.once(ctx, request{Op: op, Name: name})
	return err
}

func (m *farMachine) Snapshot(ctx context.Context, name string) error {
	return m.named(ctx, askSnapshot, name)
}

func (m *farMachine) Revert(ctx context.Context, name string) error {
	return m.named(ctx, askRevert, name)
}

func (m *farMachine) DeleteSnapshot(ctx context.Context, name string) error {
	return m.named(ctx, askDeleteSnapshot, name)
}

func (m *farMachine) Snapshots(ctx context.Context) ([]string, error) {
	a, _, err := m.once(ctx, request{Op: askSnapshots})
	return a.Names, err
}

// Screenshot takes the picture over as its lender reads it.
func (m *farMachine) Screenshot(ctx context.Context, w io.Writer) (mediaType string, err error) {
	l := m.l
	conn, _, err := l.ask(ctx, request{Op: askScreenshot}, nil)
	if err != nil {
		return "", err
	}
	defer l.drop(conn)
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	for {
		var q move
		piece, err := loan.Read(conn, &q)
		if err != nil {
			if ctx.Err() != nil {
				return "", context.Cause(ctx)
			}
			return "", l.why(fmt.Errorf("%w: %w", ErrLenderGone, err))
		}
		if q.What == moveDone || q.Err != nil { // a request that is refused has no more than an Err
			return q.Media, q.Err.Err(codes)
		}
		if _, err := w.Write(piece); err != nil {
			return "", err
		}
	}
}
