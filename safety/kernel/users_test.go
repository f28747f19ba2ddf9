package kernel_test

import (
	"testing"

	"srvlab.io/rds-csi/test/kerneltest"
)

func TestUsers(t *testing.T) {
	const dir = "sys/devices/virtual/nvme-subsystem/nvme-subsys1/nvme1n1"
	for name, c := range map[string]struct {
		use  func(k *kerneltest.Tree)
		want string
	}{
		"nobody":   {func(*kerneltest.Tree) {}, ""},
		"holder":   {func(k *kerneltest.Tree) { k.Link(dir+"/holders/dm-0", "../../../../../dm-0") }, "holder dm-0"},
		"mount":    {func(k *kerneltest.Tree) { k.Mount("30 22 259:1 / /var rw - ext4 /dev/root rw") }, "mount /var"},
		"detached": {func(k *kerneltest.Tree) { k.Set("proc/fs/jbd2/nvme1n1-8/info", "") }, "file system fs/jbd2/nvme1n1-8"},
		"btrfs by source": {
			func(k *kerneltest.Tree) { k.Mount("30 22 0:50 /@ /data rw - btrfs /dev/nvme1n1 rw") }, "mount /data",
		},
		"bind of the node": {
			func(k *kerneltest.Tree) { k.Mount("30 22 0:6 /nvme1n1 /publish rw - devtmpfs devtmpfs rw") }, "mount /publish",
		},
		"loop":      {func(k *kerneltest.Tree) { k.Set("sys/block/loop3/loop/backing_file", "/dev/nvme1n1\n") }, "loop device loop3"},
		"free loop": {func(k *kerneltest.Tree) { k.Set("sys/block/loop3/size", "0\n") }, ""},
		"swap": {
			func(k *kerneltest.Tree) { k.Set("proc/swaps", "Filename\n/dev/nvme1n1 partition 1 0 -2\n") }, "swap /dev/nvme1n1",
		},
		"xfs":           {func(k *kerneltest.Tree) { k.Set("sys/fs/xfs/nvme1n1/log", "") }, "file system fs/xfs/nvme1n1"},
		"ext4 in proc":  {func(k *kerneltest.Tree) { k.Set("proc/fs/ext4/nvme1n1/options", "") }, "file system fs/ext4/nvme1n1"},
		"another's all": {anothers, ""},
		"partition": {func(k *kerneltest.Tree) {
			k.Set(dir+"/nvme1n1p1/partition", "1\n")
			k.Set(dir+"/nvme1n1p1/dev", "259:9\n")
			k.Set(dir+"/nvme1n1p1/size", "8\n")
			k.Link(dir+"/nvme1n1p1/holders/md0", "x")
			k.Mount("30 22 259:9 / /guest rw - ext4 /dev/x rw")
		}, "holder md0, mount /guest"},
		"unused partition": {func(k *kerneltest.Tree) {
			k.Set(dir+"/nvme1n1p1/partition", "1\n")
			k.Set(dir+"/nvme1n1p1/dev", "259:9\n")
			k.Set(dir+"/nvme1n1p1/size", "8\n")
			k.Set(dir+"/nvme1n1p1/holders/.keep", "")
			k.Remove(dir + "/nvme1n1p1/holders/.keep")
		}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			k := kerneltest.NewTree(t)
			k.Connect(foreign, mib)
			d := k.Connect(volume, mib)
			c.use(k)
			u, err := k.FS.Users(d.Dev)
			if err != nil || u.String() != c.want || u.None() != (c.want == "") {
				t.Errorf("users %q, %v; want %q", u, err, c.want)
			}
		})
	}
}

// anothers uses nvme0n1 in every way.
func anothers(k *kerneltest.Tree) {
	k.Link("sys/devices/virtual/nvme-subsystem/nvme-subsys0/nvme0n1/holders/dm-0", "x")
	k.Mount("30 22 259:0 / /var rw - ext4 /dev/nvme0n1 rw", "31 22 0:6 /nvme0n1 /publish rw - devtmpfs devtmpfs rw")
	k.Set("proc/swaps", "Filename\n/dev/nvme0n1 partition 1 0 -2\n")
	k.Set("proc/fs/jbd2/nvme0n1-8/info", "")
	k.Set("sys/fs/xfs/nvme0n1/log", "")
	k.Set("proc/77/comm", "x\n")
	k.Link("proc/77/fd/0", "/dev/null")
	k.Link("proc/77/fd/1", "/gone") // closed between listing and looking
}

// A place that cannot be read leaves it open who uses the device: an error, never "nobody".
func TestUsersCouldNotTell(t *testing.T) {
	const dir = "sys/devices/virtual/nvme-subsystem/nvme-subsys0/nvme0n1"
	for name, spoil := range map[string]func(k *kerneltest.Tree){
		"no holders":              func(k *kerneltest.Tree) { k.Remove(dir + "/holders") },
		"no mount table":          func(k *kerneltest.Tree) { k.Remove("proc/1/mountinfo") },
		"torn mount table":        func(k *kerneltest.Tree) { k.Set("proc/1/mountinfo", "22 1 8:1 / / rw") },
		"no block devices":        func(k *kerneltest.Tree) { k.Remove("sys/block"); k.Set("sys/block", "") },
		"unreadable loop":         func(k *kerneltest.Tree) { k.Break("sys/block/loop0/loop/backing_file") },
		"loop that gives no node": func(k *kerneltest.Tree) { k.Set("sys/block/loop0/loop/backing_file", "/some/path\n") },
		"no swaps":                func(k *kerneltest.Tree) { k.Remove("proc/swaps") },
		"senseless swaps":         func(k *kerneltest.Tree) { k.Set("proc/swaps", "Filename\n/dev/x\n") },
		"unreadable jbd2":         func(k *kerneltest.Tree) { k.Set("proc/fs/jbd2", "") },
		"unreadable sysfs xfs":    func(k *kerneltest.Tree) { k.Set("sys/fs/xfs", "") },
		"unreadable open files":   func(k *kerneltest.Tree) { k.Set("proc/77/fd", "") },
		"no own number":           func(k *kerneltest.Tree) { k.Remove("proc/self") },
		"partition without number": func(k *kerneltest.Tree) {
			k.Set(dir+"/nvme0n1p1/partition", "1\n")
		},
		"gone": func(k *kerneltest.Tree) { k.Remove("sys/dev/block/259:0") },
	} {
		t.Run(name, func(t *testing.T) {
			k := kerneltest.NewTree(t)
			d := k.Connect(volume, mib)
			spoil(k)
			if u, err := k.FS.Users(d.Dev); err == nil {
				t.Errorf("users %q and no error", u)
			}
		})
	}
}

// The calling process is no user: what it has open may be a probe that hangs on the very device.
func TestUsersLeavesOutSelf(t *testing.T) {
	k := kerneltest.NewTree(t)
	d := k.Connect(volume, mib)
	k.Set("proc/4242/fd", "unreadable, so looking at it would be an error")
	if u, err := k.FS.Users(d.Dev); err != nil || !u.None() {
		t.Errorf("users %q, %v", u, err)
	}
	k.Remove("proc/self")
	k.Link("proc/self", "4243")
	if _, err := k.FS.Users(d.Dev); err == nil {
		t.Error("another process's open files are not looked at")
	}
}
