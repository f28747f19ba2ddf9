package controller

import (
	"slices"
	"strings"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"

	"srvlab.io/rds-csi/safety"
	"srvlab.io/rds-csi/test/routerostest"
)

func TestPublishRefuses(t *testing.T) {
	r := newReplica(t, "", newBox(t, "rds1", routerostest.Options{}))
	v := r.mustCreate(t, request("data")).GetVolumeId()
	unused := "rds1/" + string(safety.SlotOf(safety.UUID{1}))
	tests := []struct {
		name   string
		change func(*csi.ControllerPublishVolumeRequest)
		code   codes.Code
		says   []string
	}{
		{"no volume ID", func(r *csi.ControllerPublishVolumeRequest) { r.VolumeId = "" }, codes.InvalidArgument, []string{"volume ID"}},
		{"no node ID", func(r *csi.ControllerPublishVolumeRequest) { r.NodeId = "" }, codes.InvalidArgument, []string{"node ID"}},
		{
			"no capability", func(r *csi.ControllerPublishVolumeRequest) { r.VolumeCapability = nil },
			codes.InvalidArgument,
			[]string{"capability"},
		},
		{
			"unsupported capability", func(r *csi.ControllerPublishVolumeRequest) { r.VolumeCapability = mount(manyWriters, "") },
			codes.InvalidArgument,
			[]string{"MULTI_NODE_MULTI_WRITER"},
		},
		{"read-only", func(r *csi.ControllerPublishVolumeRequest) { r.Readonly = true }, codes.InvalidArgument, []string{"readonly"}},
		{"unknown volume", func(r *csi.ControllerPublishVolumeRequest) { r.VolumeId = unused }, codes.NotFound, nil},
		{"no volume of ours", func(r *csi.ControllerPublishVolumeRequest) { r.VolumeId = "vol-1" }, codes.NotFound, []string{"<array>/<slot>"}},
		{
			"array that is not configured", func(r *csi.ControllerPublishVolumeRequest) { r.VolumeId = "x" + unused },
			codes.FailedPrecondition,
			[]string{`"xrds1" is not in this controller's configuration`, "rds1"},
		},
		{"unknown node", func(r *csi.ControllerPublishVolumeRequest) { r.NodeId = "some-node" }, codes.NotFound, []string{"some-node"}},
		{
			"node of another cluster ID", func(r *csi.ControllerPublishVolumeRequest) { r.NodeId = "node-a/00000000" },
			codes.NotFound,
			[]string{"--cluster-id"},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			req := &csi.ControllerPublishVolumeRequest{VolumeId: v, NodeId: nodeID(t, "node-a"), VolumeCapability: mount(oneWriter, "")}
			tt.change(req)
			_, err := r.ControllerPublishVolume(t.Context(), req)
			wantCode(t, err, tt.code, tt.says...)
		})
	}
	if got := r.published(t, v); len(got) != 0 {
		t.Errorf("published to %v", got)
	}
}

// TestMoveAwayFromASilentNode is what a force detach is: node-a never unstages, never disconnects, and goes on trying.
// Each lock alone keeps it out.
func TestMoveAwayFromASilentNode(t *testing.T) {
	off := false
	tests := []struct {
		name        string
		switches    routerostest.Switches
		allowHost   *bool
		hostIgnored bool
	}{
		{name: "both locks"},
		{name: "the device ignores the host field", switches: routerostest.Switches{AllowHost: routerostest.Ignored}, hostIgnored: true},
		{name: "the host field is switched off", allowHost: &off, hostIgnored: true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			b := newBox(t, "rds1", routerostest.Options{Switches: tt.switches})
			b.config.NVMe.AllowHost = tt.allowHost
			r := newReplica(t, "", b)
			v := r.mustCreate(t, request("data")).GetVolumeId()
			first := r.mustPublish(t, v, "node-a", false)["nqn"]
			old := b.mustConnect(t, "node-a", first)

			if err := r.unpublish(t, v, "node-a"); err != nil {
				t.Fatal(err)
			}
			if old.Alive() {
				t.Fatal("unpublished, and node-a is still connected")
			}
			if _, err := b.connect(t, "node-a", first); err == nil {
				t.Fatal("unpublished, and node-a comes in again")
			}
			second := r.mustPublish(t, v, "node-b", false)["nqn"]
			wantFenced(t, b, "node-a", old, first, second, tt.hostIgnored)
			b.mustConnect(t, "node-b", second)

			// Back to node-a: what it knew of its first time must not open the volume while node-b has it, nor later.
			if err := r.unpublish(t, v, "node-b"); err != nil {
				t.Fatal(err)
			}
			third := r.mustPublish(t, v, "node-a", false)["nqn"]
			if slices.Contains([]string{first, second}, third) {
				t.Errorf("the name %s is used twice", third)
			}
			if _, err := b.connect(t, "node-b", second); err == nil {
				t.Error("node-b comes in again")
			}
		})
	}
}

