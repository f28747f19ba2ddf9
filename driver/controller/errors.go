package controller

import (
	"context"
	"errors"
	"fmt"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"srvlab.io/rds-csi/driver/routeros"
	"srvlab.io/rds-csi/safety"
)

// refusal gives an array's error its reason. Out of space is not here: it needs figures, see noSpace.
func refusal(err error) error {
	switch {
	case safety.ReasonOf(err) != "":
		return err
	case errors.Is(err, routeros.ErrNotFound):
		return status.Error(codes.NotFound, err.Error())
	case errors.Is(err, routeros.ErrForeign):
		return safety.Refuse(safety.ForeignNQN, err)
	case errors.Is(err, routeros.ErrConflict):
		return safety.Refuse(safety.InFlight, fmt.Errorf("another controller works on the volume: %w", err))
	case errors.Is(err, routeros.ErrUnreachable):
		return safety.Refuse(safety.ArrayUnreachable, err)
	case errors.Is(err, routeros.ErrPermission), errors.Is(err, routeros.ErrUnsupported):
		return safety.Refuse(safety.ArrayNotReady, err)
	case errors.Is(err, routeros.ErrExists):
		return safety.Refuse(safety.ArrayRefused, err)
	default:
		// The answer proves nothing, so the command may have taken effect. A final code would make the provisioner
		// forget a volume that may be there.
		return safety.RefuseTouched(safety.ArrayRefused, err)
	}
}

// noSpace gives ErrNoSpace with the figures: what more than the whole pool is out of range and will never fit, else
// there may be room later.
func noSpace(ctx context.Context, a *array, asked int64, cause error) error {
	p, err := a.Pool(ctx)
	if err != nil {
		return safety.Refuse(safety.NoSpace, fmt.Errorf("%d bytes asked: %w; what the pool has is not known: %w", asked, cause, err))
	}
	if asked > p.SizeBytes {
		return status.Error(codes.OutOfRange, tooLarge(a.Name(), p, asked))
	}
	return safety.Refuse(safety.NoSpace, fmt.Errorf("%s: %w", figures(a.Name(), p, asked), cause))
}

func tooLarge(name safety.ArrayName, p routeros.Pool, asked int64) string {
	return fmt.Sprintf("array %s: %d bytes asked, but its whole pool has %d", name, asked, p.SizeBytes)
}

func figures(name safety.ArrayName, p routeros.Pool, asked int64) string {
	return fmt.Sprintf("array %s: %d bytes asked, room for %d in its pool of %d", name, asked, p.Room(), p.SizeBytes)
}
