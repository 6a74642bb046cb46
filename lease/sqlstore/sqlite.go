package sqlstore

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/bullpen-vm/bullpen/lease"
)

// sqlite is the backend over a file. The database file itself is never opened
// here: closing it again would drop the POSIX locks that the driver holds on it.
type sqlite struct {
	config  SQLite
	db      *sql.DB
	log     *slog.Logger
	path    string
	file    identity // of the database when it was opened
	store   string
	watches *watches
	readers *sessions

	queue   chan *op
	closing chan struct{}
	stopped chan struct{} // closed when the committer has ended
	looking context.CancelFunc
	wg      sync.WaitGroup

	waits atomic.Bool // the committer waits for the gate

	// Of the committer, and of openSQLite before it.
	gate *gate
	conn *session // nil after an error
}

func openSQLite(ctx context.Context, db *sql.DB, c SQLite, log *slog.Logger, w *watches) (_ *sqlite, err error) {
	if err := enoughConnections(db, c.Readers+2); err != nil {
		return nil, err
	}
	b := &sqlite{
		config: c, db: db, log: log, watches: w,
		queue: make(chan *op, mostBatch), closing: make(chan struct{}), stopped: make(chan struct{}),
	}
	b.readers = newSessions(db, c.Readers, b.setupReader)
	defer func() {
		if err != nil {
			b.drop()
			if b.gate != nil {
				_ = b.gate.close() // the first error is the one that counts
			}
			err = damage(err)
			if b.path != "" {
				err = fmt.Errorf("sqlstore: open %s: %w", b.path, err)
			}
		}
	}()
	if b.path, err = b.databasePath(ctx, c.Path); err != nil {
		return nil, err
	}
	mode := fs.FileMode(0o600)
	if info, err := os.Stat(b.path); err == nil {
		mode = info.Mode().Perm()
	}
	if b.gate, err = openGate(b.path, mode); err != nil {
		return nil, err
	}
	waiting, cancel := context.WithTimeoutCause(ctx, c.GateWait, fmt.Errorf("GateWait is %v", c.GateWait))
	err = b.gate.lock(waiting)
	cancel()
	if err != nil {
		return nil, err
	}
	err = b.prepare(ctx)
	if gone := b.gate.unlock(); err == nil {
		err = gone
	}
	if err != nil {
		return nil, err
	}
	looking, stop := context.WithCancel(context.Background())
	b.looking = stop
	if c.Look > 0 {
		b.wg.Go(func() { b.look(looking) })
	}
	go b.commit()
	return b, nil
}

// databasePath asks the database for its file. Another process may have it locked
// at the moment: the last one that closes it does so.
func (b *sqlite) databasePath(ctx context.Context, want string) (string, error) {
	var file sql.NullString
	s, err := openSession(ctx, b.db, b.setupReader)
	if err == nil {
		err = s.QueryRowContext(ctx, "SELECT file FROM pragma_database_list WHERE name = 'main'").Scan(&file)
		s.discard()
	}
	if err != nil {
		if want != "" {
			return "", fmt.Errorf("sqlstore: open %s: %w", want, damage(because(ctx, err)))
		}
		return "", fmt.Errorf("sqlstore: is it SQLite? %w", damage(because(ctx, err)))
	}
	if file.String == "" {
		return "", errors.New("sqlstore: the database is in memory, want a file: use lease.NewMemStore within one process")
	}
	if want == "" {
		return file.String, nil
	}
	have, err1 := os.Stat(file.String)
	same, err2 := os.Stat(want)
	if err1 != nil || err2 != nil || !os.SameFile(have, same) {
		return "", fmt.Errorf("sqlstore: SQLite.Path is %s, but the database is in %s", want, file.String)
	}
	return file.String, nil
}

// setupWriter makes a connection one whose commits are on the disk, and makes
// sure of it.
func (b *sqlite) setupWriter(ctx context.Context, s *session) error {
	for _, p := range []struct{ set, get, want string }{
		{fmt.Sprintf("PRAGMA busy_timeout=%d", b.config.GateWait.Milliseconds()), "", ""},
		{"PRAGMA journal_mode=WAL", "PRAGMA journal_mode", "wal"},
		{"PRAGMA synchronous=FULL", "PRAGMA synchronous", "2"},
		{"PRAGMA cell_size_check=ON", "", ""},
	} {
		if _, err := s.ExecContext(ctx, p.set); err != nil {
			return fmt.Errorf("sqlstore: %s: %w", p.set, err)
		}
		if p.get == "" {
			continue
		}
		var got string
		if err := s.QueryRowContext(ctx, p.get).Scan(&got); err != nil {
			return fmt.Errorf("sqlstore: %s: %w", p.get, err)
		}
		if !strings.EqualFold(got, p.want) {
			return fmt.Errorf("sqlstore: %s is %q, want %q: commits would not be durable; is it a network file system?", p.get, got, p.want)
		}
	}
	return nil
}

