package controller

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"srvlab.io/rds-csi/driver/routeros"
	"srvlab.io/rds-csi/safety"
)

// DeleteVolume removes the disk and its file. That the volume is gone is believed only when the array says so, and
// then the file is removed all the same: an earlier delete may have ended between the two.
func (c *Controller) DeleteVolume(ctx context.Context, req *csi.DeleteVolumeRequest) (*csi.DeleteVolumeResponse, error) {
	leave, err := c.enter(req.GetVolumeId(), "DeleteVolume")
	if err != nil {
		return nil, err
	}
	defer leave()

	a, id, err := c.locate(req.GetVolumeId())
	if errors.Is(err, errNoSuchVolume) {
		return &csi.DeleteVolumeResponse{}, nil
	}
	if err != nil {
		return nil, err
	}
	d, err := a.Disk(ctx, id.Slot)
	if err != nil && !errors.Is(err, routeros.ErrNotFound) {
		return nil, refusal(err)
	}
	if len(d.Mark.Nodes) > 0 {
		return nil, safety.Refuse(safety.AttachedElsewhere,
			fmt.Errorf("delete volume %s: it is published to %s", id, strings.Join(d.Mark.Nodes, " and ")))
	}
	if err := a.Delete(ctx, id.Slot); err != nil {
		return nil, refusal(err)
	}
	return &csi.DeleteVolumeResponse{}, nil
}
