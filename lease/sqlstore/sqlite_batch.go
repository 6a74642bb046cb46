package sqlstore

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strconv"

	"github.com/bullpen-vm/bullpen/lease"
)

// meta is the one row of bullpen_meta: what is known of the whole.
type meta struct {
	version int
	id      string
	token   int64 // the last one that was given
	commits int64
	rows    int64
	digest  uint64 // the checksums of all rows, xored: in any order, each once
	sum     string
}

func (m *meta) checksum() string {
	return checksum(m.token, m.commits, m.id, fmt.Sprintf("%d %d %016x", m.version, m.rows, m.digest))
}

// fold takes a row into the digest, or out of it.
func (m *meta) fold(sum string) {
	n, _ := strconv.ParseUint(sum, 16, 64) // checksums are checked before
	m.digest ^= n
}

const (
	selectMeta = "SELECT version, id, token, commits, row_count, digest, sum FROM bullpen_meta WHERE one = 1"
	updateMeta = "UPDATE bullpen_meta SET version = ?, id = ?, token = ?, commits = ?, row_count = ?, digest = ?, sum = ? WHERE one = 1"
	insertRow  = "INSERT INTO bullpen_lease (token, renewals, data, sum, key) VALUES (?, ?, ?, ?, ?)"
	updateRow  = "UPDATE bullpen_lease SET token = ?, renewals = ?, data = ?, sum = ? WHERE key = ?"
	deleteRow  = "DELETE FROM bullpen_lease WHERE key = ?"
)

// batch is an open transaction.
type batch struct {
	ctx     context.Context
	b       *sqlite
	meta    meta
	changed bool
	broken  error // of the database: nothing of the transaction counts
}

// begin opens a transaction for writing, and refuses a database that knows less
// than it did.
func (b *sqlite) begin(ctx context.Context) (*batch, error) {
	if err := b.conn.run(ctx, "BEGIN IMMEDIATE"); err != nil {
		return nil, err
	}
	x := &batch{ctx: ctx, b: b}
	if err := x.readMeta(); err != nil {
		return nil, err
	}
	known, err := b.gate.reached()
	if err != nil {
		return nil, err
	}
	if err := x.meta.atLeast(known); err != nil {
		return nil, err
	}
	if b.store == "" { // it is being opened
		return x, nil
	}
	if x.meta.id != b.store {
		return nil, fmt.Errorf("%w: the store's id is %s, it was %s", ErrDamaged, x.meta.id, b.store)
	}
	if n := len(sqliteSchema()); x.meta.version != n {
		return nil, fmt.Errorf("%w: another program has migrated it from version %d to %d meanwhile", ErrNewer, n, x.meta.version)
	}
	return x, nil
}

// atLeast refuses a database that went back in time.
func (m *meta) atLeast(known reached) error {
	if known.id == "" {
		return nil
	}
	if m.id != known.id || m.commits < known.commits {
		return fmt.Errorf("%w: it is store %s after %d commits, but the gate file knows store %s after %d: the file was truncated, lost its -wal file, or is another copy; "+
			"when no holder is left, remove the gate file to accept it as it is, or all files of the database to start anew", ErrDamaged, m.id, m.commits, known.id, known.commits)
	}
	return nil
}

func (x *batch) readMeta() error {
	stmt, err := x.b.conn.prepared(x.ctx, selectMeta)
	if err != nil {
		return err
	}
	m := &x.meta
	var digest string
	err = stmt.QueryRowContext(x.ctx).Scan(&m.version, &m.id, &m.token, &m.commits, &m.rows, &digest, &m.sum)
	if errors.Is(err, sql.ErrNoRows) {
		return fmt.Errorf("%w: bullpen_meta is empty", ErrDamaged)
	}
	if err != nil {
		return err
	}
	if m.digest, err = strconv.ParseUint(digest, 16, 64); err != nil || m.sum != m.checksum() {
		return fmt.Errorf("%w: bullpen_meta does not fit its checksum", ErrDamaged)
	}
	return nil
}

// end commits, where there is something to.
func (x *batch) end() error {
	if !x.changed {
		return x.b.conn.run(x.ctx, "ROLLBACK")
	}
	x.meta.commits++
	if err := x.writeMeta(); err != nil {
		return err
	}
	if err := x.b.conn.run(x.ctx, "COMMIT"); err != nil {
		return err
	}
	if err := x.b.gate.note(reached{x.meta.id, x.meta.commits}); err != nil {
		x.b.log.Error("sqlstore: the gate file cannot be written: a database that loses commits would not be noticed", "path", x.b.path, "err", err)
	}
	return nil
}

