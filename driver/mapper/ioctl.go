package mapper

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math"

	"golang.org/x/sys/unix"

	"srvlab.io/rds-csi/safety/kernel"
)

// The binary interface of include/uapi/linux/dm-ioctl.h, version 4. All architectures that Go and Kubernetes share
// encode _IOWR in this way; MIPS and PowerPC do not.

// command is the number of an ioctl of /dev/mapper/control.
type command uint8

const (
	cmdVersion      command = 0
	cmdListDevices  command = 2
	cmdCreate       command = 3
	cmdRemove       command = 4
	cmdSuspend      command = 6 // and resume, without flagSuspend
	cmdTableLoad    command = 9
	cmdTableClear   command = 10
	cmdTableStatus  command = 12
	cmdListVersions command = 13
	cmdTargetMsg    command = 14
)

func (c command) String() string {
	if s := map[command]string{
		cmdVersion: "DM_VERSION", cmdListDevices: "DM_LIST_DEVICES", cmdCreate: "DM_DEV_CREATE",
		cmdRemove: "DM_DEV_REMOVE", cmdSuspend: "DM_DEV_SUSPEND", cmdTableLoad: "DM_TABLE_LOAD",
		cmdTableClear: "DM_TABLE_CLEAR", cmdTableStatus: "DM_TABLE_STATUS", cmdListVersions: "DM_LIST_VERSIONS",
		cmdTargetMsg: "DM_TARGET_MSG",
	}[c]; s != "" {
		return s
	}
	return fmt.Sprintf("DM ioctl %d", uint8(c))
}

// request gives _IOWR(DM_IOCTL, c, struct dm_ioctl).
func (c command) request() uintptr {
	const readWrite, ioctlType = 3, 0xfd
	return readWrite<<30 | headerSize<<16 | ioctlType<<8 | uintptr(c)
}

// Flags of struct dm_ioctl.
const (
	flagSuspend       = 1 << 1
	flagStatusTable   = 1 << 4 // DM_TABLE_STATUS gives the table instead of the state
	flagActivePresent = 1 << 5
	flagBufferFull    = 1 << 8
	flagSkipLockFS    = 1 << 10 // do not freeze the file system: freezing writes, and there may be no path
	flagNoFlush       = 1 << 11 // keep the queued I/O for the next table instead of waiting for it
)

// Offsets in struct dm_ioctl and the sizes of its strings.
const (
	headerSize = 312
	offVersion = 0
	offSize    = 12
	offStart   = 16
	offTargets = 20
	offOpen    = 24
	offFlags   = 28
	offEvent   = 32
	offDev     = 40
	offName    = 48
	offUUID    = 176
	nameSize   = 128
	uuidSize   = 129

	maxUUID = uuidSize - 1
)

// Sizes of struct dm_target_spec and its target_type.
const (
	specSize = 40
	typeSize = 16
)

// control is the device-mapper; it is an interface because only a real kernel has /dev/mapper/control.
type control interface {
	ioctl(c command, buf []byte) error
}

// call is what one ioctl is given.
type call struct {
	name, uuid string // one of them finds the device; DM_DEV_CREATE takes both
	flags      uint32
	event      uint32
	targets    uint32
	data       []byte
}

// reply is what one ioctl gives back.
type reply struct {
	name, uuid string
	dev        kernel.DevID
	open       int32
	flags      uint32
	targets    uint32
	data       []byte
}

// Buffers start at firstBuffer and double while the kernel says that its answer does not fit.
const (
	firstBuffer = 16 << 10
	lastBuffer  = 16 << 20
)

// ioctl makes one call, again with a larger buffer as long as the kernel asks for one.
func ioctl(ctl control, c command, in call) (reply, error) {
	for size := max(firstBuffer, headerSize+len(in.data)); size <= lastBuffer; size *= 2 {
		buf := in.encode(size)
		if err := uninterrupted(func() error { return ctl.ioctl(c, buf) }); err != nil {
			return reply{}, fmt.Errorf("%s: %w", c, err)
		}
		out, err := decode(buf)
		if err != nil {
			return reply{}, fmt.Errorf("%s: %w", c, err)
		}
		if out.flags&flagBufferFull == 0 {
			return out, nil
		}
	}
	return reply{}, fmt.Errorf("%s: the answer is larger than %d bytes", c, lastBuffer)
}

