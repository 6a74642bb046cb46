package sqlstore

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/bullpen-vm/bullpen/lease"
)

// The short way of a claim is one plain statement. It finds only keys that have a
// row, so it is gone where all are known to have one for good; bullpen_claim makes
// the rows first. As there, the token is drawn from what the lock gave: a CTE that
// locks, or calls nextval, is run once and never merged into the rest. The sum is
// bullpen_sum's of a record without renewals, $2 being a blank and the data.
const (
	claimHead = `WITH d AS (SELECT c.key, nextval('bullpen_token') AS token FROM (SELECT l.key FROM `
	claimTail = ` LIMIT 1 FOR UPDATE OF l SKIP LOCKED) AS c)
UPDATE bullpen_lease AS l SET token = d.token, renewals = 0, data = $1::text,
	sum = left(encode(sha256(convert_to(d.token::text || ' 0 ' || d.key || $2::text, 'UTF8')), 'hex'), 16)
FROM d WHERE l.key = d.key RETURNING l.key, l.token`
)

// claimText gives the statement for a list, which is an expression.
func claimText(list string, sorted bool) string {
	if sorted { // as the index is: the first free one ends the search
		return claimHead + `bullpen_lease AS l WHERE l.key = ANY(` + list + `) AND l.token = 0 AND l.kept ORDER BY l.key` + claimTail
	}
	return claimHead + `unnest(` + list + `) WITH ORDINALITY AS n(name, place) JOIN bullpen_lease AS l ON l.key = n.name COLLATE "C"
	WHERE l.token = 0 AND l.kept ORDER BY n.place` + claimTail
}

const shortDelete = `UPDATE bullpen_lease SET token = 0, data = '', sum = '' WHERE key = $1 AND token = $2 AND renewals = $3 AND kept`

func (b *postgres) claim(ctx context.Context, keys []string, next lease.Record) (lease.Record, error) {
	data, err := encode(&next)
	if err != nil {
		return lease.Record{}, err
	}
	// The functions tell those who listen, the short statements do not.
	short := b.config.Channel == "" && len(keys) > 0 && len(keys) <= mostKept/4
	var key sql.NullString
	var token sql.NullInt64
	if short {
		if list := b.kept.all(keys); list != nil {
			free := b.taken.choose(keys, b.config.StatementTimeout)
			text, args, own := list.statement(data, free)
			err = b.do(ctx, "claim", func(s *session) error {
				stmt, err := s.preparedClaim(ctx, text, own)
				if err != nil {
					return err
				}
				err = stmt.QueryRowContext(ctx, args...).Scan(&key, &token)
				if errors.Is(err, sql.ErrNoRows) {
					return nil
				}
				return err
			})
			b.taken.settle(free, key.String, next.TTL)
			if err != nil {
				return lease.Record{}, err
			}
			short = false // there is nothing to learn
		}
	}
	if !key.Valid {
		if key, token, err = b.claimLong(ctx, keys, data); err != nil {
			return lease.Record{}, err
		}
		b.taken.settle(nil, key.String, next.TTL)
		if short {
			b.keep(ctx, keys)
		}
	}
	if !key.Valid {
		return lease.Record{}, errAllHeld(keys)
	}
	next.Key, next.Token, next.Renewals = key.String, uint64(token.Int64), 0 //nolint:gosec // the sequence begins at 1
	return next, nil
}

// claimLong also finds keys that have no row yet.
func (b *postgres) claimLong(ctx context.Context, keys []string, data string) (key sql.NullString, token sql.NullInt64, err error) {
	names, err := json.Marshal(keys)
	if err != nil {
		return key, token, fmt.Errorf("sqlstore: claim: %w", err)
	}
	err = b.do(ctx, "claim", func(s *session) error {
		return s.QueryRowContext(ctx, "SELECT x_key, x_token FROM bullpen_claim($1::text, $2)", string(names), data).Scan(&key, &token)
	})
	return key, token, err
}

func (b *postgres) remove(ctx context.Context, prev lease.Record) error {
	defer b.taken.forget(prev.Key) // it is free, or not ours
	if prev.Token > 0 && b.config.Channel == "" && b.kept.has(prev.Key) {
		var n int64
		err := b.do(ctx, "delete", func(s *session) error {
			stmt, err := s.prepared(ctx, shortDelete)
			if err != nil {
				return err
			}
			res, err := stmt.ExecContext(ctx, prev.Key, pick(prev.Token), pick(prev.Renewals))
			if err == nil {
				n, err = res.RowsAffected()
			}
			return err
		})
		if err != nil || n > 0 {
			return err
		}
	}
	var done bool
	err := b.do(ctx, "delete", func(s *session) error {
		return s.QueryRowContext(ctx, "SELECT bullpen_delete($1, $2, $3)", prev.Key, pick(prev.Token), pick(prev.Renewals)).Scan(&done)
	})
	if err == nil && !done {
		return lease.ErrConflict
	}
	return err
}
