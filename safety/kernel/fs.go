// Package kernel reads what the kernel says about mounts, block devices and NVMe subsystems, as evidence for
// decisions; it opens files for reading only, never touches a path below a mount, and refuses to take "could not
// read" for "is not there".
package kernel

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// FS is where the host's kernel files are. In a pod the three are mounts of the host's directories; in tests, a
// temporary directory. Its methods only read.
type FS struct{ Proc, Sys, Dev string }

// Default gives the FS of a process that sees the host's own files.
func Default() FS { return FS{Proc: "/proc", Sys: "/sys", Dev: "/dev"} }

// DevID is the number of a block device. The zero value is no device. A number is reused: what makes it certain is
// the disk sequence number beside it (Namespace.DiskSeq).
type DevID struct{ Major, Minor uint32 }

// String gives the number as sysfs and the device-mapper write it: "259:3".
func (d DevID) String() string {
	return strconv.FormatUint(uint64(d.Major), 10) + ":" + strconv.FormatUint(uint64(d.Minor), 10)
}

// Rdev gives the number as stat(2) and mknod(2) write it.
func (d DevID) Rdev() uint64 { return unix.Mkdev(d.Major, d.Minor) }

// maxMajor and maxMinor are the kernel's (MINORBITS 20 of a 32-bit dev_t).
const (
	maxMajor = 1<<12 - 1
	maxMinor = 1<<20 - 1
)

// ParseDevID takes "259:3" apart.
func ParseDevID(s string) (DevID, error) {
	major, minor, found := strings.Cut(s, ":")
	if !found {
		return DevID{}, fmt.Errorf("device number %q: is not <major>:<minor>", s)
	}
	ma, errMajor := strconv.ParseUint(major, 10, 32)
	mi, errMinor := strconv.ParseUint(minor, 10, 32)
	if err := errors.Join(errMajor, errMinor); err != nil {
		return DevID{}, fmt.Errorf("device number %q: is not <major>:<minor>: %w", s, err)
	}
	if ma > maxMajor || mi > maxMinor {
		return DevID{}, fmt.Errorf("device number %q: is larger than the kernel's largest, %d:%d", s, maxMajor, maxMinor)
	}
	return DevID{Major: uint32(ma), Minor: uint32(mi)}, nil
}

// pageSize is the most that the kernel gives for one sysfs attribute (Documentation/filesystems/sysfs.rst).
// prometheus/procfs reads 128 bytes, which cuts an NQN of 223 bytes short without an error.
const pageSize = 4096

// attribute reads one sysfs attribute whole and takes its trailing newline off. Blanks stay: a subsystem made up by
// the kernel for an old PCI disk has them in its NQN, and they belong to the name.
func attribute(elem ...string) (string, error) {
	path := filepath.Join(elem...)
	fd, err := retryInt(func() (int, error) { return unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0) })
	if err != nil {
		return "", &fs.PathError{Op: "open", Path: path, Err: err}
	}
	defer func() { _ = unix.Close(fd) }() // nothing was written; there is nothing that closing could lose
	buf := make([]byte, pageSize+1)
	n, err := retryInt(func() (int, error) { return unix.Read(fd, buf) })
	if err != nil {
		return "", &fs.PathError{Op: "read", Path: path, Err: err}
	}
	if n > pageSize {
		return "", fmt.Errorf("%s: holds more than the %d bytes of an attribute", path, pageSize)
	}
	return strings.TrimSuffix(string(buf[:n]), "\n"), nil
}

// retryInt repeats a system call that a signal interrupted: the Go runtime sends itself SIGURG.
func retryInt(call func() (int, error)) (int, error) {
	for {
		n, err := call()
		if !errors.Is(err, unix.EINTR) {
			return n, err
		}
	}
}

// optional is attribute for one that not every device and kernel has: a missing one is "".
func optional(elem ...string) (string, error) {
	s, err := attribute(elem...)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	return s, err
}

// entries lists a directory. A directory that is not there has none: the kernel makes a class, or /proc/fs/xfs, when
// the module is loaded. Every other error says that it could not be told.
func entries(dir string) ([]os.DirEntry, error) {
	list, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return list, err
}

// gone tells whether a sysfs directory has vanished, which explains any error of reading below it: the kernel
// answers ENOENT, ENODEV or EIO while it takes a device down.
func gone(dir string) bool {
	_, err := os.Lstat(dir)
	if err == nil { // a link in /sys/class may outlive what it points at for a moment
		_, err = os.Stat(dir)
	}
	return errors.Is(err, fs.ErrNotExist)
}
