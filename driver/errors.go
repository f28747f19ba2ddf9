package driver

import (
	"context"
	"errors"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"srvlab.io/rds-csi/safety"
)

// reasonCodes is the one table from reasons to gRPC codes. For kubelet, Aborted, Unavailable and ResourceExhausted
// (with Canceled and DeadlineExceeded) are not final: it believes that the call may have changed something, and later
// unstages. Everything else is final: it forgets the volume. (kubelet, csi_client.go, isFinalError.)
var reasonCodes = map[safety.Reason]codes.Code{
	safety.InFlight:          codes.Aborted,
	safety.ForeignNQN:        codes.FailedPrecondition,
	safety.AttachedElsewhere: codes.FailedPrecondition,
	safety.PathLost:          codes.Unavailable,
	safety.WrongDevice:       codes.FailedPrecondition,
	safety.NotBlank:          codes.FailedPrecondition,
	safety.BlankUnproven:     codes.FailedPrecondition,
	safety.FilesystemCorrupt: codes.FailedPrecondition,
	safety.DeviceBusy:        codes.FailedPrecondition,
	safety.MountFailed:       codes.Internal,
	safety.StaleMount:        codes.FailedPrecondition,
	safety.NodeUnsuited:      codes.FailedPrecondition,
	safety.ArrayUnreachable:  codes.Unavailable,
	safety.ArrayNotReady:     codes.FailedPrecondition,
	safety.ArrayRefused:      codes.Internal,
	safety.NoSpace:           codes.ResourceExhausted,
}

// statusError is what the status package makes.
type statusError interface {
	error
	GRPCStatus() *status.Status
}

// codeOf gives the gRPC code of an error: a Refusal's by the table, a status' own, a context's, or Internal.
func codeOf(err error) codes.Code {
	var refusal *safety.Refusal
	if errors.As(err, &refusal) {
		return refusalCode(refusal)
	}
	var own statusError
	switch {
	case errors.As(err, &own):
		return own.GRPCStatus().Code()
	case errors.Is(err, context.DeadlineExceeded):
		return codes.DeadlineExceeded
	case errors.Is(err, context.Canceled):
		return codes.Canceled
	}
	return codes.Internal
}

func refusalCode(r *safety.Refusal) codes.Code {
	code, known := reasonCodes[r.Reason]
	if !known {
		code = codes.FailedPrecondition
	}
	if !r.Touched {
		return code
	}
	switch code {
	case codes.Aborted, codes.Unavailable, codes.ResourceExhausted:
		return code
	default: // a final code would make kubelet forget what the call has already changed
		return codes.Unavailable
	}
}

// answer is an error with the status that the caller gets. The cause stays in the chain, so that the interceptor that
// logs can still tell the Reason.
type answer struct {
	status *status.Status
	cause  error
}

func newAnswer(err error) *answer {
	text := err.Error()
	var own statusError
	if errors.As(err, &own) { // its text repeats the code, "rpc error: code = … desc = …"
		text = strings.Replace(text, own.Error(), own.GRPCStatus().Message(), 1)
	}
	return &answer{status: status.New(codeOf(err), text), cause: err}
}

func (a *answer) Error() string              { return a.status.Code().String() + ": " + a.status.Message() }
func (a *answer) GRPCStatus() *status.Status { return a.status }
func (a *answer) Unwrap() error              { return a.cause }
