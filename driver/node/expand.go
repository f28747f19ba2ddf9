package node

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"srvlab.io/rds-csi/safety"
	"srvlab.io/rds-csi/safety/kernel"
)

const (
	// announceTime is how long the kernel has to hear of the new size from the array.
	announceTime = 10 * time.Second
	// growTime bounds resize2fs and xfs_growfs.
	growTime = 2 * time.Minute
)

// NodeExpandVolume lets the kernel, the mapping and the file system have the size that the array's file has now, while
// the volume is in use. It never makes anything smaller.
func (n *Node) NodeExpandVolume(ctx context.Context, req *csi.NodeExpandVolumeRequest) (*csi.NodeExpandVolumeResponse, error) {
	id, err := n.parseWhere(req)
	if err != nil {
		return nil, err
	}
	leave, err := n.inFlight.Enter(id.Slot, "expand")
	if err != nil {
		return nil, err
	}
	defer leave()
	size, err := n.expand(ctx, id, req.GetVolumePath(), req.GetCapacityRange().GetRequiredBytes())
	if err != nil {
		return nil, fmt.Errorf("expand volume %s: %w", id, err)
	}
	return &csi.NodeExpandVolumeResponse{CapacityBytes: size}, nil
}

// where is what the expand and statistics calls have in common.
type where interface {
	GetVolumeId() string
	GetVolumePath() string
}

// parseWhere takes such a call apart. A path where no volume can be is one where the volume is not: CSI's NOT_FOUND.
func (n *Node) parseWhere(req where) (safety.VolumeID, error) {
	id, err := parseVolumeID(req.GetVolumeId())
	if err != nil {
		return safety.VolumeID{}, err
	}
	if req.GetVolumePath() == "" {
		return safety.VolumeID{}, invalid("no volume path")
	}
	if err := n.checkPath("volume path", req.GetVolumePath()); err != nil {
		return safety.VolumeID{}, status.Error(codes.NotFound, status.Convert(err).Message())
	}
	return id, nil
}

// notAt is CSI's NOT_FOUND.
func notAt(id safety.VolumeID, path string) error {
	return status.Errorf(codes.NotFound, "volume %s is not at %s", id, path)
}

// found is a volume, and what stands at the path that a call has given for it: a mount of the volume, or, where nothing
// is mounted, a place.
type found struct {
	holding
	mount kernel.Mount
	place place
	all   []kernel.Mount
}

// find looks for the volume at path.
func (n *Node) find(ctx context.Context, id safety.VolumeID, path string) (found, error) {
	h, staged, err := n.held(ctx, id.Slot)
	if err != nil {
		return found{}, err
	}
	if !staged {
		return found{}, status.Errorf(codes.NotFound, "volume %s is not staged on node %s", id, n.host.Node)
	}
	f := found{holding: h}
	if f.all, err = n.fs.Mounts(); err != nil {
		return found{}, err
	}
	if stack := mountsAt(f.all, path); len(stack) > 0 {
		f.mount = stack[len(stack)-1]
		if f.mount.Dev != h.dev {
			return found{}, notAt(id, path)
		}
		return f, nil
	}
	// A look at a path inside the volume could wait for the array.
	if m, on := carrier(f.all, path); on && m.Dev == h.dev {
		return found{}, notAt(id, path)
	}
	f.place, err = nodeAt(path)
	return f, err
}

func (n *Node) expand(ctx context.Context, id safety.VolumeID, path string, required int64) (int64, error) {
	f, err := n.find(ctx, id, path)
	if err != nil {
		return 0, err
	}
	mounted := f.mount != (kernel.Mount{})
	// For raw block kubelet names now the staging path, now the published one: it is enough that something is there.
	if !mounted && (f.place.kind == 0 || len(mountsOf(f.all, f.dev)) > 0) {
		return 0, notAt(id, path)
	}
	ns, err := n.grown(ctx, f.nqn, required)
	if errors.Is(err, errTooSmall) && f.mapped() {
		ns, err = n.reconnect(ctx, f.holding, required)
	}
	if err != nil {
		return 0, err
	}
	if f.mapped() && ns.SizeBytes != f.mapping.SizeBytes {
		mp, err := n.mapper()
		if err != nil {
			return 0, err
		}
		if _, err := n.load(ctx, mp, f.mapping, ns); err != nil {
			return 0, mark(err, true)
		}
	}
	if !mounted {
		return ns.SizeBytes, nil
	}
	return ns.SizeBytes, mark(n.grow(ctx, id.Slot, f.device, f.mount), true)
}

