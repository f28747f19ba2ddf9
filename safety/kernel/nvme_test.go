package kernel_test

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"testing"

	"srvlab.io/rds-csi/safety"
	"srvlab.io/rds-csi/safety/kernel"
	"srvlab.io/rds-csi/test/kerneltest"
)

const (
	volume  = safety.NQN("nqn.2000-02.com.mikrotik:test-cec24f78-1a6d-5911-b02b-d8e5a2d64cf4.g1")
	foreign = kerneltest.ForeignNQN
	mib     = int64(1 << 20)
)

func TestSubsystems(t *testing.T) {
	for name, flat := range map[string]bool{"native multipath": false, "nvme_core.multipath=N": true} {
		t.Run(name, func(t *testing.T) {
			k := kerneltest.NewTree(t)
			k.Flat = flat
			k.Connect(foreign, mib)
			k.Connect(volume, 2*mib)
			want := []kernel.Subsystem{{
				Name: "nvme-subsys1", NQN: volume,
				Controllers: []kernel.Controller{{
					Name: "nvme1", NQN: volume, State: "live", Transport: "tcp",
					Address: "traddr=192.0.2.9,trsvcid=4420,src_addr=192.0.2.7", HostNQN: kerneltest.HostNQN,
					CtrlLossTmo: "off", ReconnectDelay: "2",
				}},
				Namespaces: []kernel.Namespace{{
					Name: "nvme1n1", Dev: kernel.DevID{Major: 259, Minor: 1}, NSID: 1, DiskSeq: 2, SizeBytes: 2 * mib,
					UUID: "cec24f78-1a6d-5911-b02b-d8e5a2d64cf4", WWID: "uuid.cec24f78-1a6d-5911-b02b-d8e5a2d64cf4",
				}},
			}}
			got, err := k.FS.Subsystem(volume)
			if err != nil || fmt.Sprintf("%+v", got) != fmt.Sprintf("%+v", want) {
				t.Errorf("got  %+v, %v\nwant %+v", got, err, want)
			}
			controllers, err := k.FS.Controllers(volume)
			if err != nil || !slices.Equal(controllers, want[0].Controllers) {
				t.Errorf("controllers %+v, %v", controllers, err)
			}
			if all, err := k.FS.Subsystems(); err != nil || len(all) != 2 {
				t.Errorf("all %+v, %v", all, err)
			}
		})
	}
}

// An NQN is compared whole: neither a longer nor a shorter one is it.
func TestSubsystemIsExact(t *testing.T) {
	k := kerneltest.NewTree(t)
	longest := safety.NQN("nqn.2000-02.com.mikrotik:" + strings.Repeat("x", safety.MaxNQNLength-25))
	k.Connect(longest, mib)
	k.Connect(longest[:128], mib) // what prometheus/procfs makes of it
	for _, n := range []safety.NQN{longest, longest[:128]} {
		if got, err := k.FS.Subsystem(n); err != nil || len(got) != 1 || got[0].NQN != n {
			t.Errorf("%d bytes: %+v, %v", len(n), got, err)
		}
	}
	for _, n := range []safety.NQN{longest[:222], longest[:127], ""} {
		if got, err := k.FS.Controllers(n); err != nil || len(got) != 0 {
			t.Errorf("%d bytes: %+v, %v", len(n), got, err)
		}
	}
}

// A PCI disk of before NVMe 1.2.1 has a name made up by the kernel, padded with blanks.
func TestSubsystemOfPCI(t *testing.T) {
	k := kerneltest.NewTree(t)
	const name = "nqn.2014.08.org.nvmexpress:80868086SERIAL              INTEL SSD               "
	d := k.Connect(name, mib)
	for _, attr := range []string{"hostnqn", "ctrl_loss_tmo", "reconnect_delay"} {
		k.Remove(d.ControllerDir() + "/" + attr)
	}
	all, err := k.FS.Subsystems()
	if err != nil || len(all) != 1 || all[0].NQN != name || len(all[0].Gaps) != 0 || len(all[0].Controllers) != 1 {
		t.Errorf("%+v, %v", all, err)
	}
}

func TestNoNVMe(t *testing.T) {
	k := kerneltest.NewTree(t)
	all, err := k.FS.Subsystems()
	one, errOne := k.FS.Subsystem(volume)
	ctl, errCtl := k.FS.Controllers(volume)
	if err := errors.Join(err, errOne, errCtl); err != nil || len(all)+len(one)+len(ctl) != 0 {
		t.Errorf("%v %v %v, %v", all, one, ctl, err)
	}
	k.Set("sys/class/nvme", "")
	k.Set("sys/class/nvme-subsystem", "")
	_, err = k.FS.Subsystems()
	_, errOne = k.FS.Subsystem(volume)
	_, errCtl = k.FS.Controllers(volume)
	if err == nil || errOne == nil || errCtl == nil {
		t.Errorf("an unreadable class is no error: %v, %v, %v", err, errOne, errCtl)
	}
}

