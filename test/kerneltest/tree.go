package kerneltest

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"srvlab.io/rds-csi/safety"
	"srvlab.io/rds-csi/safety/kernel"
)

// Tree is proc, sys and dev in a temporary directory, laid out as Linux does. Its methods change it as the kernel
// would; what no kernel shows is made with Set and Remove. A controller in it obeys delete_controller.
type Tree struct {
	FS kernel.FS
	// Flat puts namespaces below their controller, as without native multipath.
	Flat bool
	// Deaf controllers let a write to delete_controller hang.
	Deaf bool

	t      *testing.T
	root   string
	mu     sync.Mutex
	next   int // number of the next subsystem and controller
	disks  int
	mounts []string
}

// NewTree makes a tree of a host without NVMe: a root mount, no swap, one process.
func NewTree(t *testing.T) *Tree {
	t.Helper()
	root := t.TempDir()
	k := &Tree{t: t, root: root, FS: kernel.FS{
		Proc: filepath.Join(root, "proc"), Sys: filepath.Join(root, "sys"), Dev: filepath.Join(root, "dev"),
	}}
	k.Mount("22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw")
	k.Set("proc/swaps", "Filename\tType\tSize\tUsed\tPriority\n")
	k.Set("proc/1/comm", "init\n")
	k.dir("proc/1/fd")
	k.dir("sys/block")
	k.dir("dev")
	k.Link("proc/self", "4242")
	return k
}

// Path gives the path of a file in the tree.
func (k *Tree) Path(name string) string { return filepath.Join(k.root, name) }

func (k *Tree) must(err error) {
	k.t.Helper()
	if err != nil {
		k.t.Fatal(err)
	}
}

func (k *Tree) dir(name string) { k.t.Helper(); k.must(os.MkdirAll(k.Path(name), 0o755)) }

// Set gives a file its content.
func (k *Tree) Set(name, content string) {
	k.t.Helper()
	k.dir(filepath.Dir(name))
	k.must(os.WriteFile(k.Path(name), []byte(content), 0o600))
}

// Link makes a symbolic link.
func (k *Tree) Link(name, target string) {
	k.t.Helper()
	k.dir(filepath.Dir(name))
	k.must(os.Symlink(target, k.Path(name)))
}

