//go:build kernel

package node

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"srvlab.io/rds-csi/driver"
	"srvlab.io/rds-csi/driver/mapper"
	"srvlab.io/rds-csi/safety"
	"srvlab.io/rds-csi/safety/kernel"
	"srvlab.io/rds-csi/test/kerneltest"
)

// rig is a real target, initiator, device-mapper and mount table, with a foreign subsystem mounted beside them that is
// compared at the end of each test, and a directory that stands for kubelet's.
type rig struct {
	*kerneltest.Rig
	t       *testing.T
	kubelet string
	host    safety.Host
}

func newRig(t *testing.T) *rig {
	t.Helper()
	k := kerneltest.New(t)
	host, err := safety.NewHost("kernel-test", "node1")
	if err != nil {
		t.Fatal(err)
	}
	r := &rig{Rig: k, t: t, host: host, kubelet: filepath.Join(k.Dir, "kubelet")}
	if err := os.Mkdir(r.kubelet, 0o750); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.wipe)
	return r
}

// in gives the rig to a subtest: making one takes longer than most tests.
func (r *rig) in(t *testing.T) *rig {
	c := *r
	c.t = t
	return &c
}

// wipe takes away what a failed test has left; after a good one there is nothing. It uses no code of the node service.
func (r *rig) wipe() {
	mp, err := mapper.Open(r.FS)
	if err != nil {
		r.t.Error(err)
		return
	}
	defer func() { must(r.t, mp.Close()) }()
	list, err := mp.List(context.Background())
	if err != nil {
		r.t.Error(err)
	}
	for _, m := range list {
		if err := mp.FailIfNoPath(context.Background(), m); err != nil {
			r.t.Error(err)
		}
	}
	for range 100 {
		mounts := r.mountsBelow(r.kubelet)
		if len(mounts) == 0 {
			break
		}
		if err := unix.Unmount(mounts[len(mounts)-1].Point, 0); err != nil {
			r.t.Errorf("wipe %s: %v", mounts[len(mounts)-1].Point, err)
			break
		}
	}
	for _, m := range list {
		if err := mp.Remove(context.Background(), m); err != nil {
			r.t.Error(err)
		}
	}
	entries, err := os.ReadDir(r.kubelet)
	if err != nil {
		r.t.Error(err)
	}
	for _, e := range entries {
		if err := os.Remove(filepath.Join(r.kubelet, e.Name())); err != nil {
			r.t.Error(err)
		}
	}
	if err := os.Remove(r.kubelet); err != nil {
		r.t.Error(err)
	}
}

func (r *rig) mountsBelow(dir string) []kernel.Mount {
	r.t.Helper()
	all, err := r.FS.Mounts()
	if err != nil {
		r.t.Fatal(err)
	}
	var found []kernel.Mount
	for _, m := range all {
		if strings.HasPrefix(m.Point, dir+"/") || m.Point == dir {
			found = append(found, m)
		}
	}
	return found
}

// count gives the number of mounts on exactly this path.
func (r *rig) count(path string) int {
	n := 0
	for _, m := range r.mountsBelow(path) {
		if m.Point == path {
			n++
		}
	}
	return n
}

// node gives a new Node: each call of a test may have a driver that has just started.
func (r *rig) node() *Node {
	r.t.Helper()
	n, err := New(Config{FS: r.FS, Prefix: r.Prefix, Host: r.host, KubeletDir: r.kubelet, Log: slog.New(slog.NewTextHandler(testLog{r.t}, nil))})
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() {
		if err := n.Close(); err != nil {
			r.t.Error(err)
		}
	})
	return n
}

type testLog struct{ t *testing.T }

func (l testLog) Write(b []byte) (int, error) {
	l.t.Log(strings.TrimSpace(string(b)))
	return len(b), nil
}

// vol is a volume with all that kubelet would say of it.
type vol struct {
	*rig
	name            string
	id              safety.VolumeID
	nqn             safety.NQN
	size            int64
	fs              string // "": raw block
	loss            string
	mode            csi.VolumeCapability_AccessMode_Mode
	flags           []string
	staging, target string
}

