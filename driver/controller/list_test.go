package controller

import (
	"fmt"
	"slices"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"

	"srvlab.io/rds-csi/driver"
	"srvlab.io/rds-csi/driver/routeros"
	"srvlab.io/rds-csi/safety"
	"srvlab.io/rds-csi/test/routerostest"
)

// listAll gives the IDs of all volumes, fetched in pages of size (0: at once).
func listAll(t *testing.T, r *replica, size int32) []string {
	t.Helper()
	var ids []string
	for token := ""; ; {
		resp, err := r.ListVolumes(t.Context(), &csi.ListVolumesRequest{MaxEntries: size, StartingToken: token})
		if err != nil {
			t.Fatal(err)
		}
		if n := len(resp.GetEntries()); size > 0 && n > int(size) {
			t.Errorf("a page of %d has %d", size, n)
		}
		for _, e := range resp.GetEntries() {
			ids = append(ids, e.GetVolume().GetVolumeId())
		}
		if token = resp.GetNextToken(); token == "" {
			return ids
		}
	}
}

func TestListVolumes(t *testing.T) {
	// "rds" is the start of "rds-a", and "-" sorts in front of "/": the pages must not be by array.
	boxes := []*box{newBox(t, "rds", routerostest.Options{}), newBox(t, "rds-a", routerostest.Options{})}
	r := newReplica(t, "", boxes...)
	if got := listAll(t, r, 0); len(got) != 0 {
		t.Errorf("nothing there, listed %v", got)
	}
	var want []string
	for i := range 7 {
		req := request(fmt.Sprintf("vol-%d", i))
		req.Parameters = map[string]string{"array": []string{"rds", "rds-a"}[i%2]}
		want = append(want, r.mustCreate(t, req).GetVolumeId())
	}
	slices.Sort(want)
	for size := range int32(9) {
		if got := listAll(t, r, size); !slices.Equal(got, want) {
			t.Errorf("pages of %d:\n%v\nwant\n%v", size, got, want)
		}
	}

	r.mustPublish(t, want[2], "node-a", false)
	resp, err := r.ListVolumes(t.Context(), &csi.ListVolumesRequest{})
	if err != nil {
		t.Fatal(err)
	}
	for i, e := range resp.GetEntries() {
		var nodes []string
		if i == 2 {
			nodes = []string{nodeID(t, "node-a")}
		}
		if got := e.GetStatus().GetPublishedNodeIds(); !slices.Equal(got, nodes) || e.GetVolume().GetCapacityBytes() != gib {
			t.Errorf("entry %d: %v", i, e)
		}
	}

	page, err := r.ListVolumes(t.Context(), &csi.ListVolumesRequest{MaxEntries: 3})
	if err != nil {
		t.Fatal(err)
	}
	if err := r.unpublish(t, want[2], ""); err != nil {
		t.Fatal(err)
	}
	if err := r.remove(t, want[2]); err != nil {
		t.Fatal(err)
	}
	next, err := r.ListVolumes(t.Context(), &csi.ListVolumesRequest{MaxEntries: 1, StartingToken: page.GetNextToken()})
	if err != nil || len(next.GetEntries()) != 1 || next.GetEntries()[0].GetVolume().GetVolumeId() != want[3] {
		t.Errorf("the page behind a volume that was deleted meanwhile: %v, %v; want %s", next, err, want[3])
	}

	for _, token := range []string{"invalid-token", "3", "rds/x", "/" + want[0]} {
		_, err := r.ListVolumes(t.Context(), &csi.ListVolumesRequest{StartingToken: token})
		wantCode(t, err, codes.Aborted, token)
	}
	_, err = r.ListVolumes(t.Context(), &csi.ListVolumesRequest{MaxEntries: -1})
	wantCode(t, err, codes.InvalidArgument)

	boxes[1].stop()
	_, err = r.ListVolumes(t.Context(), &csi.ListVolumesRequest{})
	wantCode(t, err, codes.Unavailable, "rds-a", "[array-unreachable]")
}

func TestGetVolume(t *testing.T) {
	r := newReplica(t, "", newBox(t, "rds1", routerostest.Options{}))
	v := r.mustCreate(t, request("data"))
	got, err := r.ControllerGetVolume(t.Context(), &csi.ControllerGetVolumeRequest{VolumeId: v.GetVolumeId()})
	if err != nil || got.GetVolume().GetVolumeId() != v.GetVolumeId() || got.GetVolume().GetCapacityBytes() != gib {
		t.Errorf("%v, %v", got, err)
	}
	for id, code := range map[string]codes.Code{
		"": codes.InvalidArgument, "x": codes.NotFound, "rds1/" + string(safety.SlotOf(safety.UUID{1})): codes.NotFound,
	} {
		_, err := r.ControllerGetVolume(t.Context(), &csi.ControllerGetVolumeRequest{VolumeId: id})
		wantCode(t, err, code)
	}
}