// TestLastGenerationIsRemembered: unpublished and published to the same node counts up too, because that node may have
// been another in between, or the same one after a crash with I/O still queued.
func TestLastGenerationIsRemembered(t *testing.T) {
	r := newReplica(t, "", newBox(t, "rds1", routerostest.Options{}))
	v := r.mustCreate(t, request("data")).GetVolumeId()
	for _, want := range []string{".g1", ".g2", ".g3"} {
		if got := r.mustPublish(t, v, "node-a", false)["nqn"]; !strings.HasSuffix(got, want) {
			t.Errorf("the NQN is %s, want one with %s", got, want)
		}
		if err := r.unpublish(t, v, "node-a"); err != nil {
			t.Fatal(err)
		}
	}
}

func TestUnpublishIsPatient(t *testing.T) {
	b := newBox(t, "rds1", routerostest.Options{})
	r := newReplica(t, "", b)
	v := r.mustCreate(t, request("data")).GetVolumeId()
	nqn := r.mustPublish(t, v, "node-a", false)["nqn"]
	live := b.mustConnect(t, "node-a", nqn)

	unpublish := func(volume, node string) error {
		_, err := r.ControllerUnpublishVolume(t.Context(), &csi.ControllerUnpublishVolumeRequest{VolumeId: volume, NodeId: node})
		return err
	}
	for _, other := range []string{nodeID(t, "node-b"), "never-heard-of", "node-a/00000000", "node-a"} {
		if err := unpublish(v, other); err != nil || !live.Alive() {
			t.Errorf("unpublish from %s: %v; node-a's connection lives: %v", other, err, live.Alive())
		}
	}
	wantCode(t, unpublish("", nodeID(t, "node-a")), codes.InvalidArgument)
	wantCode(t, unpublish("rds9/"+strings.TrimPrefix(v, "rds1/"), ""), codes.FailedPrecondition, `"rds9"`)
	for _, gone := range []string{"no-volume", "rds1/" + string(safety.SlotOf(safety.UUID{1}))} {
		if err := unpublish(gone, nodeID(t, "node-a")); err != nil {
			t.Errorf("a volume that is gone: %v", err)
		}
	}
	// An export that nobody holds was made by hand. It ends, because the caller is going to believe that it did.
	if err := r.unpublish(t, v, "node-a"); err != nil {
		t.Fatal(err)
	}
	b.Exec("csi", "/disk set "+strings.TrimPrefix(v, "rds1/")+" nvme-tcp-export=yes")
	if !strings.Contains(b.String(), "export=true") {
		t.Fatalf("not exported by hand:\n%s", b)
	}
	if err := r.unpublish(t, v, "node-a"); err != nil {
		t.Fatal(err)
	}
	if strings.Contains(b.String(), "export=true") {
		t.Errorf("still exported:\n%s", b)
	}

	b.stop()
	wantCode(t, unpublish(v, nodeID(t, "node-a")), codes.Unavailable, "[array-unreachable]")
}

