package vm

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/bullpen-vm/bullpen/internal/wire"
)

// RunOptions are those of one Run.
type RunOptions struct {
	// Stream is the channel's stream to use; zero: the next free one.
	Stream uint32
	// Go is the body of the go message: opaque to this package.
	Go []byte
	// Message is called for each message of the guest about the job, one at a
	// time, in order; nil: they are dropped. It must not block.
	Message func(kind uint8, body []byte)
	// Grace is how long the guest may take to end the job after it was asked
	// to, when the context has ended; zero: DefaultGrace, negative: none.
	// After it the machine is killed.
	Grace time.Duration
}

// DefaultGrace is how long a guest may take to end a job that is cancelled.
const DefaultGrace = 300 * time.Second

const (
	// settle is how long is waited for the second sign of an end after the
	// first: for the rest of the channel when the machine has ended, for the
	// machine when the channel has.
	settle = 5 * time.Second
	// killGrace is how long the guest may take to end a job that it was told
	// to kill, so that it can still close the records.
	killGrace = 10 * time.Second
	// consoleWait bounds the reading of a console for an End.
	consoleWait = 5 * time.Second
)

// Run runs one job on a machine: it starts the machine or wakes it where
// necessary, waits until the guest is ready, says go, hands on the guest's
// messages, and waits for the guest's word that the job is done, for the
// machine's end or for the context's.
//
// The End always says the best that is known. The error is nil when the job was
// run and came to an end of whatever kind, also a crash. It is not nil when the
// job could not be run as asked: the machine did not start, the guest was never
// ready or refused the job, the fence refused, or the context ended. In the last
// case the guest was asked to end the job and given o.Grace, then told to kill
// it, then the machine was killed (EndHung); a guest that still says done makes
// it EndDone beside the context's error.
//
// A machine without a channel (see Messenger) runs what it boots: then o.Go must
// be empty, and Run waits for the machine's end.
//
// Run needs no lock of its own; several Runs at once on one machine use streams
// and job disks of their own.
func Run(ctx context.Context, m Machine, o RunOptions) (End, error) {
	if o.Grace == 0 {
		o.Grace = DefaultGrace
	}
	r := &run{m: m, o: o, began: time.Now()}
	if err := r.wake(ctx); err != nil {
		return r.known(err), err
	}
	stop := r.watch(ctx)
	defer stop()
	msgr, ok := As[Messenger](m)
	if !ok {
		return r.silent(ctx)
	}
	ch, err := msgr.Channel(r.alive)
	if err == nil {
		_, err = ch.Ready(r.alive)
	}
	if err != nil {
		return r.neverBegan(ctx, err)
	}
	s, err := ch.Open(o.Stream)
	if err != nil {
		return r.neverBegan(ctx, err)
	}
	defer s.Close()
	if err := s.Send(r.alive, uint8(wire.KindGo), o.Go); err != nil {
		return r.neverBegan(ctx, err)
	}
	return r.follow(ctx, s)
}

// run is the state of one Run.
type run struct {
	m     Machine
	o     RunOptions
	began time.Time
	alive context.Context // ends with the caller's, or a while after the machine
	here  context.Context // ends a while after the machine
	gone  chan struct{}   // closed when end and endErr are set
	end   End
	err   error // why end is not known
}

func (r *run) fail(err error) error { return &OpError{Op: OpRun, ID: r.m.ID(), Err: err} }

// wake makes the machine run.
func (r *run) wake(ctx context.Context) error {
	info, err := r.m.Info(ctx)
	if err != nil {
		return err
	}
	switch info.State {
	case StateDefined, StateStopped, StateCrashed:
		return r.m.Start(ctx)
	case StatePaused:
		s, ok := As[Suspender](r.m)
		if !ok {
			return r.fail(fmt.Errorf("%w: the machine is paused and cannot be resumed: %w", ErrState, errors.ErrUnsupported))
		}
		return s.Resume(ctx)
	}
	return nil // running or starting; what is unknown shows on the channel
}

// errMachineEnded is the cause of alive's end.
var errMachineEnded = errors.New("the machine ended")