func TestValidateVolumeCapabilities(t *testing.T) {
	r := newReplica(t, "", newBox(t, "rds1", routerostest.Options{}))
	req := request("data")
	req.CapacityRange.RequiredBytes = 100 * mib
	v := r.mustCreate(t, req).GetVolumeId()
	tests := []struct {
		name       string
		caps       []*csi.VolumeCapability
		parameters map[string]string
		confirmed  bool
	}{
		{"mount", []*csi.VolumeCapability{mount(oneWriter, "ext4")}, map[string]string{"onPathLoss": "error"}, true},
		{"block for two", []*csi.VolumeCapability{block(manyWriters)}, nil, true},
		{"one of two unsupported", []*csi.VolumeCapability{mount(oneWriter, ""), mount(manyWriters, "")}, nil, false},
		{"too small for xfs", []*csi.VolumeCapability{mount(oneWriter, "xfs")}, nil, false},
		{"unknown parameter", []*csi.VolumeCapability{mount(oneWriter, "")}, map[string]string{"x": "y"}, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			resp, err := r.ValidateVolumeCapabilities(t.Context(), &csi.ValidateVolumeCapabilitiesRequest{
				VolumeId: v, VolumeCapabilities: tt.caps, Parameters: tt.parameters,
			})
			if err != nil {
				t.Fatal(err)
			}
			if c := resp.GetConfirmed(); (c != nil) != tt.confirmed || tt.confirmed && len(c.GetVolumeCapabilities()) != len(tt.caps) {
				t.Errorf("confirmed: %v", c)
			}
			if (resp.GetMessage() == "") != tt.confirmed {
				t.Errorf("message %q", resp.GetMessage())
			}
		})
	}
	for _, tt := range []struct {
		id   string
		caps []*csi.VolumeCapability
		code codes.Code
	}{
		{"", tests[0].caps, codes.InvalidArgument},
		{v, nil, codes.InvalidArgument},
		{"x", tests[0].caps, codes.NotFound},
	} {
		_, err := r.ValidateVolumeCapabilities(t.Context(), &csi.ValidateVolumeCapabilitiesRequest{
			VolumeId: tt.id, VolumeCapabilities: tt.caps,
		})
		wantCode(t, err, tt.code)
	}
}

func TestGetCapacity(t *testing.T) {
	small := routerostest.Options{Pools: []routerostest.Pool{{Slot: "raid10", Size: 4*gib + 5, FS: "xfs"}}}
	boxes := []*box{newBox(t, "rds1", routerostest.Options{}), newBox(t, "rds2", small)}
	r := newReplica(t, "", boxes...)
	one, two := routeros.Pool{FreeBytes: poolSize}.Room(), routeros.Pool{FreeBytes: 4*gib + 5}.Room()
	on := func(arrays ...string) *csi.Topology { return reaches(arrays).GetRequisite()[0] }
	tests := []struct {
		name           string
		req            *csi.GetCapacityRequest
		free, max, min int64
	}{
		{"everything", &csi.GetCapacityRequest{}, one + two, one, mib},
		{"one by parameter", &csi.GetCapacityRequest{Parameters: map[string]string{"array": "rds2"}}, two, two, mib},
		{"one by topology", &csi.GetCapacityRequest{AccessibleTopology: on("rds2")}, two, two, mib},
		{"a node that reaches both", &csi.GetCapacityRequest{AccessibleTopology: on("rds1", "rds2")}, one + two, one, mib},
		{"a node that reaches none", &csi.GetCapacityRequest{AccessibleTopology: on()}, 0, 0, mib},
		{"an empty topology", &csi.GetCapacityRequest{AccessibleTopology: &csi.Topology{}}, 0, 0, mib},
		{
			"what is unsupported fits nowhere",
			&csi.GetCapacityRequest{VolumeCapabilities: []*csi.VolumeCapability{mount(manyWriters, "")}}, 0, 0, mib,
		},
		{
			"xfs", &csi.GetCapacityRequest{VolumeCapabilities: []*csi.VolumeCapability{mount(oneWriter, "xfs")}},
			one + two, one, minXFS,
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			resp, err := r.GetCapacity(t.Context(), tt.req)
			if err != nil {
				t.Fatal(err)
			}
			free, most, least := resp.GetAvailableCapacity(), resp.GetMaximumVolumeSize().GetValue(), resp.GetMinimumVolumeSize().GetValue()
			if free != tt.free || most != tt.max || least != tt.min {
				t.Errorf("free %d, from %d to %d; want %d, from %d to %d", free, least, most, tt.free, tt.min, tt.max)
			}
		})
	}
	// What it promises can be created.
	req := request("all of it")
	req.CapacityRange.RequiredBytes = two
	req.Parameters = map[string]string{"array": "rds2"}
	r.mustCreate(t, req)

	_, err := r.GetCapacity(t.Context(), &csi.GetCapacityRequest{Parameters: map[string]string{"array": "rds9"}})
	wantCode(t, err, codes.InvalidArgument, "rds9")
	boxes[1].stop()
	_, err = r.GetCapacity(t.Context(), &csi.GetCapacityRequest{})
	wantCode(t, err, codes.Unavailable, "rds2")
	if _, err := r.GetCapacity(t.Context(), &csi.GetCapacityRequest{AccessibleTopology: on("rds1")}); err != nil {
		t.Errorf("the other array: %v", err)
	}
}

