package sanity

import (
	"context"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"srvlab.io/rds-csi/driver"
	"srvlab.io/rds-csi/safety"
	"srvlab.io/rds-csi/test/stack"
)

// TestControllerSanity runs everything of csi-sanity that the controller answers, the real program against the
// emulator over SSH. The kernel's half is TestKernelSanity.
func TestControllerSanity(t *testing.T) {
	access := os.Getenv(inChild)
	if access == "" {
		runParts(t, 5*time.Minute, "mount", "block")
		return
	}
	host, err := safety.NewHost(cluster, nodeName)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	p := part{access: access, skip: "Node Service", checkAfter: nothingLeft, stack: stackConfig(t, dir)}
	p.run(t, standIn{id: host.ID()})
}

// stackConfig is what both halves share.
func stackConfig(t *testing.T, dir string) stack.Config {
	t.Helper()
	prefix, err := safety.ParsePrefix("nqn.2000-02.com.mikrotik:sanity-")
	if err != nil {
		t.Fatal(err)
	}
	bin, err := filepath.Abs("../../bin")
	if err != nil {
		t.Fatal(err)
	}
	kubelet := filepath.Join(dir, "kubelet")
	if err := os.Mkdir(kubelet, 0o755); err != nil {
		t.Fatal(err)
	}
	return stack.Config{
		Bin: bin, Dir: dir, Log: dir, Prefix: prefix, Cluster: cluster, Kubelet: kubelet,
		Array: stack.Array{
			Name: "rds1", SSH: freePort(t), Portal: netip.MustParseAddrPort("127.0.0.1:4420"),
			Version: "7.24.4", Pool: "raid10", Format: "xfs", Size: "4G",
		},
	}
}

func freePort(t *testing.T) netip.AddrPort {
	t.Helper()
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = lis.Close() }()
	return netip.MustParseAddrPort(lis.Addr().String())
}

// standIn stands for the node where there is no NVMe in the kernel: it answers who it is, and that no volume is there.
type standIn struct {
	csi.UnimplementedNodeServer
	id string
}

func (n standIn) NodeGetInfo(context.Context, *csi.NodeGetInfoRequest) (*csi.NodeGetInfoResponse, error) {
	return &csi.NodeGetInfoResponse{NodeId: n.id}, nil
}

func (standIn) NodeGetCapabilities(context.Context, *csi.NodeGetCapabilitiesRequest) (*csi.NodeGetCapabilitiesResponse, error) {
	return &csi.NodeGetCapabilitiesResponse{}, nil
}

func (standIn) NodeUnpublishVolume(context.Context, *csi.NodeUnpublishVolumeRequest) (*csi.NodeUnpublishVolumeResponse, error) {
	return nil, status.Error(codes.NotFound, "no volume is on this node")
}

// serveNode serves the stand-in with the real identity service and gives its address.
func serveNode(t *testing.T, node csi.NodeServer) string {
	t.Helper()
	endpoint := driver.Endpoint("unix://" + filepath.Join(t.TempDir(), "node.sock"))
	lis, err := driver.Listen(t.Context(), endpoint)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	ended := make(chan error, 1)
	go func() {
		ended <- driver.NewServer(driver.Config{Node: node, Log: slog.New(slog.DiscardHandler)}).Serve(ctx, lis)
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return string(endpoint)
}