// watch waits for the machine's end in a goroutine, which the returned func
// stops and waits for.
func (r *run) watch(ctx context.Context) (stop func()) {
	alive, cancel := context.WithCancelCause(ctx)
	here, leave := context.WithCancelCause(context.WithoutCancel(ctx))
	r.alive, r.here, r.gone = alive, here, make(chan struct{})
	// The watch outlives the caller's context, for its end is answered by a
	// grace time in which the machine may end.
	wctx, cancelWatch := context.WithCancel(context.WithoutCancel(ctx))
	finished := make(chan struct{})
	go func() {
		defer close(finished)
		r.end, r.err = waitEnd(wctx, r.m)
		close(r.gone)
		if wctx.Err() != nil {
			return
		}
		// What the guest said before the end is still to be read. Usually the
		// channel's own end comes first.
		t := time.NewTimer(settle)
		defer t.Stop()
		select {
		case <-t.C:
			cancel(errMachineEnded)
			leave(errMachineEnded)
		case <-wctx.Done():
		}
	}()
	return func() {
		cancelWatch()
		<-finished
		cancel(nil)
		leave(nil)
	}
}

// follow waits for the guest's last word on the job.
func (r *run) follow(ctx context.Context, s *Stream) (End, error) {
	end, err, over := r.listen(r.alive, s)
	switch {
	case over:
		return end, err
	case ctx.Err() != nil:
		return r.cancel(ctx, s)
	case r.hasEnded() || channelLost(err):
		end, err = r.settled(ctx)
		return end, err
	default:
		return r.known(err), err
	}
}

// listen hands on messages until the guest's last word (over) or an error.
func (r *run) listen(ctx context.Context, s *Stream) (end End, err error, over bool) {
	for {
		kind, body, err := s.Recv(ctx)
		if err != nil {
			return End{}, err, false
		}
		switch k := wire.Kind(kind); {
		case k == wire.KindDone:
			var d wire.Done
			if err := wire.Decode(k, body, &d); err != nil {
				return End{Kind: EndUnknown, Detail: "the guest's last word cannot be read"}, r.fail(err), true
			}
			end := End{Kind: EndDone, Detail: clip(d.Error)}
			if !d.Complete && d.Error != "" {
				return end, r.fail(fmt.Errorf("the guest could not run the job: %s", clip(d.Error))), true
			}
			return end, nil, true
		case k == wire.KindFault:
			why := faultText(body)
			return End{Kind: EndUnknown, Detail: why}, r.fail(fmt.Errorf("%w: %s", ErrFault, why)), true
		case k >= wire.KindMessage && r.o.Message != nil:
			r.o.Message(kind, body)
		}
	}
}

func faultText(body []byte) string {
	var f wire.Fault
	if err := wire.Decode(wire.KindFault, body, &f); err != nil || f.Error == "" {
		return "no reason given"
	}
	return clip(f.Error)
}

// neverBegan is the outcome when the guest could not be told to go.
func (r *run) neverBegan(ctx context.Context, err error) (End, error) {
	if ctx.Err() == nil && (r.hasEnded() || channelLost(err)) {
		end, _ := r.settled(ctx)
		return end, err
	}
	end := r.known(err)
	if errors.Is(err, context.DeadlineExceeded) {
		end.Kind, end.Detail = EndHung, "the guest was never ready"
		end.Console = consoleTail(context.WithoutCancel(ctx), r.m)
	}
	return end, err
}

func (r *run) hasEnded() bool {
	select {
	case <-r.gone:
		return true
	default:
		return false
	}
}

// channelLost reports whether an error means that the guest's line is gone,
// which is a sign of its end, and not that something was refused here.
func channelLost(err error) bool {
	return errors.Is(err, ErrChannelEnded) || errors.Is(err, ErrClosed) || errors.Is(err, ErrRefused)
}

// settled is the end of a machine, or of its channel, without the word done.
func (r *run) settled(ctx context.Context) (End, error) {
	t := time.NewTimer(settle)
	defer t.Stop()
	select {
	case <-r.gone:
	case <-t.C:
		return End{
			Kind:    EndHung,
			Detail:  fmt.Sprintf("the guest's channel ended without the word done, and the machine still ran %v later", settle),
			Console: consoleTail(context.WithoutCancel(ctx), r.m),
		}, nil
	case <-ctx.Done():
		return End{Detail: "the guest's channel ended without the word done"}, r.fail(causeOf(ctx))
	}
	if r.err != nil {
		return r.known(r.err), r.err
	}
	end := r.end
	if end.Kind == EndDone {
		// A machine's end knows nothing about jobs.
		end.Kind = EndPoweredOff
	}
	if len(end.Console) == 0 {
		end.Console = consoleTail(context.WithoutCancel(ctx), r.m)
	}
	return end, nil
}

// known is the end as far as an error tells it.
func (r *run) known(err error) End {
	var oe *OpError
	end := End{Detail: "not known"}
	if errors.Is(err, ErrHostLost) {
		end = End{Kind: EndHostLost, Detail: "the hypervisor cannot be reached"}
	}
	if errors.As(err, &oe) {
		end.Console = oe.Console
	}
	return end
}
