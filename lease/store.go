package lease

import (
	"context"
	"time"
)

// Record is what a Store keeps under one key: a lease, a session, or nothing
// any more. Stores treat all but Key, Token and Renewals as text.
type Record struct {
	Key string
	// Token is the fencing token: assigned by the store from one rising
	// sequence of its own, never used twice. Zero means that there is no
	// record.
	Token uint64
	// Renewals counts the swaps since the token was assigned.
	Renewals uint64
	// Session is the key of the session record that keeps a lease alive;
	// empty on session records and on leases of a fixed term.
	Session string
	// Owner is who holds it, in words: "TestUpgrade on ci-3 pid 4711".
	Owner string
	// Lock is the path of the file that the owner's session holds a flock on,
	// and Boot says on which machine and boot, and in which pid namespace,
	// that path means anything.
	Lock string
	Boot string
	// TTL and Margin are the terms that the holder promised to keep.
	TTL    time.Duration
	Margin time.Duration
	// Since and Renewed are wall clock times for people. Nothing is decided
	// by them.
	Since   time.Time
	Renewed time.Time
	// Note is free text of the holder, such as a description.
	Note string
}

// Zero reports whether there is no such record.
func (r Record) Zero() bool { return r.Token == 0 }

// Store keeps records by compare-and-swap. It is the interface for
// implementers; package leasetest is its conformance suite. All methods are
// safe for concurrent use, by many processes where the store is shared, and
// return the context's error when it ends first: whether a swap was done is
// then unknown, and the caller finds out by loading.
type Store interface {
	// ID identifies the store's content: all who share it get the same text.
	ID(ctx context.Context) (string, error)
	// Load gives the record, or a zero Record without an error when there is
	// none.
	Load(ctx context.Context, key string) (Record, error)
	// Swap replaces prev by next where the stored record's Token and Renewals
	// equal prev's (a zero prev: where there is none) and returns what is
	// stored now: with newToken the next token of the store and Renewals
	// zero, else prev's token and Renewals one higher. ErrConflict when the
	// stored record is another one; nothing is changed then, and the record
	// that is there is returned beside the error. An acknowledged swap
	// survives a crash of the store, if the store is durable at all.
	Swap(ctx context.Context, prev, next Record, newToken bool) (Record, error)
	// Delete removes the record where Token and Renewals equal prev's;
	// ErrConflict when another one is there. No record at all is no error.
	Delete(ctx context.Context, prev Record) error
	// List gives all records whose keys start with prefix, in the order of
	// their keys; complete, or an error.
	List(ctx context.Context, prefix string) ([]Record, error)
}

// Watcher is a Store that can wake waiters.
type Watcher interface {
	// Watch returns a channel that gets a value after each change of a record
	// under prefix; values may be merged. It is closed when the context ends
	// or the watch is lost; waiters poll as well.
	Watch(ctx context.Context, prefix string) (<-chan struct{}, error)
}

// Batcher is a Store that does many swaps in one transaction, each for itself:
// one that conflicts does not stop the others.
type Batcher interface {
	SwapAll(ctx context.Context, swaps []Swapping) ([]Swapped, error)
}

// Swapping is one swap of a batch.
type Swapping struct {
	Prev, Next Record
	NewToken   bool
}

// Swapped is its outcome.
type Swapped struct {
	Record Record
	Err    error
}

// Claimer is a Store that finds the first free one of many keys in one step.
type Claimer interface {
	// Claim swaps next, under the first of keys that has no record, with a
	// new token; ErrConflict when all have one.
	Claim(ctx context.Context, keys []string, next Record) (Record, error)
}
