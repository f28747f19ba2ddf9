package node

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"srvlab.io/rds-csi/safety"
	"srvlab.io/rds-csi/safety/kernel"
)

// NodePublishVolume puts the volume at the target path: a bind of the staged mount, or for raw block a device node
// with the number of the volume's device. After any number of calls there is one mount, or one node.
func (n *Node) NodePublishVolume(
	ctx context.Context, req *csi.NodePublishVolumeRequest,
) (*csi.NodePublishVolumeResponse, error) {
	v, a, err := n.parseUse(req, req.GetStagingTargetPath())
	if err != nil {
		return nil, err
	}
	if err := n.checkPath("target path", req.GetTargetPath()); err != nil {
		return nil, err
	}
	leave, err := n.inFlight.Enter(v.Slot, "publish")
	if err != nil {
		return nil, err
	}
	defer leave()
	p := publication{
		staging: req.GetStagingTargetPath(), target: req.GetTargetPath(),
		readOnly: req.GetReadonly() || a.readOnly || a.readOnlyMount(),
	}
	if a.block {
		err = n.publishBlock(ctx, v, a, p)
	} else {
		err = n.publishMount(ctx, v, a, p)
	}
	if err != nil {
		return nil, fmt.Errorf("publish volume %s: %w", req.GetVolumeId(), err)
	}
	return &csi.NodePublishVolumeResponse{}, nil
}

type publication struct {
	staging, target string
	readOnly        bool
}

// otherwise is CSI's answer to a publish that contradicts an earlier one.
func (p publication) otherwise(readOnly bool) error {
	return status.Errorf(codes.AlreadyExists, "%s is published already with readonly=%t, not %t", p.target, readOnly, p.readOnly)
}

func (n *Node) publishMount(ctx context.Context, v volume, a access, p publication) error {
	all, err := n.fs.Mounts()
	if err != nil {
		return err
	}
	d, err := n.stagedDevice(ctx, v, a, p, all)
	if err != nil {
		return err
	}
	stack := mountsAt(all, p.target)
	for _, m := range stack {
		switch {
		case m.Dev != d.dev || m.Root != "/":
			return safety.Refuse(safety.StaleMount, fmt.Errorf(
				"at %s is a mount of %s (%s), not of %s", p.target, m.Dev, m.Source, d.path))
		case m.ReadOnly != p.readOnly:
			return p.otherwise(m.ReadOnly)
		}
	}
	if len(stack) > 0 {
		return nil
	}
	if a.singleWriter {
		if others := n.otherTargets(all, d, p); len(others) > 0 {
			return refuseSecond(v, others)
		}
	}
	if err := os.Mkdir(p.target, 0o750); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	if err := bindMount(p.staging, p.target, d.dev, p.readOnly); err != nil {
		return bindError(err)
	}
	return n.seenByHost(ctx, v.Slot, d.dev, p.target)
}

func bindError(err error) error {
	switch {
	case errors.Is(err, unix.ENOSYS):
		return safety.Refuse(safety.NodeUnsuited, fmt.Errorf("%w; Linux 5.12 or newer is needed", err))
	case errors.Is(err, errUnexpectedDevice):
		return safety.Refuse(safety.StaleMount, err)
	}
	return safety.Refuse(safety.MountFailed, err)
}

// stagedDevice gives the device of the staged mount. kubelet may publish without having staged, after an unstage that
// failed (kubernetes#86360), so presence is not enough: the mount must be of this volume at this generation, and be
// writable where that is asked for.
func (n *Node) stagedDevice(ctx context.Context, v volume, a access, p publication, all []kernel.Mount) (device, error) {
	d, found, err := n.current(ctx, v)
	if err != nil {
		return device{}, err
	}
	stack := mountsAt(all, p.staging)
	if len(stack) == 0 {
		return device{}, safety.Refuse(safety.StaleMount, fmt.Errorf("nothing is mounted at the staging path %s: stage the volume first", p.staging))
	}
	m := stack[len(stack)-1]
	if !found || m.Dev != d.dev || m.Root != "/" {
		return device{}, safety.Refuse(safety.StaleMount, fmt.Errorf(
			"at the staging path %s is a mount of %s (%s), not of %s", p.staging, m.Dev, m.Source, v.nqn))
	}
	return d, writable(m, !a.readOnlyMount())
}

// otherTargets gives the mounts of the volume at other target paths. A subPath of a pod is a bind of a subdirectory
// and belongs to a target that is counted.
func (n *Node) otherTargets(all []kernel.Mount, d device, p publication) []string {
	var others []string
	for _, m := range mountsOf(all, d.dev) {
		if m.Root == "/" && m.Point != p.staging && m.Point != p.target && n.below(m.Point) {
			others = append(others, m.Point)
		}
	}
	return slices.Compact(others)
}

