//go:build kernel

package nvme_test

import (
	"context"
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"srvlab.io/rds-csi/driver/nvme"
	"srvlab.io/rds-csi/safety"
	"srvlab.io/rds-csi/safety/kernel"
	"srvlab.io/rds-csi/test/kerneltest"
)

const size = 64 << 20

func host(t *testing.T, r *kerneltest.Rig) nvme.Host {
	return nvme.Host{
		FS: r.FS, Prefix: r.Prefix, Registry: filepath.Join(t.TempDir(), "registry"),
		Warn: func(err error) { t.Errorf("warning: %v", err) },
	}
}

func target(r *kerneltest.Rig, n safety.NQN) nvme.Target {
	return nvme.Target{
		NQN: n, Address: r.Portal.Addr(), Port: r.Portal.Port(),
		HostNQN: kerneltest.HostNQN, HostID: kerneltest.HostID, CtrlLossTmo: -1,
	}
}

func within(t *testing.T, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), d)
	t.Cleanup(cancel)
	return ctx
}

// connect connects a new volume through the code under test.
func connect(t *testing.T, r *kerneltest.Rig, h nvme.Host, n safety.NQN) kernel.Namespace {
	t.Helper()
	ctx := within(t, time.Minute)
	if err := h.Connect(ctx, target(r, n)); err != nil {
		t.Fatal(err)
	}
	ns, err := h.Wait(ctx, n)
	if err != nil {
		t.Fatal(err)
	}
	return ns
}

func wantReason(t *testing.T, err error, want safety.Reason) {
	t.Helper()
	if safety.ReasonOf(err) != want {
		t.Errorf("reason %q, want %q: %v", safety.ReasonOf(err), want, err)
	}
}

func TestKernelConnectAndDisconnect(t *testing.T) {
	r := kerneltest.New(t)
	h := host(t, r)
	n := r.Volume("a", size)
	ns := connect(t, r, h, n)
	if ns.SizeBytes != size || ns.NSID != 1 || ns.UUID == "" || ns.DiskSeq == 0 {
		t.Errorf("namespace %+v", ns)
	}
	name, bytes, seq, err := r.FS.BlockDevice(ns.Dev)
	if err != nil || name != ns.Name || bytes != size || seq != ns.DiskSeq {
		t.Errorf("block device %s is %q, %d bytes, seq %d, %v; namespace %+v", ns.Dev, name, bytes, seq, err, ns)
	}
	list, err := r.FS.Controllers(n)
	if err != nil || len(list) != 1 {
		t.Fatalf("controllers %+v, %v", list, err)
	}
	c := list[0]
	if c.HostNQN != kerneltest.HostNQN || c.CtrlLossTmo != "off" || c.ReconnectDelay != "2" || c.Transport != "tcp" {
		t.Errorf("controller %+v", c)
	}
	mark := filepath.Join(h.Registry, c.Name, "owner")
	if data, err := os.ReadFile(mark); err != nil || string(data) != "rds.csi.srvlab.io\n" {
		t.Errorf("mark %q, %v", data, err)
	}
	if err := h.Connect(within(t, time.Minute), target(r, n)); err != nil {
		t.Errorf("second connect: %v", err)
	}
	if again, err := r.FS.Controllers(n); err != nil || len(again) != 1 || again[0] != c {
		t.Errorf("after the second connect: %+v, %v", again, err)
	}
	for range 2 { // the second finds nothing and is content
		if err := h.Disconnect(within(t, time.Minute), n); err != nil {
			t.Fatal(err)
		}
		if s := r.States(n); s != "" {
			t.Errorf("after the disconnect there is a controller, %s", s)
		}
	}
	if _, err := os.Stat(filepath.Dir(mark)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the mark stayed: %v", err)
	}
	if _, _, _, err := r.FS.BlockDevice(ns.Dev); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the device stayed: %v", err)
	}
}

