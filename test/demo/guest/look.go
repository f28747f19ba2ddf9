package guest

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"srvlab.io/rds-csi/safety"
	"srvlab.io/rds-csi/safety/kernel"
	"srvlab.io/rds-csi/test/demo/report"
)

// host is the guest's own kernel.
var host = kernel.Default()

// programTime bounds an external program. mkfs in an emulated machine takes seconds.
const programTime = 60 * time.Second

// run runs a program and gives what it printed on both channels. An error carries the command line and that text.
func run(ctx context.Context, name string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, programTime)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	cmd.WaitDelay = time.Second
	out, err := cmd.CombinedOutput()
	text := strings.TrimSpace(string(out))
	if err != nil {
		return text, fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, text)
	}
	return text, nil
}

// errGone says that the kernel has no controller, or no block device, of a subsystem. It is an answer, not a failure
// to get one.
var errGone = errors.New("not there")

// standing reads the one controller and the one block device of a subsystem, and where it is mounted.
func standing(nqn safety.NQN, mountPoint string) (report.Standing, error) {
	subsystems, err := host.Subsystem(nqn)
	if err != nil {
		return report.Standing{}, err
	}
	if len(subsystems) != 1 || len(subsystems[0].Controllers) != 1 || len(subsystems[0].Namespaces) != 1 {
		return report.Standing{}, fmt.Errorf("one controller and one block device of %s: %w: %+v", nqn, errGone, subsystems)
	}
	c, n := subsystems[0].Controllers[0], subsystems[0].Namespaces[0]
	s := report.Standing{
		NQN: string(nqn), Controller: c.Name, State: c.State,
		Device: n.Name, Number: n.Dev.String(), DiskSeq: n.DiskSeq,
	}
	if mountPoint == "" {
		return s, nil
	}
	lines, err := mountLines(mountPoint)
	if err != nil {
		return report.Standing{}, err
	}
	s.Mount = strings.Join(lines, "\n")
	return s, nil
}

// controllers shows each NVMe controller and each block device of a subsystem. What cannot be read just now, because
// the kernel is taking it down, is shown as that.
func controllers(nqn safety.NQN) []string {
	subsystems, err := host.Subsystem(nqn)
	if err != nil {
		return []string{"sysfs: " + err.Error()}
	}
	var lines []string
	for _, s := range subsystems {
		for _, c := range s.Controllers {
			lines = append(lines, fmt.Sprintf("sysfs: %s is %s, %s, %s", c.Name, c.State, c.Address, s.NQN))
		}
		for _, n := range s.Namespaces {
			lines = append(lines, fmt.Sprintf("sysfs: %s is %s, diskseq %d, %d MiB", n.Name, n.Dev, n.DiskSeq, n.SizeBytes>>20))
		}
	}
	if len(lines) == 0 {
		lines = append(lines, fmt.Sprintf("sysfs: no controller and no block device of %s", nqn))
	}
	return lines
}

// mountLines gives the lines of the host's mount table for a mount point, as the kernel writes them.
func mountLines(point string) ([]string, error) {
	f, err := os.Open(filepath.Join(host.Proc, "1", "mountinfo"))
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	var lines []string
	in := bufio.NewScanner(f)
	for in.Scan() {
		if field := strings.Fields(in.Text()); len(field) > 4 && field[4] == point {
			lines = append(lines, in.Text())
		}
	}
	return lines, in.Err()
}

// mounted gives mountLines, each marked with its source, and an error unless there are exactly n of them.
func mounted(point string, n int) ([]string, error) {
	lines, err := mountLines(point)
	if err != nil {
		return nil, err
	}
	if len(lines) != n {
		return lines, fmt.Errorf("%d mounts at %s, expected %d:\n%s", len(lines), point, n, strings.Join(lines, "\n"))
	}
	for i := range lines {
		lines[i] = "mountinfo: " + lines[i]
	}
	return lines, nil
}

// mapping is the device-mapper device of the volume. It is read with dmsetup and sysfs, not with the driver's own code.
type mapping struct {
	Device string   // dm-0
	Number string   // 253:0
	Bytes  int64    // of the device
	Path   string   // major:minor of the one path, "" where there is none
	Active bool     // the path is not failed
	Lines  []string // as dmsetup prints them
}

