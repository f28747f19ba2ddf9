package controller

import (
	"fmt"
	"regexp"
	"strings"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"

	"srvlab.io/rds-csi/driver"
	"srvlab.io/rds-csi/safety"
	"srvlab.io/rds-csi/test/routerostest"
)

func TestCreateRefusesWhatItDoesNotUnderstand(t *testing.T) {
	b := newBox(t, "rds1", routerostest.Options{})
	r := newReplica(t, "", b)
	tests := []struct {
		name   string
		change func(*csi.CreateVolumeRequest)
		code   codes.Code
		says   []string
	}{
		{"no name", func(r *csi.CreateVolumeRequest) { r.Name = "" }, codes.InvalidArgument, []string{"is missing"}},
		{
			"long name", func(r *csi.CreateVolumeRequest) { r.Name = strings.Repeat("x", 129) },
			codes.InvalidArgument,
			[]string{"129 bytes"},
		},
		{
			"control character", func(r *csi.CreateVolumeRequest) { r.Name = "a\x00b" },
			codes.InvalidArgument,
			[]string{"control character"},
		},
		{
			"no capabilities", func(r *csi.CreateVolumeRequest) { r.VolumeCapabilities = nil },
			codes.InvalidArgument,
			[]string{"capabilities are missing"},
		},
		{
			"every bad parameter is named", func(r *csi.CreateVolumeRequest) {
				r.Parameters = map[string]string{"poolSlot": "x", "array": "rds9", "onPathLoss": "panic", "csi.storage.k8s.io/other": ""}
				r.VolumeCapabilities = []*csi.VolumeCapability{mount(manyWriters, "btrfs")}
			},
			codes.InvalidArgument,
			[]string{
				`"poolSlot": unknown; known are array, onPathLoss`, `array="rds9": is not configured; there are: rds1`,
				`onPathLoss="panic": is neither queue nor error`, `"csi.storage.k8s.io/other": unknown`,
				"MULTI_NODE_MULTI_WRITER", `"btrfs"`,
			},
		},
		{
			"from a snapshot", func(r *csi.CreateVolumeRequest) { r.VolumeContentSource = &csi.VolumeContentSource{} },
			codes.InvalidArgument,
			[]string{"content source"},
		},
		{
			"mutable parameters", func(r *csi.CreateVolumeRequest) { r.MutableParameters = map[string]string{"iops": "1"} },
			codes.InvalidArgument,
			[]string{"VolumeAttributesClass"},
		},
		{
			"limit below required", func(r *csi.CreateVolumeRequest) { r.CapacityRange.LimitBytes = mib },
			codes.InvalidArgument,
			[]string{"limit"},
		},
		{
			"small xfs", func(r *csi.CreateVolumeRequest) {
				r.VolumeCapabilities = []*csi.VolumeCapability{mount(oneWriter, "xfs")}
				r.CapacityRange.RequiredBytes = 100 * mib
			},
			codes.OutOfRange,
			[]string{"mkfs.xfs"},
		},
		{
			"more than is free", func(r *csi.CreateVolumeRequest) { r.CapacityRange.RequiredBytes = poolSize },
			codes.ResourceExhausted,
			[]string{fmt.Sprint(poolSize), "room for", "[no-space]"},
		},
		{
			"more than the pool has", func(r *csi.CreateVolumeRequest) { r.CapacityRange.RequiredBytes = poolSize + mib },
			codes.OutOfRange,
			[]string{fmt.Sprint(poolSize), fmt.Sprint(poolSize + mib)},
		},
		{
			"a topology that reaches no array", func(r *csi.CreateVolumeRequest) { r.AccessibilityRequirements = reaches([]string{"rds9"}) },
			codes.ResourceExhausted,
			[]string{"do not reach any of rds1", "array-rds9"},
		},
	}
	filler := r.mustCreate(t, request("filler"))
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			req := request("vol")
			tt.change(req)
			_, err := r.CreateVolume(t.Context(), req)
			wantCode(t, err, tt.code, tt.says...)
		})
	}
	if err := r.remove(t, filler.GetVolumeId()); err != nil {
		t.Fatal(err)
	}
	b.wantState(t)
}