// An NQN may have 223 bytes. Linux connects to 222 at most: nvmf_parse_options compares with >= where > is meant. All
// of them go through sysfs, configfs and the fabrics device whole; the one byte more is refused with the reason.
func TestKernelLongestNQN(t *testing.T) {
	r := kerneltest.New(t)
	h := host(t, r)
	long := r.Prefix.String() + strings.Repeat("x", 165-len(r.Prefix.String()))
	p, err := safety.ParsePrefix(long)
	must(t, err)
	h.Prefix = p
	v := safety.VolumeUUID(p, "long")
	n := p.Export(v, 1<<63) // 19 digits
	if len(n) != safety.MaxNQNLength-1 {
		t.Fatalf("the NQN has %d bytes", len(n))
	}
	r.VolumeNamed(n, "long", size)
	connect(t, r, h, n)
	must(t, h.Disconnect(within(t, time.Minute), n))
	if s := r.States(n); s != "" {
		t.Errorf("still %s", s)
	}

	n = p.Export(v, 1<<64-1) // 20 digits
	if len(n) != safety.MaxNQNLength {
		t.Fatalf("the NQN has %d bytes", len(n))
	}
	r.VolumeNamed(n, "longest", size)
	wantReason(t, h.Connect(within(t, time.Minute), target(r, n)), safety.NodeUnsuited)
	// If a kernel takes it one day, the limit can go.
	f, err := os.OpenFile("/dev/nvme-fabrics", os.O_RDWR, 0)
	must(t, err)
	defer func() { _ = f.Close() }()
	_, err = f.WriteString("transport=tcp,traddr=127.0.0.1,trsvcid=4420,nqn=" + string(n))
	if !errors.Is(err, unix.EINVAL) {
		t.Errorf("the kernel says %v to an NQN of %d bytes", err, len(n))
	}
}

func TestKernelForeignIsRefused(t *testing.T) {
	r := kerneltest.New(t)
	h := host(t, r)
	before := r.Foreign()
	foreign := target(r, kerneltest.ForeignNQN)
	foreign.Port = 4421
	for name, f := range map[string]func() error{
		"connect":    func() error { return h.Connect(within(t, time.Minute), foreign) },
		"disconnect": func() error { return h.Disconnect(within(t, time.Minute), kerneltest.ForeignNQN) },
		"rescan":     func() error { return h.Rescan(within(t, time.Minute), kerneltest.ForeignNQN) },
		"wait": func() error {
			_, err := h.Wait(within(t, time.Minute), kerneltest.ForeignNQN)
			return err
		},
	} {
		t.Run(name, func(t *testing.T) { wantReason(t, f(), safety.ForeignNQN) })
	}
	if now := r.Foreign(); now != before {
		t.Errorf("before %+v, now %+v", before, now)
	}
}

