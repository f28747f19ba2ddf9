package routeros

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
)

// scripted is a runner that answers from a list.
type scripted struct {
	answers []func(line string) (string, error) // the last one repeats
	lines   []string
}

func (s *scripted) Run(_ context.Context, line string) (string, error) {
	s.lines = append(s.lines, line)
	answer := s.answers[0]
	if len(s.answers) > 1 {
		s.answers = s.answers[1:]
	}
	return answer(line)
}

func always(out string, err error) func(string) (string, error) {
	return func(string) (string, error) { return out, err }
}

func TestBreaker(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		down := &scripted{answers: []func(string) (string, error){always("", &lostError{err: errors.New("refused")})}}
		g := newGuarded(down)
		for range breakerFailures {
			_, _ = g.Run(t.Context(), "x")
		}
		var lost *lostError
		_, err := g.Run(t.Context(), "x")
		if !errors.As(err, &lost) || lost.sent || !strings.Contains(err.Error(), "asked again after a pause of 10s") {
			t.Errorf("open: %v", err)
		}
		if len(down.lines) != breakerFailures {
			t.Errorf("asked %d times while open", len(down.lines)-breakerFailures)
		}
		if sleep(t.Context(), breakerPause+1) != nil {
			t.Fatal("woken")
		}
		down.answers = []func(string) (string, error){always("fine", nil)}
		for range 2 {
			if out, err := g.Run(t.Context(), "x"); out != "fine" || err != nil {
				t.Errorf("after the pause: %q, %v", out, err)
			}
		}
	})
}

// A caller that gives up says nothing about the array, and neither does an array that refuses a command.
func TestBreakerCountsOnlyTheTransport(t *testing.T) {
	for name, answer := range map[string]func(string) (string, error){
		"taken back": always("", &lostError{sent: true, err: context.Canceled}),
		"never sent": always("", &lostError{err: fmt.Errorf("%w: %w", errAllInUse, context.DeadlineExceeded)}),
		"refused":    always("failure: no", nil),
	} {
		next := &scripted{answers: []func(string) (string, error){answer}}
		g := newGuarded(next)
		for range 3 * breakerFailures {
			_, _ = g.Run(t.Context(), "x")
		}
		if len(next.lines) != 3*breakerFailures {
			t.Errorf("%s: stopped asking after %d", name, len(next.lines))
		}
	}
}