func TestCreateTakesAnyName(t *testing.T) {
	r := newReplica(t, "", newBox(t, "rds1", routerostest.Options{}))
	seen := map[string]string{}
	for _, name := range []string{
		"data", "pvc-0f3b5a52-6f0c-4b57-9a6e-1f4f7d0c8e11", "PVC-0F3B5A52", strings.Repeat("ü", 64), strings.Repeat("x", 128),
		`quo"te`, `back\slash`, "$variable", "a b\tc\nd", "percent%20", "node=other,[/system reset]", "; /disk remove",
	} {
		v := r.mustCreate(t, request(name))
		if again := r.mustCreate(t, request(name)); again.GetVolumeId() != v.GetVolumeId() {
			t.Errorf("%q is %s and then %s", name, v.GetVolumeId(), again.GetVolumeId())
		}
		if other, found := seen[v.GetVolumeId()]; found {
			t.Errorf("%q and %q are one volume", name, other)
		}
		seen[v.GetVolumeId()] = name
		mustPublishAndBack(t, r, v.GetVolumeId())
	}
}

func mustPublishAndBack(t *testing.T, r *replica, volumeID string) {
	t.Helper()
	r.mustPublish(t, volumeID, "node-a", false)
	if err := r.unpublish(t, volumeID, "node-a"); err != nil {
		t.Fatal(err)
	}
}

func TestCreateAgain(t *testing.T) {
	tests := []struct {
		name            string
		required, limit int64
		ok              bool
	}{
		{"same", gib, 0, true},
		{"less is enough", gib / 2, 0, true},
		{"within the limit", gib / 2, 2 * gib, true},
		{"nothing asked", 0, 0, true},
		{"more", 2 * gib, 0, false},
		{"limit below", 0, gib / 2, false},
	}
	r := newReplica(t, "", newBox(t, "rds1", routerostest.Options{}))
	first := r.mustCreate(t, request("data"))
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			req := request("data")
			req.CapacityRange = &csi.CapacityRange{RequiredBytes: tt.required, LimitBytes: tt.limit}
			resp, err := r.CreateVolume(t.Context(), req)
			if !tt.ok {
				wantCode(t, err, codes.AlreadyExists, fmt.Sprint(gib), fmt.Sprint(max(tt.required, tt.limit)))
				return
			}
			if err != nil || resp.GetVolume().String() != first.String() {
				t.Errorf("got %v, %v; want %v", resp.GetVolume(), err, first)
			}
		})
	}
}

// TestCreateUnderTheNameOfAnother makes a volume whose name is the identity that another name was hashed to.
func TestCreateUnderTheNameOfAnother(t *testing.T) {
	r := newReplica(t, "", newBox(t, "rds1", routerostest.Options{}))
	r.mustCreate(t, request("data"))
	_, err := r.CreateVolume(t.Context(), request("pvc-"+safety.VolumeUUID(r.prefix, "data").String()))
	wantCode(t, err, codes.AlreadyExists, `it was created as "data"`)
}

func TestVolumeContext(t *testing.T) {
	r := newReplica(t, "", newBox(t, "rds1", routerostest.Options{}))
	for given, want := range map[string]string{"": "queue", "queue": "queue", "error": "error"} {
		req := request("vol-" + given)
		req.Parameters = map[string]string{
			"csi.storage.k8s.io/pv/name": "x", "csi.storage.k8s.io/pvc/name": "y", "csi.storage.k8s.io/pvc/namespace": "z",
			"csi.storage.k8s.io/fstype": "xfs",
		}
		if given != "" {
			req.Parameters["onPathLoss"] = given
		}
		v := r.mustCreate(t, req)
		if got := v.GetVolumeContext(); len(got) != 1 || got["onPathLoss"] != want {
			t.Errorf("onPathLoss=%q: volume context %v", given, got)
		}
	}
}

// reaches is the topology requirement of nodes: for each node the arrays that it reaches, the preferred node first.
func reaches(nodes ...[]string) *csi.TopologyRequirement {
	req := &csi.TopologyRequirement{}
	for _, arrays := range nodes {
		term := &csi.Topology{Segments: map[string]string{"kubernetes.io/hostname": "x"}}
		for _, a := range arrays {
			term.Segments[driver.TopologyKey(safety.ArrayName(a))] = driver.TopologyValue
		}
		req.Requisite = append(req.Requisite, term)
	}
	req.Preferred = req.Requisite
	return req
}

