package mapper

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// controlNode is an open /dev/mapper/control.
type controlNode struct{ fd int }

func (c controlNode) ioctl(cmd command, buf []byte) error {
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(c.fd), cmd.request(), uintptr(unsafe.Pointer(&buf[0])))
	if errno != 0 {
		return errno
	}
	return nil
}
