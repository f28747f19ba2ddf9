package mapper

import (
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"srvlab.io/rds-csi/safety/kernel"
)

// fakeDM is the kernel's device-mapper as far as Mapper uses it: a name and UUID table, a live and an inactive table
// each, suspension, and the binary interface.
type fakeDM struct {
	t       *testing.T
	mu      sync.Mutex
	devices []*fakeDevice
	minor   uint32
	// fail gives the error of the next ioctl of a command; it is used once.
	fail map[command]error
	// full is how many answers say that the buffer is too small.
	full int
	// missing is a module that is not there.
	missing string
	// exists tells whether a path device exists.
	exists func(kernel.DevID) bool
	log    []string // commands that changed something
}

type fakeDevice struct {
	name, uuid     string
	minor          uint32
	live, inactive *target
	failed         bool // the path
	queueing       bool
	suspended      bool
	open           int32
}

func (d *fakeDevice) String() string {
	live := "no table"
	if d.live != nil {
		live = fmt.Sprintf("0 %d %s %s", d.live.length, d.live.kind, d.live.params)
	}
	state := ""
	if d.inactive != nil {
		state += " inactive"
	}
	if d.suspended {
		state += " suspended"
	}
	if d.failed {
		state += " failed"
	}
	return d.name + ": " + live + state
}

// setOpen says how often the first device is open.
func (f *fakeDM) setOpen(n int32) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.devices[0].open = n
}

// String prints the devices, sorted by name.
func (f *fakeDM) String() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	var lines []string
	for _, d := range f.devices {
		lines = append(lines, d.String())
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

func (f *fakeDM) find(name, uuid string) *fakeDevice {
	for _, d := range f.devices {
		if uuid != "" && d.uuid == uuid || uuid == "" && d.name == name {
			return d
		}
	}
	return nil
}

const fakeMajor = 253

func (f *fakeDM) ioctl(c command, buf []byte) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	order := binary.NativeEndian
	if order.Uint32(buf[offVersion:]) != 4 || int(order.Uint32(buf[offSize:])) != len(buf) || order.Uint32(buf[offStart:]) != headerSize {
		return unix.EINVAL
	}
	if err := f.fail[c]; err != nil {
		delete(f.fail, c)
		return err
	}
	name, uuid := text(buf[offName:offName+nameSize]), text(buf[offUUID:offUUID+uuidSize])
	if c != cmdCreate && name != "" && uuid != "" {
		return unix.EINVAL // the kernel wants one of them
	}
	flags := order.Uint32(buf[offFlags:])
	order.PutUint32(buf[offFlags:], 0)
	order.PutUint32(buf[offSize:], headerSize-7) // offsetof(struct dm_ioctl, data): an answer without data
	switch c {
	case cmdVersion:
		return nil
	case cmdListDevices:
		f.answer(buf, f.names())
		return nil
	case cmdListVersions:
		f.answer(buf, f.versions())
		return nil
	case cmdCreate:
		return f.create(buf, name, uuid)
	default:
		d := f.find(name, uuid)
		if d == nil {
			return unix.ENXIO
		}
		return f.onDevice(c, d, flags, buf)
	}
}

func (f *fakeDM) onDevice(c command, d *fakeDevice, flags uint32, buf []byte) error {
	data := buf[headerSize:]
	switch c {
	case cmdRemove:
		if d.open > 0 {
			return unix.EBUSY
		}
		f.devices = slices.DeleteFunc(f.devices, func(x *fakeDevice) bool { return x == d })
		f.log = append(f.log, "remove")
		return nil
	case cmdTableLoad:
		return f.load(d, data)
	case cmdTableClear:
		d.inactive = nil
	case cmdSuspend:
		f.resume(d, flags)
	case cmdTargetMsg:
		return d.message(text(data[8:]))
	case cmdTableStatus:
		f.status(buf, d, flags)
	default:
		return unix.ENOTTY
	}
	f.header(buf, d)
	return nil
}

func (f *fakeDM) create(buf []byte, name, uuid string) error {
	if f.find(name, "") != nil || f.find("", uuid) != nil {
		return unix.EBUSY
	}
	d := &fakeDevice{name: name, uuid: uuid, minor: f.minor}
	f.minor++
	f.devices = append(f.devices, d)
	f.log = append(f.log, "create")
	f.header(buf, d)
	return nil
}

func (f *fakeDM) load(d *fakeDevice, data []byte) error {
	list, err := decodeTargets(data, 1)
	if err != nil || f.missing != "" {
		return unix.EINVAL
	}
	tab, err := parseTable(list[0].params)
	if err != nil {
		return unix.EINVAL
	}
	if tab.path != (kernel.DevID{}) && !f.exists(tab.path) {
		return unix.ENXIO
	}
	d.inactive = &list[0]
	f.log = append(f.log, "load")
	return nil
}

func (f *fakeDM) resume(d *fakeDevice, flags uint32) {
	if flags&(flagNoFlush|flagSkipLockFS) != flagNoFlush|flagSkipLockFS {
		f.t.Error("a resume that flushes or freezes waits for a path that may not be there")
	}
	if d.inactive != nil {
		d.live, d.inactive, d.failed, d.queueing = d.inactive, nil, false, true
	}
	d.suspended = false
	f.log = append(f.log, "resume")
}

