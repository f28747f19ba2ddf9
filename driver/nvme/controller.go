package nvme

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"srvlab.io/rds-csi/safety"
)

// controllerDir is the sysfs directory of one controller, held by its descriptor: everything that is read and written
// through it belongs to that one controller. When the kernel removes it, the descriptor leads nowhere (ENOENT), never
// to the next controller of the same name.
type controllerDir struct {
	fd   int
	path string
}

// openController opens the directory of the controller name and proves that it is a TCP connection to n.
func (h Host) openController(name string, n safety.NQN) (controllerDir, error) {
	d := controllerDir{path: filepath.Join(h.FS.Sys, "class/nvme", name)}
	fd, err := open(unix.AT_FDCWD, d.path, unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return d, err
	}
	d.fd = fd
	if err := d.prove(n); err != nil {
		d.close()
		return d, err
	}
	return d, nil
}

// prove reads who this controller is, through the descriptor.
func (d controllerDir) prove(n safety.NQN) error {
	nqn, errNQN := d.read("subsysnqn")
	transport, errTransport := d.read("transport")
	switch {
	case errNQN != nil || errTransport != nil:
		return fmt.Errorf("could not tell what %s is: %w", d.path, errors.Join(errNQN, errTransport))
	case nqn != string(n):
		return safety.Refuse(safety.ForeignNQN, fmt.Errorf("%s is %q now, not %q", d.path, nqn, n))
	case transport != "tcp":
		return safety.Refuse(safety.ForeignNQN, fmt.Errorf("%s is connected by %q; volumes are by tcp", d.path, transport))
	}
	return nil
}

func (d controllerDir) close() { _ = unix.Close(d.fd) } // a directory opened for reading has nothing to lose

func (d controllerDir) read(attr string) (string, error) {
	fd, err := open(d.fd, attr, unix.O_RDONLY)
	if err != nil {
		return "", err
	}
	defer func() { _ = unix.Close(fd) }()
	buf := make([]byte, 4096) // the largest sysfs attribute
	n, err := uninterrupted(func() (int, error) { return unix.Read(fd, buf) })
	if err != nil {
		return "", &fs.PathError{Op: "read", Path: d.path + "/" + attr, Err: err}
	}
	return strings.TrimSuffix(string(buf[:n]), "\n"), nil
}

// write writes "1" to an attribute: in sysfs, that is the order to do what the attribute is called.
func (d controllerDir) write(attr string) error {
	fd, err := open(d.fd, attr, unix.O_WRONLY)
	if err != nil {
		return err
	}
	_, err = uninterrupted(func() (int, error) { return unix.Write(fd, []byte("1")) })
	if err := errors.Join(err, unix.Close(fd)); err != nil {
		return &fs.PathError{Op: "write", Path: d.path + "/" + attr, Err: err}
	}
	return nil
}

// open is openat(2). Go's os.File would put the descriptor into the runtime's poller, and a blocked write would hold
// more than its thread.
func open(dir int, path string, flags int) (int, error) {
	fd, err := uninterrupted(func() (int, error) { return unix.Openat(dir, path, flags|unix.O_CLOEXEC, 0) })
	if err != nil {
		return -1, &fs.PathError{Op: "open", Path: path, Err: err}
	}
	return fd, nil
}

// uninterrupted repeats a system call that a signal interrupted before it did anything.
func uninterrupted(call func() (int, error)) (int, error) {
	for {
		n, err := call()
		if !errors.Is(err, unix.EINTR) {
			return n, err
		}
	}
}
