package routeros

import (
	"errors"
	"fmt"
	"regexp"
	"strings"
	"testing"
	"time"

	"srvlab.io/rds-csi/safety"
	"srvlab.io/rds-csi/test/routerostest"
)

// create makes a volume for a test that is about something else.
func (b *bench) create(t *testing.T, name string) Disk {
	t.Helper()
	must(t, b.array.Check(t.Context()))
	d, err := b.array.Create(t.Context(), CreateSpec{Slot: volume(b.prefix, name), SizeBytes: gib, PV: name})
	must(t, err)
	return d
}

// exec types a line as the array's administrator.
func (b *bench) exec(t *testing.T, format string, values ...any) {
	t.Helper()
	line := fmt.Sprintf(format, values...)
	if out := b.box.Exec("admin", line); out != "" && out[0] != '*' {
		t.Fatalf("%s: %s", line, out)
	}
}

// foreignDisks are disks in a slot that ours could have. None of them may be read as ours, listed or touched.
func foreignDisks(p safety.Prefix) map[string]string {
	slot := volume(p, "data")
	good := Mark{NQN: p.Export(slot.UUID(), 1), Cluster: "cluster", PV: "data"}
	other := good
	other.NQN = "nqn.2000-02.com.mikrotik:other-" + safety.NQN(slot.UUID().String()) + ".g1"
	copied := good
	copied.NQN = p.Export(volume(p, "another").UUID(), 1)
	short := good
	short.NQN = safety.NQN(p.String())
	return map[string]string{
		"no comment":                "",
		"a human's comment":         "do not touch",
		"another cluster's mark":    other.String(),
		"a mark of another volume":  copied.String(),
		"an NQN without the volume": short.String(),
		"a mark that was edited":    good.String() + " please keep",
		"a mark in quotes":          `"` + good.String() + `"`,
	}
}

func TestForeignDiskIsNotTouched(t *testing.T) {
	for name, comment := range foreignDisks(prefixOf(t, "test-")) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := open(t, onPool(xfs))
			ctx, a := t.Context(), b.array
			must(t, a.Check(ctx))
			slot := volume(b.prefix, "data")
			b.exec(t, `/disk/add type=file file-path="pool/csi/%s.img" file-size=64M slot=%s mount-filesystem=no`+
				` comment=%s nvme-tcp-export=yes nvme-tcp-server-nqn=%s`,
				slot.FileStem(), slot, quote(comment), quote(string(b.prefix.Export(slot.UUID(), 1))))
			before := b.box.String()

			d, err := a.Disk(ctx, slot)
			wantError(t, err, ErrForeign)
			if d.Slot != "" {
				t.Errorf("with the error: %+v", d)
			}
			_, err = a.Create(ctx, CreateSpec{Slot: slot, SizeBytes: 64 * mebibyte, PV: "data"})
			wantError(t, err, ErrForeign)
			wantError(t, a.Delete(ctx, slot), ErrForeign)
			// A caller that made the disk up, or has kept one from before its mark was changed.
			forged := Disk{Slot: slot, Comment: comment, Exported: true}
			if _, err := a.Publish(ctx, forged, ExportSpec{NQN: b.prefix.Export(slot.UUID(), 2)}); err == nil {
				t.Error("published")
			}
			if _, err := a.Reopen(ctx, forged, "", nil); err == nil {
				t.Error("reopened")
			}
			if _, err := a.Unpublish(ctx, forged, nil); err == nil {
				t.Error("unpublished")
			}
			if _, err := a.Grow(ctx, forged, gib); err == nil {
				t.Error("grown")
			}
			disks, err := a.Disks(ctx)
			must(t, err)
			if len(disks) != 0 {
				t.Errorf("listed: %+v", disks)
			}
			if after := b.box.String(); after != before {
				t.Errorf("the array had\n%s\nand has\n%s", before, after)
			}
		})
	}
}

