//go:build kernel

package kerneltest

import (
	"bytes"
	"context"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"srvlab.io/rds-csi/safety"
	"srvlab.io/rds-csi/safety/kernel"
	"srvlab.io/rds-csi/test/routerostest/nvmet"
)

const prefix = "nqn.2000-02.com.mikrotik:kerneltest-"

// Rig is a real target and initiator on one kernel. Everything it makes is taken away at the end of its test.
type Rig struct {
	FS     kernel.FS
	Prefix safety.Prefix
	Portal netip.AddrPort
	Target *nvmet.Target
	Port   int    // ID of the portal's port in the target
	Dir    string // on a file system that takes direct I/O

	t       *testing.T
	volumes []safety.NQN
}

// Foreign is what must be the very same after each test.
type Foreign struct {
	Controller kernel.Controller
	Namespace  kernel.Namespace
	Mount      kernel.Mount
}

// New makes a target with a portal on 127.0.0.1:4420, and the foreign subsystem on a port of its own, connected and
// mounted. A kernel that cannot do this fails the test: a skip would look green.
func New(t *testing.T) *Rig {
	t.Helper()
	p, err := safety.ParsePrefix(prefix)
	if err != nil {
		t.Fatal(err)
	}
	r := &Rig{
		FS: kernel.Default(), Prefix: p, Portal: netip.MustParseAddrPort("127.0.0.1:4420"),
		Target: &nvmet.Target{}, Dir: workDir(t), t: t,
	}
	t.Cleanup(func() {
		if err := r.Target.Close(); err != nil {
			t.Errorf("take the target away: %v", err)
		}
	})
	if r.Port, err = r.Target.AddPort(1, r.Portal); err != nil {
		t.Fatal(err)
	}
	r.foreign()
	t.Cleanup(r.disconnectVolumes)
	return r
}

// workDir is on the VM's disk; a tmpfs takes no direct I/O.
func workDir(t *testing.T) string {
	t.Helper()
	base := os.Getenv("RDS_VM_DISK")
	if base == "" {
		base = os.TempDir()
	}
	dir, err := os.MkdirTemp(base, "kerneltest-") //nolint:usetesting // t.TempDir would empty what is still mounted
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.Remove(dir); err != nil {
			t.Errorf("something was left in the working directory: %v", err)
		}
	})
	return dir
}

// file makes a sparse file that goes with the test.
func (r *Rig) file(name string, size int64) string {
	r.t.Helper()
	path := filepath.Join(r.Dir, name)
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() {
		if err := os.Remove(path); err != nil {
			r.t.Error(err)
		}
	})
	if err := os.Truncate(path, size); err != nil {
		r.t.Fatal(err)
	}
	return path
}

// foreign makes, connects and mounts the foreign subsystem, and has its identity compared at the end.
func (r *Rig) foreign() {
	r.t.Helper()
	portal := netip.MustParseAddrPort("127.0.0.1:4421")
	r.subsystem(ForeignNQN, r.file("foreign.img", 64<<20))
	port, err := r.Target.AddPort(r.Port+1, portal)
	if err != nil {
		r.t.Fatal(err)
	}
	if err := r.Target.Link(port, string(ForeignNQN)); err != nil {
		r.t.Fatal(err)
	}
	ns := r.ConnectAt(ForeignNQN, portal)
	r.t.Cleanup(func() { r.forceDisconnect(ForeignNQN) })
	device := filepath.Join(r.FS.Dev, ns.Name)
	r.Run("mkfs.ext4", "-F", "-q", device)
	point := filepath.Join(r.Dir, "var")
	r.Mount(device, point, "ext4")
	witness := filepath.Join(point, "witness")
	if err := os.WriteFile(witness, []byte("here"), 0o600); err != nil {
		r.t.Fatal(err)
	}
	before := r.Foreign()
	r.t.Cleanup(func() {
		if now := r.Foreign(); !reflect.DeepEqual(now, before) {
			r.t.Errorf("the foreign subsystem was touched:\nbefore %+v\nnow    %+v", before, now)
		}
		data, err := os.ReadFile(witness)
		if err != nil || string(data) != "here" {
			r.t.Errorf("the foreign mount reads %q, %v", data, err)
		}
	})
}

// Foreign reads the identity of the foreign subsystem: controller, device number, disk sequence number and mount.
func (r *Rig) Foreign() Foreign {
	r.t.Helper()
	list, err := r.FS.Subsystem(ForeignNQN)
	if err != nil || len(list) != 1 || len(list[0].Controllers) != 1 || len(list[0].Namespaces) != 1 {
		r.t.Fatalf("foreign subsystem: %+v, %v", list, err)
	}
	f := Foreign{Controller: list[0].Controllers[0], Namespace: list[0].Namespaces[0]}
	mounts, err := r.FS.Mounts()
	if err != nil {
		r.t.Fatal(err)
	}
	for _, m := range mounts {
		if m.Dev == f.Namespace.Dev {
			f.Mount = m
		}
	}
	if f.Mount.ID == 0 {
		r.t.Fatal("the foreign mount is gone")
	}
	return f
}

func (r *Rig) subsystem(n safety.NQN, file string) {
	r.t.Helper()
	if err := r.Target.AddSubsystem(nvmet.Subsystem{NQN: string(n), Path: file}); err != nil {
		r.t.Fatal(err)
	}
}

