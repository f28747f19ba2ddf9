package routeros

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/sony/gobreaker/v2"
)

const (
	// breakerFailures is how many transport failures in a row open the breaker.
	breakerFailures = 5
	// breakerPause is how long it stays open. Then one command is let through as a probe.
	breakerPause = 10 * time.Second
)

// guarded is a runner that stops asking an array that does not answer: the calls of a whole cluster would otherwise
// each wait for a time-out, and the array be met by all of them at once when it is back.
type guarded struct {
	next    runner
	breaker *gobreaker.CircuitBreaker[string]
}

func newGuarded(next runner) *guarded {
	return &guarded{next: next, breaker: gobreaker.NewCircuitBreaker[string](gobreaker.Settings{
		Timeout:     breakerPause,
		ReadyToTrip: func(c gobreaker.Counts) bool { return c.ConsecutiveFailures >= breakerFailures },
		// Whatever the array says is an answer. What the caller took back, or never sent, says nothing about it.
		IsExcluded: func(err error) bool { return errors.Is(err, context.Canceled) || errors.Is(err, errAllInUse) },
	})}
}

// Run runs the line, or says without trying when the array will be tried again.
func (g *guarded) Run(ctx context.Context, line string) (string, error) {
	out, err := g.breaker.Execute(func() (string, error) { return g.next.Run(ctx, line) })
	if errors.Is(err, gobreaker.ErrOpenState) || errors.Is(err, gobreaker.ErrTooManyRequests) {
		return "", &lostError{err: fmt.Errorf("not asked, because it did not answer %d times in a row; it is asked again "+
			"after a pause of %s", breakerFailures, breakerPause)}
	}
	return out, err
}
