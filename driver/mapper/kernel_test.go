//go:build kernel

package mapper

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"srvlab.io/rds-csi/safety"
	"srvlab.io/rds-csi/safety/kernel"
	"srvlab.io/rds-csi/test/kerneltest"
)

const volumeSize = 64 << 20

// bench is a rig, a mapper and a volume.
type bench struct {
	*kerneltest.Rig
	t   *testing.T
	m   *Mapper
	nqn safety.NQN
	id  ID
	ns  kernel.Namespace
}

func setUp(t *testing.T) *bench {
	t.Helper()
	r := kerneltest.New(t)
	m, err := Open(r.FS)
	must(t, err)
	t.Cleanup(func() { must(t, m.Close()) })
	b := &bench{Rig: r, t: t, m: m}
	b.nqn = r.Volume("volume", volumeSize)
	v, g, _ := r.Prefix.Split(b.nqn)
	b.id = ID{Slot: safety.SlotOf(v), Generation: g, Address: r.Portal.Addr(), Port: r.Portal.Port(), Array: "rds1"}
	t.Cleanup(b.tearDown)
	b.ns = r.Connect(b.nqn)
	return b
}

// tearDown removes the mapping in whatever state a test has left it.
func (b *bench) tearDown() {
	b.Eventually("removal of the mapping", func() bool {
		mp, found, err := b.m.Get(context.Background(), b.id.Slot)
		if err != nil || !found {
			return err == nil
		}
		_ = b.m.FailIfNoPath(context.Background(), mp) // it may have no table
		return b.m.Remove(context.Background(), mp) == nil
	})
}

func (b *bench) create() Mapping {
	b.t.Helper()
	mp, err := b.m.Create(within(b.t, time.Minute), b.id, b.ns.Dev, b.ns.SizeBytes)
	must(b.t, err)
	return mp
}

func (b *bench) get() Mapping {
	b.t.Helper()
	mp, found, err := b.m.Get(within(b.t, time.Minute), b.id.Slot)
	if err != nil || !found {
		b.t.Fatalf("get: found %t, %v", found, err)
	}
	return mp
}

func within(t *testing.T, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), d)
	t.Cleanup(cancel)
	return ctx
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func wantReason(t *testing.T, err error, want safety.Reason) {
	t.Helper()
	if safety.ReasonOf(err) != want {
		t.Errorf("reason %q, want %q: %v", safety.ReasonOf(err), want, err)
	}
}

func TestKernelCreateAndRemove(t *testing.T) {
	b := setUp(t)
	mp := b.create()
	want := Mapping{
		ID: b.id, Name: b.id.Name(), Dev: mp.Dev, Path: b.ns.Dev, Queueing: true, SizeBytes: volumeSize,
	}
	if got := b.get(); mp != want || got != want || mp.Dev == (kernel.DevID{}) {
		t.Errorf("created %+v\nread    %+v\nwant    %+v", mp, got, want)
	}
	name, size, _, err := b.FS.BlockDevice(mp.Dev)
	if err != nil || size != volumeSize || filepath.Join(b.FS.Dev, name) != b.m.DevicePath(mp) {
		t.Errorf("device %q, %d bytes, %v; path %s", name, size, err, b.m.DevicePath(mp))
	}
	if list, err := b.m.List(within(t, time.Minute)); err != nil || len(list) != 1 || list[0] != want {
		t.Errorf("list %+v, %v", list, err)
	}
	if holders, err := b.FS.Holders(b.ns.Dev); err != nil || len(holders) != 1 || holders[0] != name {
		t.Errorf("holders %v, %v", holders, err)
	}

	for flags, want := range map[uint32]string{ // the words that table_test.go and fakeDM believe in
		flagNoFlush: "2 1 0 0 1 1 E 0 1 0 " + b.ns.Dev.String() + " A 0 ",
		flagNoFlush | flagStatusTable: "4 queue_if_no_path retain_attached_hw_handler queue_mode bio 0 1 1 round-robin 0 1 1 " +
			b.ns.Dev.String() + " 1 ",
	} {
		out, err := ioctl(b.m.ctl, cmdTableStatus, call{uuid: b.id.UUID(), flags: flags})
		must(t, err)
		line, err := oneTarget(out)
		if err != nil || line.params != want {
			t.Errorf("the kernel says %q, %v; want %q", line.params, err, want)
		}
	}

	another := b.id
	another.Generation++
	_, err = b.m.Create(within(t, time.Minute), another, b.ns.Dev, b.ns.SizeBytes)
	wantReason(t, err, safety.DeviceBusy)
	if got := b.get(); got != want {
		t.Errorf("after a refused creation: %+v", got)
	}

	f, err := os.Open(b.m.DevicePath(mp))
	must(t, err)
	if got := b.get(); got.OpenCount != 1 {
		t.Errorf("open count %d", got.OpenCount)
	}
	wantReason(t, b.m.Remove(within(t, time.Minute), mp), safety.DeviceBusy)
	time.AfterFunc(500*time.Millisecond, func() { _ = f.Close() }) // as udev does
	must(t, b.m.Remove(within(t, time.Minute), mp))
	must(t, b.m.Remove(within(t, time.Minute), mp)) // gone is good
	if _, found, err := b.m.Get(within(t, time.Minute), b.id.Slot); found || err != nil {
		t.Errorf("after the removal: found %t, %v", found, err)
	}
}

