package node

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"golang.org/x/sys/unix"

	"srvlab.io/rds-csi/driver"
	"srvlab.io/rds-csi/safety"
)

// dialTime is how long a portal has to answer before the node counts as not connected to it.
const dialTime = 3 * time.Second

// NodeGetInfo names the node and the arrays that it reaches. With portals given and none answering it is an error,
// so that kubelet asks again: a topology without arrays would stay with the node for as long as the driver runs, and
// no volume would ever be scheduled to it.
func (n *Node) NodeGetInfo(ctx context.Context, _ *csi.NodeGetInfoRequest) (*csi.NodeGetInfoResponse, error) {
	// max_volumes_per_node stays 0, which leaves the number to Kubernetes: neither NVMe/TCP nor the device-mapper has
	// a limit that a node could come near to.
	resp := &csi.NodeGetInfoResponse{NodeId: n.host.ID()}
	if len(n.portals) == 0 {
		return resp, nil
	}
	errs := make([]error, len(n.portals))
	var wg sync.WaitGroup
	for i, p := range n.portals {
		wg.Go(func() { errs[i] = knock(ctx, p, dialTime) })
	}
	wg.Wait()
	segments := map[string]string{}
	for i, p := range n.portals {
		if errs[i] == nil {
			segments[driver.TopologyKey(p.Array)] = driver.TopologyValue
		}
	}
	if len(segments) == 0 {
		return nil, safety.Refuse(safety.PathLost, fmt.Errorf("no array can be reached from node %s: %w", n.host.Node, errors.Join(errs...)))
	}
	resp.AccessibleTopology = &csi.Topology{Segments: segments}
	return resp, nil
}

// knock tells whether the array's host answers at the portal. "Connection refused" is an answer, too: a Linux target
// listens only while something is exported, and on a fresh array that takes a node that is registered.
func knock(ctx context.Context, p Portal, limit time.Duration) error {
	err := dial(ctx, p, limit)
	if errors.Is(err, unix.ECONNREFUSED) {
		return nil
	}
	return err
}

// dial tells whether something listens at the portal.
func dial(ctx context.Context, p Portal, limit time.Duration) error {
	d := net.Dialer{Timeout: limit}
	conn, err := d.DialContext(ctx, "tcp", p.Address.String())
	if err != nil {
		return fmt.Errorf("array %s: %w", p.Array, err)
	}
	return conn.Close()
}
