package mapper

import (
	"context"
	"errors"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"

	"srvlab.io/rds-csi/safety"
	"srvlab.io/rds-csi/safety/kernel"
)

const mib = int64(1 << 20)

var (
	ctx   = context.Background()
	path1 = kernel.DevID{Major: 259, Minor: 1}
	path2 = kernel.DevID{Major: 259, Minor: 2}
	none  = kernel.DevID{}
	id    = ID{
		Slot: safety.SlotOf(safety.UUID{1, 2, 3}), Generation: 7, Address: netip.MustParseAddr("192.0.2.9"), Port: 4420, Array: "rds1",
	}
	mapped = "rdscsi-pvc-aebagaaaaaaaaaaaaaaaaaaaaa: 0 2048 multipath 3 queue_if_no_path queue_mode bio 0 1 1 round-robin 0 1 1 259:1 1"
)

func wantReasonOf(t *testing.T, err error, want safety.Reason) {
	t.Helper()
	if err == nil || safety.ReasonOf(err) != want {
		t.Errorf("reason %q, want %q: %v", safety.ReasonOf(err), want, err)
	}
}

func wantState(t *testing.T, f *fakeDM, want string) {
	t.Helper()
	if got := f.String(); got != want {
		t.Errorf("the kernel has\n%s\nwant\n%s", got, want)
	}
}

func created(t *testing.T) (*Mapper, *fakeDM, Mapping) {
	t.Helper()
	m, f := newFake(t)
	mp, err := m.Create(ctx, id, path1, mib)
	if err != nil {
		t.Fatal(err)
	}
	return m, f, mp
}

func TestCreate(t *testing.T) {
	m, f, mp := created(t)
	want := Mapping{
		ID: id, Name: "rdscsi-pvc-aebagaaaaaaaaaaaaaaaaaaaaa", Dev: kernel.DevID{Major: fakeMajor},
		Path: path1, Queueing: true, SizeBytes: mib,
	}
	got, found, err := m.Get(ctx, id.Slot)
	if mp != want || got != want || !found || err != nil {
		t.Errorf("created %+v\nread    %+v, %t, %v\nwant    %+v", mp, got, found, err, want)
	}
	if list, err := m.List(ctx); err != nil || len(list) != 1 || list[0] != want {
		t.Errorf("list %+v, %v", list, err)
	}
	if filepath.Base(m.DevicePath(mp)) != "dm-0" {
		t.Errorf("path %s", m.DevicePath(mp))
	}
	wantState(t, f, mapped)
	newer := id
	newer.Generation++
	_, err = m.Create(ctx, newer, path2, mib)
	wantReasonOf(t, err, safety.DeviceBusy)
	wantState(t, f, mapped)
}

// Whatever fails on the way, nothing is left.
func TestCreateFailsHalfWay(t *testing.T) {
	for name, c := range map[string]struct {
		fail  command
		spoil func(m *Mapper, f *fakeDM)
		path  kernel.DevID
		size  int64
	}{
		"create":         {cmdCreate, nil, path1, mib},
		"load":           {cmdTableLoad, nil, path1, mib},
		"resume":         {cmdSuspend, nil, path1, mib},
		"no such device": {0xff, nil, kernel.DevID{Major: 1, Minor: 1}, mib},
		"no size":        {0xff, nil, path1, 0},
		"half a sector":  {0xff, nil, path1, mib + 1},
		"no node": {0xff, func(m *Mapper, _ *fakeDM) {
			m.node = func(string, kernel.DevID) error { return fs.ErrNotExist }
		}, path1, mib},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m, f := newFake(t)
				f.fail[c.fail] = unix.ENOMEM
				if c.spoil != nil {
					c.spoil(m, f)
				}
				mp, err := m.Create(ctx, id, c.path, c.size)
				if err == nil || mp != (Mapping{}) {
					t.Errorf("created %+v", mp)
				}
				wantState(t, f, "")
			})
		})
	}
}

