package sqlstore

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"github.com/google/uuid"
)

// sqliteSchema is versioned: see schema. Tokens are checked again by the
// database, texts by their checksums.
func sqliteSchema() schema {
	return schema{{
		`CREATE TABLE bullpen_lease (
	key TEXT NOT NULL PRIMARY KEY,
	token INTEGER NOT NULL CHECK (token > 0),
	renewals INTEGER NOT NULL CHECK (renewals >= 0),
	data TEXT NOT NULL,
	sum TEXT NOT NULL
) WITHOUT ROWID`,
	}}
}

// createMeta is the same in all versions, or no program could read the version.
const createMeta = `CREATE TABLE IF NOT EXISTS bullpen_meta (
	one INTEGER NOT NULL PRIMARY KEY CHECK (one = 1),
	version INTEGER NOT NULL,
	id TEXT NOT NULL,
	token INTEGER NOT NULL,
	commits INTEGER NOT NULL,
	row_count INTEGER NOT NULL,
	digest TEXT NOT NULL,
	sum TEXT NOT NULL
)`

// prepare makes the connection for writing, verifies the file, and makes or
// migrates the tables. Called with the gate held.
func (b *sqlite) prepare(ctx context.Context) error {
	var err error
	if b.conn, err = openSession(ctx, b.db, b.setupWriter); err != nil {
		return err
	}
	if b.file, err = identify(b.path); err != nil {
		return err
	}
	var state string
	if err := b.conn.QueryRowContext(ctx, "PRAGMA quick_check(1)").Scan(&state); err != nil {
		return err
	}
	if state != "ok" {
		return fmt.Errorf("%w: quick_check: %s", ErrDamaged, state)
	}
	if err := b.create(ctx); err != nil {
		return err
	}
	x, err := b.begin(ctx)
	if err != nil {
		return err
	}
	if err := x.migrate(sqliteSchema()); err != nil {
		return err
	}
	if err := x.verify(); err != nil {
		return err
	}
	b.store = x.meta.id
	x.changed = true // a file that cannot be written is found here, not by the first lease
	return x.end()
}

// create makes bullpen_meta where there is none and nothing says that there was.
func (b *sqlite) create(ctx context.Context) error {
	var tables int
	const count = "SELECT count(*) FROM sqlite_master WHERE type = 'table' AND name IN ('bullpen_meta', 'bullpen_lease')"
	if err := b.conn.QueryRowContext(ctx, count).Scan(&tables); err != nil {
		return err
	}
	if tables > 0 {
		return nil
	}
	known, err := b.gate.reached()
	if err != nil {
		return err
	}
	if err := new(meta).atLeast(known); err != nil {
		return err
	}
	m := meta{id: uuid.NewString()}
	m.sum = m.checksum()
	for _, s := range []struct {
		text string
		args []any
	}{
		{"BEGIN IMMEDIATE", nil},
		{createMeta, nil},
		{"INSERT INTO bullpen_meta (one, version, id, token, commits, row_count, digest, sum) VALUES (1, 0, ?, 0, 0, 0, ?, ?)", []any{m.id, fmt.Sprintf("%016x", m.digest), m.sum}},
		{"COMMIT", nil},
	} {
		if _, err := b.conn.ExecContext(ctx, s.text, s.args...); err != nil {
			return fmt.Errorf("sqlstore: make the tables: %w", err)
		}
	}
	return nil
}

func (x *batch) migrate(s schema) error {
	have := x.meta.version
	if err := s.migrate(x.ctx, x.b.conn, have); err != nil {
		return err
	}
	if have != len(s) {
		x.meta.version, x.changed = len(s), true
	}
	return nil
}

// verify looks at all rows: one that is missing is a key that would be granted a
// second time.
func (x *batch) verify() error {
	// One bit makes a text a blob of the same bytes, which a look for the text passes by.
	rows, err := x.b.conn.QueryContext(x.ctx, "SELECT key, token, renewals, data, sum FROM bullpen_lease WHERE typeof(key) = 'text' ORDER BY key")
	if err != nil {
		return err
	}
	defer rows.Close()
	var seen meta
	var last string
	for rows.Next() {
		var r row
		var data, sum sql.NullString
		if err := rows.Scan(&r.key, &r.token, &r.renewals, &data, &sum); err != nil {
			return fmt.Errorf("%w: a row after %q: %w", ErrDamaged, last, err)
		}
		r.data, r.sum = data.String, sum.String
		if _, err := r.record(); err != nil {
			return err
		}
		if seen.rows > 0 && r.key <= last {
			return fmt.Errorf("%w: the row of %q comes after %q", ErrDamaged, r.key, last)
		}
		if r.token > x.meta.token {
			return fmt.Errorf("%w: the row of %q has token %d, the last one given is %d", ErrDamaged, r.key, r.token, x.meta.token)
		}
		seen.rows++
		seen.fold(r.sum)
		last = r.key
	}
	if err := errors.Join(rows.Err(), rows.Close()); err != nil {
		return err
	}
	if seen.rows != x.meta.rows || seen.digest != x.meta.digest {
		return fmt.Errorf("%w: %d rows with digest %016x are there, %d with %016x were stored", ErrDamaged, seen.rows, seen.digest, x.meta.rows, x.meta.digest)
	}
	return nil
}
