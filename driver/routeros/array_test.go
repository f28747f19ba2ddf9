package routeros

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"srvlab.io/rds-csi/safety"
	"srvlab.io/rds-csi/test/routerostest"
)

const (
	gib   = 1 << 30
	hostA = safety.NQN("nqn.2014-08.org.nvmexpress:uuid:0a0a0a0a-0000-4000-8000-00000000000a")
	hostB = safety.NQN("nqn.2014-08.org.nvmexpress:uuid:0b0b0b0b-0000-4000-8000-00000000000b")
)

var bothFS = []string{xfs, btrfs}

func prefixOf(t *testing.T, s string) safety.Prefix {
	t.Helper()
	p, err := safety.ParsePrefix("nqn.2000-02.com.mikrotik:" + s)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// onPool gives the options of a box with one pool of 10 GiB, and two disks that are not ours: the boot disk of a
// diskless node, exported, and a disk whose slot looks like one of ours.
func onPool(fs string) routerostest.Options {
	return routerostest.Options{
		Pools:    []routerostest.Pool{{Slot: "pool", Size: 10 * gib, FS: fs}},
		RowDelay: 100 * time.Millisecond, SpaceDelay: 100 * time.Millisecond,
	}
}

const foreignSlot = "pvc-aaaaaaaaaaaaaaaaaaaaaaaaaa" // the slot of the zero UUID

// addForeign makes the disks that nobody may touch, through the console as their owner would.
func addForeign(t *testing.T, box *routerostest.Box) {
	t.Helper()
	for _, line := range []string{
		`/disk/add type=file file-path=pool/nixos.img file-size=64M slot=nixos-var mount-filesystem=no` +
			` comment="do not delete" nvme-tcp-export=yes nvme-tcp-server-nqn="nqn.2000-02.com.mikrotik:nixos-var"`,
		`/disk/add type=file file-path=pool/look-alike.img file-size=64M slot=` + foreignSlot + ` mount-filesystem=no` +
			` comment="a\"b\$c\\d\0A\FF"`,
	} {
		if out := box.Exec("admin", line); out != "" && !strings.HasPrefix(out, "*") {
			t.Fatalf("%s: %s", line, out)
		}
	}
}

// volume gives the slot of a volume by its name.
func volume(p safety.Prefix, name string) safety.Slot {
	return safety.SlotOf(safety.VolumeUUID(p, name))
}

// must ends the test on an error.
func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func wantError(t *testing.T, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Fatalf("got %v, want %v", err, want)
	}
	var e *Error
	if !errors.As(err, &e) || e.Array == "" || e.Op == "" {
		t.Fatalf("%#v does not say on which array what was tried", err)
	}
}

// state is what is on the box, without what was there before anything of ours.
func state(box *routerostest.Box) string {
	lines := strings.Split(box.String(), "\n")
	return strings.Join(slices.DeleteFunc(lines, func(l string) bool {
		return l == "" || strings.Contains(l, "nixos") || strings.Contains(l, "look-alike") ||
			strings.HasPrefix(l, "pool ") || l == "file pool disk" || l == "file pool/csi directory"
	}), "\n")
}

// foreign is what on the box is not ours.
func foreign(box *routerostest.Box) string {
	return strings.Join(slices.DeleteFunc(strings.Split(box.String(), "\n"), func(l string) bool {
		return !strings.Contains(l, "nixos") && !strings.Contains(l, "look-alike")
	}), "\n")
}

