package routeros

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"srvlab.io/rds-csi/safety"
)

// settled gives the disk after a command that was to change it: from the row that the command printed if that is as
// wanted, which is the normal case and needs no second round trip, else by looking. It waits for a change to show
// unless the device has said that it refused. The error is nil, a *mismatch, or that of the look-up.
func (a *Array) settled(ctx context.Context, c call, slot safety.Slot, wanted func(Disk) error) (Disk, error) {
	if c.reply.done {
		if d, err := a.printed(c, slot); err == nil && wanted(d) == nil {
			return d, nil
		}
	}
	refused := !c.reply.done && c.reply.added == "" && c.reply.text != ""
	if refused {
		d, err := a.Disk(ctx, slot)
		if err == nil {
			err = wanted(d)
		}
		return d, err
	}
	return a.await(ctx, slot, wanted)
}

// printed gives the disk in the row that a command printed.
func (a *Array) printed(c call, slot safety.Slot) (Disk, error) {
	rows, err := c.reply.rows()
	if err != nil {
		return Disk{}, err
	}
	return a.only(c, rows, slot)
}

// await looks at a disk until it is as wanted or the time to settle is over. It gives the disk as last seen. A disk
// that is not there (yet) is waited for; any other look-up that fails ends the waiting.
func (a *Array) await(ctx context.Context, slot safety.Slot, wanted func(Disk) error) (Disk, error) {
	limited, cancel := context.WithTimeout(ctx, a.settle.limit)
	defer cancel()
	for {
		d, err := a.Disk(ctx, slot)
		if err == nil {
			err = wanted(d)
		}
		var wrong *mismatch
		if err == nil || !errors.As(err, &wrong) && !errors.Is(err, ErrNotFound) {
			return d, err
		}
		if sleep(limited, a.settle.pause) == nil {
			continue
		}
		if ctx.Err() != nil { // the caller's time is over, not ours: nothing is proven
			return d, &Error{Array: a.config.Name, Op: "wait for disk " + string(slot), Kind: ErrUnknown, Err: ctx.Err()}
		}
		return d, err
	}
}

// mismatch is a row that is not what was asked for.
type mismatch struct{ field, want, got string }

func (m *mismatch) Error() string {
	return fmt.Sprintf("the disk's %s is %q, not %q as asked", m.field, m.got, m.want)
}

// expect gives the first mismatch in a list of field, got, want.
func expect(triples ...string) error {
	for t := range slices.Chunk(triples, 3) {
		if t[1] != t[2] {
			return &mismatch{field: t[0], got: t[1], want: t[2]}
		}
	}
	return nil
}

// afterSending marks the error of a look-up that followed a command: the command may have taken effect.
func afterSending(err error) error {
	var e *Error
	if errors.As(err, &e) {
		e.MaybeApplied = true
	}
	return err
}
