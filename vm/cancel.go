package vm

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/bullpen-vm/bullpen/internal/wire"
)

// cancel ends the job when the caller's context has ended: ask, tell, kill.
func (r *run) cancel(ctx context.Context, s *Stream) (End, error) {
	ended := r.fail(fmt.Errorf("cancelled after %v: %w", time.Since(r.began).Round(time.Millisecond), causeOf(ctx)))
	base := context.WithoutCancel(ctx)
	for _, step := range []struct {
		kill bool
		wait time.Duration
	}{{false, r.o.Grace}, {true, min(killGrace, r.o.Grace)}} {
		if step.wait <= 0 {
			continue
		}
		sctx, cancel := context.WithTimeout(r.here, step.wait)
		err := s.Send(sctx, uint8(wire.KindCancel), wire.Encode(wire.Cancel{Kill: step.kill}))
		if err == nil {
			var end End
			var over bool
			if end, err, over = r.listen(sctx, s); over {
				cancel()
				return end, errors.Join(ended, err)
			}
		}
		timedOut := sctx.Err() != nil
		cancel()
		switch {
		case r.hasEnded() || channelLost(err):
			end, serr := r.settled(base)
			return end, errors.Join(ended, serr)
		case !timedOut:
			return r.known(err), errors.Join(ended, err) // the fence, for one
		}
	}
	return r.kill(base, ended, "the guest did not end the job when it was asked to")
}

// kill ends the machine of a job that did not end by itself.
func (r *run) kill(base context.Context, ended error, why string) (End, error) {
	end := End{Kind: EndHung, Detail: why}
	end.Console = consoleTail(base, r.m)
	kctx, cancel := context.WithTimeout(base, killGrace)
	defer cancel()
	if err := r.m.Kill(kctx); err != nil {
		end.Detail += ", and the machine could not be killed"
		return end, errors.Join(ended, err)
	}
	end.Detail += "; the machine was killed"
	return end, ended
}

// silent waits for the end of a machine without a channel.
func (r *run) silent(ctx context.Context) (End, error) {
	if len(r.o.Go) > 0 {
		return End{}, r.fail(fmt.Errorf("the machine has no channel to say go on: %w", errors.ErrUnsupported))
	}
	select {
	case <-r.gone:
		return r.settled(ctx)
	case <-ctx.Done():
	}
	ended := r.fail(fmt.Errorf("cancelled after %v: %w", time.Since(r.began).Round(time.Millisecond), causeOf(ctx)))
	base := context.WithoutCancel(ctx)
	if r.o.Grace > 0 {
		sctx, cancel := context.WithTimeout(base, r.o.Grace)
		defer cancel()
		if err := r.m.Stop(sctx); err != nil {
			ended = errors.Join(ended, err)
		} else {
			select {
			case <-r.gone:
				end, err := r.settled(base)
				return end, errors.Join(ended, err)
			case <-sctx.Done():
			}
		}
	}
	return r.kill(base, ended, "the machine did not power off when it was asked to")
}