// life takes one volume through everything that may happen to it in good order.
func life(t *testing.T, b *bench) {
	ctx, a, p := t.Context(), b.array, b.prefix
	slot := volume(p, "data")
	uuid := slot.UUID()

	if _, err := a.Disk(ctx, slot); !errors.Is(err, ErrNotFound) {
		t.Fatalf("before: %v", err)
	}
	d, err := a.Create(ctx, CreateSpec{Slot: slot, SizeBytes: gib, PV: "data"})
	must(t, err)
	made := Mark{NQN: p.Export(uuid, 0), Cluster: "cluster", PV: "data"}.String()
	if d.Slot != slot || d.SizeBytes != gib || d.Exported || d.Comment != made || d.Mark.String() != made {
		t.Fatalf("created: %+v", d)
	}
	again, err := a.Create(ctx, CreateSpec{Slot: slot, SizeBytes: gib, PV: "data"})
	wantError(t, err, ErrExists)
	if again.ID != d.ID {
		t.Fatalf("the second create gives %+v", again)
	}

	spec := ExportSpec{NQN: p.Export(uuid, 1), AllowHost: hostA, Nodes: []string{"a/01"}, Mode: "w"}
	pub, err := a.Publish(ctx, d, spec)
	must(t, err)
	if !pub.Exported || pub.NQN != spec.NQN || pub.AllowHost != string(hostA) || pub.Port != 4420 || !pub.Mark.Holds("a/01") {
		t.Fatalf("published: %+v", pub)
	}
	wantHosts(t, b, pub.NQN, true, hostA)

	// The same NQN for another host: the first host's connection ends all the same.
	live, err := b.box.Connect(string(hostA), string(pub.NQN))
	must(t, err)
	_, err = a.Publish(ctx, pub, ExportSpec{NQN: pub.NQN, AllowHost: hostB, Nodes: []string{"b/02"}, Mode: "w"})
	must(t, err)
	if live.Alive() {
		t.Error("the connection of the node that was sent away is still there")
	}
	pub, err = a.Disk(ctx, slot)
	must(t, err)
	pub, err = a.Publish(ctx, pub, spec)
	must(t, err)

	// A second reader of the disk before the publish is told that it came too late.
	_, err = a.Publish(ctx, d, ExportSpec{NQN: p.Export(uuid, 1), AllowHost: hostB, Nodes: []string{"b/02"}})
	wantError(t, err, ErrConflict)
	// The very same publish once more is the retry after a lost answer.
	same, err := a.Publish(ctx, d, spec)
	must(t, err)
	if same.Comment != pub.Comment {
		t.Fatalf("repeated: %+v", same)
	}
	wantError(t, a.Delete(ctx, slot), ErrConflict)

	both, err := a.Reopen(ctx, pub, "", []string{"a/01", "b/02"})
	must(t, err)
	if both.NQN != pub.NQN || both.AllowHost != "" || both.Mark.Mode != "w" || !both.Mark.Holds("b/02") {
		t.Fatalf("reopened: %+v", both)
	}
	wantHosts(t, b, pub.NQN, true, hostA, hostB)

	moved, err := a.Publish(ctx, both, ExportSpec{NQN: p.Export(uuid, 2), AllowHost: hostB, Nodes: []string{"b/02"}})
	must(t, err)
	wantHosts(t, b, pub.NQN, false, hostA, hostB)
	wantHosts(t, b, moved.NQN, true, hostB)

	grown, err := a.Grow(ctx, moved, 2*gib)
	if b.switches.GrowExported == routerostest.Refused {
		wantError(t, err, ErrUnsupported)
	} else {
		must(t, err)
		if grown.SizeBytes != 2*gib || !grown.Exported {
			t.Fatalf("grown: %+v", grown)
		}
		smaller, err := a.Grow(ctx, grown, gib)
		must(t, err)
		if smaller.SizeBytes != 2*gib {
			t.Fatalf("shrunk: %+v", smaller)
		}
	}

	off, err := a.Unpublish(ctx, moved, nil)
	must(t, err)
	if off.Exported || len(off.Mark.Nodes) != 0 || off.Mark.Mode != "" || off.Mark.NQN != p.Export(uuid, 2) {
		t.Fatalf("unpublished: %+v", off)
	}
	wantHosts(t, b, moved.NQN, false, hostB)
	_, err = a.Unpublish(ctx, off, nil)
	must(t, err)
	grown, err = a.Grow(ctx, off, 3*gib)
	must(t, err)
	if grown.SizeBytes != 3*gib {
		t.Fatalf("grown while not exported: %+v", grown)
	}

	disks, err := a.Disks(ctx)
	must(t, err)
	if len(disks) != 1 || disks[0].Slot != slot {
		t.Fatalf("disks: %+v", disks)
	}
	must(t, a.Delete(ctx, slot))
	must(t, a.Delete(ctx, slot))
	if got := state(b.box); got != "" {
		t.Fatalf("left on the array:\n%s", got)
	}
}

// wantHosts checks which hosts the export lets in. Without exported, none may come in; with it, those in the list.
func wantHosts(t *testing.T, b *bench, nqn safety.NQN, exported bool, hosts ...safety.NQN) {
	t.Helper()
	for _, h := range []safety.NQN{hostA, hostB} {
		c, err := b.box.Connect(string(h), string(nqn))
		if err == nil {
			c.Close()
		}
		want := exported && (slices.Contains(hosts, h) || b.switches.AllowHost == routerostest.Ignored)
		if (err == nil) != want {
			t.Errorf("host %s on %s: %v, want it let in: %t", h, nqn, err, want)
		}
	}
}