// What cannot be taken away again is said to be there.
func TestCreateLeavesSomething(t *testing.T) {
	m, f := newFake(t)
	f.fail[cmdTableLoad], f.fail[cmdRemove] = unix.ENOMEM, unix.EBUSY
	_, err := m.Create(ctx, id, path1, mib)
	var refusal *safety.Refusal
	if !errors.As(err, &refusal) || !refusal.Touched || !errors.Is(err, unix.ENOMEM) || !errors.Is(err, unix.EBUSY) {
		t.Errorf("error %v", err)
	}
	wantState(t, f, "rdscsi-pvc-aebagaaaaaaaaaaaaaaaaaaaaa: no table")
	if mp, found, err := m.Get(ctx, id.Slot); err != nil || !found || mp.SizeBytes != 0 || mp.Queueing {
		t.Errorf("read %+v, %t, %v", mp, found, err)
	}
	if _, err := m.Create(ctx, id, path1, mib); err != nil { // it does not stand in the way
		t.Error(err)
	}
	wantState(t, f, mapped)
}

func TestMissingModule(t *testing.T) {
	for _, module := range []string{"dm-multipath", "dm-round-robin"} {
		m, f := newFake(t)
		f.missing = module
		if module == "dm-round-robin" {
			if err := os.Remove(filepath.Join(m.fs.Sys, "module/dm_round_robin")); err != nil {
				t.Fatal(err)
			}
		}
		_, err := m.Create(ctx, id, path1, mib)
		wantReasonOf(t, err, safety.NodeUnsuited)
		if !strings.Contains(err.Error(), module) {
			t.Errorf("the message does not name %s: %v", module, err)
		}
		wantState(t, f, "")
	}
}

func TestOpenWithoutDeviceMapper(t *testing.T) {
	m, _ := newFake(t)
	_, err := Open(m.fs)
	wantReasonOf(t, err, safety.NodeUnsuited)
}

func TestLoad(t *testing.T) {
	const start = "rdscsi-pvc-aebagaaaaaaaaaaaaaaaaaaaaa: 0 "
	for name, c := range map[string]struct {
		path kernel.DevID
		size int64
		want string
	}{
		"another device": {path2, mib, start + "2048 multipath 3 queue_if_no_path queue_mode bio 0 1 1 round-robin 0 1 1 259:2 1"},
		"no path":        {none, mib, start + "2048 multipath 3 queue_if_no_path queue_mode bio 0 0 0"},
		"another size":   {path1, 2 * mib, start + "4096 multipath 3 queue_if_no_path queue_mode bio 0 1 1 round-robin 0 1 1 259:1 1"},
	} {
		t.Run(name, func(t *testing.T) {
			m, f, mp := created(t)
			f.devices[0].failed, f.devices[0].suspended = true, true
			if err := m.Load(ctx, mp, c.path, c.size); err != nil {
				t.Fatal(err)
			}
			wantState(t, f, c.want)
			now, _, err := m.Get(ctx, id.Slot)
			if err != nil || now.Path != c.path || now.SizeBytes != c.size || now.PathFailed || now.Suspended || !now.Queueing {
				t.Errorf("read %+v, %v", now, err)
			}
		})
	}
}

// A Load that fails leaves the mapping with its old table, live, and nothing that a later resume would bring in. Also
// one that was suspended before is live then.
func TestLoadFails(t *testing.T) {
	for name, c := range map[string]struct {
		fail command
		path kernel.DevID
	}{
		"load":           {cmdTableLoad, path2},
		"resume":         {cmdSuspend, path2},
		"no such device": {0xff, kernel.DevID{Major: 1, Minor: 1}},
	} {
		t.Run(name, func(t *testing.T) {
			m, f, mp := created(t)
			f.devices[0].suspended = true
			f.fail[c.fail] = unix.ENOMEM
			if err := m.Load(ctx, mp, c.path, mib); err == nil {
				t.Error("no error")
			}
			wantState(t, f, mapped)
		})
	}
}