const mib = 1 << 20

func (r *rig) vol(name string, size int64, fs, loss string) *vol {
	r.t.Helper()
	v := &vol{
		rig: r, name: name, size: size, fs: fs, loss: loss, nqn: r.Volume(name, size),
		id:      safety.VolumeID{Array: "rds1", Slot: safety.SlotOf(safety.VolumeUUID(r.Prefix, name))},
		mode:    csi.VolumeCapability_AccessMode_SINGLE_NODE_MULTI_WRITER,
		staging: filepath.Join(r.kubelet, name+"-staging"), target: filepath.Join(r.kubelet, name+"-target"),
	}
	if err := os.Mkdir(v.staging, 0o750); err != nil {
		r.t.Fatal(err)
	}
	return v
}

func (v *vol) capability() *csi.VolumeCapability {
	c := &csi.VolumeCapability{AccessMode: &csi.VolumeCapability_AccessMode{Mode: v.mode}}
	if v.fs == "" {
		c.AccessType = &csi.VolumeCapability_Block{Block: &csi.VolumeCapability_BlockVolume{}}
	} else {
		c.AccessType = &csi.VolumeCapability_Mount{Mount: &csi.VolumeCapability_MountVolume{FsType: v.fs, MountFlags: v.flags}}
	}
	return c
}

func (v *vol) publishContext() map[string]string {
	return map[string]string{
		driver.PublishNQN: string(v.nqn), driver.PublishAddress: v.Portal.Addr().String(),
		driver.PublishPort: strconv.Itoa(int(v.Portal.Port())), driver.PublishSize: strconv.FormatInt(v.size, 10),
	}
}

func (v *vol) volumeContext() map[string]string { return map[string]string{driver.OnPathLoss: v.loss} }

func (v *vol) stage(n *Node) error {
	_, err := n.NodeStageVolume(v.t.Context(), &csi.NodeStageVolumeRequest{
		VolumeId: v.id.String(), StagingTargetPath: v.staging, VolumeCapability: v.capability(),
		PublishContext: v.publishContext(), VolumeContext: v.volumeContext(),
	})
	return err
}

func (v *vol) publishAt(n *Node, target string, readOnly bool) error {
	_, err := n.NodePublishVolume(v.t.Context(), &csi.NodePublishVolumeRequest{
		VolumeId: v.id.String(), StagingTargetPath: v.staging, TargetPath: target, Readonly: readOnly,
		VolumeCapability: v.capability(), PublishContext: v.publishContext(), VolumeContext: v.volumeContext(),
	})
	return err
}

func (v *vol) publish(n *Node) error { return v.publishAt(n, v.target, false) }

func (v *vol) unpublish(n *Node) error { return v.unpublishAt(n, v.target) }

func (v *vol) unpublishAt(n *Node, target string) error {
	_, err := n.NodeUnpublishVolume(v.t.Context(), &csi.NodeUnpublishVolumeRequest{VolumeId: v.id.String(), TargetPath: target})
	return err
}

func (v *vol) unstage(n *Node) error {
	_, err := n.NodeUnstageVolume(v.t.Context(), &csi.NodeUnstageVolumeRequest{VolumeId: v.id.String(), StagingTargetPath: v.staging})
	return err
}

func (v *vol) expand(n *Node, path string, size int64) (int64, error) {
	resp, err := n.NodeExpandVolume(v.t.Context(), &csi.NodeExpandVolumeRequest{
		VolumeId: v.id.String(), VolumePath: path, StagingTargetPath: v.staging, VolumeCapability: v.capability(),
		CapacityRange: &csi.CapacityRange{RequiredBytes: size},
	})
	return resp.GetCapacityBytes(), err
}

