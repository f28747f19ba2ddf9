package controller

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"srvlab.io/rds-csi/driver/routeros"
	"srvlab.io/rds-csi/safety"
)

// pace is how often an array is checked.
type pace struct {
	first, longest time.Duration // between two checks of one that is not ready: doubled from first to longest
	ready          time.Duration // of one that is ready: a pool may be unmounted or a policy taken away later
}

var usualPace = pace{first: 2 * time.Second, longest: time.Minute, ready: 5 * time.Minute}

// errUnchecked is the shortfall of an array before its first check.
var errUnchecked = errors.New("not checked yet")

// array is an array and the outcome of its last check.
type array struct {
	*routeros.Array
	pace pace

	mu   sync.Mutex
	last error // nil: ready
}

func newArray(a *routeros.Array) *array { return &array{Array: a, pace: usualPace, last: errUnchecked} }

func (a *array) shortfall() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.last
}

// check asks the array whether it is ready, and remembers the answer.
func (a *array) check(ctx context.Context) error {
	err := a.Check(ctx)
	if ctx.Err() != nil {
		return err // the caller gave up; that says nothing about the array
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.last = err
	return err
}

// ready refuses what would put more data onto an array that failed its check: a pool that is not mounted, not clean.
// That it did not answer at the last check refuses nothing; the call itself will find out. Publish never asks here: a
// pool that is being repaired is no reason to keep a pod from its volume. Nor does what takes something away.
func (a *array) ready(ctx context.Context) error {
	err := a.shortfall()
	if errors.Is(err, errUnchecked) {
		err = a.check(ctx)
	}
	if safety.ReasonOf(err) == safety.ArrayUnreachable {
		return nil
	}
	return err
}

func (a *array) watch(ctx context.Context, log *slog.Logger) {
	wait, said := a.pace.first, errUnchecked
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		err := a.check(ctx)
		if ctx.Err() != nil {
			return
		}
		logChange(ctx, log, a.Name(), said, err)
		said = err
		if err == nil {
			wait = a.pace.first
			timer.Reset(a.pace.ready)
			continue
		}
		timer.Reset(wait)
		wait = min(2*wait, a.pace.longest)
	}
}

// logChange says once that an array is ready, and once why it is not.
func logChange(ctx context.Context, log *slog.Logger, name safety.ArrayName, before, now error) {
	switch {
	case now == nil && before != nil:
		log.InfoContext(ctx, "array is ready", "op", "check "+string(name))
	case now != nil && (before == nil || before.Error() != now.Error()):
		log.ErrorContext(ctx, "array is not ready",
			"op", "check "+string(name), "reason", safety.ReasonOf(now), "err", now)
	}
}
