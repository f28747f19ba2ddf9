package guest

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"golang.org/x/sys/unix"

	"srvlab.io/rds-csi/safety"
	"srvlab.io/rds-csi/test/bystander"
	"srvlab.io/rds-csi/test/demo/record"
	"srvlab.io/rds-csi/test/demo/report"
)

var (
	sshAddress  = netip.MustParseAddrPort("127.0.0.1:2222")
	arrayPortal = netip.MustParseAddrPort("127.0.0.1:4420")
)

const (
	mib       = 1 << 20
	firstSize = 512 * mib
	grownSize = 1024 * mib
	// Writers write often enough that a gap of a tenth of a second shows, and seldom enough to leave the emulated
	// processor to the others.
	volumePace  = 100 * time.Millisecond
	foreignPace = 250 * time.Millisecond
)

// volume is the one volume of the demo.
type volume struct {
	prefix                safety.Prefix
	cluster, node, nodeID string
	name                  string
	host                  safety.Host

	id         string
	slot       safety.Slot
	nqn        safety.NQN
	context    map[string]string // volume context
	publish    map[string]string // publish context
	staging    string
	target     string
	capability *csi.VolumeCapability
	writer     *writer
}

// all is the demo, from an empty machine to an empty machine.
func (d *demo) all(ctx context.Context) error {
	all := []step{
		{"The array comes up: RouterOS emulator, SSH with a pinned host key", time.Minute, d.arrayUp},
		{"A foreign disk, as below a diskless node's /var: connected and mounted by hand", time.Minute, d.foreignUp},
		{"Controller and node driver come up", 2 * time.Minute, d.driversUp},
		{"CreateVolume: the controller makes the disk over SSH", time.Minute, d.create},
		{"ControllerPublishVolume: the array exports it to this node only", time.Minute, d.controllerPublish},
		{"NodeStageVolume: connect, map, prove blank, format ext4, mount", 2 * time.Minute, d.stage},
		{"NodePublishVolume: bind mount for the pod", time.Minute, d.publish},
		{"The writer starts: one record, one fsync, again and again", time.Minute, d.startWriting},
		{"ControllerExpandVolume and NodeExpandVolume, online", 2 * time.Minute, d.expand},
		{"Outage: the array reboots", time.Minute, d.reboot},
		{"Outage: its listener is back before its exports, so the kernel removes the controller", 90 * time.Second, d.removal},
		{"Outage: the exports are back; the node driver repairs the path", 2 * time.Minute, d.repair},
		{"The writer goes on", 2 * time.Minute, d.goOn},
		{"The writer stops", time.Minute, d.stopWriting},
		{"NodeUnpublishVolume", time.Minute, d.unpublish},
		{"NodeUnstageVolume: unmount, remove the mapping, disconnect", time.Minute, d.unstage},
		{"Check the volume over a new connection: fsck, and every record", 2 * time.Minute, d.check},
		{"ControllerUnpublishVolume", time.Minute, d.controllerUnpublish},
		{"DeleteVolume", time.Minute, d.delete},
		{"Look at the foreign disk, and for what was left behind", time.Minute, d.lookBack},
	}
	for i, s := range all {
		_, _ = fmt.Fprintf(d.screen, "%2d/%d %s\n", i+1, len(all), s.name)
		if err := d.step(ctx, s); err != nil {
			return err
		}
	}
	return nil
}

func (d *demo) arrayUp(ctx context.Context) ([]string, error) {
	if err := d.stack.StartArray(ctx); err != nil {
		return nil, err
	}
	version, err := d.stack.Console(ctx, ":put [/system/resource/get version]")
	if err != nil {
		return nil, err
	}
	pinned, err := readLine(filepath.Join(d.dir, "known_hosts"))
	return []string{"RouterOS says: version " + strings.TrimSpace(version), "known_hosts: " + pinned}, err
}

func (d *demo) driversUp(ctx context.Context) ([]string, error) {
	if err := d.stack.StartController(ctx); err != nil {
		return nil, err
	}
	if err := d.stack.StartNode(ctx); err != nil {
		return nil, err
	}
	info, err := d.stack.Node.NodeGetInfo(ctx, &csi.NodeGetInfoRequest{})
	if err != nil {
		return nil, err
	}
	v := &d.volume
	v.nodeID = info.GetNodeId()
	if v.host, err = safety.ParseNodeID(v.cluster, v.nodeID); err != nil {
		return nil, err
	}
	if d.before, err = d.takeInventory(ctx); err != nil {
		return nil, err
	}
	return []string{"NodeGetInfo: " + v.nodeID + ", host " + string(v.host.NQN())}, nil
}

