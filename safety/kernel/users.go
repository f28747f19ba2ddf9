package kernel

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Users is who uses a block device or a partition of it. It is evidence against taking the device away: what is
// listed uses it, or looks so much like it that a human has to decide.
type Users struct {
	Holders     []string // block devices on top: dm-0
	Mounts      []Mount  // in the host's mount table, binds of the device node included
	Loops       []string // loop devices backed by it
	Swaps       []string
	FileSystems []string // mounted in whatever mount namespace: proc/fs/jbd2/nvme0n1-8, sys/fs/xfs/nvme0n1
	Openers     []string // processes with an open file on it: 1234 (qemu-system-x86)
}

// None tells whether nobody uses the device.
func (u Users) None() bool { return u.String() == "" }

// String lists the users for an error message: "holder dm-0, mount /var".
func (u Users) String() string {
	var s []string
	add := func(kind string, names []string) {
		for _, n := range names {
			s = append(s, kind+" "+n)
		}
	}
	add("holder", u.Holders)
	for _, m := range u.Mounts {
		s = append(s, "mount "+m.Point)
	}
	add("loop device", u.Loops)
	add("swap", u.Swaps)
	add("file system", u.FileSystems)
	add("process", u.Openers)
	return strings.Join(s, ", ")
}

// Users looks for users of d in every place that the kernel offers. Any place that cannot be read is an error: it is
// not known then who uses d. Two things escape it: a file open in another thread's private table, and one that is
// only mapped into memory or registered with io_uring, its descriptor closed.
//
// The calling process does not count. A probe of its own may hang on a dead path, and the disconnect is what ends the
// hang; a driver that once took itself for the user (lsof) never disconnected again.
func (f FS) Users(d DevID) (Users, error) {
	dir, err := f.blockDir(d)
	if err != nil {
		return Users{}, err
	}
	disks, err := partitions(dir, d)
	if err != nil {
		return Users{}, fmt.Errorf("users of %s: %w", d, err)
	}
	var u Users
	err = errors.Join(
		u.findHolders(disks),
		u.findMounts(f, disks),
		u.findLoops(f, disks),
		u.findSwaps(f, disks),
		u.findFileSystems(f, disks),
		u.findOpeners(f, disks),
	)
	if err != nil {
		return Users{}, fmt.Errorf("users of %s (%s): could not tell: %w", d, filepath.Base(dir), err)
	}
	return u, nil
}

// disk is the device asked for or one of its partitions.
type disk struct {
	name string
	dir  string
	dev  DevID
}

type disks []disk

// named tells whether path is one of the disks by its last element: /dev/nvme0n1, or a node made under that name
// elsewhere. A name that only looks like it is taken for it: a refusal too many costs a retry.
func (ds disks) named(path string) bool {
	base := filepath.Base(path)
	return slices.ContainsFunc(ds, func(d disk) bool { return d.name == base })
}

func (ds disks) numbered(dev DevID) bool {
	return slices.ContainsFunc(ds, func(d disk) bool { return d.dev == dev })
}

// partitions gives the disk itself and its partitions: a guest's partition table is seen by the host, too, and what
// mounts /dev/nvme0n1p1 uses the disk.
func partitions(dir string, dev DevID) (disks, error) {
	ds := disks{{filepath.Base(dir), dir, dev}}
	list, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	for _, e := range list {
		sub := filepath.Join(dir, e.Name())
		if !e.IsDir() {
			continue
		}
		if _, err := os.Lstat(filepath.Join(sub, "partition")); errors.Is(err, fs.ErrNotExist) {
			continue
		} else if err != nil {
			return nil, err
		}
		dev, _, _, err := readBlock(sub)
		if err != nil {
			return nil, err
		}
		ds = append(ds, disk{e.Name(), sub, dev})
	}
	return ds, nil
}

func (u *Users) findHolders(ds disks) error {
	for _, d := range ds {
		names, err := holders(d.dir)
		if err != nil {
			return err
		}
		u.Holders = append(u.Holders, names...)
	}
	return nil
}

// findMounts matches the device number, and for what mounts under a number of its own (btrfs) the source. A bind of
// the device node itself shows as devtmpfs with the node's name as root.
func (u *Users) findMounts(f FS, ds disks) error {
	mounts, err := f.Mounts()
	if err != nil {
		return err
	}
	for _, m := range mounts {
		if ds.numbered(m.Dev) || ds.named(m.Source) || m.FSType == "devtmpfs" && ds.named(m.Root) {
			u.Mounts = append(u.Mounts, m)
		}
	}
	return nil
}

// findLoops asks every bound loop device for its backing file. The name decides where it can; a block device under
// another name (kubelet's losetup on a published raw block volume) is told by its number, for which the loop device
// must be opened: sysfs has no number.
func (u *Users) findLoops(f FS, ds disks) error {
	list, err := entries(filepath.Join(f.Sys, "block"))
	if err != nil {
		return err
	}
	for _, e := range list {
		if !strings.HasPrefix(e.Name(), "loop") {
			continue
		}
		file, err := optional(f.Sys, "block", e.Name(), "loop/backing_file")
		if err != nil {
			return err
		}
		if file == "" {
			continue // not bound
		}
		uses := ds.named(file)
		if !uses {
			dev, err := loopBacking(filepath.Join(f.Dev, e.Name()))
			if err != nil {
				return fmt.Errorf("%s on %s: %w", e.Name(), file, err)
			}
			uses = dev != (DevID{}) && ds.numbered(dev)
		}
		if uses {
			u.Loops = append(u.Loops, e.Name())
		}
	}
	return nil
}

