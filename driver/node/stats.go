package node

import (
	"context"
	"fmt"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"srvlab.io/rds-csi/safety"
	"srvlab.io/rds-csi/safety/kernel"
)

// statTime bounds a look at a file system or at the state of a path.
const statTime = 5 * time.Second

// NodeGetVolumeStats tells how full the file system is, or how large the device. It takes no part in the in-flight
// set: it changes nothing, and kubelet asks for it every minute.
func (n *Node) NodeGetVolumeStats(
	ctx context.Context, req *csi.NodeGetVolumeStatsRequest,
) (*csi.NodeGetVolumeStatsResponse, error) {
	id, err := n.parseWhere(req)
	if err != nil {
		return nil, err
	}
	f, err := n.find(ctx, id, req.GetVolumePath())
	if err != nil {
		return nil, err
	}
	if f.mount == (kernel.Mount{}) {
		if f.place.dev != f.dev {
			return nil, notAt(id, req.GetVolumePath())
		}
		return &csi.NodeGetVolumeStatsResponse{Usage: []*csi.VolumeUsage{{
			Unit: csi.VolumeUsage_BYTES, Total: f.sizeBytes,
		}}}, nil
	}
	usage, err := n.statfs(ctx, id.Slot, req.GetVolumePath())
	if err != nil {
		return nil, fmt.Errorf("statistics of volume %s: %w", id, err)
	}
	return &csi.NodeGetVolumeStatsResponse{Usage: usage}, nil
}

// statfs asks for a file system's usage in a program of its own: statfs(2) on a dead mount may never return.
func (n *Node) statfs(ctx context.Context, slot safety.Slot, path string) ([]*csi.VolumeUsage, error) {
	// block size; blocks in all, free, free for all users; inodes in all, free (stat(1))
	argv := []string{"stat", "-f", "-c", "%S %b %f %a %c %d", path}
	o, err := n.programs.run(ctx, command{slot: slot, limit: statTime, argv: argv})
	if err != nil {
		return nil, err
	}
	var size, blocks, free, available, inodes, freeInodes int64
	if _, err := fmt.Sscan(string(o.stdout), &size, &blocks, &free, &available, &inodes, &freeInodes); err != nil {
		return nil, fmt.Errorf("stat -f %s said %.200q: %w", path, o.stdout, err)
	}
	return []*csi.VolumeUsage{
		{Unit: csi.VolumeUsage_BYTES, Total: blocks * size, Used: (blocks - free) * size, Available: available * size},
		{Unit: csi.VolumeUsage_INODES, Total: inodes, Used: inodes - freeInodes, Available: freeInodes},
	}, nil
}
