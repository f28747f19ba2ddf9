package kernel

import (
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strconv"
)

// sectorSize is the unit of `size` in sysfs and of device-mapper tables, whatever the disk's own block size.
const sectorSize = 512

// BlockDevice gives the name, size and disk sequence number of the block device d. An error that is fs.ErrNotExist
// means that the kernel has no such device.
func (f FS) BlockDevice(d DevID) (name string, sizeBytes int64, diskSeq uint64, err error) {
	dir, err := f.blockDir(d)
	if err != nil {
		return "", 0, 0, err
	}
	dev, size, seq, err := readBlock(dir)
	if err != nil {
		return "", 0, 0, fmt.Errorf("block device %s: %w", d, err)
	}
	if dev != d { // the number was given to another device between the two reads
		return "", 0, 0, fmt.Errorf("block device %s: %s is %s now", d, filepath.Base(dir), dev)
	}
	return filepath.Base(dir), size, seq, nil
}

// Holders names the block devices that are made of d: dm-0, md127. A mount is no holder.
func (f FS) Holders(d DevID) ([]string, error) {
	dir, err := f.blockDir(d)
	if err != nil {
		return nil, err
	}
	return holders(dir)
}

// holders lists a holders directory. One that is missing is an error: every disk and partition has one.
func holders(dir string) ([]string, error) {
	list, err := os.ReadDir(filepath.Join(dir, "holders"))
	if err != nil {
		return nil, fmt.Errorf("holders: %w", err)
	}
	names := make([]string, 0, len(list))
	for _, e := range list {
		names = append(names, e.Name())
	}
	return names, nil
}

// blockDir gives the sysfs directory of d with its link resolved, so that its base is the device's name.
func (f FS) blockDir(d DevID) (string, error) {
	if d == (DevID{}) {
		return "", errors.New("block device: no device given")
	}
	dir, err := filepath.EvalSymlinks(filepath.Join(f.Sys, "dev/block", d.String()))
	if err != nil {
		return "", fmt.Errorf("block device %s: %w", d, err)
	}
	return dir, nil
}

// readBlock reads what every block device has. diskseq is 0 before Linux 5.15 and for partitions.
func readBlock(dir string) (d DevID, sizeBytes int64, diskSeq uint64, err error) {
	dev, errDev := attribute(dir, "dev")
	size, errSize := attribute(dir, "size")
	seq, errSeq := optional(dir, "diskseq")
	if err := errors.Join(errDev, errSize, errSeq); err != nil {
		return DevID{}, 0, 0, err
	}
	d, errDev = ParseDevID(dev)
	sectors, errSize := strconv.ParseInt(size, 10, 64)
	if errSize == nil && (sectors < 0 || sectors > math.MaxInt64/sectorSize) {
		errSize = fmt.Errorf("%d sectors are no size", sectors)
	}
	if seq != "" {
		diskSeq, errSeq = strconv.ParseUint(seq, 10, 64)
	}
	if err := errors.Join(errDev, errSize, errSeq); err != nil {
		return DevID{}, 0, 0, fmt.Errorf("%s: %w", dir, err)
	}
	return d, sectors * sectorSize, diskSeq, nil
}
