package controller

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"

	"srvlab.io/rds-csi/safety"
	"srvlab.io/rds-csi/test/routerostest"
)

// TestLife leads a volume through its whole life on every kind of device that the emulator knows: each switch in each
// position, and a pool of btrfs.
func TestLife(t *testing.T) {
	t.Run("defaults", func(t *testing.T) { life(t, routerostest.Options{}) })
	for _, s := range routerostest.AllSwitchPositions() {
		t.Run(s.String(), func(t *testing.T) { life(t, routerostest.Options{Switches: s}) })
	}
	t.Run("btrfs", func(t *testing.T) {
		life(t, routerostest.Options{Pools: []routerostest.Pool{{Slot: "raid10", Size: poolSize, FS: "btrfs"}}})
	})
}

// life is what one volume goes through: create, publish, move, expand, unpublish, delete.
func life(t *testing.T, o routerostest.Options) {
	t.Helper()
	const name = "pvc-0f3b5a52-6f0c-4b57-9a6e-1f4f7d0c8e11"
	b := newBox(t, "rds1", o)
	before := poolLine(b)
	r := newReplica(t, "", b)

	v := r.mustCreate(t, request(name))
	slot := safety.SlotOf(safety.VolumeUUID(r.prefix, name))
	if v.GetVolumeId() != "rds1/"+string(slot) || v.GetCapacityBytes() != gib {
		t.Fatalf("created %v", v)
	}
	if again := r.mustCreate(t, request(name)); again.String() != v.String() {
		t.Errorf("a repeated create gives %v, first %v", again, v)
	}

	first := r.mustPublish(t, v.GetVolumeId(), "node-a", false)
	want := map[string]string{
		"nqn": prefix + "0f3b5a52-6f0c-4b57-9a6e-1f4f7d0c8e11.g1", "address": "192.0.2.9", "port": "4420", "sizeBytes": fmt.Sprint(gib),
	}
	if fmt.Sprint(first) != fmt.Sprint(want) {
		t.Errorf("publish context %v, want %v", first, want)
	}
	onA := b.mustConnect(t, "node-a", first["nqn"])
	if again := r.mustPublish(t, v.GetVolumeId(), "node-a", false); fmt.Sprint(again) != fmt.Sprint(first) || !onA.Alive() {
		t.Errorf("a repeated publish gives %v, the connection lives: %v", again, onA.Alive())
	}
	if got := r.published(t, v.GetVolumeId()); !slices.Equal(got, []string{nodeID(t, "node-a")}) {
		t.Errorf("published to %v", got)
	}
	_, err := r.publish(t, v.GetVolumeId(), "node-b", false)
	wantCode(t, err, codes.FailedPrecondition, "node-a", "[attached-elsewhere]")
	wantCode(t, r.remove(t, v.GetVolumeId()), codes.FailedPrecondition, nodeID(t, "node-a"), "[attached-elsewhere]")

	for range 2 {
		if err := r.unpublish(t, v.GetVolumeId(), "node-a"); err != nil {
			t.Fatalf("unpublish: %v", err)
		}
	}
	second := r.mustPublish(t, v.GetVolumeId(), "node-b", false)
	if second["nqn"] != prefix+"0f3b5a52-6f0c-4b57-9a6e-1f4f7d0c8e11.g2" {
		t.Errorf("after a move the NQN is %s", second["nqn"])
	}
	wantFenced(t, b, "node-a", onA, first["nqn"], second["nqn"], o.Switches.AllowHost == routerostest.Ignored)
	b.mustConnect(t, "node-b", second["nqn"])

	if o.Switches.GrowExported == routerostest.Refused {
		_, err := r.expand(t, v.GetVolumeId(), 2*gib, 0)
		wantCode(t, err, codes.FailedPrecondition, "unpublish the volume and try again")
	} else if size, err := r.expand(t, v.GetVolumeId(), 2*gib, 0); err != nil || size != 2*gib {
		t.Errorf("expand: %d bytes, %v", size, err)
	}

	if err := r.unpublish(t, v.GetVolumeId(), ""); err != nil {
		t.Fatalf("unpublish from all: %v", err)
	}
	if size, err := r.expand(t, v.GetVolumeId(), 3*gib, 0); err != nil || size != 3*gib {
		t.Errorf("expand while unpublished: %d bytes, %v", size, err)
	}
	if c := b.Connections(); len(c) != 0 {
		t.Errorf("connections left after the last unpublish: %v", c)
	}
	for range 2 {
		if err := r.remove(t, v.GetVolumeId()); err != nil {
			t.Fatalf("delete: %v", err)
		}
	}
	b.wantState(t)
	if after := poolLine(b); after != before && o.Switches.SpaceReturn == "" {
		t.Errorf("the pool is %q, it was %q", after, before)
	}
}

// poolLine is what the box says of its pool.
func poolLine(b *box) string {
	for line := range strings.Lines(b.String()) {
		if strings.HasPrefix(line, "pool ") {
			return line
		}
	}
	return ""
}

// wantFenced checks that a node that was left behind has lost its connection and gets none again: neither under the
// name that it knows, nor, unless the device ignores the host field, under the new one.
func wantFenced(t *testing.T, b *box, node string, old *routerostest.Connection, oldNQN, newNQN string, hostIgnored bool) {
	t.Helper()
	if old.Alive() {
		t.Errorf("%s is still connected", node)
	}
	if _, err := b.connect(t, node, oldNQN); err == nil {
		t.Errorf("%s is let in under the old name %s", node, oldNQN)
	}
	if _, err := b.connect(t, node, newNQN); err == nil && !hostIgnored {
		t.Errorf("%s is let in under the new name %s", node, newNQN)
	}
}
