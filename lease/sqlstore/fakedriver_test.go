package sqlstore

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"io"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
)

// script is a database that answers texts: the first whose key is part of the
// statement. Without an answer a statement changes one row and gives none.
type script struct {
	mu      sync.Mutex
	answers []reply
	log     []string
	args    map[string][]driver.Value // of the last query of each text
	opens   int
	none    string // the statement that changes no row

	// With tables it keeps what the SQLite backend writes, in transactions.
	tables bool
	stored content
}

// content is what is in the tables.
type content struct {
	meta []driver.Value
	rows map[string][]driver.Value
}

type reply struct {
	text  string
	rows  [][]driver.Value
	err   error
	times int // 0: always
}

func (s *script) on(text string, rows ...[]driver.Value) *script {
	s.answers = append(s.answers, reply{text: text, rows: rows})
	return s
}

func (s *script) first(text string, rows ...[]driver.Value) *script {
	s.answers = append([]reply{{text: text, rows: rows}}, s.answers...)
	return s
}

func (s *script) fail(text string, err error, times int) *script {
	s.answers = append([]reply{{text: text, err: err, times: times}}, s.answers...)
	return s
}

func (s *script) find(text string) ([][]driver.Value, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.log = append(s.log, text)
	for i := range s.answers {
		a := &s.answers[i]
		if a.times < 0 || !strings.Contains(text, a.text) {
			continue
		}
		if a.times > 0 {
			if a.times--; a.times == 0 {
				a.times = -1
			}
		}
		return a.rows, a.err
	}
	return nil, nil
}

// asked tells how often a text was sent.
func (s *script) asked(text string) (n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, l := range s.log {
		if strings.Contains(l, text) {
			n++
		}
	}
	return n
}

// last gives the arguments of the last query of a text.
func (s *script) last(text string) []driver.Value {
	s.mu.Lock()
	defer s.mu.Unlock()
	for l, args := range s.args {
		if strings.Contains(l, text) {
			return args
		}
	}
	return nil
}

func (s *script) db(t *testing.T) *sql.DB {
	db := sql.OpenDB(s)
	t.Cleanup(func() { db.Close() })
	return db
}

func (s *script) Connect(context.Context) (driver.Conn, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.opens++
	return &scriptConn{s: s}, nil
}
func (s *script) Driver() driver.Driver { return nil }

type scriptConn struct {
	s    *script
	open *content // of its transaction
}

func (c *scriptConn) Prepare(text string) (driver.Stmt, error) { return scriptStmt{c, text}, nil }
func (c *scriptConn) Close() error                             { return nil }
func (c *scriptConn) Begin() (driver.Tx, error)                { return nil, errors.New("no transactions") }

type scriptStmt struct {
	c    *scriptConn
	text string
}

func (scriptStmt) Close() error  { return nil }
func (scriptStmt) NumInput() int { return -1 }
func (st scriptStmt) Exec(args []driver.Value) (driver.Result, error) {
	_, err := st.c.s.find(st.text)
	if err == nil && st.c.s.tables {
		st.c.change(st.text, args)
	}
	if st.text == st.c.s.none {
		return driver.RowsAffected(0), err
	}
	return driver.RowsAffected(1), err
}
func (st scriptStmt) Query(args []driver.Value) (driver.Rows, error) {
	rows, err := st.c.s.find(st.text)
	st.c.s.mu.Lock()
	if st.c.s.args == nil {
		st.c.s.args = make(map[string][]driver.Value)
	}
	st.c.s.args[st.text] = args
	st.c.s.mu.Unlock()
	if err == nil && st.c.s.tables && strings.Contains(st.text, "FROM bullpen_") && !strings.Contains(st.text, "count(") {
		rows = st.c.look(st.text, args)
	}
	return &scriptRows{rows}, err
}

// change does what the statements of sqlite_batch.go do.
func (c *scriptConn) change(text string, args []driver.Value) {
	c.s.mu.Lock()
	defer c.s.mu.Unlock()
	switch {
	case text == "BEGIN IMMEDIATE":
		c.open = &content{meta: c.s.stored.meta, rows: maps.Clone(c.s.stored.rows)}
	case text == "ROLLBACK":
		c.open = nil
	case text == "COMMIT":
		c.s.stored, c.open = *c.open, nil
	case text == updateMeta:
		c.open.meta = slices.Clone(args)
	case text == insertRow, text == updateRow:
		c.open.rows[args[4].(string)] = []driver.Value{args[4], args[0], args[1], args[2], args[3]}
	case text == deleteRow:
		delete(c.open.rows, args[0].(string))
	case strings.HasPrefix(text, "INSERT INTO bullpen_meta"):
		c.open.meta = []driver.Value{int64(0), args[0], int64(0), int64(0), int64(0), args[1], args[2]}
	}
}

func (c *scriptConn) look(text string, args []driver.Value) (out [][]driver.Value) {
	c.s.mu.Lock()
	defer c.s.mu.Unlock()
	from := &c.s.stored
	if c.open != nil {
		from = c.open
	}
	if text == selectMeta {
		return [][]driver.Value{from.meta}
	}
	for _, key := range slices.Sorted(maps.Keys(from.rows)) {
		switch {
		case text == selectRow && key != args[0].(string),
			text != selectRow && len(args) > 0 && key < args[0].(string),
			len(args) > 1 && key >= args[1].(string):
		default:
			out = append(out, from.rows[key])
		}
	}
	return out
}

type scriptRows struct{ rows [][]driver.Value }

func (r *scriptRows) Columns() []string {
	if len(r.rows) == 0 {
		return []string{"none"}
	}
	return make([]string, len(r.rows[0]))
}
func (r *scriptRows) Close() error { return nil }
func (r *scriptRows) Next(into []driver.Value) error {
	if len(r.rows) == 0 {
		return io.EOF
	}
	copy(into, r.rows[0])
	r.rows = r.rows[1:]
	return nil
}
