package node

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"srvlab.io/rds-csi/driver"
	"srvlab.io/rds-csi/driver/mapper"
	"srvlab.io/rds-csi/safety"
	"srvlab.io/rds-csi/safety/kernel"
)

const testPrefix = "nqn.2000-02.com.mikrotik:test-"

func testNode(t *testing.T, portals ...Portal) *Node {
	t.Helper()
	p, err := safety.ParsePrefix(testPrefix)
	if err != nil {
		t.Fatal(err)
	}
	h, err := safety.NewHost("cluster", "node1")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	n, err := New(Config{
		FS: kernel.FS{Proc: dir, Sys: dir, Dev: dir}, Prefix: p, Host: h, KubeletDir: "/var/lib/kubelet", Portals: portals,
	})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// answerOf gives the reason of an error that is a refusal, and else its code.
func answerOf(err error) string {
	if err == nil {
		return "ok"
	}
	if r := safety.ReasonOf(err); r != "" {
		return string(r)
	}
	return status.Code(err).String()
}

func TestNewRefuses(t *testing.T) {
	good := Config{KubeletDir: "/var/lib/kubelet"}
	good.Prefix, _ = safety.ParsePrefix(testPrefix)
	good.Host, _ = safety.NewHost("cluster", "node1")
	if _, err := New(good); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name   string
		change func(*Config)
	}{
		{"no prefix", func(c *Config) { c.Prefix = safety.Prefix{} }},
		{"no host", func(c *Config) { c.Host = safety.Host{} }},
		{"no kubelet directory", func(c *Config) { c.KubeletDir = "" }},
		{"the root", func(c *Config) { c.KubeletDir = "/" }},
		{"relative", func(c *Config) { c.KubeletDir = "kubelet" }},
		{"unclean", func(c *Config) { c.KubeletDir = "/var/lib/../lib/kubelet" }},
		{"slash at the end", func(c *Config) { c.KubeletDir = "/var/lib/kubelet/" }},
	} {
		config := good
		c.change(&config)
		if _, err := New(config); err == nil {
			t.Errorf("%s: accepted", c.name)
		}
	}
}

func TestPathsStayBelowKubelet(t *testing.T) {
	n := testNode(t)
	for path, want := range map[string]codes.Code{
		"/var/lib/kubelet/pods/1/mount": codes.OK,
		"":                              codes.InvalidArgument,
		"pods/1":                        codes.InvalidArgument,
		"/var/lib/kubelet":              codes.InvalidArgument,
		"/var/lib/kubelet/":             codes.InvalidArgument,
		"/var/lib/kubelet2/pods":        codes.InvalidArgument,
		"/var/lib/kubelet/../../../etc": codes.InvalidArgument,
		"/var/lib/kubelet/pods/./1":     codes.InvalidArgument,
		"/var/lib/kubelet//pods":        codes.InvalidArgument,
		"/var":                          codes.InvalidArgument,
		"/var/lib/kubelet/pods/1/volumes/x/mount/": codes.InvalidArgument,
	} {
		if got := status.Code(n.checkPath("path", path)); got != want {
			t.Errorf("path %q: %s, want %s", path, got, want)
		}
	}
}

var testUUID = safety.UUID{1, 2, 3}

func testID() string { return "rds1/" + string(safety.SlotOf(testUUID)) }