// Whoever uses the device keeps it: each kind of user alone makes Disconnect refuse, and the connection stays live.
func TestKernelDisconnectRefusesUsers(t *testing.T) {
	r := kerneltest.New(t)
	h := host(t, r)
	n := r.Volume("used", size)
	for _, c := range []struct {
		name string
		want string // in the message
		use  func(t *testing.T, device string) (release func())
	}{
		{"mount", "mount ", func(t *testing.T, device string) func() {
			r.Run("mkfs.ext4", "-F", "-q", device)
			point := t.TempDir()
			must(t, unix.Mount(device, point, "ext4", 0, ""))
			return func() { must(t, unix.Unmount(point, 0)) }
		}},
		{"mount detached while a file is open", "file system ", func(t *testing.T, device string) func() {
			r.Run("mkfs.ext4", "-F", "-q", device)
			point := t.TempDir()
			must(t, unix.Mount(device, point, "ext4", 0, ""))
			f, err := os.Create(filepath.Join(point, "open"))
			must(t, err)
			must(t, unix.Unmount(point, unix.MNT_DETACH))
			return func() { must(t, f.Close()) }
		}},
		{"mount in another mount namespace", "in use", func(t *testing.T, device string) func() {
			r.Run("mkfs.ext4", "-F", "-q", device)
			return child(t, "unshare", "-m", "--propagation", "private", "sh", "-c",
				"mount -t ext4 "+device+" /mnt && echo ready && exec sleep 600")
		}},
		{"bind of the device node", "mount ", func(t *testing.T, device string) func() {
			point := filepath.Join(t.TempDir(), "publish")
			must(t, os.WriteFile(point, nil, 0o600))
			must(t, unix.Mount(device, point, "", unix.MS_BIND, ""))
			return func() { must(t, unix.Unmount(point, 0)) }
		}},
		{"device-mapper", "holder dm-", func(_ *testing.T, device string) func() {
			r.Run("dmsetup", "create", "kerneltest-user", "--noudevsync", "--table", "0 2048 linear "+device+" 0")
			return func() { r.Run("dmsetup", "remove", "--noudevsync", "kerneltest-user") }
		}},
		{"loop device", "loop device loop", func(_ *testing.T, device string) func() {
			loop := strings.TrimSpace(r.Run("losetup", "-f", "--show", device))
			return func() { r.Run("losetup", "-d", loop) }
		}},
		{"loop device on a node of another name", "loop device loop", func(t *testing.T, device string) func() {
			node := alias(t, device)
			loop := strings.TrimSpace(r.Run("losetup", "-f", "--show", node))
			return func() { r.Run("losetup", "-d", loop) }
		}},
		{"swap", "swap ", func(_ *testing.T, device string) func() {
			r.Run("mkswap", device)
			r.Run("swapon", device)
			return func() { r.Run("swapoff", device) }
		}},
		{"swap under another name", "in use: ", func(t *testing.T, device string) func() { // O_EXCL alone sees it
			node := alias(t, device)
			r.Run("mkswap", node)
			r.Run("swapon", node)
			return func() { r.Run("swapoff", node) }
		}},
		{"open file of a process", "process ", func(t *testing.T, device string) func() {
			return child(t, "sh", "-c", "exec 3<"+device+" && echo ready && exec sleep 600")
		}},
		{"partition mounted", "mount ", func(t *testing.T, device string) func() {
			partition(t, device)
			part := device + "p1"
			r.Eventually("the partition's node", func() bool { _, err := os.Stat(part); return err == nil })
			r.Run("mkfs.ext4", "-F", "-q", part)
			point := t.TempDir()
			must(t, unix.Mount(part, point, "ext4", 0, ""))
			return func() { must(t, unix.Unmount(point, 0)) }
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			ns := connect(t, r, h, n)
			release := c.use(t, filepath.Join(r.FS.Dev, ns.Name))
			err := h.Disconnect(within(t, time.Minute), n)
			wantReason(t, err, safety.DeviceBusy)
			if err != nil && !strings.Contains(err.Error(), c.want) {
				t.Errorf("the message does not name the user (%q): %v", c.want, err)
			}
			if s := r.States(n); s != "live" {
				t.Errorf("the connection is %q", s)
			}
			release()
			r.Eventually("disconnect after the release", func() bool {
				err = h.Disconnect(within(t, time.Minute), n)
				return err == nil
			})
			if s := r.States(n); s != "" {
				t.Errorf("after the release: %q", s)
			}
		})
	}
}

// alias makes another node of the device, as a published raw block volume is one.
func alias(t *testing.T, device string) string {
	t.Helper()
	node := filepath.Join(t.TempDir(), "published")
	var st unix.Stat_t
	must(t, unix.Stat(device, &st))
	must(t, unix.Mknod(node, unix.S_IFBLK|0o600, int(st.Rdev)))
	return node
}