// errTooSmall says that the array's new size has not reached the node.
var errTooSmall = errors.New("is smaller than asked for")

// grown has the kernel ask the array for its sizes, and gives the namespace as soon as it has at least required bytes.
func (n *Node) grown(ctx context.Context, nqn safety.NQN, required int64) (kernel.Namespace, error) {
	if err := n.nvme.Rescan(ctx, nqn); err != nil {
		return kernel.Namespace{}, err
	}
	patience := time.NewTimer(announceTime)
	defer patience.Stop()
	poll := time.NewTicker(pollTime)
	defer poll.Stop()
	for {
		ns, found, err := n.namespace(nqn)
		if err != nil {
			return kernel.Namespace{}, err
		}
		if found && ns.SizeBytes >= required {
			return ns, nil
		}
		select {
		case <-ctx.Done():
			return kernel.Namespace{}, ctx.Err()
		case <-patience.C:
			return kernel.Namespace{}, safety.Refuse(safety.WrongDevice, fmt.Errorf(
				"%s (%d bytes) %w (%d bytes); has the array grown it?", nqn, ns.SizeBytes, errTooSmall, required))
		case <-poll.C:
		}
	}
}

// reconnect ends the volume's connection and makes it again, for an array that does not announce a new size. I/O waits
// meanwhile in the mapping. Where it goes wrong half-way the mapping is left without a path, and repair gives it one.
func (n *Node) reconnect(ctx context.Context, h holding, required int64) (kernel.Namespace, error) {
	mp, err := n.mapper()
	if err != nil {
		return kernel.Namespace{}, err
	}
	if err := mp.Load(ctx, h.mapping, kernel.DevID{}, h.mapping.SizeBytes); err != nil {
		return kernel.Namespace{}, mark(err, true)
	}
	if err := n.nvme.Disconnect(ctx, h.nqn); err != nil {
		back := mp.Load(ctx, h.mapping, h.mapping.Path, h.mapping.SizeBytes)
		return kernel.Namespace{}, mark(errors.Join(err, back), true)
	}
	ns, err := n.connect(ctx, volume{ID: h.mapping.ID, nqn: h.nqn, sizeBytes: h.mapping.SizeBytes})
	if err != nil {
		return kernel.Namespace{}, mark(err, true)
	}
	if _, err := n.load(ctx, mp, h.mapping, ns); err != nil {
		return kernel.Namespace{}, mark(err, true)
	}
	if ns.SizeBytes < required {
		return kernel.Namespace{}, safety.RefuseTouched(safety.WrongDevice, fmt.Errorf(
			"%s (%d bytes) %w (%d bytes), also after connecting again", h.nqn, ns.SizeBytes, errTooSmall, required))
	}
	return ns, nil
}

// grow grows a mounted file system to the size of its device. Which file system it is says the mount, so nothing has
// to be probed. Both programs end well where there is nothing to do.
func (n *Node) grow(ctx context.Context, slot safety.Slot, d device, m kernel.Mount) error {
	if err := writable(m, true); err != nil {
		return err
	}
	argv := map[string][]string{
		fsExt4: {"resize2fs", d.path},
		fsXFS:  {"xfs_growfs", "-d", m.Point},
	}[m.FSType]
	if !slices.Contains([]string{fsExt4, fsXFS}, m.FSType) {
		return safety.Refuse(safety.StaleMount, fmt.Errorf("at %s is a file system of type %q", m.Point, m.FSType))
	}
	_, err := n.programs.run(ctx, command{slot: slot, limit: growTime, argv: argv})
	return err
}