// Break puts a directory in a file's place, so that reading it is an error other than "not there".
func (k *Tree) Break(name string) {
	k.t.Helper()
	if err := os.Remove(k.Path(name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		k.t.Fatal(err)
	}
	k.dir(name)
}

// Remove takes a file or an empty directory away.
func (k *Tree) Remove(name string) { k.t.Helper(); k.must(os.Remove(k.Path(name))) }

// Mount adds lines to the mount table.
func (k *Tree) Mount(lines ...string) {
	k.t.Helper()
	k.mounts = append(k.mounts, lines...)
	k.Set("proc/1/mountinfo", strings.Join(k.mounts, "\n")+"\n")
}

// Device is one connected subsystem of the tree.
type Device struct {
	Subsystem, Controller, Namespace string
	Dev                              kernel.DevID
}

// ControllerDir gives the path in the tree of the controller's directory.
func (d Device) ControllerDir() string {
	return "sys/devices/virtual/nvme-fabrics/ctl/" + d.Controller
}

// SubsystemDir gives the path in the tree of the subsystem's directory.
func (d Device) SubsystemDir() string { return "sys/devices/virtual/nvme-subsystem/" + d.Subsystem }

// Connect adds a live TCP connection to n at 192.0.2.9:4420, with one namespace of size bytes.
func (k *Tree) Connect(n safety.NQN, size int64) Device {
	k.t.Helper()
	d := Device{
		Subsystem:  fmt.Sprintf("nvme-subsys%d", k.next),
		Controller: fmt.Sprintf("nvme%d", k.next),
		Namespace:  fmt.Sprintf("nvme%dn1", k.next),
		Dev:        kernel.DevID{Major: 259, Minor: uint32(k.disks)},
	}
	k.next++
	for name, value := range map[string]string{
		"subsysnqn": string(n), "state": "live", "transport": "tcp", "hostnqn": HostNQN,
		"address":       "traddr=192.0.2.9,trsvcid=4420,src_addr=192.0.2.7",
		"ctrl_loss_tmo": "off", "reconnect_delay": "2",
	} {
		k.Set(d.ControllerDir()+"/"+name, value+"\n")
	}
	k.Set(d.SubsystemDir()+"/subsysnqn", string(n)+"\n")
	k.Link(d.SubsystemDir()+"/"+d.Controller, "../../nvme-fabrics/ctl/"+d.Controller)
	k.Link("sys/class/nvme/"+d.Controller, "../../devices/virtual/nvme-fabrics/ctl/"+d.Controller)
	k.Link("sys/class/nvme-subsystem/"+d.Subsystem, "../../devices/virtual/nvme-subsystem/"+d.Subsystem)
	parent := d.SubsystemDir()
	if k.Flat {
		parent = d.ControllerDir()
	} else {
		hidden := d.ControllerDir() + "/" + strings.Replace(d.Namespace, "n1", "c0n1", 1)
		k.Set(hidden+"/hidden", "1\n")
	}
	if size > 0 {
		k.disk(parent, d, size)
	}
	k.obey(d)
	return d
}

// disk adds a namespace's block device.
func (k *Tree) disk(parent string, d Device, size int64) {
	k.t.Helper()
	k.disks++
	dir := parent + "/" + d.Namespace
	for name, value := range map[string]string{
		"dev": d.Dev.String(), "size": fmt.Sprint(size / 512), "diskseq": fmt.Sprint(k.disks), "nsid": "1",
		"uuid": "cec24f78-1a6d-5911-b02b-d8e5a2d64cf4", "wwid": "uuid.cec24f78-1a6d-5911-b02b-d8e5a2d64cf4", "hidden": "0",
	} {
		k.Set(dir+"/"+name, value+"\n")
	}
	k.dir(dir + "/holders")
	k.Link("sys/dev/block/"+d.Dev.String(), "../../"+strings.TrimPrefix(dir, "sys/"))
	k.Set("dev/"+d.Namespace, "no block device")
}

// obey has a controller go when delete_controller is written, as long as it is not Deaf.
func (k *Tree) obey(d Device) {
	k.t.Helper()
	path := k.Path(d.ControllerDir() + "/delete_controller")
	k.must(unix.Mkfifo(path, 0o600))
	if k.Deaf {
		return // opening it for writing blocks until somebody reads
	}
	file, err := os.OpenFile(path, os.O_RDWR|unix.O_NONBLOCK, 0)
	k.must(err)
	done := make(chan struct{})
	go func() {
		defer close(done)
		order := make([]byte, 1)
		if _, err := file.Read(order); err == nil && order[0] == '1' {
			k.Drop(d)
		}
	}()
	k.t.Cleanup(func() {
		_ = file.Close() // ends the reading
		<-done
	})
}

// Hear gives a Deaf controller its hearing back.
func (k *Tree) Hear(d Device) {
	k.t.Helper()
	file, err := os.OpenFile(k.Path(d.ControllerDir()+"/delete_controller"), os.O_RDWR|unix.O_NONBLOCK, 0)
	k.must(err)
	k.t.Cleanup(func() { _ = file.Close() })
	k.Drop(d)
}

// Drop takes a connection away as the kernel does, attributes before directories.
func (k *Tree) Drop(d Device) {
	k.mu.Lock()
	defer k.mu.Unlock()
	_ = os.Remove(k.Path("sys/dev/block/" + d.Dev.String()))
	for _, dir := range []string{d.SubsystemDir(), d.ControllerDir()} {
		prune(k.Path(dir))
	}
	_ = os.Remove(k.Path("sys/class/nvme/" + d.Controller))
	_ = os.Remove(k.Path("sys/class/nvme-subsystem/" + d.Subsystem))
}

// prune removes a directory of the tree, never through a link.
func prune(dir string) {
	list, err := os.ReadDir(dir)
	if err != nil {
		return
	}
	for _, e := range list {
		if e.IsDir() {
			prune(filepath.Join(dir, e.Name()))
			continue
		}
		_ = os.Remove(filepath.Join(dir, e.Name()))
	}
	_ = os.Remove(dir)
}
