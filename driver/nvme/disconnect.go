package nvme

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"

	"golang.org/x/sys/unix"

	"srvlab.io/rds-csi/safety"
	"srvlab.io/rds-csi/safety/kernel"
)

// Disconnect ends every connection to n, on a full set of proofs: n is a volume of the managed prefix, nobody else's
// mark is on the controller, nobody uses a block device of it, and the controller whose delete_controller is written
// is the very one whose subsysnqn was read. What cannot be proven is refused. No controller is success. When ctx ends
// first, nothing is deleted any more, unless the Refusal is Touched: then the kernel is at it.
func (h Host) Disconnect(ctx context.Context, n safety.NQN) error {
	if err := h.managed("disconnect", n); err != nil {
		return err
	}
	busy, acted, err := outstanding.run(ctx, h.place(n), "disconnect", func(act func() bool) error {
		return h.disconnect(ctx, n, act)
	})
	switch {
	case busy != "":
		return safety.Refuse(safety.InFlight,
			fmt.Errorf("disconnect %s: the kernel has not answered an earlier %s yet", n, busy))
	case err == nil:
		return nil
	}
	reason := safety.ReasonOf(err)
	if reason == "" {
		reason = safety.DeviceBusy
	}
	if acted {
		return safety.RefuseTouched(reason, fmt.Errorf("disconnect %s: %w", n, err))
	}
	return safety.Refuse(reason, fmt.Errorf("disconnect %s: %w", n, err))
}

func (h Host) disconnect(ctx context.Context, n safety.NQN, act func() bool) error {
	controllers, err := h.controllers(ctx, n)
	if err != nil || len(controllers) == 0 {
		return err
	}
	for _, c := range controllers {
		if err := h.unowned(c.Name); err != nil {
			return err
		}
	}
	release, err := h.claimAll(n)
	defer release()
	if err != nil {
		return err
	}
	for _, c := range controllers {
		if err := h.delete(c.Name, n, act); err != nil {
			return err
		}
		h.warn(h.unmark(c.Name))
	}
	return h.ended(ctx, n)
}

// ended waits until n has no controller: whoever else is deleting it may still be at it when the write returns.
func (h Host) ended(ctx context.Context, n safety.NQN) error {
	for {
		list, err := h.controllers(ctx, n)
		if err != nil || len(list) == 0 {
			return err
		}
		if err := pause(ctx); err != nil {
			return fmt.Errorf("%s is still %s: %w", list[0].Name, list[0].State, err)
		}
	}
}

// unowned refuses a controller that another program has marked as its own.
func (h Host) unowned(controller string) error {
	name, err := h.owner(controller)
	if err != nil {
		return safety.Refuse(safety.ForeignNQN, fmt.Errorf("could not tell who owns %s: %w", controller, err))
	}
	if name != "" && name != owner {
		return safety.Refuse(safety.ForeignNQN, fmt.Errorf("%s is owned by %q in %s", controller, name, h.registry()))
	}
	return nil
}

// claimAll proves that nobody uses a block device of n, and claims each until release is called.
func (h Host) claimAll(n safety.NQN) (release func(), err error) {
	var fds []int
	release = func() {
		for _, fd := range fds {
			_ = unix.Close(fd) // opened for reading
		}
	}
	subsystems, err := h.FS.Subsystem(n)
	if err != nil {
		return release, err
	}
	for _, s := range subsystems {
		for _, ns := range s.Namespaces {
			fd, err := h.claim(ns)
			if err != nil {
				return release, err
			}
			fds = append(fds, fd)
		}
	}
	return release, nil
}

// claim proves that nobody uses the device, and opens it exclusively. With O_EXCL the kernel refuses a device that is
// mounted, swapped on or held by another device, in any mount namespace, and refuses whoever comes to mount or map it
// until the descriptor is closed: the proof still holds when the controller is deleted.
func (h Host) claim(ns kernel.Namespace) (fd int, err error) {
	users, err := h.FS.Users(ns.Dev)
	if err != nil {
		return -1, err
	}
	if !users.None() {
		return -1, safety.Refuse(safety.DeviceBusy, fmt.Errorf("%s is in use: %s", ns.Name, users))
	}
	path := filepath.Join(h.FS.Dev, ns.Name)
	fd, err = open(unix.AT_FDCWD, path, unix.O_RDONLY|unix.O_EXCL)
	if errors.Is(err, unix.EBUSY) {
		return -1, safety.Refuse(safety.DeviceBusy, fmt.Errorf("%s is in use: %w", ns.Name, err))
	}
	if err != nil {
		return -1, fmt.Errorf("could not tell whether %s is in use: %w", ns.Name, err)
	}
	if err := h.stillThere(fd, ns); err != nil {
		return -1, errors.Join(err, unix.Close(fd))
	}
	return fd, nil
}

// stillThere proves that the descriptor is the device ns, and ns the disk that it was: names and numbers are reused.
func (h Host) stillThere(fd int, ns kernel.Namespace) error {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return fmt.Errorf("%s: %w", ns.Name, err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFBLK || st.Rdev != ns.Dev.Rdev() {
		return fmt.Errorf("the node of %s is no block device, or another one than %s", ns.Name, ns.Dev)
	}
	_, _, seq, err := h.FS.BlockDevice(ns.Dev)
	if err != nil {
		return err
	}
	if seq != ns.DiskSeq {
		return fmt.Errorf("%s is another disk now", ns.Name)
	}
	return nil
}

// delete ends one connection. A controller that has gone by itself is as good.
func (h Host) delete(name string, n safety.NQN, act func() bool) error {
	d, err := h.openController(name, n)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer d.close()
	if !act() {
		return context.Canceled // the caller has gone, and was told that nothing happened
	}
	err = d.write("delete_controller")
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENODEV) {
		return nil
	}
	return err
}