func (v *vol) stats(n *Node, path string) (*csi.NodeGetVolumeStatsResponse, error) {
	return n.NodeGetVolumeStats(v.t.Context(), &csi.NodeGetVolumeStatsRequest{VolumeId: v.id.String(), VolumePath: path})
}

// enlarge grows the backing file and has the target announce it.
func (v *vol) enlarge(size int64) {
	v.t.Helper()
	must(v.t, os.Truncate(v.File(v.name), size))
	must(v.t, v.Target.Revalidate(string(v.nqn)))
}

// gone checks that nothing of the volume is left on the node.
func (v *vol) gone() {
	v.t.Helper()
	if n := v.count(v.staging) + v.count(v.target); n > 0 {
		v.t.Errorf("%d mounts are left", n)
	}
	mp, err := mapper.Open(v.FS)
	must(v.t, err)
	defer func() { must(v.t, mp.Close()) }()
	if m, found, err := mp.Get(v.t.Context(), v.id.Slot); found || err != nil {
		v.t.Errorf("mapping left: %+v, %v", m, err)
	}
	if s := v.States(v.nqn); s != "" {
		v.t.Errorf("controllers left: %s", s)
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func want(t *testing.T, err error, reason safety.Reason) {
	t.Helper()
	if safety.ReasonOf(err) != reason {
		t.Fatalf("error %v has the reason %q, want %q", err, safety.ReasonOf(err), reason)
	}
}

func wantCode(t *testing.T, err error, code codes.Code) {
	t.Helper()
	var s interface{ GRPCStatus() *status.Status }
	if !errors.As(err, &s) || s.GRPCStatus().Code() != code {
		t.Fatalf("error %v, want code %s", err, code)
	}
}

// The life of a volume, each step several times and each time by a driver that has just started.
func TestKernelLife(t *testing.T) {
	r := newRig(t)
	for _, c := range []struct {
		fs, loss string
		size     int64
	}{
		{"ext4", driver.OnPathLossQueue, 64 * mib},
		{"ext4", driver.OnPathLossError, 64 * mib},
		{"xfs", driver.OnPathLossQueue, 300 * mib},
		{"xfs", driver.OnPathLossError, 300 * mib},
		{"", driver.OnPathLossQueue, 16 * mib},
		{"", driver.OnPathLossError, 16 * mib},
	} {
		name := c.fs
		if name == "" {
			name = "block"
		}
		t.Run(name+"-"+c.loss, func(t *testing.T) {
			r.in(t).vol(name+c.loss, c.size, c.fs, c.loss).live()
		})
	}
}

func (v *vol) live() {
	t := v.t
	t.Helper()
	const times = 3
	for range times {
		must(t, v.stage(v.node()))
	}
	staged := 1
	if v.fs == "" {
		staged = 0
	}
	if n := v.count(v.staging); n != staged {
		t.Fatalf("staged %d times: %d mounts at the staging path, want %d", times, n, staged)
	}
	for range times {
		must(t, v.publish(v.node()))
	}
	if n := v.count(v.target); n != staged {
		t.Fatalf("published %d times: %d mounts at the target, want %d", times, n, staged)
	}
	data := bytes.Repeat([]byte("data"), 4096)
	v.writeData(data)
	v.checkStats()

	grown := v.size + 64*mib
	v.enlarge(grown)
	for range 2 {
		size, err := v.expand(v.node(), v.target, grown)
		must(t, err)
		if size != grown {
			t.Errorf("expanded to %d bytes, want %d", size, grown)
		}
	}
	v.size = grown
	v.checkStats()

	for range times {
		must(t, v.unpublish(v.node()))
	}
	if _, err := os.Lstat(v.target); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("unpublished, and at the target is: %v", err)
	}
	for range times {
		must(t, v.unstage(v.node()))
	}
	v.gone()

	must(t, v.stage(v.node()))
	must(t, v.publish(v.node()))
	if got := v.readData(len(data)); !bytes.Equal(got, data) {
		t.Error("staged again, the data is not what was written")
	}
	must(t, v.unpublish(v.node()))
	must(t, v.unstage(v.node()))
	v.gone()
}

func (v *vol) dataPath() string {
	if v.fs == "" {
		return v.target
	}
	return filepath.Join(v.target, "data")
}

func (v *vol) writeData(data []byte) {
	v.t.Helper()
	f, err := os.OpenFile(v.dataPath(), os.O_RDWR|os.O_CREATE, 0o600)
	must(v.t, err)
	_, err = f.Write(data)
	must(v.t, errors.Join(err, f.Sync(), f.Close()))
}

func (v *vol) readData(n int) []byte {
	v.t.Helper()
	f, err := os.Open(v.dataPath())
	must(v.t, err)
	defer f.Close()
	data := make([]byte, n)
	if _, err := f.Read(data); err != nil {
		v.t.Fatal(err)
	}
	return data
}

// checkStats compares the statistics with statfs, or the size of the device.
func (v *vol) checkStats() {
	v.t.Helper()
	resp, err := v.stats(v.node(), v.target)
	must(v.t, err)
	bytes := resp.GetUsage()[0]
	if v.fs == "" {
		if bytes.GetTotal() != v.size {
			v.t.Errorf("statistics: %d bytes, want %d", bytes.GetTotal(), v.size)
		}
		return
	}
	var st unix.Statfs_t
	must(v.t, unix.Statfs(v.target, &st))
	if total := int64(st.Blocks) * st.Frsize; bytes.GetTotal() != total || total < v.size*7/10 || total > v.size {
		v.t.Errorf("statistics: %d bytes, statfs says %d, the volume has %d", bytes.GetTotal(), total, v.size)
	}
	inodes := resp.GetUsage()[1]
	if inodes.GetTotal() != int64(st.Files) || inodes.GetUsed() == 0 {
		v.t.Errorf("statistics: inodes %+v, statfs says %d", inodes, st.Files)
	}
	if _, err := v.stats(v.node(), v.staging+"/nowhere"); err == nil {
		v.t.Error("statistics of a path where nothing is")
	}
}

func TestKernelStageIsIdempotentOverALiveMount(t *testing.T) {
	r := newRig(t)
	v := r.vol("live", 64*mib, "ext4", "")
	n := r.node()
	must(t, v.stage(n))
	f, err := os.Create(filepath.Join(v.staging, "open"))
	must(t, err)
	defer f.Close()

	again := r.node()
	watched := &watcher{runner: again.programs}
	again.programs = watched
	must(t, v.stage(again))
	if len(watched.ran) > 0 {
		t.Errorf("staging a staged volume ran %q", watched.ran)
	}
	v.fs = "xfs"
	want(t, v.stage(again), safety.StaleMount)
	v.fs, v.flags = "ext4", []string{"ro"}
	want(t, v.stage(again), safety.StaleMount)
	v.flags = nil
	elsewhere := *v
	elsewhere.staging += "2"
	want(t, elsewhere.stage(again), safety.DeviceBusy)
	if m := v.mapping(); !m.Queueing {
		t.Error("a refused stage has left the mapping of a mounted volume failing")
	}
	if _, err := f.WriteString("still here"); err != nil {
		t.Error(err)
	}
	must(t, f.Close())
	must(t, v.unstage(n))
	v.gone()
}

// watcher notes what is run, and may do something else instead.
type watcher struct {
	runner
	mu      sync.Mutex
	ran     []string
	instead func(ctx context.Context, c command, tool runner) (outcome, error)
}

func (w *watcher) run(ctx context.Context, c command) (outcome, error) {
	w.mu.Lock()
	w.ran = append(w.ran, c.argv[0])
	w.mu.Unlock()
	if w.instead != nil {
		return w.instead(ctx, c, w.runner)
	}
	return w.runner.run(ctx, c)
}

func TestKernelMountOptionsAndReadOnly(t *testing.T) {
	r := newRig(t)
	v := r.vol("options", 64*mib, "ext4", "")
	v.flags = []string{"noatime", "nosuid", "noatime", "noexec,nosuid"}
	n := r.node()
	must(t, v.stage(n))
	other := filepath.Join(r.kubelet, "readonly")
	must(t, v.publish(n))
	must(t, v.publishAt(n, other, true))
	must(t, v.publishAt(n, other, true))
	wantCode(t, v.publishAt(n, other, false), codes.AlreadyExists)
	wantCode(t, v.publishAt(n, v.target, true), codes.AlreadyExists)
	for _, m := range r.mountsBelow(r.kubelet) {
		for _, option := range []string{"noatime", "nosuid", "noexec"} {
			if !strings.Contains(m.Options, option) {
				t.Errorf("mount %s has the options %s, without %s", m.Point, m.Options, option)
			}
		}
	}
	must(t, os.WriteFile(filepath.Join(v.target, "a"), nil, 0o600))
	if err := os.WriteFile(filepath.Join(other, "b"), nil, 0o600); !errors.Is(err, unix.EROFS) {
		t.Errorf("write to a read-only target: %v", err)
	}
	// With two targets published, unstaging would be under a live user.
	want(t, v.unstage(n), safety.DeviceBusy)
	if r.count(v.staging) != 1 {
		t.Error("the refused unstage has unmounted")
	}
	must(t, v.unpublish(n))
	want(t, v.unstage(n), safety.DeviceBusy)
	must(t, v.unpublishAt(n, other))
	must(t, v.unstage(n))
	v.gone()
}

func TestKernelSingleWriter(t *testing.T) {
	shared := newRig(t)
	for _, fs := range []string{"ext4", ""} {
		t.Run("fs="+fs, func(t *testing.T) {
			r := shared.in(t)
			v := r.vol("single"+fs, 64*mib, fs, "")
			v.mode = csi.VolumeCapability_AccessMode_SINGLE_NODE_SINGLE_WRITER
			n := r.node()
			must(t, v.stage(n))
			must(t, v.publish(n))
			must(t, v.publish(n))
			second := filepath.Join(r.kubelet, "second")
			want(t, v.publishAt(r.node(), second, false), safety.AttachedElsewhere)
			if _, err := os.Lstat(second); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("a refused publish has left %v", err)
			}
			must(t, v.unpublish(n))
			must(t, v.publishAt(n, second, false))
			must(t, v.unpublishAt(n, second))
			must(t, v.unstage(n))
			v.gone()
		})
	}
}

