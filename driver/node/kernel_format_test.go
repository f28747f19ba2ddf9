//go:build kernel

package node

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"srvlab.io/rds-csi/driver"
	"srvlab.io/rds-csi/safety"
	"srvlab.io/rds-csi/test/routerostest/nvmet"
)

// killed runs mkfs for so long and then kills it.
func killed(after time.Duration) func(context.Context, command, runner) (outcome, error) {
	return func(ctx context.Context, c command, tool runner) (outcome, error) {
		if strings.HasPrefix(c.argv[0], "mkfs.") {
			c.limit = after
		}
		return tool.run(ctx, c)
	}
}

// A mkfs that is killed anywhere leaves a volume that the next stage formats again, and never one that is mounted, or
// "not blank" for ever.
func TestKernelKilledFormat(t *testing.T) {
	shared := newRig(t)
	for _, c := range []struct {
		fs   string
		size int64
	}{{fsExt4, 256 * mib}, {fsXFS, 300 * mib}} {
		t.Run(c.fs, func(t *testing.T) {
			r := shared.in(t)
			v := r.vol("killed"+c.fs, c.size, c.fs, "")
			cut := 0
			for _, ms := range []int{0, 60, 150, 300} {
				after := time.Duration(ms) * time.Millisecond
				n := r.node()
				n.programs = &watcher{runner: n.programs, instead: killed(after)}
				if err := v.stage(n); err == nil {
					t.Logf("mkfs needs less than %s", after)
					break
				} else if !errors.Is(err, context.DeadlineExceeded) {
					t.Fatalf("mkfs killed after %s: %v", after, err)
				}
				cut++
				if r.count(v.staging) > 0 {
					t.Fatalf("mkfs killed after %s, and mounted", after)
				}
			}
			if cut < 2 {
				t.Errorf("mkfs was killed %d times only; the delays do not fit this machine", cut)
			}
			if r.count(v.staging) == 0 {
				must(t, v.stage(r.node()))
			}
			v.sound()
		})
	}
}

// sound unstages the volume, and has the file system checked and searched for the marker.
func (v *vol) sound() {
	t := v.t
	t.Helper()
	must(t, v.unstage(v.node()))
	v.gone()
	if v.fs == fsExt4 {
		v.Run("e2fsck", "-f", "-n", v.File(v.name))
	} else {
		v.Run("xfs_repair", "-n", "-f", v.File(v.name))
	}
	if v.marked() {
		t.Error("the marker is still there")
	}
}

func (v *vol) marked() bool {
	v.t.Helper()
	f, err := os.Open(v.File(v.name))
	must(v.t, err)
	defer f.Close()
	info, err := f.Stat()
	must(v.t, err)
	there := make([]byte, markerSector)
	if _, err := f.ReadAt(there, info.Size()-markerBack); err != nil {
		v.t.Fatal(err)
	}
	return bytes.Equal(there, marker(v.id.Slot))
}

// The driver is killed after mkfs, before it has taken the marker away.
func TestKernelKilledAfterFormat(t *testing.T) {
	shared := newRig(t)
	for _, c := range []struct {
		fs   string
		size int64
	}{{fsExt4, 64 * mib}, {fsXFS, 300 * mib}} {
		t.Run(c.fs, func(t *testing.T) {
			r := shared.in(t)
			v := r.vol("after"+c.fs, c.size, c.fs, "")
			n := r.node()
			made := false
			died := errors.New("the driver was killed here")
			n.programs = &watcher{runner: n.programs, instead: func(ctx context.Context, c command, tool runner) (outcome, error) {
				if made {
					return outcome{}, died
				}
				made = strings.HasPrefix(c.argv[0], "mkfs.")
				return tool.run(ctx, c)
			}}
			if err := v.stage(n); !errors.Is(err, died) {
				t.Fatal(err)
			}
			if !v.marked() {
				t.Error("there is no marker that could be left")
			}
			must(t, v.stage(r.node()))
			v.sound()
		})
	}
}

// An existing file system is never formatted again, not even with the marker back in its place: that is what an array
// would show that had lost the one write that took it away.
func TestKernelMarkerOnAUsedFileSystem(t *testing.T) {
	r := newRig(t)
	v := r.vol("marked", 64*mib, fsExt4, "")
	must(t, v.stage(r.node()))
	must(t, os.WriteFile(filepath.Join(v.staging, "data"), []byte("precious"), 0o600))
	must(t, v.unstage(r.node()))
	f, err := os.OpenFile(v.File(v.name), os.O_RDWR, 0)
	must(t, err)
	_, err = f.WriteAt(marker(v.id.Slot), v.size-markerBack)
	must(t, errors.Join(err, f.Sync(), f.Close()))

	must(t, v.stage(r.node()))
	if data, err := os.ReadFile(filepath.Join(v.staging, "data")); string(data) != "precious" {
		t.Errorf("the data is %q, %v", data, err)
	}
	v.sound()
}

