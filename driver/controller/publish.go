package controller

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"srvlab.io/rds-csi/driver"
	"srvlab.io/rds-csi/driver/routeros"
	"srvlab.io/rds-csi/safety"
)

// maxNodes is how many nodes a volume may have at once: the two ends of a live migration.
const maxNodes = 2

// ControllerPublishVolume lets one node at the volume and keeps all others out: the fence. The mark says who holds it.
//
//   - Nobody: the export gets a new generation, so whoever held the volume before knocks at a name that no longer
//     exists, and its host field gets the node.
//   - This node: a repeat. Generation and context stay as they are, and so does a live connection.
//   - Another node: refused, unless both publish a raw block volume as MULTI_NODE_MULTI_WRITER. Then the host field
//     opens for the two of them; a third is refused.
func (c *Controller) ControllerPublishVolume(
	ctx context.Context, req *csi.ControllerPublishVolumeRequest,
) (*csi.ControllerPublishVolumeResponse, error) {
	if err := checkPublish(req); err != nil {
		return nil, err
	}
	leave, err := c.enter(req.GetVolumeId(), "ControllerPublishVolume")
	if err != nil {
		return nil, err
	}
	defer leave()

	v, err := c.find(ctx, req.GetVolumeId())
	if err != nil {
		return nil, err
	}
	host, err := safety.ParseNodeID(c.cluster, req.GetNodeId())
	if err != nil {
		return nil, status.Error(codes.NotFound, err.Error())
	}
	v.disk, err = c.publish(ctx, v, host, markMode(req.GetVolumeCapability()))
	if err != nil {
		return nil, fmt.Errorf("publish volume %s to node %s: %w", req.GetVolumeId(), host.ID(), err)
	}
	return &csi.ControllerPublishVolumeResponse{PublishContext: v.publishContext()}, nil
}

func checkPublish(req *csi.ControllerPublishVolumeRequest) error {
	var wrong []string
	if req.GetVolumeId() == "" {
		wrong = append(wrong, "volume ID is missing")
	}
	if req.GetNodeId() == "" {
		wrong = append(wrong, "node ID is missing")
	}
	if req.GetVolumeCapability() == nil {
		wrong = append(wrong, "volume capability is missing")
	} else {
		wrong = append(wrong, unsupported([]*csi.VolumeCapability{req.GetVolumeCapability()})...)
	}
	if req.GetReadonly() {
		wrong = append(wrong, "readonly: the array has no read-only export; mount the volume read-only instead")
	}
	if len(wrong) > 0 {
		return status.Errorf(codes.InvalidArgument, "publish volume %q: %s", req.GetVolumeId(), strings.Join(wrong, "; "))
	}
	return nil
}

func (v volume) publishContext() map[string]string {
	address, port := v.array.Portal()
	return map[string]string{
		driver.PublishNQN:     string(v.disk.Mark.NQN),
		driver.PublishAddress: address.String(),
		driver.PublishPort:    strconv.Itoa(int(port)),
		driver.PublishSize:    strconv.FormatInt(v.disk.SizeBytes, 10),
	}
}

// publish is the decision; see ControllerPublishVolume.
func (c *Controller) publish(ctx context.Context, v volume, host safety.Host, mode string) (routeros.Disk, error) {
	mark := v.disk.Mark
	switch {
	case mark.Holds(host.ID()) && mark.Mode != mode:
		return routeros.Disk{}, status.Errorf(codes.AlreadyExists,
			"it is published there with the mode %q, not %q", mark.Mode, mode)
	case mark.Holds(host.ID()):
		return c.export(ctx, v, mark.Nodes)
	case len(mark.Nodes) == 0:
		return c.exportAnew(ctx, v, host, mode)
	}
	if err := mayJoin(v, mode); err != nil {
		return routeros.Disk{}, safety.Refuse(safety.AttachedElsewhere,
			fmt.Errorf("it is published to %s: %w", strings.Join(mark.Nodes, " and "), err))
	}
	return c.export(ctx, v, append(slices.Clone(mark.Nodes), host.ID()))
}

// Why a volume that another node holds stays with that one.
var (
	errSingle = errors.New("only a raw block volume that both nodes publish as MULTI_NODE_MULTI_WRITER may have two")
	errFull   = errors.New("two nodes, the ends of a live migration, are the most that a volume may have")
	// errNoHostLock: the two have the same generation, so once one of them has to go, only the host field keeps it out.
	errNoHostLock = errors.New("only the export's host field tells two nodes apart, and nvme.allowHost is off for the array")
)

// mayJoin says why no other node may have the volume too.
func mayJoin(v volume, mode string) error {
	switch {
	case mode != modeShared || v.disk.Mark.Mode != modeShared:
		return errSingle
	case len(v.disk.Mark.Nodes) >= maxNodes:
		return errFull
	case !v.array.HostLock():
		return errNoHostLock
	}
	return nil
}

