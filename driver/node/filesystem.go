package node

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"

	"srvlab.io/rds-csi/safety"
)

// The file systems that a volume may have, by the kernel's names.
const (
	fsExt4 = "ext4"
	fsXFS  = "xfs"
)

const (
	// formatTime and checkTime bound mkfs and fsck. kubelet's own patience is two minutes a call; what is killed then
	// is taken up again by the next.
	formatTime = 5 * time.Minute
	checkTime  = 5 * time.Minute
)

// mkfs gives the command that makes a file system. The array's files are fully allocated, and what is discarded may
// be given back to the pool, so that a later write finds no space: nothing is discarded.
func mkfs(fsType string, found content, path string) []string {
	switch {
	case fsType == fsExt4:
		// 4 KiB blocks also on volumes below 512 MiB, which otherwise could not grow far; no blocks kept for root, who
		// writes nothing there; the inode tables are zeroed by the kernel after the mount.
		return []string{"mkfs.ext4", "-q", "-F", "-b", "4096", "-m", "0", "-E", "nodiscard,lazy_itable_init=1", path}
	case found == halfMade:
		return []string{"mkfs.xfs", "-q", "-K", "-f", path}
	default: // without -f mkfs.xfs looks for signatures once more
		return []string{"mkfs.xfs", "-q", "-K", path}
	}
}

// format makes the file system on a device that was found blank or half made.
func (n *Node) format(ctx context.Context, v volume, fsType string, found content, c *claim) error {
	offset := c.sizeBytes - markerBack
	block := make([]byte, markerBlock)
	copy(block, marker(v.Slot))
	if err := n.confirm(ctx, v, c.device); err != nil {
		return err
	}
	if err := n.write(ctx, v.Slot, c, offset, block); err != nil {
		return err
	}
	// mkfs wants the exclusive hold for itself; the pin still keeps the number from passing to another disk.
	if err := c.Close(); err != nil {
		return err
	}
	if err := n.confirm(ctx, v, c.device); err != nil {
		return err
	}
	if _, err := n.programs.run(ctx, command{slot: v.Slot, limit: formatTime, argv: mkfs(fsType, found, c.path)}); err != nil {
		return fmt.Errorf("format volume %s: %w", v.Slot, err)
	}
	again, err := n.claimDevice(c.device)
	if err != nil {
		return err
	}
	return errors.Join(n.unmark(ctx, v.Slot, again), again.Close())
}

// unmark takes the marker away, if it is still there: mkfs may have written over it.
func (n *Node) unmark(ctx context.Context, slot safety.Slot, c *claim) error {
	offset := c.sizeBytes - markerBack
	var buffer bytes.Buffer
	if err := n.read(ctx, slot, c.File, offset, markerBlock, &buffer); err != nil {
		return err
	}
	block := buffer.Bytes()
	if len(block) != markerBlock {
		return fmt.Errorf("read %s at %d: %d bytes instead of %d", c.path, offset, len(block), markerBlock)
	}
	if !bytes.Equal(block[:markerSector], marker(slot)) {
		return nil
	}
	clear(block[:markerSector])
	return n.write(ctx, slot, c, offset, block)
}

// e2fsck's exit codes are bits (e2fsck(8)).
const (
	fsckFixed  = 1
	fsckReboot = 2 // of the root file system; here it says that much was fixed
)

// check makes an existing file system fit to be mounted: for ext4 what mount-utils does (replay the journal, repair
// what is safe), for xfs nothing, because mounting it replays its log.
func (n *Node) check(ctx context.Context, slot safety.Slot, fsType string, d device) error {
	if fsType != fsExt4 {
		return nil
	}
	_, err := n.programs.run(ctx, command{slot: slot, limit: checkTime, argv: []string{"e2fsck", "-p", d.path}})
	var exited *exitError
	switch {
	case err == nil:
		return nil
	case !errors.As(err, &exited):
		return safety.Refuse(safety.MountFailed, fmt.Errorf("check volume %s: %w", slot, err))
	case exited.exit&^(fsckFixed|fsckReboot) == 0:
		return nil
	}
	return safety.Refuse(safety.FilesystemCorrupt, fmt.Errorf("check volume %s: %w", slot, err))
}

// explain says why an xfs could not be mounted: xfs_repair, which changes nothing here, ends with 1 where it finds
// damage (xfs_repair(8)).
func (n *Node) explain(ctx context.Context, slot safety.Slot, fsType string, d device, cause error) error {
	if fsType != fsXFS || safety.ReasonOf(cause) != safety.MountFailed {
		return cause
	}
	_, err := n.programs.run(ctx, command{slot: slot, limit: checkTime, argv: []string{"xfs_repair", "-n", d.path}})
	var exited *exitError
	if errors.As(err, &exited) && exited.exit == 1 {
		return safety.RefuseTouched(safety.FilesystemCorrupt, fmt.Errorf("%w; %w", cause, exited))
	}
	return cause
}