// A mount storm leaves stacked mounts. One unmount and a RemoveAll deleted the volume's data.
func TestKernelStackedMountsKeepTheData(t *testing.T) {
	r := newRig(t)
	v := r.vol("stacked", 64*mib, "ext4", "")
	n := r.node()
	must(t, v.stage(n))
	must(t, v.publish(n))
	v.writeData([]byte("precious"))
	for range 7 {
		must(t, unix.Mount(v.staging, v.target, "", unix.MS_BIND, ""))
	}
	// Where mounts propagate, as in every pod with Bidirectional, each bind has doubled them.
	stack := r.count(v.target)
	if stack < 8 {
		t.Fatalf("8 mounts on one another are %d", stack)
	}
	t.Logf("8 mounts on one another are %d", stack)
	must(t, v.publish(r.node()))
	if c := r.count(v.target); c != stack {
		t.Fatalf("publishing over a stack of %d mounts made it %d", stack, c)
	}
	must(t, v.unpublish(r.node()))
	if c := r.count(v.target); c != 0 {
		t.Errorf("%d mounts are left", c)
	}
	if data, err := os.ReadFile(filepath.Join(v.staging, "data")); string(data) != "precious" {
		t.Errorf("the data is %q, %v", data, err)
	}
	// What somebody put into the directory itself is nobody's to delete.
	must(t, os.Mkdir(v.target, 0o750))
	must(t, os.WriteFile(filepath.Join(v.target, "stray"), nil, 0o600))
	want(t, v.unpublish(n), safety.DeviceBusy)
	must(t, os.Remove(filepath.Join(v.target, "stray")))
	must(t, v.unpublish(n))
	must(t, v.unstage(n))
	v.gone()
}

