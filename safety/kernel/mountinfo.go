package kernel

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/moby/sys/mountinfo"
)

// Mount is one line of mountinfo (proc_pid_mountinfo(5)), octal escapes undone.
type Mount struct {
	ID, Parent              int
	Dev                     DevID  // of the file system; device 0:… is a file system without a block device
	Root                    string // what of the file system is mounted: "/" or the subdirectory or file of a bind
	Point                   string
	FSType, Source          string
	Options, SuperOptions   string // of this mount, of the file system
	ReadOnly, SuperReadOnly bool
}

// Mounts reads the mounts of the host's first process: <Proc>/1/mountinfo, never self, because reading a slave mount
// namespace costs up to 68 times more and slows mount(2) for the whole node. It is all or nothing: a table of which
// one line is torn, too long or senseless is an error, never a shorter table.
func (f FS) Mounts() ([]Mount, error) {
	path := filepath.Join(f.Proc, "1/mountinfo")
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("mounts: %w", err)
	}
	mounts, err := parseMounts(data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return mounts, nil
}

// parseMounts wraps moby/sys/mountinfo, which takes a non-numeric ID or device for 0 and a last line cut inside its
// options for a whole one.
func parseMounts(data []byte) ([]Mount, error) {
	if len(data) == 0 {
		return nil, errors.New("is empty, but every process has a root mount")
	}
	if data[len(data)-1] != '\n' {
		return nil, errors.New("the last line is torn")
	}
	lines := bytes.Split(data[:len(data)-1], []byte{'\n'})
	for i, line := range lines {
		if err := checkMountLine(string(line)); err != nil {
			return nil, fmt.Errorf("line %d %.200q: %w", i+1, line, err)
		}
	}
	infos, err := mountinfo.GetMountsFromReader(bytes.NewReader(data), nil)
	if err != nil {
		return nil, err
	}
	if len(infos) != len(lines) {
		return nil, fmt.Errorf("%d lines gave %d mounts", len(lines), len(infos))
	}
	mounts := make([]Mount, len(infos))
	for i, m := range infos {
		mounts[i] = Mount{
			ID: m.ID, Parent: m.Parent,
			Dev:     DevID{Major: uint32(m.Major), Minor: uint32(m.Minor)},
			Root:    m.Root,
			Point:   m.Mountpoint,
			FSType:  m.FSType,
			Source:  m.Source,
			Options: m.Options, SuperOptions: m.VFSOptions,
			ReadOnly: hasOption(m.Options, "ro"), SuperReadOnly: hasOption(m.VFSOptions, "ro"),
		}
	}
	return mounts, nil
}

// checkMountLine checks the numbers at the start of a line.
func checkMountLine(line string) error {
	fields := strings.SplitN(line, " ", 4)
	if len(fields) < 4 {
		return errors.New("has no mount ID, parent ID and device")
	}
	if id, err := strconv.ParseUint(fields[0], 10, 31); err != nil || id == 0 || id > math.MaxInt32 {
		return fmt.Errorf("mount ID %q is no positive number", fields[0])
	}
	if _, err := strconv.ParseUint(fields[1], 10, 31); err != nil {
		return fmt.Errorf("parent ID: %w", err)
	}
	_, err := ParseDevID(fields[2])
	return err
}

func hasOption(options, name string) bool {
	return slices.Contains(strings.Split(options, ","), name)
}
