package controller

import (
	"context"
	"errors"
	"fmt"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"srvlab.io/rds-csi/driver/routeros"
)

// ControllerExpandVolume grows the disk. It never shrinks one: where the volume is larger already, that is the answer.
// The node has work to do for raw block volumes too: its mapping has the old size.
func (c *Controller) ControllerExpandVolume(
	ctx context.Context, req *csi.ControllerExpandVolumeRequest,
) (*csi.ControllerExpandVolumeResponse, error) {
	if req.GetVolumeId() == "" || req.GetCapacityRange() == nil {
		return nil, status.Error(codes.InvalidArgument, "expand volume: volume ID or capacity range is missing")
	}
	size, err := sizesOf(req.GetCapacityRange(), mib)
	if err != nil {
		return nil, err
	}
	leave, err := c.enter(req.GetVolumeId(), "ControllerExpandVolume")
	if err != nil {
		return nil, err
	}
	defer leave()

	v, err := c.find(ctx, req.GetVolumeId())
	if err != nil {
		return nil, err
	}
	d, err := grow(ctx, v, size)
	if err != nil {
		return nil, fmt.Errorf("expand volume %s: %w", req.GetVolumeId(), err)
	}
	return &csi.ControllerExpandVolumeResponse{CapacityBytes: d.SizeBytes, NodeExpansionRequired: true}, nil
}

func grow(ctx context.Context, v volume, size sizes) (routeros.Disk, error) {
	has := v.disk.SizeBytes
	switch {
	case size.limit > 0 && has > size.limit:
		return routeros.Disk{}, status.Errorf(codes.OutOfRange, "it has %d bytes already, the limit is %d", has, size.limit)
	case has >= size.required:
		return v.disk, nil
	}
	if err := v.array.ready(ctx); err != nil {
		return routeros.Disk{}, err
	}
	grown, err := v.array.Grow(ctx, v.disk, size.want)
	if errors.Is(err, routeros.ErrNoSpace) {
		return routeros.Disk{}, noSpace(ctx, v.array, size.want-has, err)
	}
	return answer(grown, err)
}