// partition writes an MBR with one partition from the first MiB on, as a guest does on its raw volume.
func partition(t *testing.T, device string) {
	t.Helper()
	mbr := make([]byte, 512)
	entry := mbr[446:]
	entry[4] = 0x83
	binary.LittleEndian.PutUint32(entry[8:], 2048)
	binary.LittleEndian.PutUint32(entry[12:], size/512-2048)
	mbr[510], mbr[511] = 0x55, 0xaa
	f, err := os.OpenFile(device, os.O_RDWR, 0)
	must(t, err)
	_, err = f.Write(mbr)
	must(t, errors.Join(err, f.Sync()))
	must(t, unix.IoctlSetInt(int(f.Fd()), unix.BLKRRPART, 0))
	must(t, f.Close())
}

// child starts a program that says "ready" when it uses the device.
func child(t *testing.T, name string, args ...string) (end func()) {
	t.Helper()
	cmd := exec.Command(name, args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, err := cmd.StdoutPipe()
	must(t, err)
	must(t, cmd.Start())
	buf := make([]byte, 6)
	if _, err := out.Read(buf); err != nil || !strings.HasPrefix(string(buf), "ready") {
		t.Fatalf("%s: %q, %v", name, buf, err)
	}
	return func() {
		must(t, cmd.Process.Kill())
		_ = cmd.Wait() // killed
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// Another program's mark makes a controller foreign, also one of our prefix.
func TestKernelAnothersMark(t *testing.T) {
	r := kerneltest.New(t)
	h := host(t, r)
	n := r.Volume("marked", size)
	connect(t, r, h, n)
	list, err := r.FS.Controllers(n)
	must(t, err)
	mark := filepath.Join(h.Registry, list[0].Name, "owner")
	must(t, os.WriteFile(mark, []byte("stas\n"), 0o600))
	wantReason(t, h.Disconnect(within(t, time.Minute), n), safety.ForeignNQN)
	if s := r.States(n); s != "live" {
		t.Errorf("the connection is %q", s)
	}
	if data, err := os.ReadFile(mark); err != nil || string(data) != "stas\n" {
		t.Errorf("the mark is %q, %v", data, err)
	}
}

// The shield of the design, a read-only bind over delete_controller, holds against us as well.
func TestKernelShieldedController(t *testing.T) {
	r := kerneltest.New(t)
	h := host(t, r)
	n := r.Volume("shielded", size)
	connect(t, r, h, n)
	list, err := r.FS.Controllers(n)
	must(t, err)
	attr, err := filepath.EvalSymlinks(filepath.Join(r.FS.Sys, "class/nvme", list[0].Name, "delete_controller"))
	must(t, err)
	mask := filepath.Join(t.TempDir(), "mask")
	must(t, os.WriteFile(mask, nil, 0o400))
	must(t, unix.Mount(mask, attr, "", unix.MS_BIND, ""))
	must(t, unix.Mount("", attr, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY, ""))
	err = h.Disconnect(within(t, time.Minute), n)
	if !errors.Is(err, unix.EROFS) {
		t.Errorf("want EROFS: %v", err)
	}
	if s := r.States(n); s != "live" {
		t.Errorf("the connection is %q", s)
	}
	must(t, unix.Unmount(attr, 0))
}

func TestKernelPortDownAndUp(t *testing.T) {
	r := kerneltest.New(t)
	h := host(t, r)
	n := r.Volume("a", size)
	ns := connect(t, r, h, n)
	r.Unexport(n) // the only one: the kernel stops listening
	r.Eventually("connecting", func() bool { return r.States(n) == "connecting" })
	if err := h.Connect(within(t, time.Minute), target(r, n)); err != nil {
		t.Errorf("connect while the kernel reconnects: %v", err)
	}
	_, err := h.Wait(within(t, 300*time.Millisecond), n)
	wantReason(t, err, safety.PathLost)
	if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "=connecting") {
		t.Errorf("wait: %v", err)
	}
	r.Export(n)
	back, err := h.Wait(within(t, time.Minute), n)
	if err != nil || back != ns {
		t.Errorf("came back as %+v, %v; was %+v", back, err, ns)
	}
}

// A node lets go of a volume whose array is down: nothing waits for the array.
func TestKernelDisconnectWithoutArray(t *testing.T) {
	r := kerneltest.New(t)
	h := host(t, r)
	n := r.Volume("a", size)
	connect(t, r, h, n)
	r.Unexport(n)
	r.Eventually("connecting", func() bool { return r.States(n) == "connecting" })
	must(t, h.Disconnect(within(t, 20*time.Second), n))
	if s := r.States(n); s != "" {
		t.Errorf("after the disconnect: %q", s)
	}
}

// An array that listens before it exports: Linux 6.12 removes the controller for good, 6.1 goes on trying.
func TestKernelListenerBeforeExports(t *testing.T) {
	r := kerneltest.New(t)
	h := host(t, r)
	n, other := r.Volume("a", size), r.Volume("other", size)
	ns := connect(t, r, h, n)
	_ = other // keeps the portal listening
	r.Unexport(n)
	removes := !strings.HasPrefix(release(t), "6.1.")
	if removes {
		r.Eventually("removal of the controller", func() bool { return r.States(n) == "" })
		if _, _, _, err := r.FS.BlockDevice(ns.Dev); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("the device stayed: %v", err)
		}
		err := h.Connect(within(t, time.Minute), target(r, n))
		wantReason(t, err, safety.PathLost)
		if !errors.Is(err, nvme.ErrRefusedByTarget) || !errors.Is(err, unix.EIO) {
			t.Errorf("connect to what is not exported: %v", err)
		}
	} else {
		r.Eventually("connecting", func() bool { return r.States(n) == "connecting" })
		time.Sleep(5 * time.Second) // two refused tries to reconnect
		if s := r.States(n); s != "connecting" {
			t.Errorf("after being refused: %q", s)
		}
	}
	r.Export(n)
	back := connect(t, r, h, n)
	if back.SizeBytes != size {
		t.Errorf("came back as %+v", back)
	}
	if removes && back.DiskSeq == ns.DiskSeq || !removes && back.DiskSeq != ns.DiskSeq {
		t.Errorf("disk sequence number %d, was %d", back.DiskSeq, ns.DiskSeq)
	}
}

func release(t *testing.T) string {
	t.Helper()
	var u unix.Utsname
	must(t, unix.Uname(&u))
	return unix.ByteSliceToString(u.Release[:])
}

// A host that is not let in gets the same errno as one that asks for what is not exported.
func TestKernelHostNotAllowed(t *testing.T) {
	r := kerneltest.New(t)
	h := host(t, r)
	n := r.Volume("a", size)
	must(t, r.Target.SetHosts(string(n), []string{"nqn.2014-08.org.nvmexpress:uuid:00000000-0000-4000-8000-000000000001"}))
	err := h.Connect(within(t, time.Minute), target(r, n))
	wantReason(t, err, safety.PathLost)
	if !errors.Is(err, nvme.ErrRefusedByTarget) || !errors.Is(err, unix.EIO) {
		t.Errorf("connect of a refused host: %v", err)
	}
	if s := r.States(n); s != "" {
		t.Errorf("a controller is there: %q", s)
	}
}

func TestKernelPortalClosed(t *testing.T) {
	r := kerneltest.New(t)
	h := host(t, r)
	n := r.Volume("a", size)
	r.Unexport(n)
	err := h.Connect(within(t, time.Minute), target(r, n))
	wantReason(t, err, safety.PathLost)
	if !errors.Is(err, unix.ECONNREFUSED) {
		t.Errorf("connect to a closed port: %v", err)
	}
}

// A portal that accepts and never answers blocks the write in the kernel. The caller gets control back, and nobody
// can start a second one for the same NQN.
func TestKernelSilentPortal(t *testing.T) {
	r := kerneltest.New(t)
	h := host(t, r)
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	t.Cleanup(func() { _ = lis.Close() })
	n := r.Volume("a", size)
	silent := target(r, n)
	silent.Port = netip.MustParseAddrPort(lis.Addr().String()).Port()
	start := time.Now()
	err = h.Connect(within(t, time.Second), silent)
	wantReason(t, err, safety.PathLost)
	var refusal *safety.Refusal
	if !errors.Is(err, context.DeadlineExceeded) || !errors.As(err, &refusal) || !refusal.Touched {
		t.Errorf("connect: %v", err)
	}
	if took := time.Since(start); took > 5*time.Second {
		t.Errorf("control came back after %s", took)
	}
	wantReason(t, h.Connect(within(t, 5*time.Second), target(r, n)), safety.InFlight)
	wantReason(t, h.Disconnect(within(t, 5*time.Second), n), safety.InFlight)
	must(t, lis.Close())
	r.Eventually("the end of the hung write", func() bool {
		err := h.Connect(within(t, time.Minute), target(r, n))
		if err != nil && safety.ReasonOf(err) != safety.InFlight {
			t.Fatal(err)
		}
		return err == nil
	})
}

func TestKernelAnotherWay(t *testing.T) {
	r := kerneltest.New(t)
	h := host(t, r)
	n := r.Volume("a", size)
	connect(t, r, h, n)
	second, err := r.Target.AddPort(r.Port+1, netip.MustParseAddrPort("127.0.0.1:4422"))
	must(t, err)
	must(t, r.Target.Link(second, string(n)))

	portal := target(r, n)
	portal.Port = 4422
	wantReason(t, h.Connect(within(t, time.Minute), portal), safety.PathLost)
	another := target(r, n)
	another.HostNQN = "nqn.2014-08.org.nvmexpress:uuid:00000000-0000-4000-8000-000000000001"
	wantReason(t, h.Connect(within(t, time.Minute), another), safety.ForeignNQN)
	if list, err := r.FS.Controllers(n); err != nil || len(list) != 1 {
		t.Errorf("controllers %+v, %v", list, err)
	}
}

// The backing file grows; after a rescan the namespace has the new size, on the same device.
func TestKernelRescan(t *testing.T) {
	r := kerneltest.New(t)
	h := host(t, r)
	n := r.Volume("grow", size)
	wantReason(t, h.Rescan(within(t, time.Minute), n), safety.PathLost)
	ns := connect(t, r, h, n)
	must(t, os.Truncate(r.File("grow"), 2*size))
	must(t, r.Target.Revalidate(string(n)))
	must(t, h.Rescan(within(t, time.Minute), n))
	var now kernel.Namespace
	r.Eventually("the new size", func() bool {
		var err error
		now, err = h.Wait(within(t, time.Minute), n)
		return err == nil && now.SizeBytes == 2*size
	})
	if now.DiskSeq != ns.DiskSeq || now.Dev != ns.Dev {
		t.Errorf("the device changed from %+v to %+v", ns, now)
	}
}

// A file left in the registry by an earlier controller of the same number does not stay.
func TestKernelStaleMark(t *testing.T) {
	r := kerneltest.New(t)
	h := host(t, r)
	n := r.Volume("a", size)
	for i := range "0123456789" {
		dir := filepath.Join(h.Registry, "nvme"+string(rune('0'+i)))
		must(t, os.MkdirAll(dir, 0o700))
		must(t, os.WriteFile(filepath.Join(dir, "owner"), []byte("stas"), 0o600))
	}
	connect(t, r, h, n)
	must(t, h.Disconnect(within(t, time.Minute), n))
}

func TestKernelOptions(t *testing.T) {
	r := kerneltest.New(t)
	options, err := host(t, r).SupportedOptions()
	must(t, err)
	for _, name := range []string{"transport", "traddr", "trsvcid", "nqn", "hostnqn", "hostid", "ctrl_loss_tmo", "reconnect_delay", "keep_alive_tmo"} {
		if !slices.Contains(options, name) {
			t.Errorf("the kernel does not list %s: %v", name, options)
		}
	}
}
