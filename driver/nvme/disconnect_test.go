package nvme

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"srvlab.io/rds-csi/safety"
	"srvlab.io/rds-csi/test/kerneltest"
)

func read(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// connected tells whether the tree still has the controller.
func connected(k *kerneltest.Tree, d kerneltest.Device) bool {
	_, err := os.Stat(k.Path(d.ControllerDir()))
	return !errors.Is(err, fs.ErrNotExist)
}

// The refusals, one proof missing at a time. Whatever is refused stays connected.
func TestDisconnectRefuses(t *testing.T) {
	const dir = "sys/devices/virtual/nvme-subsystem/nvme-subsys0/nvme0n1"
	for name, c := range map[string]struct {
		spoil func(k *kerneltest.Tree, d kerneltest.Device)
		want  safety.Reason
		says  string
	}{
		"held": {func(k *kerneltest.Tree, _ kerneltest.Device) { k.Link(dir+"/holders/dm-0", "x") }, safety.DeviceBusy, "holder dm-0"},
		"mounted": {func(k *kerneltest.Tree, d kerneltest.Device) {
			k.Mount("30 22 " + d.Dev.String() + " / /data rw - ext4 /dev/x rw")
		}, safety.DeviceBusy, "mount /data"},
		"torn mount table": {func(k *kerneltest.Tree, _ kerneltest.Device) {
			k.Set("proc/1/mountinfo", "22 1 8:1 / /")
		}, safety.DeviceBusy, "could not tell"},
		"unreadable swaps": {func(k *kerneltest.Tree, _ kerneltest.Device) { k.Remove("proc/swaps") }, safety.DeviceBusy, "could not tell"},
		"no device node":   {func(k *kerneltest.Tree, d kerneltest.Device) { k.Remove("dev/" + d.Namespace) }, safety.DeviceBusy, "could not tell"},
		"a node that is no block device": {
			func(*kerneltest.Tree, kerneltest.Device) {}, safety.DeviceBusy, "is no block device",
		},
		"another's mark": {func(k *kerneltest.Tree, d kerneltest.Device) {
			k.Set("registry/"+d.Controller+"/owner", "stas\n")
		}, safety.ForeignNQN, `owned by "stas"`},
		"unreadable mark": {func(k *kerneltest.Tree, d kerneltest.Device) {
			k.Break("registry/" + d.Controller + "/owner")
		}, safety.ForeignNQN, "could not tell"},
		"unreadable namespace": {func(k *kerneltest.Tree, _ kerneltest.Device) { k.Break(dir + "/size") }, safety.DeviceBusy, "could not tell"},
		"a controller without a name beside it": {func(k *kerneltest.Tree, _ kerneltest.Device) {
			k.Break(k.Connect(kerneltest.ForeignNQN, 0).ControllerDir() + "/subsysnqn")
		}, safety.DeviceBusy, "could not tell"},
	} {
		t.Run(name, func(t *testing.T) {
			k := kerneltest.NewTree(t)
			d := k.Connect(volume, mib)
			c.spoil(k, d)
			err := testHost(k).Disconnect(within(t, 10*time.Second), volume)
			reason(t, err, c.want)
			var refusal *safety.Refusal
			if !errors.As(err, &refusal) || refusal.Touched || !strings.Contains(err.Error(), c.says) {
				t.Errorf("error %v; want untouched and %q", err, c.says)
			}
			if !connected(k, d) {
				t.Error("it is disconnected")
			}
		})
	}
}

// Without a block device nobody can use it: the controller goes, its mark with it, and nothing else does.
func TestDisconnect(t *testing.T) {
	k := kerneltest.NewTree(t)
	other, mine := k.Connect(kerneltest.ForeignNQN, mib), k.Connect(volume, 0)
	k.Set("registry/nvme0/owner", "stas\n")
	k.Set("registry/nvme1/owner", owner+"\n")
	h := testHost(k)
	for range 2 { // the second finds nothing and is content
		if err := h.Disconnect(within(t, 10*time.Second), volume); err != nil {
			t.Fatal(err)
		}
	}
	if connected(k, mine) || !connected(k, other) {
		t.Errorf("mine is there: %t, the other one: %t", connected(k, mine), connected(k, other))
	}
	if _, err := os.Stat(k.Path("registry/nvme1")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the mark stayed: %v", err)
	}
	if got := read(t, k.Path("registry/nvme0/owner")); got != "stas\n" {
		t.Errorf("the other's mark is %q", got)
	}
}

// The controller that was proven is the one that is deleted: what took its name meanwhile is refused, and a number
// that was given anew is never written to.
func TestDeleteMeetsTheSameController(t *testing.T) {
	k := kerneltest.NewTree(t)
	h := testHost(k)
	mine := k.Connect(volume, 0)
	dir, err := h.openController(mine.Controller, volume)
	if err != nil {
		t.Fatal(err)
	}
	defer dir.close()
	k.Drop(mine)
	k.Set(mine.ControllerDir()+"/subsysnqn", string(kerneltest.ForeignNQN)+"\n") // the number is given anew
	k.Set(mine.ControllerDir()+"/transport", "tcp\n")
	k.Set(mine.ControllerDir()+"/delete_controller", "")
	k.Link("sys/class/nvme/"+mine.Controller, "../../devices/virtual/nvme-fabrics/ctl/"+mine.Controller)
	if err := dir.write("delete_controller"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("write through the old descriptor: %v", err)
	}
	err = h.delete(mine.Controller, volume, func() bool { t.Error("it was to be written"); return true })
	reason(t, err, safety.ForeignNQN)
	if got := read(t, k.Path(mine.ControllerDir()+"/delete_controller")); got != "" {
		t.Errorf("the foreign controller was told %q", got)
	}
}

// A caller that has gone was told that nothing happened: nothing happens.
func TestDeleteAfterTheCallerHasGone(t *testing.T) {
	k := kerneltest.NewTree(t)
	d := k.Connect(volume, 0)
	h := testHost(k)
	if err := h.disconnect(within(t, time.Second), volume, func() bool { return false }); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
	if !connected(k, d) {
		t.Error("it is disconnected")
	}
}

func TestDeleteRefusesOtherTransports(t *testing.T) {
	k := kerneltest.NewTree(t)
	d := k.Connect(volume, 0)
	k.Set(d.ControllerDir()+"/transport", "pcie\n")
	reason(t, testHost(k).Disconnect(within(t, 10*time.Second), volume), safety.ForeignNQN)
	if !connected(k, d) {
		t.Error("it is disconnected")
	}
}

// A write that hangs gives control back at the deadline, as Touched; until it ends nothing else is begun.
func TestDisconnectHangs(t *testing.T) {
	k := kerneltest.NewTree(t)
	k.Deaf = true
	d := k.Connect(volume, 0)
	h := testHost(k)
	err := h.Disconnect(within(t, 100*time.Millisecond), volume)
	var refusal *safety.Refusal
	if !errors.As(err, &refusal) || !refusal.Touched || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("error %v; want touched and the deadline", err)
	}
	reason(t, h.Disconnect(within(t, time.Second), volume), safety.InFlight)
	reason(t, h.Connect(within(t, time.Second), good()), safety.InFlight) // it is live in sysfs, but about to go
	k.Hear(d)
	deadline := time.Now().Add(10 * time.Second)
	for h.Disconnect(within(t, time.Second), volume) != nil {
		if time.Now().After(deadline) {
			t.Fatal("the hung call never ended")
		}
		time.Sleep(10 * time.Millisecond)
	}
}