// TestSlotTakenElsewhere: a disk of somebody's in the slot, on a file of another name, on a device that would make a
// second disk under another slot. Nothing is made, so nothing can be left by an answer that is lost.
func TestSlotTakenElsewhere(t *testing.T) {
	o := onPool(xfs)
	o.Switches.DuplicateSlot = routerostest.Suffixed
	b := open(t, o)
	must(t, b.array.Check(t.Context()))
	slot := volume(b.prefix, "data")
	b.exec(t, `/disk/add type=file file-path=pool/x.img file-size=64M slot=%s mount-filesystem=no comment=mine`, slot)
	before := b.box.String()
	spec := CreateSpec{Slot: slot, SizeBytes: gib, PV: "data"}
	_, err := b.array.Create(t.Context(), spec)
	wantError(t, err, ErrForeign)
	b.box.Inject(routerostest.Fault{Kind: routerostest.DropAfter, Match: regexp.MustCompile("/disk/add")})
	_, err = b.array.Create(t.Context(), spec)
	wantError(t, err, ErrUnreachable)
	if after := b.box.String(); after != before {
		t.Errorf("the array had\n%s\nand has\n%s", before, after)
	}
}

// TestTwoClusters: two prefixes on one array and in one directory, with the same names.
func TestTwoClusters(t *testing.T) {
	b := open(t, onPool(xfs))
	ctx := t.Context()
	one, other, q := b.array, b.open(t, prefixOf(t, "other-")), prefixOf(t, "other-")
	must(t, one.Check(ctx))
	const pvc = "pvc-0a1b2c3d-0000-4000-8000-000000000001" // a name that is a UUID gives both the same slot
	shared := volume(b.prefix, pvc)
	for _, slot := range []safety.Slot{volume(b.prefix, "data"), shared} {
		_, err := one.Create(ctx, CreateSpec{Slot: slot, SizeBytes: gib, PV: "data"})
		must(t, err)
	}
	_, err := other.Create(ctx, CreateSpec{Slot: shared, SizeBytes: gib, PV: pvc})
	wantError(t, err, ErrForeign)
	d, err := other.Create(ctx, CreateSpec{Slot: volume(q, "data"), SizeBytes: gib, PV: "data"})
	must(t, err)
	for _, slot := range []safety.Slot{volume(b.prefix, "data"), shared} {
		_, err := other.Disk(ctx, slot)
		wantError(t, err, ErrForeign)
		wantError(t, other.Delete(ctx, slot), ErrForeign)
	}
	mine, err := one.Disks(ctx)
	must(t, err)
	theirs, err := other.Disks(ctx)
	must(t, err)
	if len(mine) != 2 || len(theirs) != 1 || theirs[0].Slot != d.Slot {
		t.Errorf("one lists %+v, the other %+v", mine, theirs)
	}
}

// TestFileWithoutDisk: a file that is there without a disk may be what is left of a delete, or somebody's data. Create
// does not attach it; delete, which was asked to end this very volume, removes it.
func TestFileWithoutDisk(t *testing.T) {
	for _, fs := range bothFS {
		for _, size := range []int64{gib / 2, gib, 2 * gib} {
			t.Run(fmt.Sprintf("%s/%d", fs, size), func(t *testing.T) {
				t.Parallel()
				b := open(t, onPool(fs))
				ctx, a := t.Context(), b.array
				d := b.create(t, "data")
				d, err := a.Grow(ctx, d, max(size, gib))
				must(t, err)
				b.exec(t, "/disk/remove %s", d.Slot)
				must(t, b.box.SetSize(d.Path, size))
				before := b.box.String()

				got, err := a.Create(ctx, CreateSpec{Slot: d.Slot, SizeBytes: gib, PV: "data"})
				wantError(t, err, ErrExists)
				if got.Slot != "" || !strings.Contains(err.Error(), d.Path) || !strings.Contains(err.Error(), "/file/remove") {
					t.Errorf("%+v, %v: does not say which file and what to do", got, err)
				}
				if after := b.box.String(); after != before {
					t.Errorf("the array had\n%s\nand has\n%s", before, after)
				}
				must(t, a.Delete(ctx, d.Slot))
				if got := state(b.box); got != "" {
					t.Errorf("left:\n%s", got)
				}
			})
		}
	}
}