// exportAnew exports a volume that nobody holds, under the next generation.
func (c *Controller) exportAnew(ctx context.Context, v volume, host safety.Host, mode string) (routeros.Disk, error) {
	generation, ours := v.disk.Mark.Generation(c.prefix)
	if !ours {
		return routeros.Disk{}, safety.Refuse(safety.ForeignNQN, fmt.Errorf("its NQN %q is not ours", v.disk.Mark.NQN))
	}
	return answer(v.array.Publish(ctx, v.disk, routeros.ExportSpec{
		NQN:       c.prefix.Export(v.disk.Slot.UUID(), generation+1),
		AllowHost: host.NQN(),
		Nodes:     []string{host.ID()},
		Mode:      mode,
	}))
}

// export makes the export what it has to be for these holders, under the generation that it has. That is safe even
// where the array had lost it: only the mark's holders were ever told that generation, and they hold the volume still.
// A live connection is cut only where name or port differ, because then it cannot be a holder's.
func (c *Controller) export(ctx context.Context, v volume, holders []string) (routeros.Disk, error) {
	allow, err := c.allowHost(v.array, holders)
	if err != nil {
		return routeros.Disk{}, err
	}
	d := v.disk
	_, port := v.array.Portal()
	up := d.Exported && d.NQN == d.Mark.NQN && d.Port == port
	switch {
	case up && d.AllowHost == string(allow) && slices.Equal(holders, d.Mark.Nodes):
		return d, nil
	case up:
		return answer(v.array.Reopen(ctx, d, allow, holders))
	default:
		return answer(v.array.Publish(ctx, d, again(d, allow, holders)))
	}
}

// again is the export that the disk had, for these holders.
func again(d routeros.Disk, allow safety.NQN, holders []string) routeros.ExportSpec {
	return routeros.ExportSpec{NQN: d.Mark.NQN, AllowHost: allow, Nodes: holders, Mode: d.Mark.Mode}
}

// allowHost gives the host field for these holders: the one, or "" (anybody who knows the generation) for two.
func (c *Controller) allowHost(a *array, holders []string) (safety.NQN, error) {
	if len(holders) != 1 || !a.HostLock() {
		return "", nil
	}
	host, err := safety.ParseNodeID(c.cluster, holders[0])
	if err != nil {
		return "", safety.Refuse(safety.AttachedElsewhere, fmt.Errorf("its holder is no node of this cluster: %w", err))
	}
	return host.NQN(), nil
}

// answer gives what an array answered, its error with a reason.
func answer(d routeros.Disk, err error) (routeros.Disk, error) {
	if err != nil {
		return routeros.Disk{}, refusal(err)
	}
	return d, nil
}

// ControllerUnpublishVolume ends the export, and with it the node's connection, if the node holds the volume. An empty
// node ID is every node. Where another node holds it too, the export comes back for that one: under the same
// generation, because a new one would cut it off for good; the host field, which was open for the two, keeps the
// unpublished one out.
func (c *Controller) ControllerUnpublishVolume(
	ctx context.Context, req *csi.ControllerUnpublishVolumeRequest,
) (*csi.ControllerUnpublishVolumeResponse, error) {
	leave, err := c.enter(req.GetVolumeId(), "ControllerUnpublishVolume")
	if err != nil {
		return nil, err
	}
	defer leave()

	v, err := c.find(ctx, req.GetVolumeId())
	if status.Code(err) == codes.NotFound {
		return &csi.ControllerUnpublishVolumeResponse{}, nil
	}
	if err != nil {
		return nil, err
	}
	if err := c.unpublish(ctx, v, req.GetNodeId()); err != nil {
		return nil, fmt.Errorf("unpublish volume %s from node %q: %w", req.GetVolumeId(), req.GetNodeId(), err)
	}
	return &csi.ControllerUnpublishVolumeResponse{}, nil
}

func (c *Controller) unpublish(ctx context.Context, v volume, nodeID string) error {
	holders := v.disk.Mark.Nodes
	var stay []string
	if nodeID != "" {
		stay = slices.DeleteFunc(slices.Clone(holders), func(n string) bool { return n == nodeID })
	}
	switch {
	case len(stay) == 0 && (len(holders) > 0 || v.disk.Exported): // an export that nobody holds ends here too
		_, err := answer(v.array.Unpublish(ctx, v.disk, nil))
		return err
	case len(stay) == len(holders):
		return nil
	default:
		return c.keep(ctx, v, stay)
	}
}

// keep takes a node off a volume that another one holds too: export off, which ends both connections, and on again
// for the one that stays.
func (c *Controller) keep(ctx context.Context, v volume, stay []string) error {
	if !v.array.HostLock() {
		return safety.Refuse(safety.AttachedElsewhere, fmt.Errorf("%s has it too: %w", stay[0], errNoHostLock))
	}
	allow, err := c.allowHost(v.array, stay)
	if err != nil {
		return err
	}
	_, err = answer(v.array.Publish(ctx, v.disk, again(v.disk, allow, stay)))
	return err
}