func TestLife(t *testing.T) {
	for _, fs := range bothFS {
		t.Run(fs, func(t *testing.T) {
			t.Parallel()
			b := open(t, onPool(fs))
			before := foreign(b.box)
			must(t, b.array.Check(t.Context()))
			life(t, b)
			if after := foreign(b.box); after != before {
				t.Errorf("others' disks were\n%s\nand are\n%s", before, after)
			}
		})
	}
}

// TestEverySwitchPosition lives through every way in which the device may behave where the facts have a gap.
func TestEverySwitchPosition(t *testing.T) {
	for _, fs := range bothFS {
		for _, s := range routerostest.AllSwitchPositions() {
			t.Run(fs+"/"+s.String(), func(t *testing.T) {
				t.Parallel()
				o := onPool(fs)
				o.Switches = s
				b := open(t, o)
				before := foreign(b.box)
				must(t, b.array.Check(t.Context()))
				life(t, b)
				if after := foreign(b.box); after != before {
					t.Errorf("others' disks were\n%s\nand are\n%s", before, after)
				}
			})
		}
	}
}

// TestOneRoundTrip: where the device allows it, an operation is one line.
func TestOneRoundTrip(t *testing.T) {
	b := open(t, onPool(xfs))
	ctx, a := t.Context(), b.array
	must(t, a.Check(ctx))
	slot := volume(b.prefix, "data")
	var d Disk
	for _, op := range []struct {
		name string
		want int
		do   func() error
	}{
		{"create", 1, func() (err error) {
			d, err = a.Create(ctx, CreateSpec{Slot: slot, SizeBytes: gib, PV: "data"})
			return err
		}},
		{"read", 1, func() (err error) { _, err = a.Disk(ctx, slot); return err }},
		{"list", 1, func() (err error) { _, err = a.Disks(ctx); return err }},
		{"pool", 1, func() (err error) { _, err = a.Pool(ctx); return err }},
		{"publish", 1, func() (err error) {
			d, err = a.Publish(ctx, d, ExportSpec{NQN: b.prefix.Export(slot.UUID(), 1), Nodes: []string{"a"}})
			return err
		}},
		{"reopen", 1, func() (err error) { d, err = a.Reopen(ctx, d, "", []string{"a", "b"}); return err }},
		{"grow", 1, func() (err error) { d, err = a.Grow(ctx, d, 2*gib); return err }},
		{"unpublish", 1, func() (err error) { d, err = a.Unpublish(ctx, d, nil); return err }},
		// The row has to be read first: whether the disk is ours is more than a console expression can tell.
		{"delete", 2, func() error { return a.Delete(ctx, slot) }},
	} {
		b.lines.take()
		must(t, op.do())
		if got := len(b.lines.take()); got != op.want {
			t.Errorf("%s takes %d lines, want %d", op.name, got, op.want)
		}
	}
}

func TestVersions(t *testing.T) {
	for _, tt := range []struct {
		version string
		ready   bool
	}{
		{"7.16", false},
		{"7.17", false},
		{"7.18.2", false},
		{"7.20", false},
		{"7.21", true},
		{"7.22.2", true},
		{"7.24.4", true},
	} {
		t.Run(tt.version, func(t *testing.T) {
			t.Parallel()
			v, err := routerostest.ParseVersion(tt.version)
			must(t, err)
			o := onPool(xfs)
			o.Version = v
			b := openWithout(t, o)
			ctx, a := t.Context(), b.array
			err = a.Check(ctx)
			if tt.ready {
				must(t, err)
				life(t, b)
				return
			}
			if safety.ReasonOf(err) != safety.ArrayNotReady || !strings.Contains(err.Error(), "at least 7.21") {
				t.Fatalf("check: %v", err)
			}
			d, err := a.Create(ctx, CreateSpec{Slot: volume(b.prefix, "data"), SizeBytes: gib, PV: "data"})
			if err == nil { // 7.17 has file disks, but not the NQN
				_, err = a.Publish(ctx, d, ExportSpec{NQN: b.prefix.Export(d.Slot.UUID(), 1), Nodes: []string{"a"}})
			}
			wantError(t, err, ErrUnsupported)
		})
	}
}
