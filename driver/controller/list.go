package controller

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"srvlab.io/rds-csi/driver/routeros"
	"srvlab.io/rds-csi/safety"
)

// ListVolumes lists the volumes of all arrays, sorted by ID. A page's token is its last ID: the next page starts
// behind it, also when that volume is gone by then. An array that does not answer is an error and never a shorter
// list: external-attacher takes what is missing for detached.
func (c *Controller) ListVolumes(ctx context.Context, req *csi.ListVolumesRequest) (*csi.ListVolumesResponse, error) {
	if req.GetMaxEntries() < 0 {
		return nil, status.Errorf(codes.InvalidArgument, "list volumes: max_entries is %d", req.GetMaxEntries())
	}
	after := req.GetStartingToken()
	if after != "" {
		if _, err := safety.ParseVolumeID(after); err != nil {
			return nil, status.Errorf(codes.Aborted, "list volumes: the starting token is none of this driver's: %v", err)
		}
	}
	entries, err := c.entries(ctx)
	if err != nil {
		return nil, fmt.Errorf("list volumes: %w", err)
	}
	start, atToken := slices.BinarySearchFunc(entries, after, func(e *csi.ListVolumesResponse_Entry, id string) int {
		return strings.Compare(e.GetVolume().GetVolumeId(), id)
	})
	if atToken {
		start++
	}
	page := entries[start:]
	resp := &csi.ListVolumesResponse{Entries: page}
	if n := int(req.GetMaxEntries()); n > 0 && n < len(page) {
		resp.Entries = page[:n]
		resp.NextToken = page[n-1].GetVolume().GetVolumeId()
	}
	return resp, nil
}

// entries asks all arrays at once.
func (c *Controller) entries(ctx context.Context) ([]*csi.ListVolumesResponse_Entry, error) {
	disks := make([][]routeros.Disk, len(c.names))
	errs := make([]error, len(c.names))
	var asked sync.WaitGroup
	for i, name := range c.names {
		asked.Go(func() { disks[i], errs[i] = c.arrays[name].Disks(ctx) })
	}
	asked.Wait()
	var entries []*csi.ListVolumesResponse_Entry
	for i, name := range c.names {
		if errs[i] != nil {
			errs[i] = refusal(errs[i])
		}
		for _, d := range disks[i] {
			entries = append(entries, &csi.ListVolumesResponse_Entry{
				Volume: volume{c.arrays[name], d}.csi(),
				Status: &csi.ListVolumesResponse_VolumeStatus{PublishedNodeIds: publishedTo(d)},
			})
		}
	}
	slices.SortFunc(entries, func(x, y *csi.ListVolumesResponse_Entry) int {
		return strings.Compare(x.GetVolume().GetVolumeId(), y.GetVolume().GetVolumeId())
	})
	return entries, errors.Join(errs...)
}

// publishedTo gives the nodes that hold the volume and that the array lets in. After an array has lost its exports
// that is nobody, and external-attacher, which compares, publishes anew; the repeat then brings the export back.
func publishedTo(d routeros.Disk) []string {
	if !d.Exported || d.NQN != d.Mark.NQN {
		return nil
	}
	return d.Mark.Nodes
}

// ControllerGetVolume gives one volume as ListVolumes does.
func (c *Controller) ControllerGetVolume(
	ctx context.Context, req *csi.ControllerGetVolumeRequest,
) (*csi.ControllerGetVolumeResponse, error) {
	v, err := c.find(ctx, req.GetVolumeId())
	if err != nil {
		return nil, fmt.Errorf("get volume: %w", err)
	}
	return &csi.ControllerGetVolumeResponse{
		Volume: v.csi(),
		Status: &csi.ControllerGetVolumeResponse_VolumeStatus{PublishedNodeIds: publishedTo(v.disk)},
	}, nil
}

// ValidateVolumeCapabilities confirms what the driver supports. What it does not is said in the answer's message.
func (c *Controller) ValidateVolumeCapabilities(
	ctx context.Context, req *csi.ValidateVolumeCapabilitiesRequest,
) (*csi.ValidateVolumeCapabilitiesResponse, error) {
	if req.GetVolumeId() == "" || len(req.GetVolumeCapabilities()) == 0 {
		return nil, status.Error(codes.InvalidArgument, "validate volume capabilities: volume ID or capabilities are missing")
	}
	v, err := c.find(ctx, req.GetVolumeId())
	if err != nil {
		return nil, err
	}
	_, wrong := c.parametersOf(req.GetParameters())
	wrong = append(wrong, unsupported(req.GetVolumeCapabilities())...)
	if size := v.disk.SizeBytes; wantsXFS(req.GetVolumeCapabilities()) && size < minXFS {
		wrong = append(wrong, fmt.Sprintf("the volume has %d bytes, mkfs.xfs makes none below %d", size, minXFS))
	}
	if len(wrong) > 0 {
		return &csi.ValidateVolumeCapabilitiesResponse{Message: strings.Join(wrong, "; ")}, nil
	}
	return &csi.ValidateVolumeCapabilitiesResponse{Confirmed: &csi.ValidateVolumeCapabilitiesResponse_Confirmed{
		VolumeContext:      req.GetVolumeContext(),
		VolumeCapabilities: req.GetVolumeCapabilities(),
		Parameters:         req.GetParameters(),
	}}, nil
}
