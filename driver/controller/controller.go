// Package controller is the CSI controller service over RouterOS arrays: it creates, deletes, grows, lists and fences
// volumes; it keeps no state (the disk's mark on the array is the truth, so any replica can answer any call), and
// never touches a disk without our mark.
package controller

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"srvlab.io/rds-csi/driver"
	"srvlab.io/rds-csi/driver/routeros"
	"srvlab.io/rds-csi/safety"
)

// Config is what a Controller works with.
type Config struct {
	Arrays  []*routeros.Array
	Prefix  safety.Prefix
	Cluster string // the cluster ID, which the nodes have too
}

// Controller is the CSI controller service.
type Controller struct {
	csi.UnimplementedControllerServer

	prefix   safety.Prefix
	cluster  string
	arrays   map[safety.ArrayName]*array
	names    []safety.ArrayName // of arrays, sorted
	inFlight driver.InFlight
}

var _ csi.ControllerServer = (*Controller)(nil)

// New gives a controller of the arrays. It talks to none of them yet.
func New(c Config) (*Controller, error) {
	if c.Prefix == (safety.Prefix{}) {
		return nil, errors.New("controller: no managed NQN prefix")
	}
	if c.Cluster == "" {
		return nil, errors.New("controller: no cluster ID")
	}
	if len(c.Arrays) == 0 {
		return nil, errors.New("controller: no array")
	}
	arrays := make(map[safety.ArrayName]*array, len(c.Arrays))
	for _, a := range c.Arrays {
		if _, twice := arrays[a.Name()]; twice {
			return nil, fmt.Errorf("controller: two arrays are called %q", a.Name())
		}
		arrays[a.Name()] = newArray(a)
	}
	names := slices.Sorted(maps.Keys(arrays))
	return &Controller{prefix: c.Prefix, cluster: c.Cluster, arrays: arrays, names: names}, nil
}

// Watch checks every array, at once and again for ever, with back-off while one is not ready, and logs each change. It
// ends with ctx.
func (c *Controller) Watch(ctx context.Context, log *slog.Logger) error {
	var all sync.WaitGroup
	for _, a := range c.arrays {
		all.Go(func() { a.watch(ctx, log) })
	}
	all.Wait()
	return nil
}

// Readiness gives what each array lacked at its last check, nil for one that is ready. An array that is not ready
// keeps the controller from nothing else, so Probe does not ask for it: a restart mends no array.
func (c *Controller) Readiness() map[safety.ArrayName]error {
	all := make(map[safety.ArrayName]error, len(c.arrays))
	for name, a := range c.arrays {
		all[name] = a.shortfall()
	}
	return all
}

// ControllerGetCapabilities lists what is implemented. PUBLISH_READONLY is not: the device has no read-only export,
// so the promise could not be kept; read-only is the node's mount option.
func (c *Controller) ControllerGetCapabilities(
	context.Context, *csi.ControllerGetCapabilitiesRequest,
) (*csi.ControllerGetCapabilitiesResponse, error) {
	resp := &csi.ControllerGetCapabilitiesResponse{}
	for _, t := range []csi.ControllerServiceCapability_RPC_Type{
		csi.ControllerServiceCapability_RPC_CREATE_DELETE_VOLUME,
		csi.ControllerServiceCapability_RPC_PUBLISH_UNPUBLISH_VOLUME,
		csi.ControllerServiceCapability_RPC_LIST_VOLUMES,
		csi.ControllerServiceCapability_RPC_LIST_VOLUMES_PUBLISHED_NODES,
		csi.ControllerServiceCapability_RPC_GET_CAPACITY,
		csi.ControllerServiceCapability_RPC_GET_VOLUME,
		csi.ControllerServiceCapability_RPC_EXPAND_VOLUME,
		csi.ControllerServiceCapability_RPC_SINGLE_NODE_MULTI_WRITER,
	} {
		resp.Capabilities = append(resp.Capabilities, &csi.ControllerServiceCapability{
			Type: &csi.ControllerServiceCapability_Rpc{Rpc: &csi.ControllerServiceCapability_RPC{Type: t}},
		})
	}
	return resp, nil
}

// errNoSuchVolume is what locate answers to an ID that no volume of this driver ever had.
var errNoSuchVolume = errors.New("no volume of this driver")

// locate gives the array and slot of a volume ID. An ID of an array that is not configured is no "not found": the
// volume may well be there, and a delete or unpublish that answers "done" would leave it, or its export, behind.
func (c *Controller) locate(volumeID string) (*array, safety.VolumeID, error) {
	if volumeID == "" {
		return nil, safety.VolumeID{}, status.Error(codes.InvalidArgument, "volume ID is missing")
	}
	id, err := safety.ParseVolumeID(volumeID)
	if err != nil {
		return nil, safety.VolumeID{}, fmt.Errorf("%w: %w", errNoSuchVolume, err)
	}
	a, known := c.arrays[id.Array]
	if !known {
		return nil, safety.VolumeID{}, safety.Refuse(safety.ArrayNotReady, fmt.Errorf(
			"volume %s: the array %q is not in this controller's configuration; there are: %s", id, id.Array, c.known()))
	}
	return a, id, nil
}

// volume is a volume that is there: its array and its disk as the row shows it.
type volume struct {
	array *array
	disk  routeros.Disk
}

// find is locate and the disk's row, for calls that need a volume to be there: else the error is NotFound.
func (c *Controller) find(ctx context.Context, volumeID string) (volume, error) {
	a, id, err := c.locate(volumeID)
	if errors.Is(err, errNoSuchVolume) {
		return volume{}, status.Error(codes.NotFound, err.Error())
	}
	if err != nil {
		return volume{}, err
	}
	d, err := a.Disk(ctx, id.Slot)
	if err != nil {
		return volume{}, refusal(err)
	}
	return volume{a, d}, nil
}

// enter marks the volume of an ID as busy. An ID that no volume has cannot be busy, so leave does nothing then.
func (c *Controller) enter(volumeID, op string) (leave func(), err error) {
	id, err := safety.ParseVolumeID(volumeID)
	if err != nil {
		return func() {}, nil //nolint:nilerr // locate says what is wrong with the ID
	}
	return c.inFlight.Enter(id.Slot, op)
}

// known gives the names of the configured arrays, for messages.
func (c *Controller) known() string {
	names := make([]string, 0, len(c.names))
	for _, n := range c.names {
		names = append(names, string(n))
	}
	return strings.Join(names, ", ")
}

// csi gives the volume as CSI describes it.
func (v volume) csi() *csi.Volume {
	array := v.array.Name()
	return &csi.Volume{
		VolumeId:      safety.VolumeID{Array: array, Slot: v.disk.Slot}.String(),
		CapacityBytes: v.disk.SizeBytes,
		AccessibleTopology: []*csi.Topology{{
			Segments: map[string]string{driver.TopologyKey(array): driver.TopologyValue},
		}},
	}
}
