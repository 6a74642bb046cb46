package sqlstore

import (
	"context"
	"errors"
	"fmt"
	"strings"
)

// What a database can be refused for, to be tested with errors.Is.
var (
	// ErrDamaged: the content is not what was acknowledged. Nothing is granted
	// from it.
	ErrDamaged = errors.New("the lease store is damaged")
	// ErrNewer: the schema was made by a later version of this package.
	ErrNewer = errors.New("the lease store's schema is newer than this program")
	// ErrBusy: another process holds the gate of the SQLite database.
	ErrBusy = errors.New("the lease store is busy")
	// ErrClosed: the Store is closed.
	ErrClosed = errors.New("the lease store is closed")
)

// ended gives the error of a context that is done, with its cause where that
// says more.
func ended(ctx context.Context) error {
	err, cause := ctx.Err(), context.Cause(ctx)
	if cause == nil || cause == err { //nolint:errorlint // the same value, not the same kind
		return err
	}
	return fmt.Errorf("%w: %w", err, cause)
}

// because gives err, or the context's error when that is why it failed: drivers
// have words of their own for it.
func because(ctx context.Context, err error) error {
	if err == nil || ctx.Err() == nil || errors.Is(err, ctx.Err()) {
		return err
	}
	return fmt.Errorf("%w (%w)", ended(ctx), err)
}

// damage makes an error of SQLite that means a broken file one that says so. The
// drivers' types are not known here, SQLite's texts are.
func damage(err error) error {
	if err == nil || errors.Is(err, ErrDamaged) {
		return err
	}
	for _, text := range []string{"malformed", "not a database", "disk image", "SQLITE_CORRUPT", "SQLITE_NOTADB"} {
		if strings.Contains(err.Error(), text) {
			return fmt.Errorf("%w: %w", ErrDamaged, err)
		}
	}
	return err
}

// rolledBack reports whether PostgreSQL has undone the statement and asks for
// another try.
func rolledBack(err error) bool {
	var state interface{ SQLState() string } // pgx's and pq's errors have it
	if !errors.As(err, &state) {
		return false
	}
	s := state.SQLState()
	return s == "40001" || s == "40P01"
}
