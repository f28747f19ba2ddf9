package node

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"srvlab.io/rds-csi/safety"
	"srvlab.io/rds-csi/safety/kernel"
)

const (
	// mountTime bounds a mount: xfs replays its log in it.
	mountTime = time.Minute
	// umountTime bounds an unmount, which writes out what is dirty. Longer is no use: where the array is away it ends
	// when the array is back, and repair cannot work on the volume while the call waits.
	umountTime = 30 * time.Second
	// maxStack is how many mounts on one path are taken away by one call: more than the kernel allows in a whole mount
	// namespace by default (fs.mount-max, 100,000) cannot be there.
	maxStack = 100_000
)

// mountsAt gives the mounts on exactly this path, lowest first.
func mountsAt(all []kernel.Mount, path string) []kernel.Mount {
	return slices.DeleteFunc(slices.Clone(all), func(m kernel.Mount) bool { return m.Point != path })
}

// mountsOf gives the mounts of the device.
func mountsOf(all []kernel.Mount, d kernel.DevID) []kernel.Mount {
	return slices.DeleteFunc(slices.Clone(all), func(m kernel.Mount) bool { return m.Dev != d })
}

func points(mounts []kernel.Mount) string {
	var s []string
	for _, m := range mounts {
		s = append(s, m.Point)
	}
	return strings.Join(s, ", ")
}

// mount mounts a file system in a program of its own, and makes sure that the host sees it: without mount propagation
// it would be a mount of the driver's container, and every pod would write to the node's disk below.
func (n *Node) mount(ctx context.Context, slot safety.Slot, a access, d device, path string) error {
	argv := []string{"mount", "-n", "-t", a.fsType}
	options := a.options
	if a.fsType == fsXFS && !slices.Contains(options, "nouuid") {
		// A clone or restored snapshot has its source's UUID, and xfs mounts only one of them. Which device this is has
		// been proven otherwise.
		options = append(slices.Clone(options), "nouuid")
	}
	if len(options) > 0 {
		argv = append(argv, "-o", strings.Join(options, ","))
	}
	_, err := n.programs.run(ctx, command{slot: slot, limit: mountTime, argv: append(argv, d.path, path)})
	if err != nil {
		return safety.RefuseTouched(safety.MountFailed, err)
	}
	return n.seenByHost(ctx, slot, d.dev, path)
}

// seenByHost takes a mount away again that the host's first process does not have.
func (n *Node) seenByHost(ctx context.Context, slot safety.Slot, d kernel.DevID, path string) error {
	all, err := n.fs.Mounts()
	if err != nil {
		return err
	}
	if len(mountsOf(mountsAt(all, path), d)) > 0 {
		return nil
	}
	err = fmt.Errorf("the host does not see the mount of %s at %s: kubelet's directory must be mounted into the driver's container "+
		"under its real name and with mountPropagation Bidirectional", d, path)
	return safety.RefuseTouched(safety.NodeUnsuited, errors.Join(err, n.umount(ctx, slot, path)))
}

// umount takes one mount away, in a program of its own: where the array is away it hangs until the data is written.
func (n *Node) umount(ctx context.Context, slot safety.Slot, path string) error {
	_, err := n.programs.run(ctx, command{slot: slot, limit: umountTime, argv: []string{"umount", "-n", "-c", path}})
	return err
}

// unmountAll unmounts path until nothing is mounted there, however often it was mounted: a stack of mounts is what a
// mount storm leaves behind. Mounts that are positively not this volume's are refused.
func (n *Node) unmountAll(ctx context.Context, slot safety.Slot, path string) error {
	for removed := 0; removed < maxStack; {
		all, err := n.fs.Mounts()
		if err != nil {
			return err
		}
		stack := mountsAt(all, path)
		if len(stack) == 0 {
			return nil
		}
		if err := n.mayUnmount(ctx, slot, stack); err != nil {
			return err
		}
		for range stack {
			if err := n.umount(ctx, slot, path); err != nil {
				return n.umountError(ctx, slot, path, err)
			}
			removed++
		}
	}
	return safety.Refuse(safety.MountFailed, fmt.Errorf("%s: unmounted %d times, and still a mount point", path, maxStack))
}

// umountError tells an unmount that waits for the array from one that the kernel refused, and both from one that
// somebody else was quicker with.
func (n *Node) umountError(ctx context.Context, slot safety.Slot, path string, cause error) error {
	var exited *exitError
	if errors.As(cause, &exited) {
		if all, err := n.fs.Mounts(); err == nil && len(mountsAt(all, path)) == 0 {
			return nil
		}
		return safety.RefuseTouched(safety.MountFailed, cause)
	}
	if lost, why := n.pathLost(context.WithoutCancel(ctx), slot); lost {
		cause = fmt.Errorf("%w; it waits for the array, nothing is thrown away: %s", cause, why)
		return safety.RefuseTouched(safety.PathLost, fmt.Errorf("unmount %s: %w", path, cause))
	}
	return safety.RefuseTouched(safety.MountFailed, cause)
}