func (b *sqlite) setupReader(ctx context.Context, s *session) error {
	for _, text := range []string{fmt.Sprintf("PRAGMA busy_timeout=%d", b.config.GateWait.Milliseconds()), "PRAGMA cell_size_check=ON", "PRAGMA query_only=ON"} {
		if _, err := s.ExecContext(ctx, text); err != nil {
			return fmt.Errorf("sqlstore: %s: %w", text, err)
		}
	}
	return nil
}

// drop closes the connection for writing; the next batch opens another one.
func (b *sqlite) drop() {
	if b.conn != nil {
		b.conn.discard()
		b.conn = nil
	}
}

func (b *sqlite) id() string { return b.store }

const selectRow = "SELECT key, token, renewals, data, sum FROM bullpen_lease WHERE key = ?"

func (b *sqlite) load(ctx context.Context, key string) (rec lease.Record, err error) {
	err = b.readers.with(ctx, func(s *session) error {
		stmt, err := s.prepared(ctx, selectRow)
		if err != nil {
			return err
		}
		var r row
		err = stmt.QueryRowContext(ctx, key).Scan(&r.key, &r.token, &r.renewals, &r.data, &r.sum)
		if errors.Is(err, sql.ErrNoRows) {
			return nil
		}
		if err == nil {
			rec, err = r.record()
		}
		return err
	})
	if err != nil {
		return lease.Record{}, b.told("load", err)
	}
	return rec, nil
}

func (b *sqlite) list(ctx context.Context, prefix string) (all []lease.Record, err error) {
	text, args := "SELECT key, token, renewals, data, sum FROM bullpen_lease WHERE key >= ?", []any{prefix}
	if end, ok := successor(prefix); ok {
		text, args = text+" AND key < ?", append(args, end)
	}
	err = b.readers.with(ctx, func(s *session) error {
		all, err = rowsOf(ctx, s, text+" ORDER BY key", args)
		return err
	})
	if err != nil {
		return nil, b.told("list", err)
	}
	return all, nil
}

// rowsOf gives all records of a query, or an error.
func rowsOf(ctx context.Context, s *session, text string, args []any) ([]lease.Record, error) {
	rows, err := s.QueryContext(ctx, text, args...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var all []lease.Record
	for rows.Next() {
		var r row
		if err := rows.Scan(&r.key, &r.token, &r.renewals, &r.data, &r.sum); err != nil {
			return nil, err
		}
		rec, err := r.record()
		if err != nil {
			return nil, err
		}
		all = append(all, rec)
	}
	return all, rows.Err()
}

func (b *sqlite) told(what string, err error) error {
	return fmt.Errorf("sqlstore: %s: %s: %w", b.path, what, damage(err))
}

// look wakes watchers when another connection has changed the database. It has a
// connection of its own, for data_version tells what changed since that
// connection looked.
func (b *sqlite) look(ctx context.Context) {
	var s *session
	defer func() {
		if s != nil {
			s.discard()
		}
	}()
	var last int64
	for {
		if some := b.watches.any(); some != nil {
			select {
			case <-some:
				last = -1 // what happened meanwhile is news
			case <-ctx.Done():
				return
			}
		}
		var now int64
		err := func() (err error) {
			if s == nil {
				if s, err = openSession(ctx, b.db, b.setupReader); err != nil {
					return err
				}
			}
			return s.QueryRowContext(ctx, "PRAGMA data_version").Scan(&now)
		}()
		switch {
		case ctx.Err() != nil:
			return
		case err != nil:
			b.log.Warn("sqlstore: cannot look for changes; waiters poll", "path", b.path, "err", err)
			if s != nil {
				s.discard()
				s = nil
			}
		case now != last:
			last = now
			b.watches.tellAll()
		}
		timer := time.NewTimer(b.config.Look)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return
		}
	}
}

func (b *sqlite) close() error {
	close(b.closing)
	<-b.stopped
	b.looking()
	b.wg.Wait()
	b.readers.close()
	b.drop()
	return b.gate.close()
}