func TestLoadOfNothing(t *testing.T) {
	m, f := newFake(t)
	if err := m.Load(ctx, Mapping{ID: id}, path1, mib); !errors.Is(err, unix.ENXIO) {
		t.Errorf("error %v", err)
	}
	wantState(t, f, "")
}

func TestMessages(t *testing.T) {
	m, f, mp := created(t)
	f.devices[0].failed = true
	if now, _, err := m.Get(ctx, id.Slot); err != nil || !now.PathFailed || now.Path != path1 {
		t.Errorf("failed path: %+v, %v", now, err)
	}
	if err := m.Reinstate(ctx, mp); err != nil || f.devices[0].failed {
		t.Errorf("reinstate: %v, %s", err, f)
	}
	if err := m.FailIfNoPath(ctx, mp); err != nil {
		t.Error(err)
	}
	if now, _, err := m.Get(ctx, id.Slot); err != nil || now.Queueing {
		t.Errorf("fail_if_no_path: %+v, %v", now, err)
	}
	if err := m.Message(ctx, mp, "queue_if_no_path"); err != nil || !f.devices[0].queueing {
		t.Errorf("queue_if_no_path: %v", err)
	}
	if err := m.Message(ctx, mp, "nonsense"); !errors.Is(err, unix.EINVAL) {
		t.Errorf("nonsense: %v", err)
	}
	mp.Path = none
	if err := m.Reinstate(ctx, mp); err == nil {
		t.Error("a path that is not there is reinstated")
	}
}

func TestRemove(t *testing.T) {
	m, f, mp := created(t)
	f.devices = append(f.devices, &fakeDevice{name: "another", uuid: "LVM-x", minor: 9})
	for range 2 { // gone is good
		if err := m.Remove(ctx, mp); err != nil {
			t.Fatal(err)
		}
	}
	wantState(t, f, "another: no table")
}

// An open mapping is refused, after the moment for which udev may have it open.
func TestRemoveOpen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, f, mp := created(t)
		f.setOpen(1)
		start := time.Now()
		wantReasonOf(t, m.Remove(ctx, mp), safety.DeviceBusy)
		if took := time.Since(start); took < busyTime || took > busyTime+time.Second {
			t.Errorf("it took %s", took)
		}
		wantState(t, f, mapped)
		short, cancel := context.WithTimeout(ctx, 100*time.Millisecond)
		defer cancel()
		start = time.Now()
		wantReasonOf(t, m.Remove(short, mp), safety.DeviceBusy)
		if took := time.Since(start); took > 200*time.Millisecond {
			t.Errorf("it took %s", took)
		}
		time.AfterFunc(time.Second, func() { f.setOpen(0) })
		if err := m.Remove(ctx, mp); err != nil {
			t.Error(err)
		}
		wantState(t, f, "")
	})
}

// hanging is a device-mapper that does not answer one command until it is let go.
type hanging struct {
	*fakeDM
	command command
	free    chan struct{}
}

func (h hanging) ioctl(c command, buf []byte) error {
	if c == h.command {
		<-h.free
	}
	return h.fakeDM.ioctl(c, buf)
}

// A call that hangs gives control back, and its mapping is left alone until it has ended.
func TestHang(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, f, mp := created(t)
		free := make(chan struct{})
		m.ctl = hanging{f, cmdSuspend, free}
		short, cancel := context.WithTimeout(ctx, time.Second)
		defer cancel()
		err := m.Load(short, mp, path2, mib)
		var refusal *safety.Refusal
		if !errors.As(err, &refusal) || !refusal.Touched || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("load: %v", err)
		}
		for name, err := range map[string]error{
			"load": m.Load(ctx, mp, path1, mib), "remove": m.Remove(ctx, mp), "message": m.FailIfNoPath(ctx, mp),
		} {
			if safety.ReasonOf(err) != safety.InFlight {
				t.Errorf("%s meanwhile: %v", name, err)
			}
		}
		close(free)
		synctest.Wait()
		wantState(t, f, strings.Replace(mapped, "259:1", "259:2", 1))
		if err := m.Remove(ctx, mp); err != nil {
			t.Errorf("after the end: %v", err)
		}
	})
}