// loopBacking gives the number of the block device that a loop device is on, the zero DevID if it is on a file or no
// longer on anything.
func loopBacking(path string) (DevID, error) {
	fd, err := retryInt(func() (int, error) { return unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0) })
	if errors.Is(err, unix.ENXIO) || errors.Is(err, unix.ENODEV) {
		return DevID{}, nil
	}
	if err != nil {
		return DevID{}, &fs.PathError{Op: "open", Path: path, Err: err}
	}
	defer func() { _ = unix.Close(fd) }()
	info, err := unix.IoctlLoopGetStatus64(fd)
	if errors.Is(err, unix.ENXIO) {
		return DevID{}, nil
	}
	if err != nil {
		return DevID{}, &fs.PathError{Op: "LOOP_GET_STATUS64", Path: path, Err: err}
	}
	return DevID{Major: unix.Major(info.Rdevice), Minor: unix.Minor(info.Rdevice)}, nil
}

// findSwaps reads /proc/swaps: a heading, then a line for each swap with its escaped path at the start.
func (u *Users) findSwaps(f FS, ds disks) error {
	data, err := os.ReadFile(filepath.Join(f.Proc, "swaps"))
	if err != nil {
		return err
	}
	for i, line := range strings.Split(strings.TrimSuffix(string(data), "\n"), "\n") {
		if i == 0 {
			continue
		}
		path, _, found := strings.Cut(line, " ")
		if !found {
			return fmt.Errorf("%s/swaps: line %d %q: has one field only", f.Proc, i+1, line)
		}
		if ds.named(path) {
			u.Swaps = append(u.Swaps, path)
		}
	}
	return nil
}

// findFileSystems looks where ext4 and xfs show what they have mounted, in any mount namespace and after a lazy
// unmount. ext4's journal is there as <device>-<inode>.
func (u *Users) findFileSystems(f FS, ds disks) error {
	for _, place := range []struct{ root, dir string }{
		{f.Proc, "fs/ext4"}, {f.Proc, "fs/xfs"}, {f.Proc, "fs/jbd2"}, {f.Sys, "fs/ext4"}, {f.Sys, "fs/xfs"},
	} {
		list, err := entries(filepath.Join(place.root, place.dir))
		if err != nil {
			return err
		}
		for _, e := range list {
			name, _, _ := strings.Cut(e.Name(), "-")
			if ds.named(name) {
				u.FileSystems = append(u.FileSystems, place.dir+"/"+e.Name())
			}
		}
	}
	return nil
}

// findOpeners looks at every open file of every process for one of the devices, whatever its path.
func (u *Users) findOpeners(f FS, ds disks) error {
	self, err := os.Readlink(filepath.Join(f.Proc, "self"))
	if err != nil {
		return err
	}
	list, err := os.ReadDir(f.Proc)
	if err != nil {
		return err
	}
	for _, e := range list {
		if _, err := strconv.Atoi(e.Name()); err != nil || e.Name() == self {
			continue
		}
		opens, err := hasOpen(filepath.Join(f.Proc, e.Name(), "fd"), ds)
		if err != nil {
			return err
		}
		if opens {
			name, _ := attribute(f.Proc, e.Name(), "comm") // an ornament: without it the number does
			u.Openers = append(u.Openers, fmt.Sprintf("%s (%s)", e.Name(), name))
		}
	}
	return nil
}

// hasOpen tells whether a file in the directory of a process's open files is one of the devices. A process or file
// that ends meanwhile has it no more.
func hasOpen(dir string, ds disks) (bool, error) {
	list, err := os.ReadDir(dir)
	if vanished(err) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	for _, e := range list {
		dev, err := openBlockDevice(filepath.Join(dir, e.Name()))
		if vanished(err) {
			continue
		}
		if err != nil {
			return false, err
		}
		if dev != (DevID{}) && ds.numbered(dev) {
			return true, nil
		}
	}
	return false, nil
}

func vanished(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ESRCH)
}

// openBlockDevice gives the number of the block device behind /proc/<pid>/fd/<n>, the zero DevID for any other file.
// AT_STATX_DONT_SYNC: the file may be on a network file system whose server is gone, and must not be waited for.
func openBlockDevice(path string) (DevID, error) {
	var st unix.Statx_t
	const flags = unix.AT_STATX_DONT_SYNC | unix.AT_NO_AUTOMOUNT
	_, err := retryInt(func() (int, error) {
		return 0, unix.Statx(unix.AT_FDCWD, path, flags, unix.STATX_TYPE, &st)
	})
	if err != nil {
		return DevID{}, &fs.PathError{Op: "statx", Path: path, Err: err}
	}
	if st.Mode&unix.S_IFMT != unix.S_IFBLK {
		return DevID{}, nil
	}
	return DevID{Major: st.Rdev_major, Minor: st.Rdev_minor}, nil
}
