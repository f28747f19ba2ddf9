package safety

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"testing"
)

// TestReasons: each is one word that can be a label, an annotation and a file name, and each is there once.
func TestReasons(t *testing.T) {
	word := regexp.MustCompile(`^[a-z]+(-[a-z]+)*$`)
	all := Reasons()
	for i, r := range all {
		if !word.MatchString(string(r)) {
			t.Errorf("%q is no word", r)
		}
		if slices.Contains(all[:i], r) {
			t.Errorf("%q is listed twice", r)
		}
	}
	all[0] = "changed"
	if Reasons()[0] == "changed" {
		t.Error("a caller can change the list for all others")
	}
}

func TestRefusal(t *testing.T) {
	cause := errors.New("subsystem nqn.x is not ours")
	for _, test := range []struct {
		name    string
		err     error
		text    string
		reason  Reason
		touched bool
	}{
		{"before anything was touched", Refuse(ForeignNQN, cause), "subsystem nqn.x is not ours [foreign-nqn]", ForeignNQN, false},
		{"after", RefuseTouched(MountFailed, cause), "subsystem nqn.x is not ours [mount-failed]", MountFailed, true},
		{
			"wrapped", fmt.Errorf("stage rds1/x: %w", Refuse(ForeignNQN, cause)),
			"stage rds1/x: subsystem nqn.x is not ours [foreign-nqn]", ForeignNQN, false,
		},
		{
			"one around another: the outer knows more", RefuseTouched(MountFailed, Refuse(PathLost, cause)),
			"subsystem nqn.x is not ours [path-lost] [mount-failed]", MountFailed, true,
		},
		{"joined with others", errors.Join(context.Canceled, Refuse(NoSpace, cause)), "context canceled\nsubsystem nqn.x is not ours [no-space]", NoSpace, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			if got := test.err.Error(); got != test.text {
				t.Errorf("text %q, want %q", got, test.text)
			}
			if got := ReasonOf(test.err); got != test.reason {
				t.Errorf("reason %q, want %q", got, test.reason)
			}
			if !errors.Is(test.err, cause) {
				t.Error("the cause is lost")
			}
			var r *Refusal
			if !errors.As(test.err, &r) || r.Touched != test.touched {
				t.Errorf("touched: %v, want %v", r.Touched, test.touched)
			}
		})
	}
	for _, err := range []error{nil, cause, context.DeadlineExceeded} {
		if got := ReasonOf(err); got != "" {
			t.Errorf("%v has the reason %q, want none", err, got)
		}
	}
}
