package node

import (
	"maps"
	"net"
	"net/netip"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"srvlab.io/rds-csi/safety"
)

func TestNodeGetInfo(t *testing.T) {
	lis, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	there := netip.MustParseAddrPort(lis.Addr().String())
	away := netip.MustParseAddrPort("255.255.255.255:1") // the kernel knows no way there for TCP; no packet leaves
	silent := netip.MustParseAddrPort("127.0.0.1:1")     // nobody listens
	for _, c := range []struct {
		name    string
		portals []Portal
		want    map[string]string
		reason  safety.Reason
	}{
		{"no portals", nil, nil, ""},
		{"all answer", []Portal{{"rds1", there}, {"rds2", there}}, map[string]string{"rds.csi.srvlab.io/array-rds1": "true", "rds.csi.srvlab.io/array-rds2": "true"}, ""},
		{"one answers", []Portal{{"rds1", away}, {"rds2", there}}, map[string]string{"rds.csi.srvlab.io/array-rds2": "true"}, ""},
		{"one of an array's two answers", []Portal{{"rds1", there}, {"rds1", away}}, map[string]string{"rds.csi.srvlab.io/array-rds1": "true"}, ""},
		{"a fresh array exports nothing and refuses", []Portal{{"rds1", silent}}, map[string]string{"rds.csi.srvlab.io/array-rds1": "true"}, ""},
		{"none answers", []Portal{{"rds1", away}}, nil, safety.PathLost},
	} {
		n := testNode(t, c.portals...)
		resp, err := n.NodeGetInfo(t.Context(), &csi.NodeGetInfoRequest{})
		if safety.ReasonOf(err) != c.reason {
			t.Errorf("%s: error %v", c.name, err)
			continue
		}
		if err == nil && resp.GetNodeId() != n.host.ID() {
			t.Errorf("%s: node ID %q, want %q", c.name, resp.GetNodeId(), n.host.ID())
		}
		if got := resp.GetAccessibleTopology().GetSegments(); !maps.Equal(got, c.want) {
			t.Errorf("%s: topology %v, want %v", c.name, got, c.want)
		}
	}
}
