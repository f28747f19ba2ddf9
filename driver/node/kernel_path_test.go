//go:build kernel

package node

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"srvlab.io/rds-csi/driver"
	"srvlab.io/rds-csi/driver/mapper"
	"srvlab.io/rds-csi/safety"
)

// dmTable makes a device-mapper device for the test.
func (r *rig) dmTable(name string, table [][]any) string {
	r.t.Helper()
	var lines []string
	for _, l := range table {
		lines = append(lines, strings.TrimSpace(fmt.Sprintln(l...)))
	}
	file := filepath.Join(r.t.TempDir(), "table")
	must(r.t, os.WriteFile(file, []byte(strings.Join(lines, "\n")+"\n"), 0o600))
	r.Run("dmsetup", "--noudevsync", "create", name, file)
	r.t.Cleanup(func() { r.Run("dmsetup", "--noudevsync", "remove", "--retry", name) })
	number := strings.Fields(r.Run("dmsetup", "info", "-c", "--noheadings", "-o", "minor", name))[0]
	return "/dev/dm-" + number
}

// repairing runs a node's repair loop until the test ends.
func (r *rig) repairing(n *Node) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := n.Repair(ctx); err != nil {
			r.t.Error(err)
		}
	})
	stop = sync.OnceFunc(func() { cancel(); wg.Wait() })
	r.t.Cleanup(stop)
	return stop
}

// writer appends numbered records and fsyncs each, as a database does with its log.
type writer struct {
	path    string
	written atomic.Uint64
	stop    func() error
}

func startWriter(t *testing.T, path string) *writer {
	t.Helper()
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL|os.O_APPEND, 0o600)
	must(t, err)
	w := &writer{path: path}
	end, ended := make(chan struct{}), make(chan error, 1)
	go func() {
		var err error
		for err == nil {
			select {
			case <-end:
				ended <- f.Close()
				return
			case <-time.After(10 * time.Millisecond):
			}
			if _, err = f.Write(binary.BigEndian.AppendUint64(nil, w.written.Load()+1)); err == nil {
				err = f.Sync()
			}
			if err == nil {
				w.written.Add(1)
			}
		}
		ended <- errors.Join(err, f.Close())
	}()
	w.stop = sync.OnceValue(func() error { close(end); return <-ended })
	t.Cleanup(func() { _ = w.stop() })
	return w
}

// progress waits until more is written.
func (w *writer) progress(r *rig) {
	r.t.Helper()
	before := w.written.Load()
	r.Eventually("the writer's progress", func() bool { return w.written.Load() > before+3 })
}

// check compares the file with what was reported written.
func (w *writer) check(t *testing.T) {
	t.Helper()
	data, err := os.ReadFile(w.path)
	must(t, err)
	if n := uint64(len(data) / 8); n < w.written.Load() {
		t.Errorf("%d records reported written, %d are there", w.written.Load(), n)
	}
	for i := range len(data) / 8 {
		if got := binary.BigEndian.Uint64(data[8*i:]); got != uint64(i+1) {
			t.Fatalf("record %d is %d", i+1, got)
		}
	}
}

func (v *vol) mapping() mapper.Mapping {
	v.t.Helper()
	mp, err := mapper.Open(v.FS)
	must(v.t, err)
	defer func() { must(v.t, mp.Close()) }()
	m, found, err := mp.Get(v.t.Context(), v.id.Slot)
	must(v.t, err)
	if !found {
		v.t.Fatal("the mapping is gone")
	}
	return m
}

