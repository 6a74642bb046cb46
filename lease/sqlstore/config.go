package sqlstore

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"
)

// Config says what kind of database it is. Only Dialect is needed.
type Config struct {
	// Dialect is SQLite{} or Postgres{}.
	Dialect Dialect
	// Logger gets what is retried and what was found odd; nil discards it.
	Logger *slog.Logger
}

// Dialect is SQLite or Postgres.
type Dialect interface {
	check() error
}

// Defaults of the dialects.
const (
	DefaultGateWait         = 5 * time.Second
	DefaultLook             = 50 * time.Millisecond
	DefaultReaders          = 4
	DefaultConnections      = 16
	DefaultStatementTimeout = 10 * time.Second
)

// SQLite is a database in a file of this machine. The zero value is ready.
type SQLite struct {
	// Path, when it is given, must be the file that the database is in: a
	// protection against a data source name that was read differently.
	Path string
	// GateWait is how long a write waits for another process to finish its
	// transaction, before it ends with ErrBusy and the pid of that process;
	// 0 means 5 s.
	GateWait time.Duration
	// Look is how often, while somebody watches, it is looked whether another
	// process has changed something; 0 means 50 ms, negative never.
	Look time.Duration
	// Readers is the number of connections for reading, beside the one for
	// writing; 0 means 4.
	Readers int
}

// Postgres is a PostgreSQL server. The zero value is ready.
type Postgres struct {
	// Connections is the most that are used at once; 0 means 16.
	Connections int
	// StatementTimeout is the server's limit on one operation, on its wait for
	// a lock, and on a transaction in which nothing happens; 0 means 10 s.
	StatementTimeout time.Duration
	// Channel, when it is not empty, makes each change NOTIFY on the channel of
	// this name with the key as payload. PostgreSQL passes notifications
	// through one lock, which limits the commits per second.
	Channel string
	// Listen, when it is not nil, listens on Channel and calls told with the key
	// of each notification, and with "" when some may have been missed. It runs
	// until its context ends; after an error it is called again a second later.
	// Waiters poll all the same.
	Listen func(ctx context.Context, channel string, told func(key string)) error
}

func (c SQLite) check() error {
	if c.GateWait < 0 {
		return fmt.Errorf("sqlstore: SQLite.GateWait is %v, want 0 or more", c.GateWait)
	}
	if c.Readers < 0 {
		return fmt.Errorf("sqlstore: SQLite.Readers is %d, want 0 or more", c.Readers)
	}
	return nil
}

func (c SQLite) withDefaults() SQLite {
	if c.GateWait == 0 {
		c.GateWait = DefaultGateWait
	}
	if c.Look == 0 {
		c.Look = DefaultLook
	}
	if c.Readers == 0 {
		c.Readers = DefaultReaders
	}
	return c
}

func (c Postgres) check() error {
	if c.Connections < 0 {
		return fmt.Errorf("sqlstore: Postgres.Connections is %d, want 0 or more", c.Connections)
	}
	if c.StatementTimeout < 0 || c.StatementTimeout > 0 && c.StatementTimeout < time.Millisecond {
		return fmt.Errorf("sqlstore: Postgres.StatementTimeout is %v, want 1ms or more, or 0 for %v", c.StatementTimeout, DefaultStatementTimeout)
	}
	if c.Listen != nil && c.Channel == "" {
		return errors.New("sqlstore: Postgres.Channel is empty, want the channel that Listen listens on")
	}
	return nil
}

func (c Postgres) withDefaults() Postgres {
	if c.Connections == 0 {
		c.Connections = DefaultConnections
	}
	if c.StatementTimeout == 0 {
		c.StatementTimeout = DefaultStatementTimeout
	}
	return c
}
