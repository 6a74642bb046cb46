package pool

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/bullpen-vm/bullpen/lease"
	"github.com/bullpen-vm/bullpen/pool/internal/loan"
	"github.com/bullpen-vm/bullpen/vm"
)

// ErrLenderGone: the process that a guest was borrowed from with OpenHandle has
// ended, closed its pool, or does not answer.
var ErrLenderGone = errors.New("the process that lends the guest is gone")

// ErrHandle: the text is no handle of a guest that is lent.
var ErrHandle = errors.New("no such handle")

// handleVersion is of the handle's text and of what is spoken on its socket.
const handleVersion = 1

// handle is the text of Guest.Handle, as JSON.
type handle struct {
	Version int    `json:"version"`
	Socket  string `json:"socket"` // of the pool
	Key     string `json:"key"`    // of the slot
	Token   uint64 `json:"token"`
	Secret  string `json:"secret"`
}

// parseHandle reads the text of a handle.
func parseHandle(text string) (handle, error) {
	var h handle
	if err := json.Unmarshal([]byte(text), &h); err != nil {
		return handle{}, fmt.Errorf("%w: want the text of Guest.Handle: %w", ErrHandle, err)
	}
	switch {
	case h.Version != handleVersion:
		return handle{}, fmt.Errorf("%w: it is of version %d, want %d: both processes need the same Bullpen", ErrHandle, h.Version, handleVersion)
	case h.Socket == "" || h.Key == "" || h.Secret == "":
		return handle{}, fmt.Errorf("%w: socket, key or secret is missing", ErrHandle)
	}
	return h, nil
}

// Handle lends the guest to other processes of this user, such as children: its
// text, given to OpenHandle there, is the guest. This process serves it on a
// socket beside the lock of its lease manager, and fences it: when the guest is
// released or lost, or this process ends, the others have lost it too. All
// processes that have the text share the guest.
//
// Whoever has the text can work on the machine: give it in the environment or on
// a pipe, not in a command line that others can read. Every call gives the same
// text. The pool's lease manager needs its run directory (not
// lease.Config.NoLock).
func (g *Guest) Handle(ctx context.Context) (string, error) {
	fail := func(err error) (string, error) {
		return "", &OpError{Op: "lend", What: g.name, Why: g.want.Job, Err: err}
	}
	if g.loan != nil {
		return g.loan.text, g.check()
	}
	if err := ctx.Err(); err != nil {
		return fail(context.Cause(ctx))
	}
	if err := g.check(); err != nil {
		return fail(err)
	}
	p := g.unit.pool
	l, err := p.lend.listen(ctx, p)
	if err != nil {
		return fail(err)
	}
	g.mu.Lock()
	if g.lent == nil {
		g.lent = &lent{guest: g, key: g.unit.key, token: g.token, secret: rand.Text()}
	}
	n := g.lent
	g.mu.Unlock()
	if l = p.lend.add(p, l, n); l == nil {
		if err := g.check(); err != nil {
			return fail(err)
		}
		return fail(ErrClosed)
	}
	text, err := json.Marshal(handle{Version: handleVersion, Socket: l.Addr().String(), Key: n.key, Token: n.token, Secret: n.secret})
	if err != nil {
		return fail(err)
	}
	return string(text), nil
}

// What is asked for on a handle's socket. Each connection begins with a request,
// which is answered; what follows is the operation's own.
const (
	askAttach    = "attach"  // stays open: reasons go up, the end comes down
	askCheck     = "check"   // is the guest still held?
	askChannel   = "channel" // a vm.Relay after the answer
	askDisk      = "disk"    // then reads, writes and syncs until it is closed
	askInsert    = "insert"  // then the pool asks for the image's bytes
	askEject     = "eject"
	askInfo      = "info"
	askStart     = "start"
	askStop      = "stop"
	askKill      = "kill"
	askDestroy   = "destroy"
	askWait      = "wait"
	askConsole   = "console"
	askAddresses = "addresses"
	askSuspend   = "suspend"
	askResume    = "resume"

	askSnapshot       = "snapshot"
	askRevert         = "revert"
	askSnapshots      = "snapshots"
	askDeleteSnapshot = "delete snapshot"
	askScreenshot     = "screenshot" // then the picture comes in moves
)

// request is the head of the first message of a connection.
type request struct {
	Version int    `json:"version"`
	Key     string `json:"key"`
	Token   uint64 `json:"token"`
	Secret  string `json:"secret"`
	Op      string `json:"op"`
	N       int    `json:"n,omitempty"`       // of askDisk, askInsert, askEject, askConsole
	Digest  string `json:"digest,omitempty"`  // of askInsert
	Size    int64  `json:"size,omitempty"`    // of askInsert
	Name    string `json:"name,omitempty"`    // of a snapshot
	Channel string `json:"channel,omitempty"` // of askChannel: what the relay's hello is to say
}

// answer is the head of the first message back.
type answer struct {
	Err         *loan.Failure `json:"err,omitempty"`
	Facts       *facts        `json:"facts,omitempty"` // to askAttach
	Info        *vm.Info      `json:"info,omitempty"`
	End         *vm.End       `json:"end,omitempty"`
	Addresses   []string      `json:"addresses,omitempty"`
	Names       []string      `json:"names,omitempty"`       // to askSnapshots
	Size        int64         `json:"size,omitempty"`        // to askDisk
	Incarnation string        `json:"incarnation,omitempty"` // to askChannel
}

// facts are what a borrower is told of its guest.
type facts struct {
	Name         string            `json:"name"`
	Host         string            `json:"host"`
	Template     string            `json:"template"`
	Job          string            `json:"job"`
	Labels       map[string]string `json:"labels"`
	Properties   map[string]string `json:"properties"`
	Queued       time.Duration     `json:"queued"`
	Boot         time.Duration     `json:"boot"`
	Capabilities vm.Set            `json:"capabilities"`
}

// The moves of a disk and of an insertion, and what goes over an attachment.
const (
	moveRead  = "read"
	moveWrite = "write"
	moveSync  = "sync"
	moveDone  = "done"
	moveData  = "data" // of a picture
)

// move is the head of a message after the first ones.
type move struct {
	What string        `json:"what,omitempty"`
	Off  int64         `json:"off,omitempty"`
	N    int           `json:"n,omitempty"`
	Err  *loan.Failure `json:"err,omitempty"`
	// Media is the type of a picture, with its moveDone.
	Media string `json:"media,omitempty"`
	// Of an attachment: the reason of a Release, and whether it says that the
	// machine is broken.
	Reason string `json:"reason,omitempty"`
	Broken bool   `json:"broken,omitempty"`
}

// codes are the errors of this package and of lease that both ends know.
var codes = []loan.Code{
	{Name: "pool released", Err: ErrReleased}, {Name: "pool closed", Err: ErrClosed}, {Name: "pool handle", Err: ErrHandle},
	{Name: "lease lost", Err: lease.ErrLost}, {Name: "lease released", Err: lease.ErrReleased},
}
