package node

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"srvlab.io/rds-csi/safety"
	"srvlab.io/rds-csi/safety/kernel"
)

// NodeStageVolume connects the volume, and mounts its file system at the staging path. For raw block nothing is put
// at the staging path: kubelet's loop device on a bind-mounted device node is what "makeLoopDevice failed" came from.
func (n *Node) NodeStageVolume(ctx context.Context, req *csi.NodeStageVolumeRequest) (*csi.NodeStageVolumeResponse, error) {
	v, a, err := n.parseUse(req, req.GetStagingTargetPath())
	if err != nil {
		return nil, err
	}
	leave, err := n.inFlight.Enter(v.Slot, "stage")
	if err != nil {
		return nil, err
	}
	defer leave()
	if err := n.stage(ctx, v, a, req.GetStagingTargetPath()); err != nil {
		return nil, fmt.Errorf("stage volume %s: %w", req.GetVolumeId(), err)
	}
	return &csi.NodeStageVolumeResponse{}, nil
}

// use is what the stage and publish calls have in common.
type use interface {
	GetVolumeId() string
	GetPublishContext() map[string]string
	GetVolumeContext() map[string]string
	GetVolumeCapability() *csi.VolumeCapability
}

// parseUse takes a stage or publish call apart.
func (n *Node) parseUse(req use, staging string) (volume, access, error) {
	if req.GetVolumeId() == "" { // first, because csi-sanity sends nothing else wrong in this case
		return volume{}, access{}, invalid("no volume ID")
	}
	if err := n.checkPath("staging target path", staging); err != nil {
		return volume{}, access{}, err
	}
	a, err := parseCapability(req.GetVolumeCapability())
	if err != nil {
		return volume{}, access{}, err
	}
	v, err := n.parseVolume(req.GetVolumeId(), req.GetPublishContext(), req.GetVolumeContext())
	return v, a, err
}

func (n *Node) stage(ctx context.Context, v volume, a access, path string) error {
	done, err := n.staged(ctx, v, a, path)
	if done || err != nil {
		return err
	}
	d, touched, err := n.attach(ctx, v)
	if err == nil && !a.block {
		touched, err = true, n.mountVolume(ctx, v, a, d, path)
	}
	return mark(err, touched)
}

func (n *Node) mountVolume(ctx context.Context, v volume, a access, d device, path string) (err error) {
	p, err := n.pin(ctx, v, d)
	if err != nil {
		return err
	}
	defer func() { p.release(ctx, err == nil) }()
	if err := n.queueing(ctx, v, false); err != nil {
		return err
	}
	if err := n.prepare(ctx, v, a.fsType, d, p); err != nil {
		return err
	}
	if err := n.queueing(ctx, v, true); err != nil {
		return err
	}
	if err := os.Mkdir(path, 0o750); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	if err := n.mount(ctx, v.Slot, a, d, path); err != nil {
		return n.explain(ctx, v.Slot, a.fsType, d, err)
	}
	return nil
}

// queueing sets whether I/O without a path waits. Before the mount it does not: a probe, mkfs or fsck that loses its
// path is to fail, and to be done again by the next call, rather than to hang. Where a driver is killed in between,
// repair sets it for a mapping that is in use.
func (n *Node) queueing(ctx context.Context, v volume, on bool) error {
	if !v.queue {
		return nil
	}
	mp, err := n.mapper()
	if err != nil {
		return err
	}
	m, found, err := mp.Get(ctx, v.Slot)
	switch {
	case err != nil:
		return err
	case !found:
		return safety.Refuse(safety.WrongDevice, fmt.Errorf("the mapping of volume %s is gone", v.Slot))
	case !on && m.OpenCount > 1: // the pin is one; whoever else there is may be a pod
		return safety.Refuse(safety.DeviceBusy, fmt.Errorf("mapping %s is in use by %s", m.Name, n.users(m.Dev)))
	case m.Queueing == on:
		return nil
	case on:
		return mp.Message(ctx, m, "queue_if_no_path")
	}
	return mp.FailIfNoPath(ctx, m)
}