// Volume exports a new volume of our prefix. It is disconnected at the end, whatever state it is in.
func (r *Rig) Volume(name string, size int64) safety.NQN {
	r.t.Helper()
	n := r.Prefix.Export(safety.VolumeUUID(r.Prefix, name), 1)
	r.VolumeNamed(n, name, size)
	return n
}

// VolumeNamed is Volume with a given NQN.
func (r *Rig) VolumeNamed(n safety.NQN, name string, size int64) {
	r.t.Helper()
	r.subsystem(n, r.file(name+".img", size))
	r.volumes = append(r.volumes, n)
	r.Export(n)
}

// File gives the path of a volume's backing file.
func (r *Rig) File(name string) string { return filepath.Join(r.Dir, name+".img") }

// Export links a volume to the portal; the first one makes the kernel listen.
func (r *Rig) Export(n safety.NQN) {
	r.t.Helper()
	if err := r.Target.Link(r.Port, string(n)); err != nil {
		r.t.Fatal(err)
	}
}

// Unexport takes a volume from the portal, which ends its connections; with the last one the kernel stops listening.
func (r *Rig) Unexport(n safety.NQN) {
	r.t.Helper()
	if err := r.Target.Unlink(r.Port, string(n)); err != nil {
		r.t.Fatal(err)
	}
}

// Connect connects a volume at the portal without any of our code.
func (r *Rig) Connect(n safety.NQN) kernel.Namespace {
	r.t.Helper()
	return r.ConnectAt(n, r.Portal)
}

// ConnectAt is Connect at another portal.
func (r *Rig) ConnectAt(n safety.NQN, portal netip.AddrPort) kernel.Namespace {
	r.t.Helper()
	f, err := os.OpenFile(filepath.Join(r.FS.Dev, "nvme-fabrics"), os.O_RDWR, 0)
	if err != nil {
		r.t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	if _, err := fmt.Fprintf(f, "transport=tcp,traddr=%s,trsvcid=%d,nqn=%s,hostnqn=%s,hostid=%s,ctrl_loss_tmo=-1,reconnect_delay=2",
		portal.Addr(), portal.Port(), n, HostNQN, HostID); err != nil {
		r.t.Fatalf("connect %s: %v", n, err)
	}
	return r.Namespace(n)
}

// Namespace waits for the volume's namespace.
func (r *Rig) Namespace(n safety.NQN) kernel.Namespace {
	r.t.Helper()
	var ns kernel.Namespace
	r.Eventually("namespace of "+string(n), func() bool {
		list, err := r.FS.Subsystem(n)
		if err != nil || len(list) != 1 || len(list[0].Namespaces) != 1 || len(list[0].Controllers) == 0 {
			return false
		}
		ns = list[0].Namespaces[0]
		return ns.SizeBytes > 0
	})
	return ns
}

// States gives the states of a volume's controllers, "" if it has none.
func (r *Rig) States(n safety.NQN) string {
	list, err := r.FS.Controllers(n)
	if err != nil {
		return err.Error()
	}
	var states []string
	for _, c := range list {
		states = append(states, c.State)
	}
	return strings.Join(states, " ")
}

// Eventually waits up to a minute: times in an emulated VM are ten to twenty times the real ones.
func (r *Rig) Eventually(what string, cond func() bool) {
	r.t.Helper()
	for deadline := time.Now().Add(time.Minute); !cond(); {
		if time.Now().After(deadline) {
			r.t.Fatalf("waited in vain for: %s", what)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// Run runs a program and gives its output.
func (r *Rig) Run(name string, args ...string) string {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	var errs bytes.Buffer
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil {
		r.t.Fatalf("%s %v: %v: %s", name, args, err, errs.String())
	}
	return string(out)
}

// Mount mounts a device at a new directory until the end of the test.
func (r *Rig) Mount(device, point, fstype string) {
	r.t.Helper()
	if err := os.Mkdir(point, 0o700); err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() {
		if err := os.Remove(point); err != nil {
			r.t.Error(err)
		}
	})
	if err := unix.Mount(device, point, fstype, 0, ""); err != nil {
		r.t.Fatalf("mount %s: %v", device, err)
	}
	r.t.Cleanup(func() {
		if err := unix.Unmount(point, 0); err != nil && err != unix.EINVAL { // EINVAL: the test has done it
			r.t.Errorf("unmount %s: %v", point, err)
		}
	})
}

// disconnectVolumes ends what a test has left connected.
func (r *Rig) disconnectVolumes() {
	for _, n := range r.volumes {
		r.forceDisconnect(n)
	}
}

// forceDisconnect deletes controllers without any proof: what the product must never do is right for cleaning up.
func (r *Rig) forceDisconnect(n safety.NQN) {
	r.t.Helper()
	r.Eventually("end of "+string(n), func() bool {
		list, err := r.FS.Controllers(n)
		for _, c := range list {
			path := filepath.Join(r.FS.Sys, "class/nvme", c.Name, "delete_controller")
			_ = os.WriteFile(path, []byte("1"), 0) // until it is gone
		}
		return err == nil && len(list) == 0
	})
}
