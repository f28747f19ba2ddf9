package routeros

import (
	"context"
	"errors"
	"fmt"
)

// Grow makes the disk sizeBytes large, which must be a multiple of 1 MiB. A disk that is that large already, or
// larger, is left as it is: nothing here ever makes one smaller. ErrUnsupported on an exported disk means that this
// device grows disks only while they are not exported.
func (a *Array) Grow(ctx context.Context, old Disk, sizeBytes int64) (Disk, error) {
	op := "grow disk " + string(old.Slot)
	if sizeBytes <= 0 || sizeBytes%mebibyte != 0 {
		return Disk{}, a.misuse(op, fmt.Errorf("size of %d bytes is no multiple of 1 MiB", sizeBytes))
	}
	if err := a.owns(old); err != nil {
		return Disk{}, a.misuse(op, err)
	}
	wanted := func(d Disk) error {
		if d.SizeBytes >= sizeBytes {
			return nil
		}
		if d.Comment != old.Comment {
			return errOvertaken
		}
		return &mismatch{field: "size", want: number(sizeBytes), got: number(d.SizeBytes)}
	}
	c, err := a.send(ctx, op, a.growScript(old, sizeBytes))
	if err != nil {
		return Disk{}, err
	}
	if c.reply.stop != "" {
		return a.stoppedChange(ctx, c, old.Slot, wanted)
	}
	d, err := a.settled(ctx, c, old.Slot, wanted)
	var wrong *mismatch
	switch {
	case err == nil:
		return d, nil
	case errors.Is(err, errOvertaken):
		return Disk{}, c.fail(ErrConflict, err)
	case !errors.As(err, &wrong):
		return Disk{}, afterSending(err)
	}
	return Disk{}, a.notGrown(ctx, c, d, sizeBytes, wrong)
}

func (a *Array) growScript(old Disk, sizeBytes int64) *script {
	item := unchanged(old)
	s := newScript()
	s.compareComment(old)
	s.stopIf("[/disk/get "+item+" size] >= "+number(sizeBytes), stopLarger)
	s.stopIf("!([/disk/get "+bySlot(a.config.Pool)+" free] >= "+number(spaceFor(sizeBytes)-old.SizeBytes)+")", stopNoSpace)
	s.pass()
	s.add("/disk/set "+item+" file-size="+number(sizeBytes), printSlot(string(old.Slot)))
	return s
}

// notGrown tells by reading back why a disk is still too small.
func (a *Array) notGrown(ctx context.Context, c call, d Disk, sizeBytes int64, wrong error) error {
	p, err := a.Pool(ctx)
	if err == nil && (p.FreeBytes < spaceFor(sizeBytes)-d.SizeBytes || c.reply.saysNoSpace()) {
		return c.fail(ErrNoSpace,
			fmt.Errorf("asked for %d bytes more, the pool has %d free", sizeBytes-d.SizeBytes, p.FreeBytes))
	}
	err = a.diagnose(ctx, c, wrong)
	if d.Exported && errors.Is(err, ErrUnknown) && !errors.Is(err, ErrUnreachable) {
		return c.fail(ErrUnsupported, fmt.Errorf("%w; it is exported, and this device seems to grow disks only while they "+
			"are not: unpublish the volume and try again", wrong))
	}
	return err
}
