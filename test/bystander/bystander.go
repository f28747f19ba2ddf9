// Package bystander is somebody else's NVMe/TCP subsystem on the node, connected, formatted and mounted at a path that
// stands for the /var of a diskless node. It can tell whether it is still the very same, and refuses to use any code
// of the driver for that, so that a mistake there cannot hide here.
package bystander

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"srvlab.io/rds-csi/test/routerostest/nvmet"
)

// NQN is what the array calls a boot volume: it starts like every export of every array, but not like any prefix that
// safety.ParsePrefix accepts for a cluster.
const NQN = "nqn.2000-02.com.mikrotik:nixos-var"

// The portal is its own, so that the array under test may reboot without it.
var portal = netip.MustParseAddrPort("127.0.0.1:4421")

const (
	portID    = 4421
	sizeBytes = 64 << 20
	hostID    = "7d0b6d4e-54a5-4f0f-9a55-5f1d7e1d2c3b"
	// patience bounds every wait: an emulated machine is 10 to 20 times slower than its host.
	patience = 60 * time.Second
)

// Bystander is the connected and mounted subsystem.
type Bystander struct {
	// Mount is the mount point that stands for /var.
	Mount string

	target *nvmet.Target
	image  string
	before identity
	sum    [sha256.Size]byte
}

// identity is everything that changes when a connection, a device or a mount is made anew.
type identity struct {
	Controller string // nvmeN, the kernel counts up
	Controlled string // the controller's cntlid, which the target counts up
	Device     string // name, major:minor and diskseq of the block device
	Mount      string // the line of mountinfo without its optional fields
}

// Start makes the subsystem on a file in dir, which must be on a disk (nvmet wants direct I/O), connects and mounts
// it. Its error means that nothing is left of it.
func Start(ctx context.Context, dir string) (*Bystander, error) {
	b := &Bystander{
		Mount: filepath.Join(dir, "bystander-var"), image: filepath.Join(dir, "bystander.img"), target: &nvmet.Target{},
	}
	if err := b.start(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("start bystander: %w", err), b.Close())
	}
	return b, nil
}

func (b *Bystander) start(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	if err := b.export(); err != nil {
		return err
	}
	options := fmt.Sprintf("transport=tcp,traddr=%s,trsvcid=%d,nqn=%s,hostid=%s,hostnqn=nqn.2014-08.org.nvmexpress:uuid:%s,ctrl_loss_tmo=-1",
		portal.Addr(), portal.Port(), NQN, hostID, hostID)
	if err := os.WriteFile("/dev/nvme-fabrics", []byte(options), 0); err != nil {
		return fmt.Errorf("connect: %w", err)
	}
	device, err := b.waitDevice(ctx)
	if err != nil {
		return err
	}
	if out, err := exec.CommandContext(ctx, "mkfs.ext4", "-F", "-q", device).CombinedOutput(); err != nil {
		return fmt.Errorf("mkfs.ext4 %s: %w: %s", device, err, out)
	}
	if err := os.Mkdir(b.Mount, 0o755); err != nil {
		return err
	}
	if err := unix.Mount(device, b.Mount, "ext4", 0, ""); err != nil {
		return fmt.Errorf("mount %s: %w", device, err)
	}
	log := []byte(strings.Repeat("the node lives on this file system\n", 1000))
	b.sum = sha256.Sum256(log)
	if err := os.WriteFile(filepath.Join(b.Mount, "log"), log, 0o644); err != nil {
		return err
	}
	unix.Sync()
	b.before, err = look(b.Mount)
	return err
}

func (b *Bystander) export() error {
	f, err := os.OpenFile(b.image, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	err = errors.Join(unix.Fallocate(int(f.Fd()), 0, 0, sizeBytes), f.Close())
	if err != nil {
		return err
	}
	port, err := b.target.AddPort(portID, portal)
	if err != nil {
		return err
	}
	if err := b.target.AddSubsystem(nvmet.Subsystem{NQN: NQN, Path: b.image}); err != nil {
		return err
	}
	return b.target.Link(port, NQN)
}

func (b *Bystander) waitDevice(ctx context.Context) (string, error) {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		dir, err := subsystem()
		if err == nil {
			if name, err := namespace(dir); err == nil {
				return "/dev/" + name, nil
			}
		}
		select {
		case <-ctx.Done():
			return "", fmt.Errorf("no block device of %s: %w", NQN, ctx.Err())
		case <-tick.C:
		}
	}
}

