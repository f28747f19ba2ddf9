package main

import (
	"context"
	"fmt"
	"time"
)

// contender is one way to do a thing. It is given the number of the round, so that every round has its own volume.
type contender struct {
	name string
	run  func(ctx context.Context, round int) (time.Duration, error)
}

// race runs rounds after each other.
func race(ctx context.Context, rounds int, all ...contender) (map[string][]time.Duration, error) {
	times := make(map[string][]time.Duration, len(all))
	for round := range rounds {
		if err := raceRound(ctx, round, all, times); err != nil {
			return nil, err
		}
	}
	return times, nil
}

// raceRound lets all contenders run, one after the other, and another one first in each round: whatever the first one
// pays for, such as a cold cache, each pays equally often.
func raceRound(ctx context.Context, round int, all []contender, times map[string][]time.Duration) error {
	for i := range all {
		c := all[(round+i)%len(all)]
		took, err := c.run(ctx, round)
		if err != nil {
			return fmt.Errorf("%s, round %d: %w", c.name, round, err)
		}
		times[c.name] = append(times[c.name], took)
	}
	return nil
}

// timed gives how long do took.
func timed(do func() error) (time.Duration, error) {
	begin := time.Now()
	err := do()
	return time.Since(begin), err
}
