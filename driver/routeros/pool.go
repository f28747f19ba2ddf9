package routeros

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"srvlab.io/rds-csi/safety"
)

// Pool is the array's pool as its disk row shows it.
type Pool struct {
	SizeBytes  int64
	FreeBytes  int64  // thick: a file's size is gone from it when the file is made
	FS         string // xfs or btrfs, or what else is there
	Label      string // the file system's label; RouterOS addresses subvolumes of a btrfs pool by it
	MountPoint string // without leading slash
	Mounted    bool
	State      string // of a RAID "clean", "clean, sync:repair, …"; "" for a single disk
}

// Room gives the size of the largest volume, in whole MiB, that Create would take now.
func (p Pool) Room() int64 {
	size := (p.FreeBytes - bookkeeping) / 1025 * 1024 / mebibyte * mebibyte // the inverse of spaceFor
	return max(size, 0)
}

const (
	mebibyte    = 1 << 20
	bookkeeping = 16 * mebibyte
)

// spaceFor gives the free space that a pool must have for a file: its size, and a thousandth and 16 MiB for the file
// system's own book-keeping. A pool filled to the last block fails in ways that are no longer ours to explain.
func spaceFor(size int64) int64 { return size + size/1024 + bookkeeping }

// Pool reads the pool's row. ErrNotFound: no disk has the pool's slot.
func (a *Array) Pool(ctx context.Context) (Pool, error) {
	slot := a.config.Pool
	c, rows, err := a.look(ctx, "read pool "+slot, printSlot(slot))
	if err != nil {
		return Pool{}, err
	}
	if len(rows) == 0 {
		return Pool{}, c.fail(ErrNotFound, fmt.Errorf("no disk has the slot %q of the pool", slot))
	}
	if len(rows) > 1 || rows[0].text("slot") != slot {
		return Pool{}, c.fail(ErrUnknown, fmt.Errorf("%d rows for the one slot %q", len(rows), slot))
	}
	p, err := readPool(rows[0])
	if err != nil {
		return Pool{}, c.fail(ErrUnknown, err)
	}
	return p, nil
}

func readPool(r row) (Pool, error) {
	p := Pool{
		FS:         strings.TrimPrefix(r.text("fs"), "-"),
		Label:      r.text("fs-label"),
		MountPoint: strings.Trim(r.text("mount-point"), "/"),
		Mounted:    r.flag("mounted"),
		State:      r.text("state"),
	}
	p.SizeBytes, _ = r.bytes("size")
	free, ok := r.bytes("free")
	if p.Mounted && !ok {
		return Pool{}, errors.New("the pool is mounted and does not tell its free space")
	}
	p.FreeBytes = free
	return p, nil
}

const (
	xfs   = "xfs"
	btrfs = "btrfs"
)

// layout is where a volume lives on the pool, all of it derived from the slot, so that a delete whose answer was lost
// finds the file when the disk is gone already.
type layout struct {
	directory string // the directory of all volumes, as /file names it
	file      string // the file, as /file names it
	subvolume string // the btrfs subvolume that holds the file, "" on xfs
	label     string // of the file system of the subvolume
}

const (
	fileEnd       = ".img"      // xfs: <mount point>/<directory>/<stem>.img
	subvolumeFile = "/disk.img" // btrfs: <mount point>/<directory>/<stem>/disk.img
)

// layout gives the place of a volume. On btrfs each gets a subvolume of its own: only that can be snapshotted later.
func (a *Array) layout(p Pool, slot safety.Slot) layout {
	stem := a.config.Directory + "/" + slot.FileStem()
	l := layout{directory: p.MountPoint + "/" + a.config.Directory, file: p.MountPoint + "/" + stem + fileEnd}
	if p.FS == btrfs {
		l.file, l.subvolume, l.label = p.MountPoint+"/"+stem+subvolumeFile, stem, p.Label
	}
	return l
}

// place gives the pool that volumes are put on. It comes from memory when it is known; the lines that use it check
// file system and mount point again.
func (a *Array) place(ctx context.Context) (Pool, error) {
	if p := a.pool.Load(); p != nil {
		return *p, nil
	}
	return a.placeAgain(ctx)
}

// placeAgain reads the pool anew. A pool that is not mounted is refused: its mount point is then an empty directory
// of the array's internal flash.
func (a *Array) placeAgain(ctx context.Context) (Pool, error) {
	a.pool.Store(nil)
	p, err := a.Pool(ctx)
	if err != nil {
		return Pool{}, err
	}
	if err := p.usable(); err != nil {
		return Pool{}, &Error{Array: a.config.Name, Op: "read pool " + a.config.Pool, Kind: ErrUnsupported, Err: err}
	}
	a.pool.Store(&p)
	return p, nil
}

// usable says why no volume can be put on the pool.
func (p Pool) usable() error {
	switch {
	case !p.Mounted || p.MountPoint == "":
		return errors.New("the pool is not mounted; see its state in /disk/print detail")
	case p.FS != xfs && p.FS != btrfs:
		return fmt.Errorf("the pool's file system is %q; only xfs and btrfs pools are supported", p.FS)
	case p.FS == btrfs && p.Label == "":
		return errors.New("the pool's btrfs has no label, by which RouterOS addresses subvolumes; set one with " +
			"/disk/btrfs/filesystem/set")
	default:
		return nil
	}
}