// TestRepeatBringsTheExportBack: an array that was reset or restored has lost exports. The repeat gives them back under
// the generation that the holder knows, and leaves alone what is as it should be.
func TestRepeatBringsTheExportBack(t *testing.T) {
	tests := []struct {
		name  string
		spoil string // what somebody does to the disk
		lives bool   // whether the connection outlives the repair
	}{
		{"nothing is wrong", "", true},
		{"export is off", "nvme-tcp-export=no", false},
		{"another name", "nvme-tcp-server-nqn=nqn.2000-02.com.x:other", false},
		{"another port", "nvme-tcp-server-port=4421", false},
		{"everybody is let in", `nvme-tcp-server-allow-host-name=""`, true},
		{"another host is let in", "nvme-tcp-server-allow-host-name=nqn.2014-08.org.nvmexpress:uuid:x", true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			b := newBox(t, "rds1", routerostest.Options{})
			r := newReplica(t, "", b)
			v := r.mustCreate(t, request("data")).GetVolumeId()
			first := r.mustPublish(t, v, "node-a", false)
			healthy := b.String()
			live := b.mustConnect(t, "node-a", first["nqn"])
			if tt.spoil != "" {
				b.Exec("csi", "/disk set "+strings.TrimPrefix(v, "rds1/")+" "+tt.spoil)
				if b.String() == healthy {
					t.Fatal("nothing was spoilt")
				}
			}
			if got, lost := r.published(t, v), !strings.Contains(b.String(), "export "+first["nqn"]); lost != (len(got) == 0) {
				t.Errorf("published to %v, while the export is lost: %v; external-attacher compares the two", got, lost)
			}
			again := r.mustPublish(t, v, "node-a", false)
			if again["nqn"] != first["nqn"] {
				t.Errorf("the repeat gives %s, first %s", again["nqn"], first["nqn"])
			}
			if b.String() != healthy {
				t.Errorf("after the repeat:\n%sit was:\n%s", b, healthy)
			}
			if live.Alive() != tt.lives {
				t.Errorf("the connection lives: %v, want %v", live.Alive(), tt.lives)
			}
			b.mustConnect(t, "node-a", again["nqn"])
		})
	}
}

// TestLiveMigration is KubeVirt's: the target node gets the volume while the source still writes, and then the source
// goes, or the target, when the migration fails.
func TestLiveMigration(t *testing.T) {
	for _, goes := range []string{"node-a", "node-b"} {
		t.Run(goes+" goes", func(t *testing.T) {
			stays := map[string]string{"node-a": "node-b", "node-b": "node-a"}[goes]
			b := newBox(t, "rds1", routerostest.Options{})
			r := newReplica(t, "", b)
			req := request("vm")
			req.VolumeCapabilities = []*csi.VolumeCapability{block(manyWriters)}
			v := r.mustCreate(t, req).GetVolumeId()

			nqn := r.mustPublish(t, v, "node-a", true)["nqn"]
			source := b.mustConnect(t, "node-a", nqn)
			if _, err := b.connect(t, "node-b", nqn); err == nil {
				t.Fatal("node-b is let in before it is published")
			}
			if second := r.mustPublish(t, v, "node-b", true)["nqn"]; second != nqn {
				t.Errorf("node-b is told of %s, node-a has %s", second, nqn)
			}
			if !source.Alive() {
				t.Fatal("the source lost its connection when the target came")
			}
			target := b.mustConnect(t, "node-b", nqn)
			for _, node := range []string{"node-a", "node-b"} {
				if again := r.mustPublish(t, v, node, true)["nqn"]; again != nqn || !source.Alive() || !target.Alive() {
					t.Errorf("the repeat for %s gives %s; connections live: %v, %v", node, again, source.Alive(), target.Alive())
				}
			}
			if got := r.published(t, v); !slices.Equal(got, []string{nodeID(t, "node-a"), nodeID(t, "node-b")}) {
				t.Errorf("published to %v", got)
			}
			_, err := r.publish(t, v, "node-c", true)
			wantCode(t, err, codes.FailedPrecondition, "node-a", "node-b", "two nodes", "[attached-elsewhere]")
			wantCode(t, r.remove(t, v), codes.FailedPrecondition, "node-a", "node-b")

			if err := r.unpublish(t, v, goes); err != nil {
				t.Fatal(err)
			}
			if _, err := b.connect(t, goes, nqn); err == nil {
				t.Errorf("%s is let in after it was unpublished", goes)
			}
			b.mustConnect(t, stays, nqn)
			for _, c := range b.Connections() {
				if strings.HasPrefix(c, string(host(t, goes).NQN())) {
					t.Errorf("%s is still connected", goes)
				}
			}
			if got := r.published(t, v); !slices.Equal(got, []string{nodeID(t, stays)}) {
				t.Errorf("published to %v", got)
			}
			// The next migration, from there on.
			if again := r.mustPublish(t, v, "node-c", true)["nqn"]; again != nqn {
				t.Errorf("node-c is told of %s, %s has %s", again, stays, nqn)
			}
			if err := r.unpublish(t, v, ""); err != nil {
				t.Fatal(err)
			}
			if c := b.Connections(); len(c) != 0 {
				t.Errorf("still connected: %v", c)
			}
		})
	}
}