// A creation that fails half-way leaves nothing, and one that was killed half-way does not stand in the way.
func TestKernelTornCreation(t *testing.T) {
	b := setUp(t)
	_, err := b.m.Create(within(t, time.Minute), b.id, kernel.DevID{Major: 259, Minor: 1 << 19}, volumeSize)
	if err == nil {
		t.Error("a mapping was made on a device that does not exist")
	}
	if _, found, err := b.m.Get(within(t, time.Minute), b.id.Slot); found || err != nil {
		t.Errorf("after the failure: found %t, %v", found, err)
	}
	_, err = ioctl(b.m.ctl, cmdCreate, call{name: b.id.Name(), uuid: b.id.UUID()})
	must(t, err)
	if mp := b.get(); mp.SizeBytes != 0 || mp.Queueing {
		t.Errorf("half-made: %+v", mp)
	}
	b.create()
}

// What has our name but not our UUID is refused, and not in the list.
func TestKernelForeignMapping(t *testing.T) {
	b := setUp(t)
	name := b.id.Name()
	b.Run("dmsetup", "create", name, "--noudevsync", "--uuid", "LVM-abc", "--table", "0 2048 error")
	t.Cleanup(func() { b.Run("dmsetup", "remove", "--noudevsync", name) })
	b.Run("dmsetup", "create", "something", "--noudevsync", "--table", "0 2048 error")
	t.Cleanup(func() { b.Run("dmsetup", "remove", "--noudevsync", "something") })
	_, _, err := b.m.Get(within(t, time.Minute), b.id.Slot)
	wantReason(t, err, safety.ForeignNQN)
	_, err = b.m.Create(within(t, time.Minute), b.id, b.ns.Dev, b.ns.SizeBytes)
	wantReason(t, err, safety.ForeignNQN)
	wantReason(t, b.m.Remove(within(t, time.Minute), Mapping{ID: b.id, Name: b.id.Name()}), "")
	if list, err := b.m.List(within(t, time.Minute)); err != nil || len(list) != 0 {
		t.Errorf("list %+v, %v", list, err)
	}
	if out := b.Run("dmsetup", "status", name); !strings.Contains(out, "error") {
		t.Errorf("the foreign mapping is %q", out)
	}
}

// record is what the writer appends for each step, one block of the device: nvmet gives a file's namespace 4 KiB.
const record = 4096

// writer appends numbered records to a file, each with fsync, by direct I/O: nothing is in a cache that could hide
// a lost one.
type writer struct {
	path string
	stop chan struct{}
	done chan struct{}
	once sync.Once

	mu      sync.Mutex
	written int
	err     error
	longest time.Duration
}

