package controller

import (
	"errors"
	"fmt"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"srvlab.io/rds-csi/driver/routeros"
	"srvlab.io/rds-csi/safety"
)

func TestRefusal(t *testing.T) {
	tests := []struct {
		err     error
		reason  safety.Reason
		code    codes.Code // of errors that are no Refusal
		touched bool
	}{
		{err: routeros.ErrNotFound, code: codes.NotFound},
		{err: routeros.ErrForeign, reason: safety.ForeignNQN},
		{err: routeros.ErrExists, reason: safety.ArrayRefused},
		{err: routeros.ErrConflict, reason: safety.InFlight},
		{err: routeros.ErrPermission, reason: safety.ArrayNotReady},
		{err: routeros.ErrUnsupported, reason: safety.ArrayNotReady},
		{err: routeros.ErrUnreachable, reason: safety.ArrayUnreachable},
		// What proves nothing may have taken effect: a final code would make the provisioner forget the volume.
		{err: routeros.ErrUnknown, reason: safety.ArrayRefused, touched: true},
		{err: errors.New("anything else"), reason: safety.ArrayRefused, touched: true},
		{err: safety.Refuse(safety.NoSpace, errors.New("has a reason already")), reason: safety.NoSpace},
	}
	for _, tt := range tests {
		t.Run(tt.err.Error(), func(t *testing.T) {
			got := refusal(fmt.Errorf("array rds1: %w", tt.err))
			if !errors.Is(got, tt.err) && tt.code == codes.OK {
				t.Errorf("%v lost its cause", got)
			}
			if r := safety.ReasonOf(got); r != tt.reason {
				t.Errorf("reason %q, want %q", r, tt.reason)
			}
			if tt.reason == "" && status.Code(got) != tt.code {
				t.Errorf("code %s, want %s", status.Code(got), tt.code)
			}
			var r *safety.Refusal
			if errors.As(got, &r) && r.Touched != tt.touched {
				t.Errorf("touched %v, want %v", r.Touched, tt.touched)
			}
		})
	}
}