func TestExpand(t *testing.T) {
	b := newBox(t, "rds1", routerostest.Options{})
	r := newReplica(t, "", b)
	v := r.mustCreate(t, request("data")).GetVolumeId()
	tests := []struct {
		name            string
		id              string
		required, limit int64
		want            int64
		code            codes.Code
		says            []string
	}{
		{name: "never smaller", id: v, required: gib / 2, want: gib},
		{name: "same", id: v, required: gib, want: gib},
		{name: "no size at all", id: v, want: gib},
		{name: "limit below what it has", id: v, required: mib, limit: gib / 2, code: codes.OutOfRange, says: []string{fmt.Sprint(gib)}},
		{name: "larger, rounded up", id: v, required: gib + 1, want: gib + mib},
		{name: "larger again", id: v, required: 3 * gib, limit: 3 * gib, want: 3 * gib},
		{
			name: "more than is free", id: v, required: poolSize, want: 0, code: codes.ResourceExhausted,
			says: []string{fmt.Sprint(poolSize - 3*gib), "room for", "[no-space]"},
		},
		{name: "more than the pool has", id: v, required: 2*poolSize + 4*gib, code: codes.OutOfRange, says: []string{fmt.Sprint(poolSize)}},
		{name: "limit below required", id: v, required: 2, limit: 1, code: codes.InvalidArgument},
		{name: "no such volume", id: "x", required: gib, code: codes.NotFound},
		{name: "no volume ID", required: gib, code: codes.InvalidArgument},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := r.expand(t, tt.id, tt.required, tt.limit)
			wantCode(t, err, tt.code, tt.says...)
			if got != tt.want {
				t.Errorf("%d bytes, want %d", got, tt.want)
			}
		})
	}
	_, err := r.ControllerExpandVolume(t.Context(), &csi.ControllerExpandVolumeRequest{VolumeId: v})
	wantCode(t, err, codes.InvalidArgument, "capacity range")
	if got, err := r.ControllerGetVolume(t.Context(), &csi.ControllerGetVolumeRequest{VolumeId: v}); got.GetVolume().GetCapacityBytes() != 3*gib {
		t.Errorf("in the end: %v, %v", got, err)
	}
	if got := r.mustPublish(t, v, "node-a", false)[driver.PublishSize]; got != fmt.Sprint(3*gib) {
		t.Errorf("the node is told of %s bytes", got)
	}
}

func TestDeleteUnknown(t *testing.T) {
	b := newBox(t, "rds1", routerostest.Options{})
	r := newReplica(t, "", b)
	if err := r.remove(t, r.mustCreate(t, request("data")).GetVolumeId()); err != nil {
		t.Fatal(err)
	}
	unused := string(safety.SlotOf(safety.UUID{1}))
	for _, id := range []string{"reallyfakevolumeid", "a/b/c", "rds1/pvc-short", "rds1/" + unused} {
		if err := r.remove(t, id); err != nil {
			t.Errorf("delete %s: %v", id, err)
		}
	}
	wantCode(t, r.remove(t, ""), codes.InvalidArgument)
	wantCode(t, r.remove(t, "rds9/"+unused), codes.FailedPrecondition, "rds9", "rds1")
	b.stop()
	wantCode(t, r.remove(t, "rds1/"+unused), codes.Unavailable, "[array-unreachable]")
}

func TestCapabilities(t *testing.T) {
	r := newReplica(t, "", newBox(t, "rds1", routerostest.Options{}))
	resp, err := r.ControllerGetCapabilities(t.Context(), &csi.ControllerGetCapabilitiesRequest{})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, c := range resp.GetCapabilities() {
		got = append(got, c.GetRpc().GetType().String())
	}
	want := []string{
		"CREATE_DELETE_VOLUME", "PUBLISH_UNPUBLISH_VOLUME", "LIST_VOLUMES", "LIST_VOLUMES_PUBLISHED_NODES", "GET_CAPACITY",
		"GET_VOLUME", "EXPAND_VOLUME", "SINGLE_NODE_MULTI_WRITER",
	}
	if !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	_, err = r.CreateSnapshot(t.Context(), &csi.CreateSnapshotRequest{})
	wantCode(t, err, codes.Unimplemented)
}