func startWriter(t *testing.T, path string) *writer {
	t.Helper()
	fd, err := unix.Open(path, unix.O_WRONLY|unix.O_CREAT|unix.O_DIRECT|unix.O_CLOEXEC, 0o600)
	must(t, err)
	w := &writer{path: path, stop: make(chan struct{}), done: make(chan struct{})}
	go w.run(fd)
	return w
}

func (w *writer) run(fd int) {
	defer close(w.done)
	page, err := unix.Mmap(-1, 0, record, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE) // aligned
	for i := 0; err == nil; i++ {
		select {
		case <-w.stop:
			w.finish(unix.Close(fd))
			return
		default:
		}
		binary.LittleEndian.PutUint64(page, uint64(i)+1)
		start := time.Now()
		if _, err = unix.Pwrite(fd, page, int64(i)*record); err == nil {
			err = unix.Fsync(fd)
		}
		w.mu.Lock()
		if err == nil {
			w.written++
		}
		w.longest = max(w.longest, time.Since(start))
		w.mu.Unlock()
	}
	w.finish(errors.Join(err, unix.Close(fd)))
}

func (w *writer) finish(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.err = err
}

func (w *writer) count() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.written
}

// end stops the writer and gives its first error.
func (w *writer) end() (written int, longest time.Duration, err error) {
	w.halt()
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.written, w.longest, w.err
}

// halt stops the writer and waits until it has ended.
func (w *writer) halt() {
	w.once.Do(func() { close(w.stop) })
	<-w.done
}

// check reads the records back.
func (w *writer) check(t *testing.T, written int) {
	t.Helper()
	f, err := os.Open(w.path)
	must(t, err)
	defer func() { _ = f.Close() }()
	buf := make([]byte, record)
	for i := range written {
		_, err := io.ReadFull(f, buf)
		if err != nil || binary.LittleEndian.Uint64(buf) != uint64(i)+1 {
			t.Fatalf("record %d of %d: %x, %v", i+1, written, buf[:8], err)
		}
	}
}

// story starts a writer on an ext4 file system on the mapping; its end checks that no error reached the writer, no
// record was lost, and fsck finds nothing.
func (b *bench) story(mp Mapping) (w *writer, end func()) {
	b.t.Helper()
	device := b.m.DevicePath(mp)
	b.Run("mkfs.ext4", "-F", "-q", device)
	point := filepath.Join(b.Dir, "volume")
	b.Mount(device, point, "ext4")
	b.t.Cleanup(func() { // so that unmounting ends if the test failed without a path
		if mp, found, err := b.m.Get(context.Background(), b.id.Slot); err == nil && found && b.t.Failed() {
			_ = b.m.FailIfNoPath(context.Background(), mp)
		}
		if w != nil {
			w.halt()
		}
	})
	w = startWriter(b.t, filepath.Join(point, "records"))
	b.moved(w)
	return w, func() {
		b.t.Helper()
		b.moved(w)
		written, longest, err := w.end()
		if err != nil {
			b.t.Errorf("an error reached the writer: %v", err)
		}
		must(b.t, unix.Unmount(point, 0))
		b.Run("e2fsck", "-f", "-n", device)
		must(b.t, unix.Mount(device, point, "ext4", 0, ""))
		w.check(b.t, written)
		must(b.t, unix.Unmount(point, 0))
		b.t.Logf("%d records, the longest took %s", written, longest)
	}
}

// moved waits until the writer has written again.
func (b *bench) moved(w *writer) {
	b.t.Helper()
	from := w.count()
	b.Eventually("a record", func() bool { w.alive(b.t); return w.count() > from })
}

// alive fails the test if the writer has ended.
func (w *writer) alive(t *testing.T) {
	t.Helper()
	select {
	case <-w.done:
		t.Fatalf("the writer ended: %v", w.err)
	default:
	}
}