func TestKernelForeignMountsStay(t *testing.T) {
	r := newRig(t)
	v := r.vol("neighbour", 64*mib, "ext4", "")
	n := r.node()
	must(t, v.stage(n))
	must(t, os.Mkdir(v.target, 0o750))
	f := r.Foreign()
	must(t, unix.Mount(f.Mount.Point, v.target, "", unix.MS_BIND, ""))
	want(t, v.publish(n), safety.StaleMount)
	want(t, v.unpublish(n), safety.ForeignNQN)
	if r.count(v.target) != 1 {
		t.Error("the foreign mount at the target was touched")
	}
	must(t, unix.Unmount(v.target, 0))
	must(t, unix.Mount("tmpfs", v.target, "tmpfs", 0, ""))
	want(t, v.unpublish(n), safety.StaleMount)
	must(t, unix.Unmount(v.target, 0))
	other := r.vol("other", 64*mib, "ext4", "")
	must(t, other.stage(n))
	must(t, unix.Mount(other.staging, v.target, "", unix.MS_BIND, ""))
	want(t, v.unpublish(n), safety.StaleMount)
	must(t, unix.Unmount(v.target, 0))
	must(t, other.unstage(n))
	must(t, unix.Mount(f.Mount.Point, v.staging, "", unix.MS_BIND, ""))
	want(t, v.unstage(n), safety.ForeignNQN)
	want(t, v.stage(n), safety.StaleMount)
	must(t, unix.Unmount(v.staging, 0))
	must(t, v.unpublish(n))
	must(t, v.unstage(n))
	v.gone()

	// A publish context that names somebody else's subsystem is refused before anything is touched.
	v.nqn = kerneltest.ForeignNQN
	want(t, v.stage(n), safety.ForeignNQN)
}