// TestSharedFile: copy-from makes a second disk on the same file. Deleting ours would delete the other's data.
func TestSharedFile(t *testing.T) {
	o := onPool(xfs)
	o.Switches.FileTwice = routerostest.Allowed
	b := open(t, o)
	d := b.create(t, "data")
	b.exec(t, "/disk/add copy-from=[find where slot=%s] slot=copy", d.Slot)
	before := b.box.String()
	wantError(t, b.array.Delete(t.Context(), d.Slot), ErrForeign)
	b.exec(t, "/disk/remove %s", d.Slot)
	wantError(t, b.array.Delete(t.Context(), d.Slot), ErrForeign)
	if !strings.Contains(b.box.String(), "disk copy") || !strings.Contains(b.box.String(), "file "+d.Path) {
		t.Errorf("the array had\n%s\nand has\n%s", before, b.box)
	}
	b.exec(t, "/disk/remove copy")
	must(t, b.array.Delete(t.Context(), d.Slot))
}

// TestForeignFile: a disk with our mark on a file that we did not name is not deleted, because the file would be.
func TestForeignFile(t *testing.T) {
	b := open(t, onPool(xfs))
	must(t, b.array.Check(t.Context()))
	slot := volume(b.prefix, "data")
	mark := Mark{NQN: b.prefix.Export(slot.UUID(), 0), Cluster: "cluster", PV: "data"}
	b.exec(t, `/disk/add type=file file-path=pool/precious.img file-size=64M slot=%s mount-filesystem=no comment=%s`,
		slot, quote(mark.String()))
	before := b.box.String()
	wantError(t, b.array.Delete(t.Context(), slot), ErrForeign)
	if after := b.box.String(); after != before {
		t.Errorf("the array had\n%s\nand has\n%s", before, after)
	}
}

// TestOtherDirectory: the directory in arrays.yaml may change while volumes lie in the old one.
func TestOtherDirectory(t *testing.T) {
	for _, fs := range bothFS {
		t.Run(fs, func(t *testing.T) {
			b := open(t, onPool(fs))
			d := b.create(t, "data")
			b.config.Directory = "elsewhere"
			moved := b.open(t, b.prefix)
			must(t, moved.Check(t.Context()))
			must(t, moved.Delete(t.Context(), d.Slot))
			if got := state(b.box); got != "file pool/elsewhere directory" {
				t.Errorf("left:\n%s", got)
			}
		})
	}
}

// TestCompareAndSet: somebody else is quicker, between this caller's reading and its line.
func TestCompareAndSet(t *testing.T) {
	p := prefixOf(t, "test-")
	slot := volume(p, faultPV)
	taken := Mark{NQN: p.Export(slot.UUID(), 9), Cluster: "cluster", PV: faultPV, Nodes: []string{"z/09"}}.String()
	for _, op := range operations(p) {
		if op.reads || op.name == "create" {
			continue
		}
		for _, how := range []struct {
			name, line string
			want       error
		}{
			{"changed", fmt.Sprintf("/disk/set %s comment=%s", slot, quote(taken)), ErrConflict},
			{"taken over", fmt.Sprintf(`/disk/set %s comment="mine now"`, slot), ErrForeign},
			{"gone", fmt.Sprintf("/disk/set %s nvme-tcp-export=no; /disk/remove %s", slot, slot), ErrNotFound},
		} {
			t.Run(op.name+"/"+how.name, func(t *testing.T) {
				t.Parallel()
				b := open(t, onPool(xfs))
				d := op.prepare(t, b)
				var after string
				b.lines.hook = func(line string) string {
					if after == "" && (strings.Contains(line, "/disk/set") || strings.Contains(line, "/disk/remove")) {
						b.exec(t, "%s", how.line)
						after = b.box.String()
					}
					return line
				}
				_, err := op.do(t.Context(), b.array, d)
				switch {
				case op.name != "delete":
					wantError(t, err, how.want)
				case errors.Is(how.want, ErrNotFound): // what was asked for, and the file goes too
					must(t, err)
					if got := state(b.box); got != "" {
						t.Errorf("left:\n%s", got)
					}
					return
				default: // the mark is not the one that was read, whatever it is
					wantError(t, err, ErrConflict)
				}
				if got := b.box.String(); got != after {
					t.Errorf("the array had\n%s\nand has\n%s", after, got)
				}
			})
		}
	}
}