// What cannot be read is a gap of its entry and hides no other. Where it could be the one that is asked for, it is an
// error; a foreign one's gap is not.
func TestGaps(t *testing.T) {
	for name, c := range map[string]struct {
		spoil       func(k *kerneltest.Tree, d kerneltest.Device)
		mine, other bool // asked for the spoilt one, for the other one: want an error
	}{
		"no NQN":         {func(k *kerneltest.Tree, d kerneltest.Device) { k.Remove(d.SubsystemDir() + "/subsysnqn") }, true, true},
		"unreadable NQN": {func(k *kerneltest.Tree, d kerneltest.Device) { k.Break(d.SubsystemDir() + "/subsysnqn") }, true, true},
		"empty NQN":      {func(k *kerneltest.Tree, d kerneltest.Device) { k.Set(d.SubsystemDir()+"/subsysnqn", "\n") }, true, true},
		"NQN of 224 bytes": {func(k *kerneltest.Tree, d kerneltest.Device) {
			k.Set(d.SubsystemDir()+"/subsysnqn", strings.Repeat("x", 224))
		}, true, true},
		"attribute of more than a page": {func(k *kerneltest.Tree, d kerneltest.Device) {
			k.Set(d.SubsystemDir()+"/subsysnqn", strings.Repeat("x", 5000))
		}, true, true},
		"no controller state":        {func(k *kerneltest.Tree, d kerneltest.Device) { k.Remove(d.ControllerDir() + "/state") }, true, false},
		"unreadable transport":       {func(k *kerneltest.Tree, d kerneltest.Device) { k.Break(d.ControllerDir() + "/transport") }, true, false},
		"unreadable host":            {func(k *kerneltest.Tree, d kerneltest.Device) { k.Break(d.ControllerDir() + "/hostnqn") }, true, false},
		"namespace without a number": {func(k *kerneltest.Tree, d kerneltest.Device) { k.Remove(d.SubsystemDir() + "/" + d.Namespace + "/dev") }, true, false},
		"senseless size":             {func(k *kerneltest.Tree, d kerneltest.Device) { k.Set(d.SubsystemDir()+"/"+d.Namespace+"/size", "-1\n") }, true, false},
		"size beyond 64 bits": {func(k *kerneltest.Tree, d kerneltest.Device) {
			k.Set(d.SubsystemDir()+"/"+d.Namespace+"/size", "9223372036854775807\n")
		}, true, false},
		"senseless namespace ID": {func(k *kerneltest.Tree, d kerneltest.Device) { k.Set(d.SubsystemDir()+"/"+d.Namespace+"/nsid", "x\n") }, true, false},
	} {
		t.Run(name, func(t *testing.T) {
			k := kerneltest.NewTree(t)
			d := k.Connect(foreign, mib)
			k.Connect(volume, mib)
			c.spoil(k, d)
			all, err := k.FS.Subsystems()
			if err != nil || len(all) != 2 || len(all[0].Gaps) == 0 || len(all[1].Gaps) != 0 {
				t.Errorf("all: %+v, %v", all, err)
			}
			if got, err := k.FS.Subsystem(foreign); (err != nil) != c.mine {
				t.Errorf("the spoilt one: %+v, %v", got, err)
			}
			got, err := k.FS.Subsystem(volume)
			if (err != nil) != c.other || err == nil && len(got) != 1 {
				t.Errorf("the other one: %+v, %v", got, err)
			}
		})
	}
}

func TestControllerGaps(t *testing.T) {
	k := kerneltest.NewTree(t)
	d := k.Connect(foreign, mib)
	k.Connect(volume, mib)
	k.Break(d.ControllerDir() + "/state")
	if got, err := k.FS.Controllers(volume); err != nil || len(got) != 1 {
		t.Errorf("a foreign controller's state stands in the way: %+v, %v", got, err)
	}
	if got, err := k.FS.Controllers(foreign); err == nil {
		t.Errorf("its own does not: %+v", got)
	}
	k.Break(d.ControllerDir() + "/subsysnqn")
	if got, err := k.FS.Controllers(volume); err == nil {
		t.Errorf("a controller without a name could be the one: %+v", got)
	}
}

// What vanishes while it is read is not there.
func TestVanishing(t *testing.T) {
	k := kerneltest.NewTree(t)
	d := k.Connect(volume, mib)
	k.Link("sys/class/nvme/nvme9", "../../devices/gone")
	k.Link("sys/class/nvme-subsystem/nvme-subsys9", "../../devices/gone")
	k.Link(d.SubsystemDir()+"/nvme9", "../gone")
	k.Link(d.SubsystemDir()+"/nvme9n9", "../gone")
	if all, err := k.FS.Subsystems(); err != nil || len(all) != 1 || len(all[0].Gaps) != 0 {
		t.Errorf("%+v, %v", all, err)
	}
	if got, err := k.FS.Controllers(volume); err != nil || len(got) != 1 {
		t.Errorf("%+v, %v", got, err)
	}
	k.Drop(d)
	if got, err := k.FS.Subsystem(volume); err != nil || len(got) != 0 {
		t.Errorf("after the drop: %+v, %v", got, err)
	}
	if _, _, _, err := k.FS.BlockDevice(d.Dev); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("block device after the drop: %v", err)
	}
}

func TestBlockDevice(t *testing.T) {
	k := kerneltest.NewTree(t)
	k.Connect(foreign, mib)
	d := k.Connect(volume, 2*mib)
	name, size, seq, err := k.FS.BlockDevice(d.Dev)
	if err != nil || name != "nvme1n1" || size != 2*mib || seq != 2 {
		t.Errorf("%q %d %d %v", name, size, seq, err)
	}
	if _, _, _, err := k.FS.BlockDevice(kernel.DevID{}); err == nil {
		t.Error("the zero DevID is a device")
	}
	k.Set(d.SubsystemDir()+"/"+d.Namespace+"/dev", "259:77\n")
	if _, _, _, err := k.FS.BlockDevice(d.Dev); err == nil {
		t.Error("a number that leads to another device is believed")
	}
}