// The identity of the device is read again immediately before the first write.
func TestKernelDeviceChangesBeforeFormat(t *testing.T) {
	r := newRig(t)
	r.vol("keepsListening", 16*mib, "", "")
	v := r.vol("swapped", 64*mib, fsExt4, driver.OnPathLossError)
	n := r.node()
	before := sum(t, v)
	w := &watcher{runner: n.programs}
	var proofs atomic.Int32
	w.instead = func(ctx context.Context, c command, tool runner) (outcome, error) {
		o, err := tool.run(ctx, c)
		if proofs.Add(1) == 3 { // blkid and a read of either end: now the device is proven blank
			r.Unexport(v.nqn)
			r.Eventually("loss of the connection", func() bool { return !strings.Contains(r.States(v.nqn), stateLive) })
			_ = os.WriteFile(filepath.Join("/sys/class/nvme", r.controller(v), "delete_controller"), []byte("1"), 0)
			r.Export(v.nqn)
			r.Connect(v.nqn)
		}
		return o, err
	}
	n.programs = w
	err := v.stage(n)
	want(t, err, safety.WrongDevice)
	if slices.Contains(w.ran, "mkfs.ext4") || sum(t, v) != before {
		t.Error("the device that came in its place was written to")
	}
	must(t, v.unstage(r.node()))
	v.gone()
}

// controller gives the name of the volume's one controller, or one that does not exist.
func (r *rig) controller(v *vol) string {
	list, err := r.FS.Controllers(v.nqn)
	must(r.t, err)
	for _, c := range list {
		return c.Name
	}
	return "none"
}

// A device of which a part cannot be read is not blank, although blkid answers for it as for a blank one.
func TestKernelUnreadableIsNotBlank(t *testing.T) {
	shared := newRig(t)
	for _, c := range []struct {
		name  string
		start int // of the unreadable sectors
	}{
		{"first MiB", 1000},
		{"last MiB", 64*2048 - 1000},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := shared.in(t)
			v := r.vol("broken"+c.name[:4], 64*mib, fsExt4, "")
			before := sum(t, v)
			must(t, r.Target.RemoveSubsystem(string(v.nqn)))
			loop := strings.TrimSpace(r.Run("losetup", "--find", "--show", v.File(v.name)))
			t.Cleanup(func() { r.Run("losetup", "-d", loop) })
			dm := r.dmTable("broken"+c.name[:4], [][]any{
				{0, c.start, "linear", loop, 0},
				{c.start, 8, "error"},
				{c.start + 8, 64*2048 - c.start - 8, "linear", loop, c.start + 8},
			})
			must(t, r.Target.AddSubsystem(nvmet.Subsystem{NQN: string(v.nqn), Path: dm}))
			t.Cleanup(func() { must(t, r.Target.RemoveSubsystem(string(v.nqn))) })
			r.Export(v.nqn)

			want(t, v.stage(r.node()), safety.BlankUnproven)
			must(t, v.unstage(r.node()))
			v.gone()
			must(t, r.Target.RemoveSubsystem(string(v.nqn)))
			must(t, r.Target.AddSubsystem(nvmet.Subsystem{NQN: string(v.nqn), Path: v.File(v.name)}))
			if sum(t, v) != before {
				t.Error("a device that could not be read was written to")
			}
		})
	}
}

// A file system that the check may not repair is refused, and is as it was.
func TestKernelCorruptFileSystem(t *testing.T) {
	shared := newRig(t)
	for _, c := range []struct {
		fs    string
		size  int64
		harm  func(v *vol)
		wants safety.Reason
	}{
		{fsExt4, 64 * mib, func(v *vol) { // the group descriptors, and the flag that makes e2fsck look
			v.Run("debugfs", "-w", "-R", "clri <2>", v.File(v.name))
			v.Run("debugfs", "-w", "-R", "ssv state 2", v.File(v.name))
		}, safety.FilesystemCorrupt},
		{fsXFS, 300 * mib, func(v *vol) {
			v.Run("xfs_db", "-x", "-f", "-c", "sb 0", "-c", "write -d rootino 999999", v.File(v.name))
		}, safety.FilesystemCorrupt},
	} {
		t.Run(c.fs, func(t *testing.T) {
			r := shared.in(t)
			v := r.vol("corrupt"+c.fs, c.size, c.fs, "")
			must(t, v.stage(r.node()))
			must(t, v.unstage(r.node()))
			c.harm(v)
			want(t, v.stage(r.node()), c.wants)
			if r.count(v.staging) > 0 {
				t.Error("a corrupt file system was mounted")
			}
			must(t, v.unstage(r.node()))
			v.gone()
		})
	}
}