// Only what has our name and our UUID, of the same slot, is ours.
func TestForeign(t *testing.T) {
	other := ID{Slot: safety.SlotOf(safety.UUID{9}), Generation: 1, Address: id.Address, Port: 1, Array: "a"}
	table := target{length: 2048, kind: "linear", params: "8:0 0"}
	for name, d := range map[string]*fakeDevice{
		"no UUID":               {name: id.Name()},
		"another's UUID":        {name: id.Name(), uuid: "LVM-abc", live: &table},
		"UUID of another slot":  {name: id.Name(), uuid: other.UUID(), live: &table},
		"UUID that looks alike": {name: id.Name(), uuid: id.UUID() + "_", live: &table},
	} {
		t.Run(name, func(t *testing.T) {
			m, f := newFake(t)
			f.devices = append(f.devices, d, &fakeDevice{name: "vg-lv"}, &fakeDevice{name: "rdscsi-x"})
			before := f.String()
			_, found, err := m.Get(ctx, id.Slot)
			wantReasonOf(t, err, safety.ForeignNQN)
			_, errCreate := m.Create(ctx, id, path1, mib)
			wantReasonOf(t, errCreate, safety.ForeignNQN)
			list, err := m.List(ctx)
			if found || err != nil || len(list) != 0 {
				t.Errorf("found %t; list %+v, %v", found, list, err)
			}
			if err := m.Remove(ctx, Mapping{ID: id, Name: id.Name()}); err != nil {
				t.Errorf("remove of what is not there: %v", err)
			}
			wantState(t, f, before)
		})
	}
}

// One of ours that cannot be read hides nothing: the list is an error.
func TestListCouldNotTell(t *testing.T) {
	m, f, _ := created(t)
	f.devices[0].live = &target{length: 2048, kind: "linear", params: "8:0 0"}
	if list, err := m.List(ctx); err == nil {
		t.Errorf("list %+v", list)
	}
	f.fail[cmdListDevices] = unix.EIO
	if list, err := m.List(ctx); !errors.Is(err, unix.EIO) {
		t.Errorf("list %+v, %v", list, err)
	}
	if mp, found, err := m.Get(ctx, id.Slot); err == nil {
		t.Errorf("get %+v, %t", mp, found)
	}
	ended, cancel := context.WithCancel(ctx)
	cancel()
	if _, _, err := m.Get(ended, id.Slot); !errors.Is(err, context.Canceled) {
		t.Errorf("get: %v", err)
	}
}

func TestListEmptyAndLong(t *testing.T) {
	m, f := newFake(t)
	if list, err := m.List(ctx); err != nil || len(list) != 0 {
		t.Errorf("empty: %+v, %v", list, err)
	}
	for i := range byte(200) {
		one := id
		one.Slot = safety.SlotOf(safety.UUID{i})
		if _, err := m.Create(ctx, one, path1, mib); err != nil {
			t.Fatal(err)
		}
	}
	f.full = 3 // the kernel asks for a larger buffer three times
	list, err := m.List(ctx)
	if err != nil || len(list) != 200 {
		t.Errorf("%d mappings, %v", len(list), err)
	}
	f.full = 100
	if _, err := m.List(ctx); err == nil {
		t.Error("an answer that never fits is taken")
	}
}

func TestInterruptedCall(t *testing.T) {
	m, f, mp := created(t)
	f.fail[cmdTableLoad] = unix.EINTR
	if err := m.Load(ctx, mp, path2, mib); err != nil {
		t.Error(err)
	}
	wantState(t, f, strings.Replace(mapped, "259:1", "259:2", 1))
}