// The array loses its exports while its listener goes on, which makes newer kernels remove the controller for good;
// the volume's name is given to another; the exports come back. The writer sees nothing of it.
func TestKernelWriterOutlivesItsDevice(t *testing.T) {
	shared := newRig(t)
	for _, c := range []struct {
		fs   string
		size int64
	}{{fsExt4, 64 * mib}, {fsXFS, 300 * mib}} {
		t.Run(c.fs, func(t *testing.T) {
			r := shared.in(t)
			usurper := r.vol("usurper"+c.fs, 16*mib, "", "")
			v := r.vol("writer"+c.fs, c.size, c.fs, "")
			n := r.node()
			stop := r.repairing(n)
			must(t, v.stage(n))
			must(t, v.publish(n))
			w := startWriter(t, filepath.Join(v.target, "log"))
			w.progress(r)

			device := r.Namespace(v.nqn)
			r.Unexport(v.nqn)
			r.Eventually("loss of the connection", func() bool { return !strings.Contains(r.States(v.nqn), stateLive) })
			time.Sleep(3 * time.Second) // one reconnect of the kernel
			removed := r.States(v.nqn) == ""
			must(t, usurper.stage(n)) // takes the name, if it is free
			stalled := w.written.Load()

			// A driver that starts now repairs all the same.
			stop()
			n = r.node()
			r.repairing(n)
			r.Export(v.nqn)
			w.progress(r)
			must(t, w.stop())
			now := r.Namespace(v.nqn)
			t.Logf("controller removed: %t; %s (%s) became %s (%s); %d records, the stall at %d",
				removed, device.Name, device.Dev, now.Name, now.Dev, w.written.Load(), stalled)
			if removed && now.DiskSeq == device.DiskSeq {
				t.Error("the device is the old one")
			}
			w.check(t)
			must(t, v.unpublish(n))
			must(t, v.unstage(n))
			must(t, usurper.unstage(n))
			v.sound()
		})
	}
}

// The whole array goes down and comes back: nothing is listening meanwhile.
func TestKernelWriterOutlivesAReboot(t *testing.T) {
	r := newRig(t)
	v := r.vol("reboot", 64*mib, fsExt4, "")
	n := r.node()
	r.repairing(n)
	must(t, v.stage(n))
	w := startWriter(t, filepath.Join(v.staging, "log"))
	w.progress(r)
	r.Unexport(v.nqn) // the last export: the kernel stops listening
	r.Eventually("loss of the connection", func() bool { return !strings.Contains(r.States(v.nqn), stateLive) })
	time.Sleep(5 * time.Second)

	// What is dirty waits for the array; nothing is torn down around it.
	want(t, v.unstage(n), safety.PathLost)
	if r.count(v.staging) != 1 {
		t.Error("unstage has unmounted a volume whose array is away")
	}
	r.Export(v.nqn)
	w.progress(r)
	must(t, w.stop())
	w.check(t)
	r.Eventually("unstage", func() bool { return v.unstage(n) == nil })
	v.gone()
	v.sound()
}