func TestParseVolume(t *testing.T) {
	n := testNode(t)
	nqn := n.prefix.Export(testUUID, 7)
	good := map[string]string{
		driver.PublishNQN: string(nqn), driver.PublishAddress: "192.0.2.9", driver.PublishPort: "4420", driver.PublishSize: "1048576",
	}
	v, err := n.parseVolume(testID(), good, nil)
	if err != nil {
		t.Fatal(err)
	}
	want := volume{
		ID: mapper.ID{
			Slot: safety.SlotOf(testUUID), Generation: 7, Address: netip.MustParseAddr("192.0.2.9"), Port: 4420, Array: "rds1",
		},
		nqn: nqn, sizeBytes: 1 << 20, queue: true,
	}
	if v != want {
		t.Errorf("parsed %+v, want %+v", v, want)
	}
	for _, c := range []struct{ key, value, want string }{
		{driver.PublishNQN, "", "InvalidArgument"},
		{driver.PublishNQN, "nqn.2000-02.com.mikrotik:nixos-var", string(safety.ForeignNQN)},
		{driver.PublishNQN, testPrefix + "data", string(safety.ForeignNQN)},
		{driver.PublishNQN, string(n.prefix.Export(safety.UUID{9}, 7)), string(safety.ForeignNQN)}, // another volume's
		{driver.PublishAddress, "", "InvalidArgument"},
		{driver.PublishAddress, "rds1.example.org", "InvalidArgument"},
		{driver.PublishPort, "0", "InvalidArgument"},
		{driver.PublishPort, "65536", "InvalidArgument"},
		{driver.PublishPort, "nvme", "InvalidArgument"},
		{driver.PublishSize, "", "InvalidArgument"},
		{driver.PublishSize, "0", "InvalidArgument"},
		{driver.PublishSize, "1GiB", "InvalidArgument"},
	} {
		bad := map[string]string{}
		for k, v := range good {
			bad[k] = v
		}
		bad[c.key] = c.value
		if _, err := n.parseVolume(testID(), bad, nil); answerOf(err) != c.want {
			t.Errorf("%s=%q: %v, want %s", c.key, c.value, err, c.want)
		}
	}
	for value, want := range map[string]string{"queue": "ok", "error": "ok", "": "ok", "retry": "InvalidArgument"} {
		v, err := n.parseVolume(testID(), good, map[string]string{driver.OnPathLoss: value})
		if answerOf(err) != want {
			t.Errorf("onPathLoss=%q: %v, want %s", value, err, want)
		}
		if err == nil && v.queue != (value != "error") {
			t.Errorf("onPathLoss=%q: queue=%t", value, v.queue)
		}
	}
	for id, want := range map[string]string{"": "InvalidArgument", "pvc-1": "NotFound", "rds1/data": "NotFound", "RDS/" + string(v.Slot): "NotFound"} {
		if _, err := n.parseVolume(id, good, nil); answerOf(err) != want {
			t.Errorf("volume ID %q: %v, want %s", id, err, want)
		}
	}
}

func TestParseCapability(t *testing.T) {
	const (
		writer = csi.VolumeCapability_AccessMode_SINGLE_NODE_WRITER
		multi  = csi.VolumeCapability_AccessMode_SINGLE_NODE_MULTI_WRITER
		single = csi.VolumeCapability_AccessMode_SINGLE_NODE_SINGLE_WRITER
		reader = csi.VolumeCapability_AccessMode_SINGLE_NODE_READER_ONLY
		shared = csi.VolumeCapability_AccessMode_MULTI_NODE_MULTI_WRITER
	)
	mount := func(mode csi.VolumeCapability_AccessMode_Mode, fs string, flags ...string) *csi.VolumeCapability {
		return &csi.VolumeCapability{
			AccessMode: &csi.VolumeCapability_AccessMode{Mode: mode},
			AccessType: &csi.VolumeCapability_Mount{Mount: &csi.VolumeCapability_MountVolume{FsType: fs, MountFlags: flags}},
		}
	}
	block := func(mode csi.VolumeCapability_AccessMode_Mode) *csi.VolumeCapability {
		return &csi.VolumeCapability{
			AccessMode: &csi.VolumeCapability_AccessMode{Mode: mode},
			AccessType: &csi.VolumeCapability_Block{Block: &csi.VolumeCapability_BlockVolume{}},
		}
	}
	for _, c := range []struct {
		name string
		in   *csi.VolumeCapability
		want access
		ok   bool
	}{
		{"default file system", mount(multi, ""), access{fsType: fsExt4}, true},
		{"xfs", mount(writer, "xfs"), access{fsType: fsXFS}, true},
		{"options are joined once", mount(multi, "ext4", "noatime", "nodev,noatime", ""), access{fsType: fsExt4, options: []string{"noatime", "nodev"}}, true},
		{"single writer", mount(single, "ext4"), access{fsType: fsExt4, singleWriter: true}, true},
		{"reader", mount(reader, "ext4"), access{fsType: fsExt4, readOnly: true}, true},
		{"block on two nodes", block(shared), access{block: true}, true},
		{"file system on two nodes", mount(shared, "ext4"), access{}, false},
		{"btrfs", mount(multi, "btrfs"), access{}, false},
		{"bind option", mount(multi, "ext4", "bind"), access{}, false},
		{"remount option amid others", mount(multi, "ext4", "noatime,remount,ro"), access{}, false},
		{"loop with a value", mount(multi, "ext4", "loop=/dev/loop0"), access{}, false},
		{"no mode", mount(csi.VolumeCapability_AccessMode_UNKNOWN, "ext4"), access{}, false},
		{"readers on many nodes", mount(csi.VolumeCapability_AccessMode_MULTI_NODE_READER_ONLY, "ext4"), access{}, false},
		{"neither block nor mount", &csi.VolumeCapability{AccessMode: &csi.VolumeCapability_AccessMode{Mode: multi}}, access{}, false},
		{"nothing", nil, access{}, false},
	} {
		got, err := parseCapability(c.in)
		if (err == nil) != c.ok || err != nil && status.Code(err) != codes.InvalidArgument {
			t.Errorf("%s: error %v", c.name, err)
			continue
		}
		if got.block != c.want.block || got.fsType != c.want.fsType || !slices.Equal(got.options, c.want.options) ||
			got.readOnly != c.want.readOnly || got.singleWriter != c.want.singleWriter {
			t.Errorf("%s: %+v, want %+v", c.name, got, c.want)
		}
	}
}