func readMapping(ctx context.Context, slot safety.Slot) (mapping, error) {
	name := "rdscsi-" + string(slot)
	names, err := filepath.Glob(filepath.Join(host.Sys, "block", "dm-*", "dm", "name"))
	if err != nil {
		return mapping{}, err
	}
	var m mapping
	for _, file := range names {
		if is, err := readLine(file); err == nil && is == name {
			m.Device = filepath.Base(filepath.Dir(filepath.Dir(file)))
		}
	}
	if m.Device == "" {
		return mapping{}, fmt.Errorf("mapping %s: %w", name, errGone)
	}
	if m.Number, err = readLine(filepath.Join(host.Sys, "block", m.Device, "dev")); err != nil {
		return mapping{}, err
	}
	if m.Bytes, err = deviceBytes(m.Device); err != nil {
		return mapping{}, err
	}
	table, err := run(ctx, "dmsetup", "table", name)
	if err != nil {
		return mapping{}, err
	}
	status, err := run(ctx, "dmsetup", "status", "--noflush", name)
	if err != nil {
		return mapping{}, err
	}
	m.Lines = []string{"dm table: " + table, "dm status: " + status}
	m.Path, m.Active = pathOf(status)
	return m, nil
}

// pathOf finds the one path in a multipath target's status: "… E 0 1 1 259:1 A 0": the number of the device, A for
// active or F for failed, and the count of failures (drivers/md/dm-mpath.c, multipath_status).
func pathOf(status string) (path string, active bool) {
	field := strings.Fields(status)
	for i, f := range field[:max(0, len(field)-1)] {
		if _, err := kernel.ParseDevID(f); err == nil {
			return f, field[i+1] == "A"
		}
	}
	return "", false
}

// device gives the block device that the volume's mapping leads to.
func device(ctx context.Context, nqn safety.NQN, slot safety.Slot) (report.Device, error) {
	m, err := readMapping(ctx, slot)
	if err != nil {
		return report.Device{}, err
	}
	s, err := standing(nqn, "")
	if err != nil {
		return report.Device{}, err
	}
	if m.Path != s.Number || !m.Active || s.State != "live" {
		return report.Device{}, fmt.Errorf("the mapping leads to %q, active: %v; %s is %s, %s",
			m.Path, m.Active, s.Device, s.Number, s.State)
	}
	return report.Device{
		Name: s.Device, Number: s.Number, DiskSeq: s.DiskSeq, Controller: s.Controller,
		Mapping: m.Device, MappingNr: m.Number,
	}, nil
}

// listening tells whether some socket of this machine accepts TCP connections at a, by the kernel's own table: a
// connection made to find out would be one more thing for the target to handle.
func listening(a netip.AddrPort) (bool, error) {
	f, err := os.Open(filepath.Join(host.Proc, "net", "tcp"))
	if err != nil {
		return false, err
	}
	defer func() { _ = f.Close() }()
	ip := a.Addr().As4()
	// /proc/net/tcp: the address as one number in the machine's byte order; state 0A is TCP_LISTEN.
	want := fmt.Sprintf("%08X:%04X", binary.NativeEndian.Uint32(ip[:]), a.Port())
	in := bufio.NewScanner(f)
	for in.Scan() {
		if field := strings.Fields(in.Text()); len(field) > 3 && field[1] == want && field[3] == "0A" {
			return true, nil
		}
	}
	return false, in.Err()
}

// exported tells whether the target of this machine exports the subsystem on any port.
func exported(nqn safety.NQN) (bool, error) {
	links, err := filepath.Glob("/sys/kernel/config/nvmet/ports/*/subsystems/" + string(nqn))
	return len(links) > 0, err
}

// inSysfs tells whether the kernel has a controller or block device of that name.
func inSysfs(controller, device string) (bool, error) {
	for _, path := range []string{
		filepath.Join(host.Sys, "class", "nvme", controller), filepath.Join(host.Sys, "block", device),
	} {
		_, err := os.Lstat(path)
		if err == nil || !errors.Is(err, fs.ErrNotExist) {
			return err == nil, err
		}
	}
	return false, nil
}

func deviceBytes(name string) (int64, error) {
	text, err := readLine(filepath.Join(host.Sys, "block", name, "size"))
	if err != nil {
		return 0, err
	}
	sectors, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		return 0, fmt.Errorf("size of %s: %w", name, err)
	}
	return sectors << 9, nil
}

func readLine(file string) (string, error) {
	b, err := os.ReadFile(file)
	return strings.TrimSpace(string(b)), err
}
