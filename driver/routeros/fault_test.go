package routeros

import (
	"context"
	"errors"
	"regexp"
	"strings"
	"testing"
	"time"

	"srvlab.io/rds-csi/safety"
	"srvlab.io/rds-csi/test/routerostest"
)

// operation is one call of the API, from a state that earlier ones have made.
type operation struct {
	name  string
	after []string // operations that come before
	do    func(context.Context, *Array, Disk) (Disk, error)
	reads bool
}

const faultPV = "data"

func operations(p safety.Prefix) []operation {
	slot := volume(p, faultPV)
	nqn := func(g safety.Generation) safety.NQN { return p.Export(slot.UUID(), g) }
	return []operation{
		{name: "create", do: func(ctx context.Context, a *Array, _ Disk) (Disk, error) {
			d, err := a.Create(ctx, CreateSpec{Slot: slot, SizeBytes: gib, PV: faultPV})
			if errors.Is(err, ErrExists) && d.Slot == slot { // as the controller does after a lost answer
				err = nil
			}
			return d, err
		}},
		{name: "publish", after: []string{"create"}, do: func(ctx context.Context, a *Array, d Disk) (Disk, error) {
			return a.Publish(ctx, d, ExportSpec{NQN: nqn(1), AllowHost: hostA, Nodes: []string{"a/01"}})
		}},
		{name: "move", after: []string{"create", "publish"}, do: func(ctx context.Context, a *Array, d Disk) (Disk, error) {
			return a.Publish(ctx, d, ExportSpec{NQN: nqn(2), AllowHost: hostB, Nodes: []string{"b/02"}})
		}},
		{name: "reopen", after: []string{"create", "publish"}, do: func(ctx context.Context, a *Array, d Disk) (Disk, error) {
			return a.Reopen(ctx, d, "", []string{"a/01", "b/02"})
		}},
		{name: "grow", after: []string{"create", "publish"}, do: func(ctx context.Context, a *Array, d Disk) (Disk, error) {
			return a.Grow(ctx, d, 2*gib)
		}},
		{name: "unpublish", after: []string{"create", "publish"}, do: func(ctx context.Context, a *Array, d Disk) (Disk, error) {
			return a.Unpublish(ctx, d, nil)
		}},
		{name: "delete", after: []string{"create"}, do: func(ctx context.Context, a *Array, d Disk) (Disk, error) {
			return Disk{}, a.Delete(ctx, d.Slot)
		}},
		{name: "read", after: []string{"create"}, reads: true, do: func(ctx context.Context, a *Array, d Disk) (Disk, error) {
			return a.Disk(ctx, d.Slot)
		}},
		{name: "list", after: []string{"create"}, reads: true, do: func(ctx context.Context, a *Array, d Disk) (Disk, error) {
			disks, err := a.Disks(ctx)
			if err == nil && (len(disks) != 1 || disks[0].Slot != slot) {
				err = errors.New("the list lacks the disk")
			}
			return d, err
		}},
		{name: "pool", after: []string{"create"}, reads: true, do: func(ctx context.Context, a *Array, d Disk) (Disk, error) {
			_, err := a.Pool(ctx)
			return d, err
		}},
	}
}

// prepare brings the array to where the operation starts.
func (op operation) prepare(t *testing.T, b *bench) Disk {
	t.Helper()
	must(t, b.array.Check(t.Context()))
	var d Disk
	var err error
	for _, earlier := range op.after {
		for _, o := range operations(b.prefix) {
			if o.name == earlier {
				d, err = o.do(t.Context(), b.array, d)
				must(t, err)
			}
		}
	}
	return d
}

// impatient shortens the time that a command may take, for faults that last as long.
func (b *bench) impatient() { b.ssh.config.CommandTimeout = Duration(300 * time.Millisecond) }