func (d *demo) create(ctx context.Context) ([]string, error) {
	v := &d.volume
	v.capability = &csi.VolumeCapability{
		AccessMode: &csi.VolumeCapability_AccessMode{Mode: csi.VolumeCapability_AccessMode_SINGLE_NODE_WRITER},
		AccessType: &csi.VolumeCapability_Mount{Mount: &csi.VolumeCapability_MountVolume{FsType: "ext4"}},
	}
	r, err := d.stack.Controller.CreateVolume(ctx, &csi.CreateVolumeRequest{
		Name:               v.name,
		CapacityRange:      &csi.CapacityRange{RequiredBytes: firstSize},
		VolumeCapabilities: []*csi.VolumeCapability{v.capability},
		Parameters:         map[string]string{"array": "rds1"},
	})
	if err != nil {
		return nil, err
	}
	v.id, v.context = r.GetVolume().GetVolumeId(), r.GetVolume().GetVolumeContext()
	id, err := safety.ParseVolumeID(v.id)
	if err != nil {
		return nil, err
	}
	v.slot = id.Slot
	if got := r.GetVolume().GetCapacityBytes(); got != firstSize {
		return nil, fmt.Errorf("capacity %d, asked for %d", got, int64(firstSize))
	}
	rows, err := d.diskRows(ctx)
	if err != nil {
		return nil, err
	}
	files, err := tree(d.pool)
	seen := []string{"volume " + v.id}
	for _, row := range rows {
		if strings.HasPrefix(row, string(v.slot)) {
			seen = append(seen, "RouterOS says: "+row)
		}
	}
	for _, file := range files {
		seen = append(seen, "the array's file: "+file)
	}
	return seen, err
}

func (d *demo) controllerPublish(ctx context.Context) ([]string, error) {
	v := &d.volume
	r, err := d.stack.Controller.ControllerPublishVolume(ctx, &csi.ControllerPublishVolumeRequest{
		VolumeId: v.id, NodeId: v.nodeID, VolumeCapability: v.capability, VolumeContext: v.context,
	})
	if err != nil {
		return nil, err
	}
	v.publish = r.GetPublishContext()
	if v.nqn, err = safety.ParseNQN(v.publish["nqn"]); err != nil {
		return nil, err
	}
	out, err := exported(v.nqn)
	if err != nil || !out {
		return nil, fmt.Errorf("the target does not export %s: %w", v.nqn, errors.Join(err, errGone))
	}
	hosts, err := bases("/sys/kernel/config/nvmet/subsystems/" + string(v.nqn) + "/allowed_hosts/*")
	return []string{
		"configfs: exported as " + string(v.nqn),
		"configfs: allowed hosts: " + strings.Join(hosts, " "),
	}, err
}

func (d *demo) stage(ctx context.Context) ([]string, error) {
	v := &d.volume
	v.staging = filepath.Join(d.kubelet, "plugins/kubernetes.io/csi/rds.csi.srvlab.io", string(v.slot), "globalmount")
	if err := os.MkdirAll(v.staging, 0o750); err != nil { // kubelet makes the staging path
		return nil, err
	}
	_, err := d.stack.Node.NodeStageVolume(ctx, &csi.NodeStageVolumeRequest{
		VolumeId: v.id, PublishContext: v.publish, VolumeContext: v.context,
		StagingTargetPath: v.staging, VolumeCapability: v.capability,
	})
	if err != nil {
		return nil, err
	}
	return d.path(ctx, v.staging)
}

// path gives the kernel's word on the whole way from the controller to a mount point.
func (d *demo) path(ctx context.Context, point string) ([]string, error) {
	seen := controllers(d.volume.nqn)
	m, err := readMapping(ctx, d.volume.slot)
	if err != nil {
		return seen, err
	}
	seen = append(seen, m.Lines...)
	mounts, err := mounted(point, 1)
	return append(seen, mounts...), err
}

func (d *demo) publish(ctx context.Context) ([]string, error) {
	v := &d.volume
	pod := filepath.Join(d.kubelet, "pods/5d1c3b0a-1111-4222-8333-444455556666/volumes/kubernetes.io~csi", v.name)
	if err := os.MkdirAll(pod, 0o750); err != nil { // kubelet makes the parent, the driver the target
		return nil, err
	}
	v.target = filepath.Join(pod, "mount")
	_, err := d.stack.Node.NodePublishVolume(ctx, &csi.NodePublishVolumeRequest{
		VolumeId: v.id, PublishContext: v.publish, VolumeContext: v.context,
		StagingTargetPath: v.staging, TargetPath: v.target, VolumeCapability: v.capability,
	})
	if err != nil {
		return nil, err
	}
	return mounted(v.target, 1)
}