func TestKernelPublishWithoutStage(t *testing.T) {
	r := newRig(t)
	v := r.vol("unstaged", 64*mib, "ext4", "")
	n := r.node()
	want(t, v.publish(n), safety.StaleMount)
	must(t, v.unpublish(n))
	must(t, v.unstage(n))
	v.fs = ""
	want(t, v.publish(n), safety.StaleMount)
	_, err := v.stats(n, v.target)
	wantCode(t, err, codes.NotFound)
	_, err = v.expand(n, v.target, 0)
	wantCode(t, err, codes.NotFound)
}

func TestKernelBlockTarget(t *testing.T) {
	r := newRig(t)
	v := r.vol("target", 16*mib, "", "")
	n := r.node()
	must(t, v.stage(n))
	must(t, os.WriteFile(v.target, nil, 0o600)) // what kubelet may leave
	must(t, v.publishAt(n, v.target, true))
	wantCode(t, v.publish(n), codes.AlreadyExists)
	must(t, v.unpublish(n))
	must(t, os.WriteFile(v.target, []byte("data"), 0o600))
	want(t, v.publish(n), safety.StaleMount)
	want(t, v.unpublish(n), safety.StaleMount)
	must(t, os.Remove(v.target))
	must(t, unix.Mknod(v.target, unix.S_IFBLK|0o600, int(unix.Mkdev(7, 200))))
	want(t, v.publish(n), safety.StaleMount)
	must(t, v.unpublish(n))
	must(t, v.publish(n))
	info, err := os.Lstat(v.target)
	must(t, err)
	if info.Mode().Perm() != nodeMode {
		t.Errorf("the device node has the mode %v", info.Mode())
	}
	// An open node keeps the mapping, and with it the connection.
	f, err := os.Open(v.target)
	must(t, err)
	want(t, v.unstage(n), safety.DeviceBusy)
	must(t, v.stage(r.node()))
	must(t, f.Close())
	must(t, v.unpublish(n))
	must(t, v.unstage(n))
	v.gone()
}