// mark makes an error of a call that has changed something tell kubelet so. Internal is a final answer to kubelet, as
// everything but Unavailable and its like is: it would forget the volume and never unstage it.
func mark(err error, touched bool) error {
	if err == nil || !touched {
		return err
	}
	var r *safety.Refusal
	if errors.As(err, &r) {
		r.Touched = true // every refusal is made for the one call that it ends
		return err
	}
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) {
		return err // not final either
	}
	return safety.RefuseTouched(safety.MountFailed, err)
}

// staged tells whether the volume is staged at path already. What is mounted there and is not this volume at this
// generation is refused, and a live file system is neither checked nor mounted again.
func (n *Node) staged(ctx context.Context, v volume, a access, path string) (bool, error) {
	all, err := n.fs.Mounts()
	if err != nil {
		return false, err
	}
	stack := mountsAt(all, path)
	if a.block && len(stack) == 0 {
		return n.inUse(ctx, v)
	}
	if len(stack) == 0 {
		return false, nil
	}
	d, found, err := n.current(ctx, v)
	if err != nil {
		return false, err
	}
	for _, m := range stack {
		if !found || a.block || m.Dev != d.dev || m.Root != "/" || m.FSType != a.fsType {
			return false, safety.Refuse(safety.StaleMount, fmt.Errorf(
				"at %s is a mount of %s (%s, %s), not of %s", path, m.Dev, m.Source, m.FSType, v.nqn))
		}
		if err := writable(m, !a.readOnlyMount()); err != nil {
			return false, err
		}
	}
	return true, nil
}

// writable refuses a file system that is read-only where writing is wanted: ext4 and xfs end there after an error, and
// only unmounting helps. The other way round the options of the volume have changed since.
func writable(m kernel.Mount, want bool) error {
	switch {
	case want && (m.SuperReadOnly || aborted(m)):
		return safety.Refuse(safety.StaleMount, fmt.Errorf(
			"the file system at %s is read-only (%s): an error has ended its use; it must be unstaged first", m.Point, m.SuperOptions))
	case !want && !m.SuperReadOnly:
		return safety.Refuse(safety.StaleMount, fmt.Errorf("the file system at %s is mounted for writing, and was asked for read-only", m.Point))
	}
	return nil
}

// aborted tells whether ext4 or xfs says that it has stopped writing without having become read-only (Linux 6.14).
func aborted(m kernel.Mount) bool {
	options := strings.Split(m.SuperOptions, ",")
	return slices.Contains(options, "emergency_ro") || slices.Contains(options, "shutdown")
}

// inUse tells whether the mapping of exactly this publication is there and has users: a raw block volume whose pod
// runs. The array may be away just then; staging it again must not wait for it.
func (n *Node) inUse(ctx context.Context, v volume) (bool, error) {
	if !v.queue {
		return false, nil
	}
	mp, err := n.mapper()
	if err != nil {
		return false, err
	}
	m, found, err := mp.Get(ctx, v.Slot)
	return found && m.ID == v.ID && m.OpenCount > 0, err
}

// prepare makes sure that the device holds a sound file system: the one that is there, or, where the device is proven
// blank, a new one.
func (n *Node) prepare(ctx context.Context, v volume, fsType string, d device, p *pin) (err error) {
	c, err := n.claimDevice(d)
	if err != nil {
		return err
	}
	defer func() { // format has closed it where it came to mkfs
		if e := c.Close(); !errors.Is(e, fs.ErrClosed) {
			err = errors.Join(err, e)
		}
	}()
	found, err := n.inspect(ctx, v.Slot, fsType, c, p)
	if err != nil {
		return err
	}
	switch found {
	case blank, halfMade:
		return n.format(ctx, v, fsType, found, c)
	case wantedMarked:
		if err := n.unmark(ctx, v.Slot, c); err != nil {
			return err
		}
	case wanted:
	default:
		return safety.Refuse(safety.BlankUnproven, fmt.Errorf("%s: what it holds could not be told", d.path))
	}
	if err := c.Close(); err != nil { // e2fsck wants the exclusive hold for itself
		return err
	}
	return n.check(ctx, v.Slot, fsType, d)
}