func refuseSecond(v volume, others []string) error {
	return safety.Refuse(safety.AttachedElsewhere, fmt.Errorf(
		"volume %s is for a single writer, and published at %s", v.Slot, strings.Join(others, ", ")))
}

func (n *Node) publishBlock(ctx context.Context, v volume, a access, p publication) error {
	all, err := n.fs.Mounts()
	if err != nil {
		return err
	}
	if stack := mountsAt(all, p.target); len(stack) > 0 {
		return safety.Refuse(safety.StaleMount, fmt.Errorf("at %s is a mount (%s), and a device node was to be made", p.target, stack[0].Source))
	}
	d, found, err := n.current(ctx, v)
	switch {
	case err != nil:
		return err
	case !found:
		return safety.Refuse(safety.StaleMount, fmt.Errorf("%s is not connected: stage the volume first", v.nqn))
	}
	there, done, err := published(p, d)
	if done || err != nil {
		return err
	}
	if m, found := carrier(all, p.target); found && slices.Contains(strings.Split(m.Options, ","), "nodev") {
		return safety.Refuse(safety.NodeUnsuited, fmt.Errorf("%s is mounted nodev: no device node works below it; mount it without, for raw block volumes", m.Point))
	}
	if a.singleWriter {
		others, err := siblingNodes(p.target, d.dev)
		if err != nil {
			return err
		}
		if len(others) > 0 {
			return refuseSecond(v, others)
		}
	}
	return makeNode(p, there, d.dev)
}

// published tells whether the device node is there already, and else what is.
func published(p publication, d device) (place, bool, error) {
	there, err := nodeAt(p.target)
	if err != nil || there.kind != unix.S_IFBLK {
		return there, false, err
	}
	if there.dev != d.dev {
		return there, false, safety.Refuse(safety.StaleMount, fmt.Errorf(
			"at %s is the device node %s, not %s (%s)", p.target, there.dev, d.dev, d.path))
	}
	if there.readOnly() != p.readOnly {
		return there, false, p.otherwise(there.readOnly())
	}
	return there, true, nil
}

// nodeMode and readOnlyMode are the permissions of a device node. Root in a container is not bound by them: what keeps
// it from writing is the device cgroup, which kubelet sets from the same readonly flag.
const (
	nodeMode     = 0o660
	readOnlyMode = 0o440
	permissions  = 0o777
)

// place is what stands at a path; kind 0: nothing.
type place struct {
	kind uint32 // S_IF…
	mode uint32
	size int64
	dev  kernel.DevID // of a device node
}

func (p place) readOnly() bool { return p.mode&permissions == readOnlyMode }

// nodeAt looks at a path that is no mount point, so that the look cannot hang.
func nodeAt(path string) (place, error) {
	var st unix.Stat_t
	err := unix.Lstat(path, &st)
	switch {
	case errors.Is(err, unix.ENOENT):
		return place{}, nil
	case err != nil:
		return place{}, &fs.PathError{Op: "lstat", Path: path, Err: err}
	}
	p := place{kind: st.Mode & unix.S_IFMT, mode: st.Mode, size: st.Size}
	if p.kind == unix.S_IFBLK {
		p.dev = kernel.DevID{Major: unix.Major(st.Rdev), Minor: unix.Minor(st.Rdev)}
	}
	return p, nil
}

// makeNode makes the device node. An empty file is what kubelet, or a driver that bind-mounts, leaves at the target of
// raw block; anything else stays.
func makeNode(p publication, there place, d kernel.DevID) error {
	switch {
	case there.kind == unix.S_IFREG && there.size == 0:
		if err := os.Remove(p.target); err != nil {
			return err
		}
	case there.kind != 0:
		return safety.Refuse(safety.StaleMount, fmt.Errorf("at %s is something that is no device node (mode %#o); it is not replaced", p.target, there.mode))
	}
	mode := uint32(nodeMode)
	if p.readOnly {
		mode = readOnlyMode
	}
	if err := unix.Mknod(p.target, unix.S_IFBLK|mode, int(d.Rdev())); err != nil {
		return safety.Refuse(safety.NodeUnsuited, &fs.PathError{Op: "mknod", Path: p.target, Err: err})
	}
	return os.Chmod(p.target, os.FileMode(mode)) // mknod's is cut by the umask
}

// siblingNodes gives the other device nodes of the volume beside the target: kubelet publishes raw block at
// …/volumeDevices/publish/<volume>/<pod>, so all of a volume's are in one directory. A node is no mount; no table
// lists it.
func siblingNodes(target string, d kernel.DevID) ([]string, error) {
	dir := filepath.Dir(target)
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var others []string
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		if e.Type()&fs.ModeDevice == 0 || path == target {
			continue
		}
		p, err := nodeAt(path)
		if err != nil {
			return nil, err
		}
		if p.dev == d {
			others = append(others, path)
		}
	}
	return others, nil
}