func (x *batch) writeMeta() error {
	m := &x.meta
	m.sum = m.checksum()
	return x.exec(updateMeta, m.version, m.id, m.token, m.commits, m.rows, fmt.Sprintf("%016x", m.digest), m.sum)
}

// exec changes one row. An error breaks the transaction.
func (x *batch) exec(text string, args ...any) error {
	err := func() error {
		stmt, err := x.b.conn.prepared(x.ctx, text)
		if err != nil {
			return err
		}
		result, err := stmt.ExecContext(x.ctx, args...)
		if err != nil {
			return err
		}
		if n, err := result.RowsAffected(); err != nil || n != 1 {
			return fmt.Errorf("%w: %.30s... changed %d rows, want 1 (%v)", ErrDamaged, text, n, err) //nolint:errorlint // damaged is the word, whatever the driver says
		}
		return nil
	}()
	if err != nil && x.broken == nil {
		x.broken = err
	}
	return err
}

// find gives what is stored under key; a zero row when there is nothing.
func (x *batch) find(key string) (row, lease.Record, error) {
	r, rec, err := func() (r row, rec lease.Record, err error) {
		stmt, err := x.b.conn.prepared(x.ctx, selectRow)
		if err != nil {
			return r, rec, err
		}
		err = stmt.QueryRowContext(x.ctx, key).Scan(&r.key, &r.token, &r.renewals, &r.data, &r.sum)
		if errors.Is(err, sql.ErrNoRows) {
			return row{}, rec, nil
		}
		if err != nil {
			return r, rec, err
		}
		if rec, err = r.record(); err == nil && r.token > x.meta.token {
			err = fmt.Errorf("%w: the row of %q has token %d, the last one given is %d", ErrDamaged, key, r.token, x.meta.token)
		}
		return r, rec, err
	}()
	if err != nil && x.broken == nil {
		x.broken = err
	}
	return r, rec, err
}

func (x *batch) swap(s *lease.Swapping) (lease.Record, error) {
	next := s.Next
	old, rec, err := x.find(next.Key)
	if err != nil {
		return lease.Record{}, err
	}
	if rec.Token != s.Prev.Token || !rec.Zero() && rec.Renewals != s.Prev.Renewals {
		return rec, lease.ErrConflict
	}
	if rec.Zero() && !s.NewToken {
		return rec, errNothing(next.Key)
	}
	token, renewals := old.token, old.renewals+1
	if s.NewToken {
		token, renewals = x.meta.token+1, 0
	}
	return x.put(next, token, renewals, old)
}

// put writes next in the place of old; a zero old is none.
func (x *batch) put(next lease.Record, token, renewals int64, old row) (lease.Record, error) {
	next.Token, next.Renewals = uint64(token), uint64(renewals) //nolint:gosec // both come from rows that were checked
	data, err := encode(&next)
	if err != nil {
		return lease.Record{}, err
	}
	sum := checksum(token, renewals, next.Key, data)
	text := updateRow
	if old.token == 0 {
		text = insertRow
	}
	if err := x.exec(text, token, renewals, data, sum, next.Key); err != nil {
		return lease.Record{}, err
	}
	x.changed = true
	x.meta.token = max(x.meta.token, token)
	x.meta.fold(sum)
	if old.token == 0 {
		x.meta.rows++
	} else {
		x.meta.fold(old.sum)
	}
	return next, nil
}

func (b *sqlite) swapAll(ctx context.Context, swaps []lease.Swapping) ([]lease.Swapped, error) {
	out := make([]lease.Swapped, len(swaps))
	err := b.do(ctx, func(x *batch) error {
		for i := range swaps {
			out[i].Record, out[i].Err = x.swap(&swaps[i])
			if x.broken != nil {
				return x.broken
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

func (b *sqlite) remove(ctx context.Context, prev lease.Record) error {
	return b.do(ctx, func(x *batch) error {
		old, rec, err := x.find(prev.Key)
		if err != nil || rec.Zero() {
			return err
		}
		if rec.Token != prev.Token || rec.Renewals != prev.Renewals {
			return lease.ErrConflict
		}
		if err := x.exec(deleteRow, prev.Key); err != nil {
			return err
		}
		x.changed = true
		x.meta.rows--
		x.meta.fold(old.sum)
		return nil
	})
}

func (b *sqlite) claim(ctx context.Context, keys []string, next lease.Record) (got lease.Record, err error) {
	err = b.do(ctx, func(x *batch) error {
		for _, key := range keys {
			old, rec, err := x.find(key)
			if err != nil {
				return err
			}
			if rec.Zero() {
				next := next
				next.Key = key
				got, err = x.put(next, x.meta.token+1, 0, old)
				return err
			}
		}
		return errAllHeld(keys)
	})
	if err != nil {
		return lease.Record{}, err
	}
	return got, nil
}