// Check says what is no longer as it was when Start returned: the controller, the connection, the device, the mount,
// or what was written. Nil means that it is the very same.
func (b *Bystander) Check() error {
	now, err := look(b.Mount)
	if err != nil {
		return fmt.Errorf("the bystander's connection was touched: %w", err)
	}
	if now != b.before {
		return fmt.Errorf("the bystander's connection was touched: it was\n%+v\nand is\n%+v", b.before, now)
	}
	log, err := os.ReadFile(filepath.Join(b.Mount, "log"))
	if err != nil {
		return fmt.Errorf("the bystander's file: %w", err)
	}
	if sha256.Sum256(log) != b.sum {
		return errors.New("the bystander's file holds something else")
	}
	if err := os.WriteFile(filepath.Join(b.Mount, "alive"), []byte("yes"), 0o644); err != nil {
		return fmt.Errorf("the bystander's file system: %w", err)
	}
	return nil
}

// Close unmounts and disconnects it and takes the target away. What is not there is no error.
func (b *Bystander) Close() error {
	var errs []error
	if err := unix.Unmount(b.Mount, 0); err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
		errs = append(errs, fmt.Errorf("unmount %s: %w", b.Mount, err))
	}
	if dir, err := subsystem(); err == nil {
		for _, c := range controllers(dir) {
			errs = append(errs, os.WriteFile(filepath.Join(dir, c, "delete_controller"), []byte("1"), 0))
		}
	}
	errs = append(errs, b.target.Close())
	for _, path := range []string{b.Mount, b.image} {
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// look reads the identity of the connection and of what is mounted at point.
func look(point string) (identity, error) {
	dir, err := subsystem()
	if err != nil {
		return identity{}, err
	}
	found := controllers(dir)
	if len(found) != 1 {
		return identity{}, fmt.Errorf("%s has the controllers %q, not one", NQN, found)
	}
	c := filepath.Join(dir, found[0])
	state, err := attribute(c, "state")
	if err != nil {
		return identity{}, err
	}
	if state != "live" {
		return identity{}, fmt.Errorf("the controller %s is %s", found[0], state)
	}
	cntlid, err := attribute(c, "cntlid")
	if err != nil {
		return identity{}, err
	}
	name, err := namespace(dir)
	if err != nil {
		return identity{}, err
	}
	number, errNumber := attribute("/sys/block/"+name, "dev")
	diskseq, errSeq := attribute("/sys/block/"+name, "diskseq")
	line, errLine := mountLine(point)
	if err := errors.Join(errNumber, errSeq, errLine); err != nil {
		return identity{}, err
	}
	return identity{Controller: found[0], Controlled: cntlid, Device: name + " " + number + " " + diskseq, Mount: line}, nil
}

// subsystem gives the sysfs directory of NQN.
func subsystem() (string, error) {
	dirs, err := filepath.Glob("/sys/class/nvme-subsystem/nvme-subsys*")
	if err != nil {
		return "", err
	}
	for _, dir := range dirs {
		if nqn, err := attribute(dir, "subsysnqn"); err == nil && nqn == NQN {
			return filepath.EvalSymlinks(dir)
		}
	}
	return "", fmt.Errorf("no subsystem %s on this node", NQN)
}

// controllers gives the names nvmeN below a subsystem.
func controllers(dir string) []string { return names(dir, "nvme*", "delete_controller") }

// namespace gives the name of the subsystem's only block device: the head below the subsystem with native multipath,
// else the device below the controller.
func namespace(dir string) (string, error) {
	found := names(dir, "nvme*n*", "dev")
	for _, c := range controllers(dir) {
		found = append(found, names(filepath.Join(dir, c), "nvme*n*", "dev")...)
	}
	found = slices.DeleteFunc(found, func(name string) bool { // a path below a head, nvmeXcYnZ, is no disk of its own
		return strings.Contains(strings.TrimPrefix(name, "nvme"), "c")
	})
	if len(found) != 1 {
		return "", fmt.Errorf("%s has the block devices %q, not one", NQN, found)
	}
	return found[0], nil
}

// names gives the entries of dir that match pattern and have a file called with.
func names(dir, pattern, with string) []string {
	matches, err := filepath.Glob(filepath.Join(dir, pattern, with))
	if err != nil {
		return nil
	}
	for i, m := range matches {
		matches[i] = filepath.Base(filepath.Dir(m))
	}
	return matches
}

func attribute(dir, name string) (string, error) {
	b, err := os.ReadFile(filepath.Join(dir, name))
	return strings.TrimSpace(string(b)), err
}

// mountLine gives the one line of the host's mountinfo for point.
func mountLine(point string) (string, error) {
	b, err := os.ReadFile("/proc/1/mountinfo")
	if err != nil {
		return "", err
	}
	var lines []string
	for line := range bytes.Lines(b) {
		fields := strings.Fields(string(line))
		if len(fields) > 5 && fields[4] == point {
			lines = append(lines, strings.Join(fields[:6], " "))
		}
	}
	if len(lines) != 1 {
		return "", fmt.Errorf("%d mounts at %s, not one", len(lines), point)
	}
	return lines[0], nil
}
