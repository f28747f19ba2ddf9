package controller

import (
	"context"
	"fmt"
	"strings"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// GetCapacity adds up what is free on the arrays that parameters and topology allow. Where nothing can be created at
// all, the answer is 0; where an array does not answer it is an error, because 0 would send pods elsewhere for good.
func (c *Controller) GetCapacity(ctx context.Context, req *csi.GetCapacityRequest) (*csi.GetCapacityResponse, error) {
	p, wrong := c.parametersOf(req.GetParameters())
	if len(wrong) > 0 {
		return nil, status.Error(codes.InvalidArgument, "get capacity: "+strings.Join(wrong, "; "))
	}
	least := mib
	if wantsXFS(req.GetVolumeCapabilities()) {
		least = minXFS
	}
	var free, largest int64
	if len(unsupported(req.GetVolumeCapabilities())) == 0 {
		var where *csi.TopologyRequirement
		if t := req.GetAccessibleTopology(); t != nil {
			where = &csi.TopologyRequirement{Requisite: []*csi.Topology{t}}
		}
		for _, a := range c.candidates(p.array, where) {
			n, err := capacity(ctx, a.array)
			if err != nil {
				return nil, fmt.Errorf("get capacity: %w", err)
			}
			free += n
			largest = max(largest, n)
		}
	}
	return &csi.GetCapacityResponse{
		AvailableCapacity: free,
		MaximumVolumeSize: wrapperspb.Int64(largest),
		MinimumVolumeSize: wrapperspb.Int64(least),
	}, nil
}

// capacity gives the bytes that a volume on the array may have: none while the array is not ready.
func capacity(ctx context.Context, a *array) (int64, error) {
	if err := a.ready(ctx); err != nil {
		return 0, nil //nolint:nilerr // the reason is in the log and on /readyz; here the figure is the answer
	}
	p, err := a.Pool(ctx)
	if err != nil {
		return 0, refusal(err)
	}
	return p.Room(), nil
}