func (d *demo) startWriting(ctx context.Context) (_ []string, err error) {
	v := &d.volume
	if v.writer, err = d.startWriter(ctx, report.WriterLog, filepath.Join(v.target, recordsFile), volumePace); err != nil {
		return nil, err
	}
	if err := v.writer.reach(ctx, 50); err != nil {
		return nil, err
	}
	return v.writer.soFar()
}

func (d *demo) expand(ctx context.Context) ([]string, error) {
	v, g := &d.volume, &d.report.Growth
	was, err := v.writer.log()
	if err != nil {
		return nil, err
	}
	g.AskedBytes = grownSize
	if g.BytesBefore, err = fileSystemBytes(v.target); err != nil {
		return nil, err
	}
	size := &csi.CapacityRange{RequiredBytes: grownSize}
	c, err := d.stack.Controller.ControllerExpandVolume(ctx, &csi.ControllerExpandVolumeRequest{
		VolumeId: v.id, CapacityRange: size, VolumeCapability: v.capability,
	})
	if err != nil {
		return nil, err
	}
	if !c.GetNodeExpansionRequired() || c.GetCapacityBytes() != grownSize {
		return nil, fmt.Errorf("ControllerExpandVolume answers %v", c)
	}
	_, err = d.stack.Node.NodeExpandVolume(ctx, &csi.NodeExpandVolumeRequest{
		VolumeId: v.id, VolumePath: v.target, StagingTargetPath: v.staging, CapacityRange: size, VolumeCapability: v.capability,
	})
	if err != nil {
		return nil, err
	}
	is, err := v.writer.log()
	if err != nil {
		return nil, err
	}
	g.Writes = len(is) - len(was)
	if g.BytesAfter, err = fileSystemBytes(v.target); err != nil {
		return nil, err
	}
	m, err := readMapping(ctx, v.slot)
	g.DeviceBytes = m.Bytes
	return append(m.Lines, fmt.Sprintf("statfs: %d MiB → %d MiB", g.BytesBefore/mib, g.BytesAfter/mib)), err
}

func (d *demo) stopWriting(ctx context.Context) ([]string, error) {
	if err := d.volume.writer.stop(ctx); err != nil {
		return nil, err
	}
	return d.volume.writer.soFar()
}

func (d *demo) unpublish(ctx context.Context) ([]string, error) {
	v := &d.volume
	_, err := d.stack.Node.NodeUnpublishVolume(ctx, &csi.NodeUnpublishVolumeRequest{VolumeId: v.id, TargetPath: v.target})
	if err != nil {
		return nil, err
	}
	if _, err := os.Lstat(v.target); !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("the target is still there: %w", err)
	}
	return mounted(v.target, 0)
}

func (d *demo) unstage(ctx context.Context) ([]string, error) {
	v := &d.volume
	_, err := d.stack.Node.NodeUnstageVolume(ctx, &csi.NodeUnstageVolumeRequest{VolumeId: v.id, StagingTargetPath: v.staging})
	if err != nil {
		return nil, err
	}
	if _, err := mounted(v.staging, 0); err != nil {
		return nil, err
	}
	if m, err := readMapping(ctx, v.slot); !errors.Is(err, errGone) {
		return nil, fmt.Errorf("the mapping is still there: %v, %w", m, err)
	}
	return controllers(v.nqn), nil
}

// check looks at what the array has. Through the mount that the writer used the records might have come from the page
// cache; here nothing is between the check and the array but a new connection.
func (d *demo) check(ctx context.Context) ([]string, error) {
	v, f := &d.volume, &d.report.Fsck
	if _, err := standing(v.nqn, ""); !errors.Is(err, errGone) {
		return nil, fmt.Errorf("NodeUnstageVolume left the connection: %w", err)
	}
	if err := connect(ctx, v.nqn, arrayPortal, v.host); err != nil {
		return nil, err
	}
	s, err := standing(v.nqn, "")
	if err != nil {
		return nil, err
	}
	dev := filepath.Join(host.Dev, s.Device)
	f.Command = "e2fsck -fn " + dev
	f.Output, err = run(ctx, "e2fsck", "-fn", dev)
	if f.ExitCode, err = exitCode(err); err != nil {
		return nil, err
	}
	seen := append([]string{f.Command}, trimLines(f.Output)...)
	seen = append(seen, fmt.Sprintf("e2fsck ends with %d", f.ExitCode))
	point := filepath.Join(d.dir, "check")
	if err := os.Mkdir(point, 0o755); err != nil {
		return seen, err
	}
	if _, err := run(ctx, "mount", "-t", "ext4", "-o", "ro,noload", dev, point); err != nil {
		return seen, err
	}
	d.report.Writer, d.report.Records, err = v.writer.verify(filepath.Join(point, recordsFile))
	_, errUmount := run(ctx, "umount", point)
	if err := errors.Join(err, errUmount, os.Remove(point)); err != nil {
		return seen, err
	}
	seen = append(seen, "records: "+d.report.Records.String())
	return seen, disconnect(ctx, v.nqn)
}

