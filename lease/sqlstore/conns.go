package sqlstore

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
)

// session is a connection that was set up, with its prepared statements.
type session struct {
	*sql.Conn
	stmts map[string]*sql.Stmt
	claim string // the text of a list's own statement among them
}

// prepared gives the statement of text, prepared once.
func (s *session) prepared(ctx context.Context, text string) (*sql.Stmt, error) {
	if stmt := s.stmts[text]; stmt != nil {
		return stmt, nil
	}
	stmt, err := s.PrepareContext(ctx, text) //nolint:sqlclosecheck // closed with its session
	if err != nil {
		return nil, err
	}
	s.stmts[text] = stmt
	return stmt, nil
}

// preparedClaim is prepared for a claim's statement: one that is a list's own takes
// the place of another list's.
func (s *session) preparedClaim(ctx context.Context, text string, own bool) (*sql.Stmt, error) {
	if own && s.claim != text {
		if stmt := s.stmts[s.claim]; stmt != nil {
			delete(s.stmts, s.claim)
			if err := stmt.Close(); err != nil {
				return nil, err
			}
		}
		s.claim = text
	}
	return s.prepared(ctx, text)
}

// run executes a statement that is used again and again.
func (s *session) run(ctx context.Context, text string) error {
	stmt, err := s.prepared(ctx, text)
	if err == nil {
		_, err = stmt.ExecContext(ctx)
	}
	return err
}

// discard closes the connection itself, not only this use of it: settings and
// open transactions go with it.
func (s *session) discard() {
	for _, stmt := range s.stmts {
		_ = stmt.Close() // the connection ends anyway
	}
	clear(s.stmts)
	_ = s.Raw(func(any) error { return driver.ErrBadConn })
	_ = s.Close() // already closed by the line above
}

// sessions are up to a number of connections that are opened when they are needed
// and set up before their first use.
type sessions struct {
	db    *sql.DB
	setup func(context.Context, *session) error
	free  chan *session // nil ones are not open
}

func newSessions(db *sql.DB, n int, setup func(context.Context, *session) error) *sessions {
	c := &sessions{db: db, setup: setup, free: make(chan *session, n)}
	for range n {
		c.free <- nil
	}
	return c
}

func openSession(ctx context.Context, db *sql.DB, setup func(context.Context, *session) error) (*session, error) {
	conn, err := db.Conn(ctx)
	if err != nil {
		return nil, fmt.Errorf("sqlstore: connect: %w", because(ctx, err))
	}
	s := &session{Conn: conn, stmts: make(map[string]*sql.Stmt)}
	if err := setup(ctx, s); err != nil {
		s.discard()
		return nil, because(ctx, err)
	}
	return s, nil
}

// with calls f with a connection. One on which f failed is closed. What the
// driver says was never sent is tried again on a fresh one.
func (c *sessions) with(ctx context.Context, f func(*session) error) error {
	if ctx.Err() != nil {
		return ended(ctx)
	}
	for {
		var s *session
		select {
		case s = <-c.free:
		case <-ctx.Done():
			return fmt.Errorf("sqlstore: all %d connections are in use: %w", cap(c.free), ended(ctx))
		}
		fresh := s == nil
		err := func() error {
			if fresh {
				var err error
				if s, err = openSession(ctx, c.db, c.setup); err != nil {
					return err
				}
			}
			return f(s)
		}()
		if err != nil && s != nil {
			s.discard()
			s = nil
		}
		c.free <- s
		if !fresh && errors.Is(err, driver.ErrBadConn) && ctx.Err() == nil {
			continue
		}
		return because(ctx, err)
	}
}

// close waits for those who use connections and closes all: with their settings they
// are nothing that others of the *sql.DB should get.
func (c *sessions) close() {
	for range cap(c.free) {
		if s := <-c.free; s != nil {
			s.discard()
		}
	}
}
