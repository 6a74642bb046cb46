package vm

import "time"

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
	// to, when the context has ended; zero: DefaultGrace. After it the machine
	// is killed.
	Grace time.Duration
}

// DefaultGrace is how long a guest may take to end a job that is cancelled.
const DefaultGrace = 300 * time.Second
