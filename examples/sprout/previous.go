package main

import (
	"context"
	"regexp"
	"strings"
)

// jobExpression finds the job's name in a description: all from Jenkins to the last
// character that is no digit, plus or dollar, so that the builds of a job, which
// differ in their number, have the same.
var jobExpression = regexp.MustCompile(`Jenkins.*[^\d+$]`)

// jobName gives the name of the job that a description tells of.
func jobName(description string) (string, bool) {
	name := jobExpression.FindString(description)
	return name, name != ""
}

// previousPool is a pool that somebody requested.
type previousPool struct {
	ID    string
	token uint64
}

// findPoolsByDescription gives the pools in the store whose description has the text
// in it, of all harnesses that share it, also of dead ones.
func (c *client) findPoolsByDescription(ctx context.Context, part string) ([]previousPool, error) {
	held, err := c.leases.Inspect(ctx, poolKey)
	if err != nil {
		return nil, err
	}
	var found []previousPool
	for _, h := range held {
		if !h.Record.Zero() && !h.Mine && strings.Contains(h.Record.Note, part) {
			found = append(found, previousPool{ID: strings.TrimPrefix(h.Key, poolKey), token: h.Record.Token})
		}
	}
	return found, nil
}

// destroyPool takes a pool's record away. A harness that lives sees it and destroys
// its machines; those of a dead one are destroyed as leftovers when the next pool on
// their hosts begins.
func (c *client) destroyPool(ctx context.Context, p previousPool) error {
	return c.leases.Release(ctx, poolKey+p.ID, p.token)
}

// destroyPrevious destroys what earlier builds of the same job have left. What goes
// wrong is told and ignored.
func (c *client) destroyPrevious(ctx context.Context, description string, term *terminal) {
	job, ok := jobName(description)
	if !ok {
		return
	}
	term.println("Check if pool already exists for this '%s' Jenkins job", job)
	pools, err := c.findPoolsByDescription(ctx, job)
	for _, p := range pools {
		term.println("Destroying the old pool %s for '%s' job.", p.ID, job)
		if err = c.destroyPool(ctx, p); err != nil {
			break
		}
	}
	if err != nil {
		term.println("Exception occurred during old pool deletion, this can be ignored, proceeding to Request new pool")
		term.println("> The exception was: %v", err)
	}
}
