package node

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"golang.org/x/sys/unix"

	"srvlab.io/rds-csi/safety"
)

// NodeUnpublishVolume takes the target path away, however often something was mounted there. What is left at the end
// is removed by os.Remove alone: with one mount still there, removing a tree deletes the user's data.
func (n *Node) NodeUnpublishVolume(
	ctx context.Context, req *csi.NodeUnpublishVolumeRequest,
) (*csi.NodeUnpublishVolumeResponse, error) {
	id, err := parseVolumeID(req.GetVolumeId())
	if err != nil {
		return nil, err
	}
	if err := n.checkPath("target path", req.GetTargetPath()); err != nil {
		return nil, err
	}
	leave, err := n.inFlight.Enter(id.Slot, "unpublish")
	if err != nil {
		return nil, err
	}
	defer leave()
	if err := n.unpublish(ctx, id.Slot, req.GetTargetPath()); err != nil {
		return nil, fmt.Errorf("unpublish volume %s: %w", id, err)
	}
	return &csi.NodeUnpublishVolumeResponse{}, nil
}

func (n *Node) unpublish(ctx context.Context, slot safety.Slot, target string) error {
	if err := n.unmountAll(ctx, slot, target); err != nil {
		return err
	}
	p, err := nodeAt(target)
	switch {
	case err != nil:
		return err
	case p.kind == unix.S_IFREG && p.size > 0:
		return safety.Refuse(safety.StaleMount, fmt.Errorf("at %s is a file of %d bytes that the driver did not make", target, p.size))
	case p.kind == 0:
		return nil
	}
	if err := os.Remove(target); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return safety.Refuse(safety.DeviceBusy, err)
	}
	return nil
}
