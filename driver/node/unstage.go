package node

import (
	"context"
	"fmt"
	"slices"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"srvlab.io/rds-csi/safety"
	"srvlab.io/rds-csi/safety/kernel"
)

// NodeUnstageVolume unmounts the staging path, removes the mapping, and disconnects the volume under every generation
// that is left of it. Each step waits for the one before: what is in use, or could not be told, stays.
func (n *Node) NodeUnstageVolume(
	ctx context.Context, req *csi.NodeUnstageVolumeRequest,
) (*csi.NodeUnstageVolumeResponse, error) {
	id, err := parseVolumeID(req.GetVolumeId())
	if err != nil {
		return nil, err
	}
	if err := n.checkPath("staging target path", req.GetStagingTargetPath()); err != nil {
		return nil, err
	}
	leave, err := n.inFlight.Enter(id.Slot, "unstage")
	if err != nil {
		return nil, err
	}
	defer leave()
	if err := n.unstage(ctx, id.Slot, req.GetStagingTargetPath()); err != nil {
		return nil, fmt.Errorf("unstage volume %s: %w", id, err)
	}
	return &csi.NodeUnstageVolumeResponse{}, nil
}

func (n *Node) unstage(ctx context.Context, slot safety.Slot, path string) error {
	if err := n.unmountStaging(ctx, slot, path); err != nil {
		return err
	}
	if err := n.unmap(ctx, slot); err != nil {
		return err
	}
	nqns, err := n.connections(slot)
	if err != nil {
		return err
	}
	for _, nqn := range nqns {
		if err := n.nvme.Disconnect(ctx, nqn); err != nil {
			return err
		}
	}
	return nil
}

// unmountStaging unmounts the staging path, unless the volume is mounted elsewhere, too, or its array is away: the
// unmount writes out what is dirty and would only hang, with the mount gone from the table and the data still in
// memory.
func (n *Node) unmountStaging(ctx context.Context, slot safety.Slot, path string) error {
	all, err := n.fs.Mounts()
	if err != nil {
		return err
	}
	stack := mountsAt(all, path)
	if len(stack) == 0 {
		return nil
	}
	if err := n.mayUnmount(ctx, slot, stack); err != nil {
		return err
	}
	for _, m := range stack {
		others := slices.DeleteFunc(mountsOf(all, m.Dev), func(o kernel.Mount) bool { return o.Point == path })
		if len(others) > 0 {
			return safety.Refuse(safety.DeviceBusy, fmt.Errorf("the volume at %s is still mounted at %s", path, points(others)))
		}
	}
	if lost, why := n.pathLost(ctx, slot); lost {
		return safety.Refuse(safety.PathLost, fmt.Errorf("unmount %s: waits for the array, nothing is thrown away: %s", path, why))
	}
	return n.unmountAll(ctx, slot, path)
}

// unmap removes the volume's mapping when nothing uses it.
func (n *Node) unmap(ctx context.Context, slot safety.Slot) error {
	mp, err := n.mapper()
	if err != nil {
		return err
	}
	m, found, err := mp.Get(ctx, slot)
	if err != nil || !found {
		return err
	}
	err = mp.Remove(ctx, m)
	if safety.ReasonOf(err) != safety.DeviceBusy {
		return err
	}
	// An unmount that was killed goes on in the kernel: the mount is out of the table, the file system lives.
	if lost, why := n.pathLost(ctx, slot); lost {
		return safety.RefuseTouched(safety.PathLost, fmt.Errorf("%w; it waits for the array, nothing is thrown away: %s", err, why))
	}
	return err
}
