package sqlstore

import (
	"context"
	"fmt"
)

// A schema is made by its steps; version n is what the first n have made. Steps
// that were released are never changed, only followed by others.
type schema [][]string

// plan gives the statements that lead from version have to the last one.
func (s schema) plan(have int) ([]string, error) {
	if have > len(s) {
		return nil, fmt.Errorf("%w: it has version %d, this program knows up to %d: update the program", ErrNewer, have, len(s))
	}
	if have < 0 {
		return nil, fmt.Errorf("%w: its schema has version %d", ErrDamaged, have)
	}
	var all []string
	for _, step := range s[have:] {
		all = append(all, step...)
	}
	return all, nil
}

// migrate runs what is missing. It is called within a transaction; the caller
// writes the version.
func (s schema) migrate(ctx context.Context, on *session, have int) error {
	statements, err := s.plan(have)
	if err != nil {
		return err
	}
	for _, text := range statements {
		if _, err := on.ExecContext(ctx, text); err != nil {
			return fmt.Errorf("sqlstore: migrate the schema from version %d to %d: %w", have, len(s), err)
		}
	}
	return nil
}