// TestSharedThroughAnOpenDoor: where the host field was opened by hand, the second node needs no change of it, but the
// mark must name it all the same.
func TestSharedThroughAnOpenDoor(t *testing.T) {
	b := newBox(t, "rds1", routerostest.Options{})
	r := newReplica(t, "", b)
	v := r.mustCreate(t, request("vm")).GetVolumeId()
	r.mustPublish(t, v, "node-a", true)
	b.Exec("csi", "/disk/set "+strings.TrimPrefix(v, "rds1/")+` nvme-tcp-server-allow-host-name=""`)
	r.mustPublish(t, v, "node-b", true)
	if got := r.published(t, v); !slices.Equal(got, []string{nodeID(t, "node-a"), nodeID(t, "node-b")}) {
		t.Errorf("published to %v", got)
	}
}

func TestWhoMayShare(t *testing.T) {
	off := false
	tests := []struct {
		name          string
		first, second bool // published as shared
		allowHost     *bool
		says          string
	}{
		{"both single", false, false, nil, "only a raw block volume"},
		{"only the first", true, false, nil, "only a raw block volume"},
		{"only the second", false, true, nil, "only a raw block volume"},
		{"no host field to keep one of them out", true, true, &off, "nvme.allowHost is off"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			b := newBox(t, "rds1", routerostest.Options{})
			b.config.NVMe.AllowHost = tt.allowHost
			r := newReplica(t, "", b)
			v := r.mustCreate(t, request("vm")).GetVolumeId()
			r.mustPublish(t, v, "node-a", tt.first)
			before := b.String()
			_, err := r.publish(t, v, "node-b", tt.second)
			wantCode(t, err, codes.FailedPrecondition, nodeID(t, "node-a"), tt.says, "[attached-elsewhere]")
			if b.String() != before {
				t.Errorf("the refusal changed\n%sto\n%s", before, b)
			}
		})
	}
	t.Run("the same node in another mode", func(t *testing.T) {
		r := newReplica(t, "", newBox(t, "rds1", routerostest.Options{}))
		v := r.mustCreate(t, request("vm")).GetVolumeId()
		r.mustPublish(t, v, "node-a", true)
		_, err := r.publish(t, v, "node-a", false)
		wantCode(t, err, codes.AlreadyExists)
	})
}

// TestHostFieldSwitchedOffDuringAMigration: then nothing would keep the node out that goes, so it does not "go".
func TestHostFieldSwitchedOffDuringAMigration(t *testing.T) {
	b := newBox(t, "rds1", routerostest.Options{})
	r := newReplica(t, "", b)
	v := r.mustCreate(t, request("vm")).GetVolumeId()
	r.mustPublish(t, v, "node-a", true)
	r.mustPublish(t, v, "node-b", true)

	off := false
	b.config.NVMe.AllowHost = &off
	restarted := newReplica(t, "", b)
	wantCode(t, restarted.unpublish(t, v, "node-b"), codes.FailedPrecondition, "node-a", "nvme.allowHost is off")
	if err := restarted.unpublish(t, v, ""); err != nil {
		t.Fatal(err)
	}
}