// TestFaults: whatever happens to the connection, the error is typed, no look-up takes it for "there is none", and the
// same call once more, from the state that was read before the fault, ends where it would have ended without one.
func TestFaults(t *testing.T) {
	faults := []string{
		"drop-before", "drop-after", "drop-before:nth=2", "drop-after:nth=2", "partial:bytes=0", "partial:bytes=20",
		"partial:bytes=90", "partial:bytes=300", "partial:bytes=90,nth=2", "hang", "hang:nth=2", "exit:code=1",
		"latency:delay=50ms", "reboot:down=150ms", "reboot:down=150ms,listener-first=150ms",
	}
	for _, fs := range bothFS {
		for _, op := range operations(prefixOf(t, "test-")) {
			t.Run(fs+"/"+op.name, func(t *testing.T) {
				t.Parallel()
				good := open(t, onPool(fs))
				_, err := op.do(t.Context(), good.array, op.prepare(t, good))
				must(t, err)
				for _, text := range faults {
					b := open(t, onPool(fs))
					before := foreign(b.box)
					d := op.prepare(t, b)
					f, err := routerostest.ParseFault(text)
					must(t, err)
					b.box.Inject(f)
					if f.Kind == routerostest.Hang {
						b.impatient()
					}
					if err := persevere(t, b, op, d); err != nil {
						t.Errorf("%s: %v", text, err)
					}
					if got, want := state(b.box), state(good.box); got != want {
						t.Errorf("%s: the array has\n%s\nwithout the fault it had\n%s", text, got, want)
					}
					if foreign(b.box) != before {
						t.Errorf("%s: others' disks changed", text)
					}
				}
			})
		}
	}
}

// persevere repeats the operation as kubelet and the sidecars do, and gives the last error.
func persevere(t *testing.T, b *bench, op operation, d Disk) error {
	t.Helper()
	var err error
	for range 8 {
		if _, err = op.do(t.Context(), b.array, d); err == nil {
			return nil
		}
		var e *Error
		if !errors.As(err, &e) || errors.Is(err, ErrNotFound) || errors.Is(err, ErrForeign) {
			t.Errorf("error %v", err)
		}
		if op.reads && MaybeApplied(err) {
			t.Errorf("a look-up that may have changed something: %v", err)
		}
		time.Sleep(50 * time.Millisecond)
	}
	return err
}

// A command whose answer is lost is not sent again by itself: only its caller knows whether it still wants it.
func TestLostAnswerIsNotRepeated(t *testing.T) {
	b := open(t, onPool(xfs))
	must(t, b.array.Check(t.Context()))
	b.lines.take()
	b.box.Inject(routerostest.Fault{Kind: routerostest.DropAfter})
	_, err := b.array.Create(t.Context(), CreateSpec{Slot: volume(b.prefix, "data"), SizeBytes: gib, PV: "data"})
	wantError(t, err, ErrUnreachable)
	if !MaybeApplied(err) || !strings.Contains(err.Error(), "may have taken effect") {
		t.Errorf("%v does not say that it may have taken effect", err)
	}
	if sent := b.lines.take(); len(sent) != 1 {
		t.Errorf("sent %d lines", len(sent))
	}
}

func TestNoSpace(t *testing.T) {
	for _, fs := range bothFS {
		t.Run(fs, func(t *testing.T) {
			t.Parallel()
			b := open(t, onPool(fs))
			ctx, a := t.Context(), b.array
			must(t, a.Check(ctx))
			slot := volume(b.prefix, "data")
			pool, err := a.Pool(ctx)
			must(t, err)
			_, err = a.Create(ctx, CreateSpec{Slot: slot, SizeBytes: pool.Room() + mebibyte, PV: "data"})
			wantError(t, err, ErrNoSpace)
			if !strings.Contains(err.Error(), "the pool has "+number(pool.FreeBytes)+" free") {
				t.Errorf("%v does not tell the free space", err)
			}
			// The device may still run out of space behind the guards: somebody else was quicker.
			b.box.Inject(routerostest.Fault{Kind: routerostest.OutOfSpace, Match: regexp.MustCompile("/disk/add")})
			_, err = a.Create(ctx, CreateSpec{Slot: slot, SizeBytes: gib, PV: "data"})
			wantError(t, err, ErrNoSpace)
			if got := state(b.box); got != "" {
				t.Errorf("left on the array:\n%s", got)
			}
			d, err := a.Create(ctx, CreateSpec{Slot: slot, SizeBytes: pool.Room(), PV: "data"})
			must(t, err)
			_, err = a.Grow(ctx, d, pool.Room()+gib)
			wantError(t, err, ErrNoSpace)
			must(t, a.Delete(ctx, slot))
			d, err = a.Create(ctx, CreateSpec{Slot: slot, SizeBytes: gib, PV: "data"})
			must(t, err)
			b.box.Inject(routerostest.Fault{Kind: routerostest.OutOfSpace, Match: regexp.MustCompile("/disk/set")})
			_, err = a.Grow(ctx, d, 2*gib)
			wantError(t, err, ErrNoSpace)
			if now, err := a.Disk(ctx, slot); err != nil || now.SizeBytes != gib {
				t.Errorf("after a grow that failed: %+v, %v", now, err)
			}
		})
	}
}