func TestOutstanding(t *testing.T) {
	r := register{calls: map[place]*call{}}
	p := place{"sys", volume}
	ended := make(chan bool)
	begin := make(chan struct{})
	busy, acted, err := r.run(within(t, 50*time.Millisecond), p, "disconnect", func(act func() bool) error {
		<-begin
		ended <- act()
		return nil
	})
	if busy != "" || acted || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("abandoned: %q, %t, %v", busy, acted, err)
	}
	if busy, _, _ := r.run(within(t, time.Second), p, "connect", nil); busy != "disconnect" {
		t.Errorf("a second call is begun: %q", busy)
	}
	if op := r.acting(p); op != "" {
		t.Errorf("an abandoned call acts: %q", op)
	}
	close(begin)
	if <-ended {
		t.Error("a call whose caller has gone may act")
	}
	if busy, _, err := r.run(within(t, time.Second), place{"sys", "other"}, "connect", func(act func() bool) error {
		if !act() || r.acting(place{"sys", "other"}) != "connect" {
			t.Error("may not act")
		}
		return fs.ErrInvalid
	}); busy != "" || !errors.Is(err, fs.ErrInvalid) {
		t.Errorf("%q, %v", busy, err)
	}
}

func TestMark(t *testing.T) {
	h := Host{Registry: filepath.Join(t.TempDir(), "registry")}
	if name, err := h.owner("nvme0"); name != "" || err != nil {
		t.Errorf("without a registry: %q, %v", name, err)
	}
	path := filepath.Join(h.Registry, "nvme0", "owner")
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte("stas"), 0o600); err != nil { // left by an earlier nvme0
		t.Fatal(err)
	}
	if err := h.mark(0); err != nil {
		t.Fatal(err)
	}
	if name, err := h.owner("nvme0"); name != owner || err != nil {
		t.Errorf("marked: %q, %v", name, err)
	}
	if st, err := os.Stat(path); err != nil || st.Mode().Perm() != 0o644 {
		t.Errorf("the mark is not readable by all: %v, %v", st.Mode(), err)
	}
	if err := h.unmark("nvme0"); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Dir(path)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("unmarked: %v", err)
	}
	if err := h.unmark("nvme0"); err != nil {
		t.Errorf("a second time: %v", err)
	}
}
