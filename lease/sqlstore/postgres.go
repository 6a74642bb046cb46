package sqlstore

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/bullpen-vm/bullpen/lease"
)

// postgres is the backend over a server. Each operation is one statement.
type postgres struct {
	config  Postgres
	log     *slog.Logger
	store   string
	conns   *sessions
	kept    kept
	taken   taken
	stop    context.CancelFunc
	wg      sync.WaitGroup
	closing chan struct{}
}

func openPostgres(ctx context.Context, db *sql.DB, c Postgres, log *slog.Logger, w *watches) (*postgres, error) {
	if err := enoughConnections(db, c.Connections); err != nil {
		return nil, err
	}
	b := &postgres{config: c, log: log, closing: make(chan struct{})}
	b.conns = newSessions(db, c.Connections, b.setup)
	if err := b.conns.with(ctx, func(s *session) error { return b.prepare(ctx, s) }); err != nil {
		b.conns.close()
		return nil, fmt.Errorf("sqlstore: open: %w", err)
	}
	listening, stop := context.WithCancel(context.Background())
	b.stop = stop
	if c.Listen != nil {
		b.wg.Go(func() { b.listen(listening, w) })
	}
	return b, nil
}

// setup gives a session limits, so that the server ends what a stopped client
// left; commits that are on the disk when they are acknowledged; and plans by the
// index, made once; literals without escapes. Version 11 has no plan_cache_mode.
func (b *postgres) setup(ctx context.Context, s *session) error {
	limit := strconv.FormatInt(b.config.StatementTimeout.Milliseconds(), 10)
	settings := [][2]string{
		{"statement_timeout", limit}, {"lock_timeout", limit}, {"idle_in_transaction_session_timeout", limit},
		{"synchronous_commit", "on"}, {"default_transaction_isolation", "read committed"}, {"default_transaction_read_only", "off"},
		{"plan_cache_mode", "force_generic_plan"}, {"enable_seqscan", "off"}, {"enable_bitmapscan", "off"}, {"jit", "off"},
		{"standard_conforming_strings", "on"}, {"bullpen.notify", b.config.Channel},
	}
	// What a server sets beyond "on", such as remote_apply, is kept.
	const text = `SELECT CASE WHEN $1 NOT LIKE 'bullpen.%' AND current_setting($1, true) IS NULL THEN ''
	ELSE set_config($1, CASE WHEN $1 = 'synchronous_commit' AND current_setting($1) LIKE 'remote%' THEN current_setting($1) ELSE $2 END, false) END`
	for _, set := range settings {
		var got string
		if err := s.QueryRowContext(ctx, text, set[0], set[1]).Scan(&got); err != nil {
			return fmt.Errorf("sqlstore: set %s: %w", set[0], err)
		}
	}
	return nil
}

func (b *postgres) id() string { return b.store }

// do calls f with a connection, and again when the server has rolled it back.
func (b *postgres) do(ctx context.Context, what string, f func(*session) error) error {
	const mostTries = 5
	for try := 1; ; try++ {
		select {
		case <-b.closing:
			return ErrClosed
		default:
		}
		err := b.conns.with(ctx, f)
		if err == nil {
			return nil
		}
		if !rolledBack(err) || try == mostTries || ctx.Err() != nil {
			return fmt.Errorf("sqlstore: %s: %w", what, err)
		}
		b.log.Info("sqlstore: trying again", "what", what, "try", try, "err", err)
		timer := time.NewTimer(time.Duration(try) * rand.N(10*time.Millisecond)) //nolint:gosec // not a secret
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
		}
	}
}

func (b *postgres) load(ctx context.Context, key string) (rec lease.Record, err error) {
	all, err := b.query(ctx, "load", "SELECT key, token, renewals, data, sum FROM bullpen_lease WHERE key = $1 AND token > 0", key)
	if err != nil || len(all) == 0 {
		return lease.Record{}, err
	}
	return all[0], nil
}

func (b *postgres) list(ctx context.Context, prefix string) ([]lease.Record, error) {
	const text = "SELECT key, token, renewals, data, sum FROM bullpen_lease WHERE token > 0 AND key >= $1"
	if end, ok := successor(prefix); ok {
		return b.query(ctx, "list", text+" AND key < $2 ORDER BY key", prefix, end)
	}
	return b.query(ctx, "list", text+" ORDER BY key", prefix)
}