// pathLost tells whether the volume's I/O has nowhere to go, and why.
func (n *Node) pathLost(ctx context.Context, slot safety.Slot) (bool, string) {
	ctx, cancel := context.WithTimeout(ctx, statTime)
	defer cancel()
	h, found, err := n.held(ctx, slot)
	switch {
	case err != nil:
		return true, err.Error()
	case !found:
		return false, ""
	}
	subsystems, err := n.fs.Subsystem(h.nqn)
	if err != nil {
		return true, err.Error()
	}
	connected := false
	for _, s := range subsystems {
		for _, c := range s.Controllers {
			connected = connected || c.State == stateLive
		}
	}
	ns, hasNamespace, err := n.namespace(h.nqn)
	switch {
	case err != nil:
		return true, err.Error()
	case !connected || !hasNamespace:
		return true, fmt.Sprintf("%s is not connected", h.nqn)
	case h.through != ns.Dev:
		return true, fmt.Sprintf("%s has no path to %s", h.path, ns.Name)
	}
	return false, ""
}

// mayUnmount refuses mounts that are not this volume's. A device that the kernel has no more is no reason: taking away
// the mount of a dead disk is what unpublish and unstage are for, and its number cannot have passed to another while it
// is mounted.
func (n *Node) mayUnmount(ctx context.Context, slot safety.Slot, stack []kernel.Mount) error {
	ours, foreign, err := n.owners(ctx, slot)
	if err != nil {
		return err
	}
	for _, m := range stack {
		if ours[m.Dev] {
			continue
		}
		if nqn, known := foreign[m.Dev]; known {
			return safety.Refuse(safety.ForeignNQN, fmt.Errorf("at %s is a mount of %q, which is not volume %s", m.Point, nqn, slot))
		}
		_, _, _, err := n.fs.BlockDevice(m.Dev)
		switch {
		case m.Dev.Major != 0 && errors.Is(err, fs.ErrNotExist):
		case m.Dev.Major != 0 && err != nil:
			return err
		default:
			return safety.Refuse(safety.StaleMount, fmt.Errorf(
				"at %s is a mount of %s (%s, %s), not of volume %s", m.Point, m.Dev, m.Source, m.FSType, slot))
		}
	}
	return nil
}

// owners tells which devices are the volume's, whatever the generation, and to whom other NVMe devices belong.
func (n *Node) owners(ctx context.Context, slot safety.Slot) (ours map[kernel.DevID]bool, foreign map[kernel.DevID]safety.NQN, err error) {
	ours, foreign = map[kernel.DevID]bool{}, map[kernel.DevID]safety.NQN{}
	mp, err := n.mapper()
	if err != nil {
		return nil, nil, err
	}
	m, found, err := mp.Get(ctx, slot)
	if err != nil {
		return nil, nil, err
	}
	if found {
		ours[m.Dev] = true
	}
	subsystems, err := n.fs.Subsystems()
	if err != nil {
		return nil, nil, err
	}
	for _, s := range subsystems {
		uuid, _, managed := n.prefix.Split(s.NQN)
		for _, ns := range s.Namespaces {
			if managed && uuid == slot.UUID() {
				ours[ns.Dev] = true
			} else {
				foreign[ns.Dev] = s.NQN
			}
		}
	}
	return ours, foreign, nil
}

// errUnexpectedDevice says that a path leads to another device than its mount had a moment ago.
var errUnexpectedDevice = errors.New("is not the device that the host's mount table shows")

// bindMount binds source, a mount of the device d, to target. Read-only or not is decided before the mount appears:
// nobody can write in between, and a driver killed in between leaves nothing half done. (mount_setattr is of Linux
// 5.12.)
func bindMount(source, target string, d kernel.DevID, readOnly bool) error {
	fd, err := unix.OpenTree(unix.AT_FDCWD, source, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_SYMLINK_NOFOLLOW)
	if err != nil {
		return fmt.Errorf("open_tree %s: %w", source, err)
	}
	defer func() { _ = unix.Close(fd) }() // a tree that was not moved goes away with its descriptor
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return fmt.Errorf("fstat %s: %w", source, err)
	}
	if st.Dev != d.Rdev() {
		return fmt.Errorf("%s %w: %d:%d, not %s", source, errUnexpectedDevice, unix.Major(st.Dev), unix.Minor(st.Dev), d)
	}
	if readOnly {
		if err := unix.MountSetattr(fd, "", unix.AT_EMPTY_PATH, &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY}); err != nil {
			return fmt.Errorf("mount_setattr %s: %w", source, err)
		}
	}
	if err := unix.MoveMount(fd, "", unix.AT_FDCWD, target, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return fmt.Errorf("move_mount %s to %s: %w", source, target, err)
	}
	return nil
}

// carrier gives the mount that a path is on, without touching the path: of the mounts at the longest mount point
// above it the last.
func carrier(all []kernel.Mount, path string) (kernel.Mount, bool) {
	var best kernel.Mount
	found := false
	for _, m := range all {
		if m.Point != path && !strings.HasPrefix(path, strings.TrimSuffix(m.Point, "/")+string(filepath.Separator)) {
			continue
		}
		if !found || len(m.Point) >= len(best.Point) {
			best, found = m, true
		}
	}
	return best, found
}