// waits proves that the writer stalls, without an error.
func (b *bench) waits(w *writer) {
	b.t.Helper()
	var from int
	b.Eventually("a stall", func() bool {
		from = w.count()
		time.Sleep(300 * time.Millisecond)
		return w.count() == from
	})
	time.Sleep(time.Second)
	w.alive(b.t)
	if now := w.count(); now != from {
		b.t.Fatalf("the writer went on, from %d to %d", from, now)
	}
}

// The array comes back with its listener first and its exports later. Linux 6.12 removes the controller and the
// device; the mapping gives its path up, queues, and goes on with the new device, whatever its name. Linux 6.1 keeps
// the controller and tries on, and so does the device: where nothing was in flight when the connection broke, I/O
// waits in the controller and goes on by itself; where something was, the mapping has given the path up
// (TestKernelShortOutage). The Load of the same device is right for both.
func TestKernelOutage(t *testing.T) {
	b := setUp(t)
	b.Volume("listener", 16<<20) // keeps the portal open while the volume is not exported
	mp := b.create()
	w, end := b.story(mp)

	b.Unexport(b.nqn)
	b.waits(w)
	t.Logf("linux %s: the controller is %q after a refused reconnect", release(t), b.States(b.nqn))
	removes := !strings.HasPrefix(release(t), "6.1.")
	if removes {
		b.Eventually("removal of the controller", func() bool { return b.States(b.nqn) == "" })
		b.Eventually("the mapping gives its path up", func() bool { return b.get().PathFailed })
		if _, _, _, err := b.FS.BlockDevice(b.ns.Dev); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("the device stayed: %v", err)
		}
		if mp := b.get(); !mp.Queueing || mp.Suspended || mp.Path != b.ns.Dev {
			t.Errorf("without a path: %+v", mp)
		}
	} else if s := b.States(b.nqn); s != "connecting" {
		t.Errorf("the controller is %q", s)
	}
	t.Logf("without exports: %+v", b.get())
	b.Export(b.nqn)
	back := b.ns
	if removes {
		back = b.Connect(b.nqn)
		if back.DiskSeq == b.ns.DiskSeq || back.Dev == b.ns.Dev {
			t.Errorf("came back as %+v, was %+v", back, b.ns)
		}
	} else {
		b.Eventually("the controller is live again", func() bool { return b.States(b.nqn) == "live" })
	}
	must(t, b.m.Load(within(t, time.Minute), b.get(), back.Dev, back.SizeBytes))
	end()
	want := mp
	want.Path, want.OpenCount = back.Dev, 0
	if got := b.get(); got != want {
		t.Errorf("at the end %+v\nwant       %+v", got, want)
	}
}

func release(t *testing.T) string {
	t.Helper()
	var u unix.Utsname
	must(t, unix.Uname(&u))
	return unix.ByteSliceToString(u.Release[:])
}

// With no path loaded at all, I/O waits, and goes on with the next Load.
func TestKernelLoadNoPath(t *testing.T) {
	b := setUp(t)
	mp := b.create()
	w, end := b.story(mp)
	must(t, b.m.Load(within(t, time.Minute), mp, kernel.DevID{}, mp.SizeBytes))
	b.waits(w)
	if got := b.get(); got.Path != (kernel.DevID{}) || !got.Queueing || got.Suspended || got.SizeBytes != mp.SizeBytes {
		t.Errorf("without a path: %+v", got)
	}
	if holders, err := b.FS.Holders(b.ns.Dev); err != nil || len(holders) != 0 {
		t.Errorf("the device is still held by %v, %v", holders, err)
	}
	must(t, b.m.Load(within(t, time.Minute), mp, b.ns.Dev, mp.SizeBytes))
	end()
}