func (b *postgres) query(ctx context.Context, what, text string, args ...any) (all []lease.Record, err error) {
	err = b.do(ctx, what, func(s *session) error {
		all, err = rowsOf(ctx, s, text, args)
		return err
	})
	if err != nil {
		return nil, err
	}
	return all, nil
}

// answer is what bullpen_swap says.
type answer struct {
	done bool
	row  row
}

func (a *answer) swapped(next lease.Record) (out lease.Swapped) {
	if a.done {
		next.Token, next.Renewals = uint64(a.row.token), uint64(a.row.renewals) //nolint:gosec // the schema has checks
		return lease.Swapped{Record: next}
	}
	out.Err = lease.ErrConflict
	if a.row.token > 0 {
		rec, err := a.row.record()
		if err != nil {
			out.Err = err
		}
		out.Record = rec
	}
	return out
}

func (b *postgres) swapAll(ctx context.Context, swaps []lease.Swapping) ([]lease.Swapped, error) {
	if len(swaps) == 1 {
		one, err := b.swap(ctx, &swaps[0])
		if err != nil {
			return nil, err
		}
		return []lease.Swapped{one}, nil
	}
	// All who lock several rows lock them in one order.
	order := make([]int, len(swaps))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(i, j int) int { return strings.Compare(swaps[i].Next.Key, swaps[j].Next.Key) })
	type item struct {
		Key      string `json:"k"`
		Token    int64  `json:"t"`
		Renewals int64  `json:"n"`
		Fresh    bool   `json:"f"`
		Data     string `json:"d"`
	}
	items := make([]item, len(order))
	for at, i := range order {
		s := &swaps[i]
		data, err := encode(&s.Next)
		if err != nil {
			return nil, err
		}
		items[at] = item{s.Next.Key, pick(s.Prev.Token), pick(s.Prev.Renewals), s.NewToken, data}
	}
	text, err := json.Marshal(items)
	if err != nil {
		return nil, fmt.Errorf("sqlstore: swap: %w", err)
	}
	out := make([]lease.Swapped, len(swaps))
	err = b.do(ctx, "swap", func(s *session) error {
		rows, err := s.QueryContext(ctx, "SELECT x_done, x_key, x_token, x_renewals, x_data, x_sum FROM bullpen_swap_all($1::text)", string(text))
		if err != nil {
			return err
		}
		defer rows.Close()
		n := 0
		for ; rows.Next(); n++ {
			var a answer
			if err := rows.Scan(&a.done, &a.row.key, &a.row.token, &a.row.renewals, &a.row.data, &a.row.sum); err != nil {
				return err
			}
			if n < len(order) {
				out[order[n]] = a.swapped(swaps[order[n]].Next)
				b.taken.swapped(swaps[order[n]].Next, out[order[n]].Err)
			}
		}
		if err := rows.Err(); err != nil {
			return err
		}
		if n != len(order) {
			return fmt.Errorf("%d answers to %d swaps", n, len(order))
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

func (b *postgres) swap(ctx context.Context, s *lease.Swapping) (out lease.Swapped, err error) {
	data, err := encode(&s.Next)
	if err != nil {
		return out, err
	}
	err = b.do(ctx, "swap", func(c *session) error {
		a := answer{row: row{key: s.Next.Key}}
		err := c.QueryRowContext(ctx, "SELECT x_done, x_token, x_renewals, x_data, x_sum FROM bullpen_swap($1, $2, $3, $4, $5)",
			s.Next.Key, pick(s.Prev.Token), pick(s.Prev.Renewals), s.NewToken, data).
			Scan(&a.done, &a.row.token, &a.row.renewals, &a.row.data, &a.row.sum)
		if err == nil {
			out = a.swapped(s.Next)
			b.taken.swapped(s.Next, out.Err)
		}
		return err
	})
	return out, err
}

// listen runs the caller's Listen until Close.
func (b *postgres) listen(ctx context.Context, w *watches) {
	for ctx.Err() == nil {
		err := b.config.Listen(ctx, b.config.Channel, func(key string) {
			if key == "" {
				w.tellAll()
			} else {
				w.tell(key)
			}
		})
		if ctx.Err() != nil {
			return
		}
		b.log.Warn("sqlstore: listening ended; waiters poll", "channel", b.config.Channel, "err", err)
		w.tellAll()
		timer := time.NewTimer(time.Second)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
		}
	}
}

func (b *postgres) close() error {
	close(b.closing)
	b.stop()
	b.wg.Wait()
	b.conns.close()
	return nil
}