// uninterrupted repeats a system call that a signal interrupted: the Go runtime sends itself SIGURG.
func uninterrupted(f func() error) error {
	for {
		if err := f(); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

func (in call) encode(size int) []byte {
	buf := make([]byte, size)
	order := binary.NativeEndian
	order.PutUint32(buf[offVersion:], 4) // 4.0.0: what is used here is in every version 4
	order.PutUint32(buf[offSize:], uint32(size))
	order.PutUint32(buf[offStart:], headerSize)
	order.PutUint32(buf[offTargets:], in.targets)
	order.PutUint32(buf[offFlags:], in.flags)
	order.PutUint32(buf[offEvent:], in.event)
	copy(buf[offName:offName+nameSize-1], in.name)
	copy(buf[offUUID:offUUID+uuidSize-1], in.uuid)
	copy(buf[headerSize:], in.data)
	return buf
}

func decode(buf []byte) (reply, error) {
	order := binary.NativeEndian
	size, start := order.Uint32(buf[offSize:]), order.Uint32(buf[offStart:])
	start = min(start, size) // an answer without data ends before it would start: data_size is 305 then
	if uint64(size) > uint64(len(buf)) {
		return reply{}, fmt.Errorf("answer with data from %d to %d in a buffer of %d bytes", start, size, len(buf))
	}
	return reply{
		name:    text(buf[offName : offName+nameSize]),
		uuid:    text(buf[offUUID : offUUID+uuidSize]),
		dev:     decodeDev(order.Uint64(buf[offDev:])),
		open:    int32(order.Uint32(buf[offOpen:])),
		flags:   order.Uint32(buf[offFlags:]),
		targets: order.Uint32(buf[offTargets:]),
		data:    buf[start:size],
	}, nil
}

// text gives a C string.
func text(b []byte) string {
	s, _, _ := bytes.Cut(b, []byte{0})
	return string(s)
}

// decodeDev is the kernel's huge_decode_dev.
func decodeDev(dev uint64) kernel.DevID {
	return kernel.DevID{
		Major: uint32(dev & 0xfff00 >> 8),
		Minor: uint32(dev&0xff | dev>>12&0xfff00),
	}
}

// target is one line of a table or of its state.
type target struct {
	start, length uint64 // sectors
	kind          string // multipath
	params        string
}

// encode gives a struct dm_target_spec and the parameters, padded as the kernel wants it.
func (t target) encode() []byte {
	size := (specSize + len(t.params) + 1 + 7) &^ 7
	buf := make([]byte, size)
	order := binary.NativeEndian
	order.PutUint64(buf[0:], t.start)
	order.PutUint64(buf[8:], t.length)
	order.PutUint32(buf[20:], uint32(size))
	copy(buf[24:24+typeSize-1], t.kind)
	copy(buf[specSize:], t.params)
	return buf
}

// decodeTargets reads n struct dm_target_spec. Their `next` counts from the first one's start.
func decodeTargets(data []byte, n uint32) ([]target, error) {
	var list []target
	order := binary.NativeEndian
	at := 0
	for i := range n {
		if at < 0 || at > len(data) || len(data)-at < specSize {
			return nil, fmt.Errorf("target %d of %d: lies outside the answer", i+1, n)
		}
		d := data[at:]
		list = append(list, target{
			start:  order.Uint64(d[0:]),
			length: order.Uint64(d[8:]),
			kind:   text(d[24 : 24+typeSize]),
			params: text(d[specSize:]),
		})
		next := order.Uint32(d[20:])
		if next > math.MaxInt32 {
			return nil, fmt.Errorf("target %d of %d: the next one is said to be at %d", i+1, n, next)
		}
		at = int(next)
	}
	return list, nil
}

// decodeNames reads the struct dm_name_list of DM_LIST_DEVICES: `next` counts from the entry's own start, 0 ends.
func decodeNames(data []byte) ([]string, error) {
	const nameAt = 12 // behind u64 dev and u32 next
	var names []string
	order := binary.NativeEndian
	for len(data) > 0 { // no device: no data
		if len(data) < nameAt+1 {
			return nil, errors.New("list of devices: is cut short")
		}
		names = append(names, text(data[nameAt:]))
		next := order.Uint32(data[8:])
		if next == 0 {
			return names, nil
		}
		if uint64(next) >= uint64(len(data)) {
			return nil, errors.New("list of devices: the next entry lies outside the answer")
		}
		data = data[next:]
	}
	return names, nil
}

// decodeVersions reads the struct dm_target_versions of DM_LIST_VERSIONS and gives the names of the target types.
func decodeVersions(data []byte) ([]string, error) {
	const nameAt = 16 // behind u32 next and u32 version[3]
	var names []string
	for {
		if len(data) < nameAt+1 {
			return nil, errors.New("list of targets: is cut short")
		}
		names = append(names, text(data[nameAt:]))
		next := binary.NativeEndian.Uint32(data)
		if next == 0 {
			return names, nil
		}
		if uint64(next) >= uint64(len(data)) {
			return nil, errors.New("list of targets: the next entry lies outside the answer")
		}
		data = data[next:]
	}
}