// A raw block volume keeps its device number through the loss of its device.
func TestKernelBlockOutlivesItsDevice(t *testing.T) {
	r := newRig(t)
	r.vol("keepsListening", 16*mib, "", "")
	v := r.vol("rawblock", 16*mib, "", "")
	n := r.node()
	r.repairing(n)
	must(t, v.stage(n))
	must(t, v.publish(n))
	f, err := os.OpenFile(v.target, os.O_RDWR|unix.O_DIRECT, 0)
	must(t, err)
	defer f.Close()
	buf, err := unix.Mmap(-1, 0, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
	must(t, err)
	copy(buf, "written while the array was away")
	r.Unexport(v.nqn)
	r.Eventually("loss of the connection", func() bool { return !strings.Contains(r.States(v.nqn), stateLive) })
	done := make(chan error, 1)
	go func() {
		_, err := f.WriteAt(buf, 4096)
		done <- err
	}()
	time.Sleep(3 * time.Second)
	select {
	case err := <-done:
		t.Fatalf("a write without a path ended: %v", err)
	default:
	}
	must(t, v.stage(r.node())) // kubelet restarts: staging what is in use does not wait for the array
	must(t, v.publish(r.node()))
	r.Export(v.nqn)
	must(t, <-done)
	must(t, f.Close())
	if got := v.readData(4128)[4096:]; string(got) != "written while the array was away" {
		t.Errorf("read %q", got)
	}
	must(t, v.unpublish(n))
	must(t, v.unstage(n))
	v.gone()
}

// The volume comes back at another generation: this node was fenced in between. What the old mapping still has queued
// must never reach the array.
func TestKernelOldGeneration(t *testing.T) {
	r := newRig(t)
	r.vol("keepsListening", 16*mib, "", "")
	v := r.vol("generation", 64*mib, fsExt4, "")
	n := r.node()
	must(t, v.stage(n))
	old := *v
	v.nqn = r.Prefix.Export(v.id.Slot.UUID(), 2)

	// Still mounted: nobody's to take away by a stage.
	want(t, v.stage(n), safety.StaleMount)
	want(t, v.publish(n), safety.StaleMount)
	elsewhere := *v
	elsewhere.staging += "2"
	want(t, elsewhere.stage(n), safety.DeviceBusy)
	if old.mapping().OpenCount == 0 {
		t.Error("the refused stage has taken the mount away")
	}
	must(t, old.unstage(n))

	// Left behind unused, as a driver killed between unmount and removal leaves it.
	must(t, old.stageWithoutMount(n))
	if g := v.mapping().Generation; g != 1 {
		t.Fatalf("the mapping has generation %d", g)
	}
	must(t, r.Target.RemoveSubsystem(string(old.nqn)))
	r.VolumeNamed(v.nqn, "generation2", 64*mib)
	v.name = "generation2"
	must(t, v.stage(n))
	if m := v.mapping(); m.Generation != 2 || m.PathFailed {
		t.Errorf("staged at generation 2, the mapping is %+v", m)
	}
	if s := r.States(old.nqn); s != "" {
		t.Errorf("the old generation is still connected: %s", s)
	}
	must(t, v.unstage(n))
	v.gone()
}

// stageWithoutMount connects and maps only.
func (v *vol) stageWithoutMount(n *Node) error {
	spec, err := n.parseVolume(v.id.String(), v.publishContext(), v.volumeContext())
	must(v.t, err)
	_, _, err = n.attach(v.t.Context(), spec)
	return err
}

// Without a mapping the kernel's error reaches the writer, and the dead mount can still be taken away.
func TestKernelErrorOnPathLoss(t *testing.T) {
	r := newRig(t)
	r.vol("keepsListening", 16*mib, "", "")
	v := r.vol("error", 64*mib, fsExt4, driver.OnPathLossError)
	n := r.node()
	must(t, v.stage(n))
	must(t, v.publish(n))
	ns := r.Namespace(v.nqn)
	r.Unexport(v.nqn)
	r.Eventually("loss of the connection", func() bool { return !strings.Contains(r.States(v.nqn), stateLive) })
	time.Sleep(3 * time.Second)
	if r.States(v.nqn) != "" {
		t.Log("this kernel goes on trying")
		r.Export(v.nqn)
		r.Eventually("reconnect", func() bool { return strings.Contains(r.States(v.nqn), stateLive) })
		must(t, v.unpublish(n))
		must(t, v.unstage(n))
		v.gone()
		return
	}
	r.Export(v.nqn)
	want(t, v.stage(n), safety.StaleMount)
	want(t, v.publishAt(n, v.target+"2", false), safety.StaleMount)
	must(t, v.unpublish(n))
	must(t, v.unstage(n))
	must(t, v.stage(n))
	if now := r.Namespace(v.nqn); now.DiskSeq == ns.DiskSeq {
		t.Error("the device is the old one")
	}
	must(t, v.unstage(n))
	v.gone()
}

// An array that does not announce a new size: the connection is made again under the mapping.
func TestKernelExpandUnannounced(t *testing.T) {
	r := newRig(t)
	v := r.vol("unannounced", 64*mib, fsExt4, "")
	n := r.node()
	must(t, v.stage(n))
	w := startWriter(t, filepath.Join(v.staging, "log"))
	w.progress(r)
	_, err := v.expand(n, v.staging, 128*mib)
	want(t, err, safety.WrongDevice)
	w.progress(r)
	must(t, os.Truncate(v.File(v.name), 128*mib)) // and not revalidated
	r.Eventually("expand", func() bool {
		size, err := v.expand(n, v.staging, 128*mib)
		if err != nil {
			// The target looks at its file again only when the namespace is enabled anew or it is told to.
			must(t, r.Target.Revalidate(string(v.nqn)))
		}
		return err == nil && size == 128*mib
	})
	w.progress(r)
	must(t, w.stop())
	w.check(t)
	must(t, v.unstage(n))
	v.sound()
}