// What csi-sanity and the specification expect of calls that name nothing that is here.
func TestWrongRequests(t *testing.T) {
	n := testNode(t)
	ctx := t.Context()
	const path = "/var/lib/kubelet/x"
	for _, c := range []struct {
		name, want string
		call       func() error
	}{
		{"stage without a volume", "InvalidArgument", func() error {
			_, err := n.NodeStageVolume(ctx, &csi.NodeStageVolumeRequest{StagingTargetPath: path})
			return err
		}},
		{"stage without a path", "InvalidArgument", func() error {
			_, err := n.NodeStageVolume(ctx, &csi.NodeStageVolumeRequest{VolumeId: testID()})
			return err
		}},
		{"stage without a capability", "InvalidArgument", func() error {
			_, err := n.NodeStageVolume(ctx, &csi.NodeStageVolumeRequest{VolumeId: testID(), StagingTargetPath: path})
			return err
		}},
		{"unpublish elsewhere", "InvalidArgument", func() error {
			_, err := n.NodeUnpublishVolume(ctx, &csi.NodeUnpublishVolumeRequest{VolumeId: testID(), TargetPath: "/etc"})
			return err
		}},
		{"unpublish of nobody's volume", "NotFound", func() error {
			_, err := n.NodeUnpublishVolume(ctx, &csi.NodeUnpublishVolumeRequest{VolumeId: "x", TargetPath: path})
			return err
		}},
		{"unstage without a path", "InvalidArgument", func() error {
			_, err := n.NodeUnstageVolume(ctx, &csi.NodeUnstageVolumeRequest{VolumeId: testID()})
			return err
		}},
		{"statistics without a path", "InvalidArgument", func() error {
			_, err := n.NodeGetVolumeStats(ctx, &csi.NodeGetVolumeStatsRequest{VolumeId: testID()})
			return err
		}},
		{"statistics of a path that is none", "NotFound", func() error {
			_, err := n.NodeGetVolumeStats(ctx, &csi.NodeGetVolumeStatsRequest{VolumeId: testID(), VolumePath: "some/path"})
			return err
		}},
		{"expansion at a path that is none", "NotFound", func() error {
			_, err := n.NodeExpandVolume(ctx, &csi.NodeExpandVolumeRequest{VolumeId: testID(), VolumePath: "some/path"})
			return err
		}},
	} {
		if err := c.call(); answerOf(err) != c.want {
			t.Errorf("%s: %v, want %s", c.name, err, c.want)
		}
	}
}

// A call for a volume that another call works on is refused, and reads nothing before.
func TestOneCallAVolume(t *testing.T) {
	n := testNode(t)
	leave, err := n.inFlight.Enter(safety.SlotOf(testUUID), "repair")
	if err != nil {
		t.Fatal(err)
	}
	defer leave()
	_, err = n.NodeUnstageVolume(t.Context(), &csi.NodeUnstageVolumeRequest{VolumeId: testID(), StagingTargetPath: "/var/lib/kubelet/x"})
	if safety.ReasonOf(err) != safety.InFlight || !strings.Contains(err.Error(), "repair") {
		t.Errorf("unstage during a repair: %v", err)
	}
}