func (d *demo) controllerUnpublish(ctx context.Context) ([]string, error) {
	v := &d.volume
	_, err := d.stack.Controller.ControllerUnpublishVolume(ctx, &csi.ControllerUnpublishVolumeRequest{VolumeId: v.id, NodeId: v.nodeID})
	if err != nil {
		return nil, err
	}
	out, err := exported(v.nqn)
	if err == nil && out {
		err = fmt.Errorf("the target still exports %s", v.nqn)
	}
	return []string{"configfs: no port exports it"}, err
}

func (d *demo) delete(ctx context.Context) ([]string, error) {
	if _, err := d.stack.Controller.DeleteVolume(ctx, &csi.DeleteVolumeRequest{VolumeId: d.volume.id}); err != nil {
		return nil, err
	}
	// kubelet removes what it made.
	for dir := range parents(d.volume.staging, d.kubelet) {
		if err := os.Remove(dir); err != nil {
			return nil, err
		}
	}
	for dir := range parents(filepath.Dir(d.volume.target), d.kubelet) {
		if err := os.Remove(dir); err != nil {
			return nil, err
		}
	}
	files, err := tree(d.pool)
	return append([]string{"the array's files:"}, files...), err
}

func (d *demo) lookBack(ctx context.Context) (_ []string, err error) {
	f := &d.report.Foreign
	if err := d.foreign.writer.stop(ctx); err != nil {
		return nil, err
	}
	if err := d.foreign.Check(); err != nil {
		return nil, err
	}
	if f.After, err = standing(bystander.NQN, d.foreign.Mount); err != nil {
		return nil, err
	}
	// The foreign disk stays mounted, so its records are read without the page cache the other way round.
	if err := os.WriteFile("/proc/sys/vm/drop_caches", []byte("3"), 0); err != nil {
		return nil, err
	}
	if f.Writer, f.Records, err = d.foreign.writer.verify(filepath.Join(d.foreign.Mount, recordsFile)); err != nil {
		return nil, err
	}
	now, err := d.takeInventory(ctx)
	if err != nil {
		return nil, err
	}
	d.report.Left = compare(d.before, now)
	return append(controllers(bystander.NQN), "mountinfo: "+f.After.Mount, "records: "+f.Records.String()), nil
}

// recordsFile is where a writer writes, below its mount point.
const recordsFile = "records"

// foreign is the disk that the driver must not touch: a boot disk as the field has them, of the same array and not
// below the managed prefix. It has a portal of its own: what is shown here is that the driver leaves it alone, not that
// it survives the array.
type foreign struct {
	*bystander.Bystander
	writer *writer
}

func (d *demo) foreignUp(ctx context.Context) (_ []string, err error) {
	f := &d.foreign
	if f.Bystander, err = bystander.Start(ctx, d.options.Disk); err != nil {
		return nil, err
	}
	if f.writer, err = d.startWriter(ctx, report.ForeignLog, filepath.Join(f.Mount, recordsFile), foreignPace); err != nil {
		return nil, err
	}
	if d.report.Foreign.Before, err = standing(bystander.NQN, f.Mount); err != nil {
		return nil, err
	}
	return append(controllers(bystander.NQN), "mountinfo: "+d.report.Foreign.Before.Mount), nil
}

// fileSystemBytes gives the size of the file system at path. The demo may ask: its volume is healthy here.
func fileSystemBytes(path string) (int64, error) {
	var s unix.Statfs_t
	if err := unix.Statfs(path, &s); err != nil {
		return 0, fmt.Errorf("statfs %s: %w", path, err)
	}
	return int64(s.Blocks) * s.Bsize, nil
}

func (w *writer) soFar() ([]string, error) {
	log, err := w.log()
	s := record.Summarize(log)
	return []string{fmt.Sprintf("writer: %d records acknowledged, %d errors, median %.1f ms, longest %.1f s",
		s.Writes, s.Errors, s.MedianSeconds*1e3, s.LongestSeconds)}, err
}