func (d *fakeDevice) message(msg string) error {
	switch {
	case msg == "fail_if_no_path":
		d.queueing = false
	case msg == queueFlag:
		d.queueing = true
	case strings.HasPrefix(msg, "reinstate_path ") && strings.Contains(d.live.params, " "+msg[15:]+" "):
		d.failed = false
	default:
		return unix.EINVAL
	}
	return nil
}

// status writes the lines in the kernel's words; TestKernelCreateAndRemove holds them against a real one.
func (f *fakeDM) status(buf []byte, d *fakeDevice, flags uint32) {
	if d.live == nil {
		return
	}
	t := *d.live
	tab, err := parseTable(t.params)
	if err != nil { // not ours
		f.answerTargets(buf, t)
		return
	}
	switch {
	case flags&flagStatusTable != 0 && !d.queueing:
		t.params = strings.Replace(t.params, "3 queue_if_no_path ", "3 retain_attached_hw_handler ", 1) + " "
	case flags&flagStatusTable != 0:
		t.params = strings.Replace(t.params, "3 queue_if_no_path ", "4 queue_if_no_path retain_attached_hw_handler ", 1) + " "
	case tab.path == (kernel.DevID{}):
		t.params = "2 0 0 0 0 0 "
	case d.failed:
		t.params = "2 0 0 0 1 1 E 0 1 0 " + tab.path.String() + " F 1 "
	default:
		t.params = "2 1 0 0 1 1 E 0 1 0 " + tab.path.String() + " A 0 "
	}
	f.answerTargets(buf, t)
}

func (f *fakeDM) answerTargets(buf []byte, t target) {
	binary.NativeEndian.PutUint32(buf[offTargets:], 1)
	f.answer(buf, t.encode())
}

// header writes what every answer about a device has.
func (f *fakeDM) header(buf []byte, d *fakeDevice) {
	order := binary.NativeEndian
	flags := order.Uint32(buf[offFlags:])
	if d.live != nil {
		flags |= flagActivePresent
	}
	if d.suspended {
		flags |= flagSuspend
	}
	order.PutUint32(buf[offFlags:], flags)
	order.PutUint32(buf[offOpen:], uint32(d.open))
	order.PutUint64(buf[offDev:], encodeDev(kernel.DevID{Major: fakeMajor, Minor: d.minor}))
	clear(buf[offName : offUUID+uuidSize])
	copy(buf[offName:], d.name)
	copy(buf[offUUID:], d.uuid)
}

func (f *fakeDM) answer(buf, data []byte) {
	order := binary.NativeEndian
	if f.full > 0 || len(data) > len(buf)-headerSize {
		f.full--
		order.PutUint32(buf[offFlags:], flagBufferFull)
		return
	}
	order.PutUint32(buf[offSize:], uint32(headerSize+copy(buf[headerSize:], data)))
}

func (f *fakeDM) names() []byte {
	var data []byte
	for i, d := range f.devices {
		entry := make([]byte, (12+len(d.name)+1+7)&^7)
		binary.NativeEndian.PutUint64(entry, encodeDev(kernel.DevID{Major: fakeMajor, Minor: d.minor}))
		if i < len(f.devices)-1 {
			binary.NativeEndian.PutUint32(entry[8:], uint32(len(entry)))
		}
		copy(entry[12:], d.name)
		data = append(data, entry...)
	}
	return data
}

func (f *fakeDM) versions() []byte {
	var data []byte
	kinds := []string{"linear", "error"}
	if f.missing != "dm-multipath" {
		kinds = append(kinds, targetKind)
	}
	for i, kind := range kinds {
		entry := make([]byte, (16+len(kind)+1+7)&^7)
		if i < len(kinds)-1 {
			binary.NativeEndian.PutUint32(entry, uint32(len(entry)))
		}
		copy(entry[16:], kind)
		data = append(data, entry...)
	}
	return data
}

// encodeDev is the kernel's huge_encode_dev.
func encodeDev(d kernel.DevID) uint64 {
	return uint64(d.Minor)&0xff | uint64(d.Major)<<8 | uint64(d.Minor)&^0xff<<12
}

// newFake gives a Mapper on a fake whose path devices 259:1 and 259:2 exist.
func newFake(t *testing.T) (*Mapper, *fakeDM) {
	t.Helper()
	root := t.TempDir()
	f := &fakeDM{t: t, fail: map[command]error{}, exists: func(d kernel.DevID) bool {
		return d.Major == 259 && (d.Minor == 1 || d.Minor == 2)
	}}
	fs := kernel.FS{Proc: filepath.Join(root, "proc"), Sys: filepath.Join(root, "sys"), Dev: filepath.Join(root, "dev")}
	for _, dir := range []string{fs.Dev, filepath.Join(fs.Sys, "module/dm_round_robin")} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	m := newMapper(fs, f)
	m.node = func(string, kernel.DevID) error { return nil }
	return m, f
}