// A Load that fails leaves the mapping as it was, and working.
func TestKernelFailedLoad(t *testing.T) {
	b := setUp(t)
	mp := b.create()
	w, end := b.story(mp)
	if err := b.m.Load(within(t, time.Minute), mp, kernel.DevID{Major: 259, Minor: 1 << 19}, mp.SizeBytes); err == nil {
		t.Error("a device that does not exist was loaded")
	}
	b.moved(w)
	// Also one that another process has left suspended, as a killed "dmsetup suspend; load; resume" does.
	b.Run("dmsetup", "suspend", "--noflush", "--nolockfs", mp.Name)
	b.waits(w)
	if !b.get().Suspended {
		t.Error("is not suspended")
	}
	if err := b.m.Load(within(t, time.Minute), mp, kernel.DevID{Major: 259, Minor: 1 << 19}, mp.SizeBytes); err == nil {
		t.Error("a device that does not exist was loaded")
	}
	end()
	if got := b.get(); got.Suspended || got.Path != b.ns.Dev {
		t.Errorf("at the end: %+v", got)
	}
}

// A Load without an answer from the old path gives control back at its deadline; when the path answers, the exchange
// happens and the writer goes on.
func TestKernelLoadHangs(t *testing.T) {
	b := setUp(t)
	mp := b.create()
	w, end := b.story(mp)
	b.Unexport(b.nqn) // the only one: nothing listens, the controller reconnects
	b.Eventually("connecting", func() bool { return b.States(b.nqn) == "connecting" })
	b.waits(w)
	if b.get().PathFailed { // what was in flight came back; have it go down again, to wait in the controller
		must(t, b.m.Reinstate(within(t, time.Minute), b.get()))
		time.Sleep(time.Second)
	}
	start := time.Now()
	err := b.m.Load(within(t, time.Second), mp, b.ns.Dev, mp.SizeBytes)
	wantReason(t, err, safety.DeviceBusy)
	if took := time.Since(start); !errors.Is(err, context.DeadlineExceeded) || took > 5*time.Second {
		t.Errorf("load came back after %s: %v", took, err)
	}
	wantReason(t, b.m.Message(within(t, time.Second), mp, "queue_if_no_path"), safety.InFlight)
	b.Export(b.nqn)
	end()
	b.Eventually("the end of the hung load", func() bool {
		return b.m.Message(within(t, time.Second), mp, "queue_if_no_path") == nil
	})
	if got := b.get(); got.Suspended || !got.Queueing {
		t.Errorf("at the end: %+v", got)
	}
}

// After a short outage the controller and the device are the same, but the mapping has given the path up: what was in
// flight when the connection broke came back with an error, because dm-multipath asks for that (REQ_FAILFAST_TRANSPORT).
// The kernel does not try the path again; Reinstate has it used.
func TestKernelShortOutage(t *testing.T) {
	b := setUp(t)
	mp := b.create()
	w, end := b.story(mp)
	failed := false
	for range 10 { // whether something is in flight is chance
		b.Unexport(b.nqn)
		b.Eventually("connecting", func() bool { return b.States(b.nqn) == "connecting" })
		b.waits(w)
		failed = b.get().PathFailed
		t.Logf("path failed: %t", failed)
		b.Export(b.nqn)
		b.Eventually("live", func() bool { return b.States(b.nqn) == "live" })
		if failed {
			break
		}
		b.moved(w)
	}
	if !failed {
		t.Fatal("the path never failed")
	}
	b.waits(w)
	must(t, b.m.Reinstate(within(t, time.Minute), b.get()))
	end()
	mp.OpenCount = 0
	if got := b.get(); got != mp {
		t.Errorf("at the end %+v\nwant       %+v", got, mp)
	}
}

// A path that failed once is not tried again by the kernel; Reinstate has it used.
func TestKernelReinstate(t *testing.T) {
	b := setUp(t)
	mp := b.create()
	w, end := b.story(mp)
	must(t, b.m.Message(within(t, time.Minute), mp, "fail_path "+b.ns.Dev.String()))
	b.waits(w)
	if got := b.get(); !got.PathFailed || got.Path != b.ns.Dev {
		t.Errorf("after fail_path: %+v", got)
	}
	must(t, b.m.Reinstate(within(t, time.Minute), b.get()))
	end()
	if got := b.get(); got.PathFailed {
		t.Errorf("at the end: %+v", got)
	}
}

