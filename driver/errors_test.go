package driver

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"srvlab.io/rds-csi/safety"
)

func TestEveryReasonHasItsCode(t *testing.T) {
	for _, r := range safety.Reasons() {
		if _, found := reasonCodes[r]; !found {
			t.Errorf("the reason %q has no gRPC code", r)
		}
	}
	if len(reasonCodes) != len(safety.Reasons()) {
		t.Errorf("the table has %d reasons, there are %d", len(reasonCodes), len(safety.Reasons()))
	}
}

// notFinal are the codes after which kubelet believes that something may have changed (csi_client.go, isFinalError).
var notFinal = map[codes.Code]bool{
	codes.Canceled: true, codes.DeadlineExceeded: true, codes.Unavailable: true, codes.ResourceExhausted: true, codes.Aborted: true,
}

func TestWhatTouchedSomethingIsNeverFinal(t *testing.T) {
	for _, r := range safety.Reasons() {
		code := codeOf(safety.RefuseTouched(r, errors.New("x")))
		if !notFinal[code] {
			t.Errorf("%s after something was touched: %s is final, kubelet would forget the volume", r, code)
		}
		if before := codeOf(safety.Refuse(r, errors.New("x"))); notFinal[before] && before != code {
			t.Errorf("%s: is %s, and %s once something was touched", r, before, code)
		}
	}
}

func TestAnswer(t *testing.T) {
	tests := []struct {
		name string
		err  error
		want string // code: message
	}{
		{"in flight", safety.Refuse(safety.InFlight, errors.New("busy")), "Aborted: busy [in-flight]"},
		{"no space", safety.Refuse(safety.NoSpace, errors.New("full")), "ResourceExhausted: full [no-space]"},
		{"array unreachable", safety.Refuse(safety.ArrayUnreachable, errors.New("gone")), "Unavailable: gone [array-unreachable]"},
		{"path lost", safety.Refuse(safety.PathLost, errors.New("gone")), "Unavailable: gone [path-lost]"},
		{"array refused", safety.Refuse(safety.ArrayRefused, errors.New("no")), "Internal: no [array-refused]"},
		{"mount failed", safety.Refuse(safety.MountFailed, errors.New("no")), "Internal: no [mount-failed]"},
		{"foreign", safety.Refuse(safety.ForeignNQN, errors.New("his")), "FailedPrecondition: his [foreign-nqn]"},
		{"not blank", safety.Refuse(safety.NotBlank, errors.New("data")), "FailedPrecondition: data [not-blank]"},
		{"a reason nobody knows", safety.Refuse("new", errors.New("x")), "FailedPrecondition: x [new]"},
		{"touched", safety.RefuseTouched(safety.NotBlank, errors.New("data")), "Unavailable: data [not-blank]"},
		{"touched and out of space", safety.RefuseTouched(safety.NoSpace, errors.New("full")), "ResourceExhausted: full [no-space]"},
		{
			"wrapped refusal", fmt.Errorf("publish v: %w", safety.Refuse(safety.InFlight, errors.New("busy"))),
			"Aborted: publish v: busy [in-flight]",
		},
		{
			"refusal because of a deadline", safety.Refuse(safety.ArrayUnreachable, fmt.Errorf("dial: %w", context.DeadlineExceeded)),
			"Unavailable: dial: context deadline exceeded [array-unreachable]",
		},
		{"status", status.Error(codes.NotFound, "no such volume"), "NotFound: no such volume"},
		{"wrapped status", fmt.Errorf("get volume: %w", status.Error(codes.NotFound, "none")), "NotFound: get volume: none"},
		{"deadline", fmt.Errorf("wait: %w", context.DeadlineExceeded), "DeadlineExceeded: wait: context deadline exceeded"},
		{"canceled", context.Canceled, "Canceled: context canceled"},
		{"anything else", errors.New("oops"), "Internal: oops"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			a := newAnswer(tt.err)
			if got := a.Error(); got != tt.want {
				t.Errorf("got  %q\nwant %q", got, tt.want)
			}
			sent, ok := status.FromError(a)
			if !ok || sent.Code() != codeOf(tt.err) {
				t.Errorf("gRPC would send %v", sent)
			}
			if safety.ReasonOf(a) != safety.ReasonOf(tt.err) {
				t.Errorf("the reason %q became %q", safety.ReasonOf(tt.err), safety.ReasonOf(a))
			}
		})
	}
}