func TestKernelNodevIsNamed(t *testing.T) {
	r := newRig(t)
	v := r.vol("nodev", 16*mib, "", "")
	n := r.node()
	must(t, v.stage(n))
	pods := filepath.Join(r.kubelet, "pods")
	must(t, os.Mkdir(pods, 0o750))
	must(t, unix.Mount("tmpfs", pods, "tmpfs", unix.MS_NODEV, ""))
	err := v.publishAt(n, filepath.Join(pods, "volume"), false)
	want(t, err, safety.NodeUnsuited)
	if !strings.Contains(err.Error(), "nodev") {
		t.Errorf("error %v does not say why", err)
	}
	must(t, unix.Unmount(pods, 0))
	must(t, v.unstage(n))
	v.gone()
}

// What is on the device decides whether it is formatted; what cannot be read is never taken for blank.
func TestKernelBlankness(t *testing.T) {
	r := newRig(t)
	at := func(offset int64, data string) func(v *vol) {
		return func(v *vol) {
			f, err := os.OpenFile(v.File(v.name), os.O_RDWR, 0)
			must(t, err)
			_, err = f.WriteAt([]byte(data), offset)
			must(t, errors.Join(err, f.Sync(), f.Close()))
		}
	}
	run := func(argv ...string) func(v *vol) {
		return func(v *vol) { r.Run(argv[0], append(argv[1:], v.File(v.name))...) }
	}
	for i, c := range []struct {
		name string
		put  func(v *vol)
		want safety.Reason
	}{
		{"first byte", at(0, "x"), safety.NotBlank},
		{"amid zeros of the first MiB", at(777_777, "x"), safety.NotBlank},
		{"last byte", at(64*mib-1, "x"), safety.NotBlank},
		{"amid zeros of the last MiB", at(64*mib-500_000, "x"), safety.NotBlank},
		{"another file system", run("mkfs.xfs", "-q", "-f"), safety.NotBlank},
		{"swap", run("mkswap", "-q"), safety.NotBlank},
		{"another volume's marker", at(64*mib-markerBack, string(marker(safety.SlotOf(safety.UUID{1})))), safety.NotBlank},
		{"blank", func(*vol) {}, ""},
	} {
		size := int64(64 * mib)
		if strings.HasPrefix(c.name, "another file") {
			size = 300 * mib
		}
		v := r.vol(fmt.Sprint("blank", i), size, "ext4", "")
		c.put(v)
		before := sum(t, v)
		err := v.stage(r.node())
		if got := safety.ReasonOf(err); got != c.want {
			t.Errorf("%s: stage gave %v, want %q", c.name, err, c.want)
		}
		if c.want != "" && sum(t, v) != before {
			t.Errorf("%s: the refused device was written to", c.name)
		}
		must(t, v.unstage(r.node()))
		v.gone()
	}
}

// sum stands for what both ends of the volume's file hold: wherever the driver or a mkfs writes, it writes there, too.
func sum(t *testing.T, v *vol) [2][sha256.Size]byte {
	t.Helper()
	f, err := os.Open(v.File(v.name))
	must(t, err)
	defer f.Close()
	info, err := f.Stat()
	must(t, err)
	var sums [2][sha256.Size]byte
	for i, at := range []int64{0, info.Size() - 2*mib} {
		data := make([]byte, 2*mib)
		if _, err := f.ReadAt(data, at); err != nil {
			t.Fatal(err)
		}
		sums[i] = sha256.Sum256(data)
	}
	return sums
}

func TestKernelWrongSize(t *testing.T) {
	r := newRig(t)
	v := r.vol("small", 64*mib, "ext4", "")
	v.size = 65 * mib
	err := v.stage(r.node())
	want(t, err, safety.WrongDevice)
	var refusal *safety.Refusal
	if !errors.As(err, &refusal) || !refusal.Touched {
		t.Error("a volume that stays connected was refused as if nothing had been touched")
	}
	must(t, v.unstage(r.node()))
	v.gone()
}
