package main

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// provision requests appliances and waits until all are there. The pool that it
// gives is to be destroyed; after an error it is destroyed already, and the error is
// the first that there was. wait is the line that tells of the wait.
func provision(ctx context.Context, c *client, r request, single bool, term *terminal) (_ *appliancePool, _ []appliance, err error) {
	static := len(r.static) > 0
	if !static {
		c.destroyPrevious(ctx, r.description, term)
		if single {
			term.println("Requesting a single appliance from sprout... (at %s)", c.Entry())
		} else {
			term.println("Requesting %d appliances from Sprout at %s", r.count, c.Entry())
		}
	}
	p, err := c.requestAppliances(ctx, r, term)
	if err != nil {
		return nil, nil, err
	}
	switch {
	case static:
		term.println("Pool %s of %d static appliances. Waiting for them ...", p.ID, len(r.static))
	case single:
		term.println("Appliance pool %s. Waiting for fulfillment ...", p.ID)
	default:
		term.println("Pool %s. Waiting for fulfillment ...", p.ID)
	}
	begun := time.Now()
	s, err := p.waitFulfilled(ctx, seconds(c.config.Poll), term)
	if err != nil {
		dumpPoolInfo(term.println, s)
		term.println("Destroying the pool on error.")
		if second := p.Destroy(ctx); second != nil {
			term.println("> It could not be destroyed whole: %v", second)
		}
		return nil, nil, err
	}
	dumpPoolInfo(term.println, s)
	term.println("Provisioning took %.1f seconds", time.Since(begun).Seconds())
	return p, s.Appliances, nil
}

// waitFulfilled looks at the request at once and then at each poll, with a line for
// each look. It returns what it saw last beside the error.
func (p *appliancePool) waitFulfilled(ctx context.Context, poll time.Duration, term *terminal) (s status, err error) {
	begun := time.Now()
	what := "requesting appliances was fulfilled"
	if len(p.tickets) == 1 {
		what = "requesting appliance was fulfilled"
	}
	late := fmt.Errorf("%s: not within %v", what, p.asked.provision)
	ctx, cancel := context.WithTimeoutCause(ctx, p.asked.provision, late)
	defer cancel()
	ticker := time.NewTicker(poll)
	defer ticker.Stop()
	for {
		now, err := p.Check(ctx)
		if err == nil || len(now.Appliances) > 0 {
			s = now
		}
		var never *sproutError
		switch {
		case ctx.Err() != nil:
		case errors.As(err, &never):
			term.println("sprout pool could not be fulfilled\n%v", err)
			return s, err
		case err != nil:
			return s, err
		default:
			term.println("[%s] fulfilled at %2d%%", time.Now().Format("15:04"), s.Progress)
			if s.Fulfilled {
				return s, nil
			}
			select {
			case <-ticker.C:
				continue
			case <-ctx.Done():
			}
		}
		err = context.Cause(ctx)
		if errors.Is(err, late) {
			err = fmt.Errorf("%w; waited for: %s", err, s.Waiting)
		} else {
			err = fmt.Errorf("%s: waited %.1f seconds: %w", what, time.Since(begun).Seconds(), err)
		}
		return s, err
	}
}