// FailIfNoPath ends the waiting with an error, so that what waits, and the unmount, can end.
func TestKernelFailIfNoPath(t *testing.T) {
	b := setUp(t)
	mp := b.create()
	fd, err := unix.Open(b.m.DevicePath(mp), unix.O_WRONLY|unix.O_DIRECT|unix.O_CLOEXEC, 0)
	must(t, err)
	must(t, b.m.Load(within(t, time.Minute), mp, kernel.DevID{}, mp.SizeBytes))
	page, err := unix.Mmap(-1, 0, record, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
	must(t, err)
	result := make(chan error, 1)
	go func() {
		_, err := unix.Pwrite(fd, page, 0)
		result <- err
	}()
	select {
	case err := <-result:
		t.Fatalf("the write did not wait: %v", err)
	case <-time.After(time.Second):
	}
	must(t, b.m.FailIfNoPath(within(t, time.Minute), mp))
	select {
	case err := <-result:
		if !errors.Is(err, unix.EIO) {
			t.Errorf("the write ended with %v", err)
		}
	case <-time.After(time.Minute):
		t.Fatal("the write still waits")
	}
	if b.get().Queueing {
		t.Error("it still queues")
	}
	must(t, unix.Close(fd))
	must(t, b.m.Remove(within(t, time.Minute), mp))
}

// The file on the array grows; the mapping takes the new size while it is written to, and the file system after it.
func TestKernelGrow(t *testing.T) {
	b := setUp(t)
	mp := b.create()
	_, end := b.story(mp)
	must(t, os.Truncate(b.File("volume"), 2*volumeSize))
	must(t, b.Target.Revalidate(string(b.nqn)))
	b.Eventually("the namespace's new size", func() bool { return b.Namespace(b.nqn).SizeBytes == 2*volumeSize })
	must(t, b.m.Load(within(t, time.Minute), mp, b.ns.Dev, 2*volumeSize))
	if got := b.get(); got.SizeBytes != 2*volumeSize || got.Dev != mp.Dev {
		t.Errorf("grown: %+v", got)
	}
	b.Run("resize2fs", b.m.DevicePath(mp))
	end()
}

// A node without the module of the path selector is told which one it is.
func TestKernelMissingModule(t *testing.T) {
	b := setUp(t)
	const setting = "/proc/sys/kernel/modprobe"
	loader, err := os.ReadFile(setting)
	must(t, err)
	must(t, os.WriteFile(setting, []byte("/bin/false"), 0))
	t.Cleanup(func() { must(t, os.WriteFile(setting, bytes.TrimSpace(loader), 0)) })
	for _, module := range []string{"dm-round-robin", "dm-multipath"} {
		b.Run("rmmod", module) // "modprobe -r" would take the unused dm-multipath with its round-robin
		t.Cleanup(func() { b.Run("modprobe", module) })
		_, err = b.m.Create(within(t, time.Minute), b.id, b.ns.Dev, b.ns.SizeBytes)
		wantReason(t, err, safety.NodeUnsuited)
		if err != nil && !strings.Contains(err.Error(), module) {
			t.Errorf("the message does not name %s: %v", module, err)
		}
		if _, found, err := b.m.Get(within(t, time.Minute), b.id.Slot); found || err != nil {
			t.Errorf("after the failure: found %t, %v", found, err)
		}
	}
}

// The longest UUID fits.
func TestKernelLongestUUID(t *testing.T) {
	b := setUp(t)
	b.id.Generation = 1<<64 - 1
	b.id.Address = netip.MustParseAddr("2001:db8:1111:2222:3333:4444:5555:6666")
	b.id.Port = 65535
	b.id.Array = "abcdefghij0123456789"
	if mp := b.create(); mp.ID != b.id {
		t.Errorf("created %+v", mp)
	}
}