// TestOvertakenWithinTheLine: another session's command runs between a line's guard and its first change, because the
// device makes commands atomic and not lines.
func TestOvertakenWithinTheLine(t *testing.T) {
	p := prefixOf(t, "test-")
	slot := volume(p, faultPV)
	taken := Mark{NQN: p.Export(slot.UUID(), 9), Cluster: "cluster", PV: faultPV, Nodes: []string{"z/09"}}.String()
	for _, op := range operations(p) {
		if op.reads || op.name == "create" {
			continue
		}
		for _, empty := range []routerostest.Position{routerostest.Silent, routerostest.Refused} {
			t.Run(op.name+"/"+string(empty), func(t *testing.T) {
				t.Parallel()
				o := onPool(xfs)
				o.Switches.EmptyFind = empty
				b := open(t, o)
				d := op.prepare(t, b)
				want := strings.ReplaceAll(b.box.String(), fmt.Sprintf("%q", d.Comment), fmt.Sprintf("%q", taken))
				b.lines.hook = func(line string) string {
					const pass = `:put "` + passWord
					return strings.Replace(line, pass, fmt.Sprintf("/disk/set %s comment=%s; %s", slot, quote(taken), pass), 1)
				}
				_, err := op.do(t.Context(), b.array, d)
				wantError(t, err, ErrConflict)
				if got := b.box.String(); got != want {
					t.Errorf("the array has\n%s\nwant\n%s", got, want)
				}
			})
		}
	}
}

// TestDuplicateSlot: two creators at once on a device that renames the second disk instead of refusing it, or that
// shows the first one late.
func TestDuplicateSlot(t *testing.T) {
	for _, duplicate := range []routerostest.Position{routerostest.Refused, routerostest.Suffixed} {
		for _, mark := range []string{"ours", "foreign"} {
			t.Run(string(duplicate)+"/"+mark, func(t *testing.T) {
				t.Parallel()
				o := onPool(xfs)
				o.Switches.DuplicateSlot, o.Switches.RowVisible = duplicate, routerostest.Delayed
				b := open(t, o)
				ctx, a := t.Context(), b.array
				must(t, a.Check(ctx))
				spec := CreateSpec{Slot: volume(b.prefix, "data"), SizeBytes: gib, PV: "data"}
				want := ErrExists
				if mark == "foreign" {
					want = ErrForeign
					b.exec(t, `/disk/add type=file file-path=pool/x.img file-size=64M slot=%s comment=mine`, spec.Slot)
				} else {
					b.box.Inject(routerostest.Fault{Kind: routerostest.DropAfter})
					_, err := a.Create(ctx, spec)
					wantError(t, err, ErrUnreachable)
				}
				d, err := a.Create(ctx, spec)
				if mark == "foreign" && duplicate == routerostest.Refused {
					// All that can be seen yet is a refusal without a reason.
					wantError(t, err, ErrUnknown)
					time.Sleep(o.RowDelay)
					d, err = a.Create(ctx, spec)
				}
				wantError(t, err, want)
				if errors.Is(want, ErrExists) && d.Slot != spec.Slot {
					t.Errorf("got %+v", d)
				}
				if n := strings.Count(b.box.String(), "disk pvc-"); n != 2 { // this one and the look-alike
					t.Errorf("%d disks:\n%s", n, b.box)
				}
				if mark == "foreign" && strings.Contains(b.box.String(), spec.Slot.FileStem()) {
					t.Errorf("a file is left:\n%s", b.box)
				}
			})
		}
	}
}