// TestChoiceOfArray has rds1 with little room, rds2 with more, rds3 with most.
func TestChoiceOfArray(t *testing.T) {
	pool := func(size int64) routerostest.Options {
		return routerostest.Options{Pools: []routerostest.Pool{{Slot: "raid10", Size: size, FS: "xfs", Overhead: gib / 2}}}
	}
	boxes := []*box{newBox(t, "rds1", pool(4*gib)), newBox(t, "rds2", pool(8*gib)), newBox(t, "rds3", pool(16*gib))}
	r := newReplica(t, "", boxes...)
	tests := []struct {
		name     string
		array    string
		topology *csi.TopologyRequirement
		size     int64
		want     string
		code     codes.Code
	}{
		{name: "most free", want: "rds3"},
		{name: "by parameter", array: "rds1", want: "rds1"},
		{name: "by topology", topology: reaches([]string{"rds1"}), want: "rds1"},
		{name: "preferred node first", topology: reaches([]string{"rds2"}, []string{"rds3"}), want: "rds2"},
		{name: "most free of what the preferred node reaches", topology: reaches([]string{"rds1", "rds2"}, []string{"rds3"}), want: "rds2"},
		{name: "the next node where the preferred has no room", topology: reaches([]string{"rds1"}, []string{"rds2"}), size: 6 * gib, want: "rds2"},
		{name: "parameter within the topology", array: "rds2", topology: reaches([]string{"rds2", "rds3"}), want: "rds2"},
		{name: "parameter outside the topology", array: "rds1", topology: reaches([]string{"rds2"}), code: codes.ResourceExhausted},
		{name: "no room anywhere it may go", topology: reaches([]string{"rds1", "rds2"}), size: 8*gib - mib, code: codes.ResourceExhausted},
		{name: "larger than all", size: 17 * gib, code: codes.OutOfRange},
		{name: "empty requirement", topology: &csi.TopologyRequirement{}, want: "rds3"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			req := request("vol")
			req.AccessibilityRequirements = tt.topology
			if tt.array != "" {
				req.Parameters = map[string]string{"array": tt.array}
			}
			if tt.size > 0 {
				req.CapacityRange.RequiredBytes = tt.size
			}
			resp, err := r.CreateVolume(t.Context(), req)
			if tt.code != codes.OK {
				wantCode(t, err, tt.code)
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			v := resp.GetVolume()
			if got, _, _ := strings.Cut(v.GetVolumeId(), "/"); got != tt.want {
				t.Errorf("it is on %s, want %s", got, tt.want)
			}
			want := fmt.Sprint([]*csi.Topology{{Segments: map[string]string{"rds.csi.srvlab.io/array-" + tt.want: "true"}}})
			if got := fmt.Sprint(v.GetAccessibleTopology()); got != want {
				t.Errorf("accessible from %s, want %s", got, want)
			}
			if err := r.remove(t, v.GetVolumeId()); err != nil {
				t.Fatal(err)
			}
		})
	}
	for _, b := range boxes {
		b.wantState(t)
	}
}

// TestNeverASecondCopy: where the volume is on one of several arrays, a repeat finds it there, even when another has
// more room by then; and while one that may have it does not answer, nothing is made.
func TestNeverASecondCopy(t *testing.T) {
	one, two := newBox(t, "rds1", routerostest.Options{}), newBox(t, "rds2", routerostest.Options{})
	r := newReplica(t, "", one, two)
	req := request("data")
	req.AccessibilityRequirements = reaches([]string{"rds1"})
	first := r.mustCreate(t, req)
	filled := one.String()
	req.AccessibilityRequirements = nil
	if again := r.mustCreate(t, req); again.GetVolumeId() != first.GetVolumeId() {
		t.Errorf("a repeat gives %s, first %s", again.GetVolumeId(), first.GetVolumeId())
	}
	two.wantState(t)

	// A look-up whose answer is lost is no "not found".
	slot := regexp.MustCompile(strings.TrimPrefix(first.GetVolumeId(), "rds1/"))
	one.Inject(routerostest.Fault{Kind: routerostest.DropBefore, Match: slot})
	_, err := r.CreateVolume(t.Context(), req)
	wantCode(t, err, codes.Unavailable, "rds1", "[array-unreachable]")
	two.wantState(t)

	two.stop()
	if again := r.mustCreate(t, req); again.GetVolumeId() != first.GetVolumeId() {
		t.Errorf("a repeat with the other array gone gives %s, first %s", again.GetVolumeId(), first.GetVolumeId())
	}
	_, err = r.CreateVolume(t.Context(), request("other"))
	wantCode(t, err, codes.Unavailable, "rds2", "[array-unreachable]")
	if one.String() != filled {
		t.Errorf("something was made on rds1:\n%s", one.String())
	}
	fixed := request("other")
	fixed.Parameters = map[string]string{"array": "rds1"}
	r.mustCreate(t, fixed)
}
