// Package nvme makes and ends NVMe/TCP connections by writing to /dev/nvme-fabrics and sysfs; it refuses whatever is
// not exactly a volume of the managed prefix, and a disconnect of anything that may still be in use.
package nvme

import (
	"context"
	"errors"
	"fmt"
	"time"

	"srvlab.io/rds-csi/safety"
	"srvlab.io/rds-csi/safety/kernel"
)

// Host is the node's NVMe initiator. It keeps nothing: what is connected is read from the kernel each time. The zero
// Prefix manages nothing, so the zero Host refuses everything.
type Host struct {
	FS     kernel.FS
	Prefix safety.Prefix
	// Registry is the directory of nvme-cli 3's ownership registry; "" is /run/nvme/registry.
	Registry string
	// Warn hears of what went wrong without stopping the act: a mark in the registry that could not be written.
	// nil: nobody hears of it.
	Warn func(error)
}

// poll is how often sysfs is looked at while waiting for the kernel. There is no event to wait for that works in every
// pod: uevents need the host's network namespace.
const poll = 20 * time.Millisecond

// settle is how long an unreadable sysfs may be the kernel taking a device down: the attributes go before the
// directory does.
const settle = 500 * time.Millisecond

// managed refuses every NQN that is not one that Prefix.Export gives. That the prefix matches is not enough: a name
// which only starts like ours was made by somebody else.
func (h Host) managed(op string, n safety.NQN) error {
	if _, _, ok := h.Prefix.Split(n); !ok {
		return safety.Refuse(safety.ForeignNQN, fmt.Errorf("%s %q: is no volume of the managed prefix %q", op, n, h.Prefix))
	}
	return nil
}

func (h Host) warn(err error) {
	if err != nil && h.Warn != nil {
		h.Warn(err)
	}
}

// controllers gives the controllers of n, trying again for a moment while one that could be n cannot be read.
func (h Host) controllers(ctx context.Context, n safety.NQN) ([]kernel.Controller, error) {
	ctx, cancel := context.WithTimeout(ctx, settle)
	defer cancel()
	for {
		list, err := h.FS.Controllers(n)
		if err == nil {
			return list, nil
		}
		if pause(ctx) != nil {
			return nil, err
		}
	}
}

// pause waits one poll, or gives ctx's error.
func pause(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(poll):
		return nil
	}
}

// Wait waits until n has a live controller and exactly one namespace with a size, and gives that namespace. The
// Refusal at ctx's end says what was missing.
func (h Host) Wait(ctx context.Context, n safety.NQN) (kernel.Namespace, error) {
	if err := h.managed("wait for", n); err != nil {
		return kernel.Namespace{}, err
	}
	for {
		ns, missing := h.ready(n)
		if missing == nil {
			return ns, nil
		}
		if err := pause(ctx); err != nil {
			reason := safety.ReasonOf(missing)
			if reason == "" {
				reason = safety.PathLost
			}
			return kernel.Namespace{}, safety.RefuseTouched(reason, fmt.Errorf("wait for %s: %w (%w)", n, missing, err))
		}
	}
}

// ready gives n's namespace, or what is missing yet.
func (h Host) ready(n safety.NQN) (kernel.Namespace, error) {
	subsystems, err := h.FS.Subsystem(n)
	if err != nil {
		return kernel.Namespace{}, err
	}
	var namespaces []kernel.Namespace
	states := ""
	live := false
	for _, s := range subsystems {
		namespaces = append(namespaces, s.Namespaces...)
		for _, c := range s.Controllers {
			states += " " + c.Name + "=" + c.State
			live = live || c.State == stateLive
		}
	}
	switch {
	case states == "":
		return kernel.Namespace{}, errors.New("there is no controller")
	case !live:
		return kernel.Namespace{}, fmt.Errorf("no controller is live:%s", states)
	case len(namespaces) == 0:
		return kernel.Namespace{}, fmt.Errorf("there is no namespace:%s", states)
	case len(namespaces) > 1: // a volume is exported as one namespace; which of several is it?
		return kernel.Namespace{}, safety.Refuse(safety.WrongDevice,
			fmt.Errorf("there are %d namespaces instead of one", len(namespaces)))
	case namespaces[0].SizeBytes == 0:
		return kernel.Namespace{}, fmt.Errorf("namespace %s has no size yet", namespaces[0].Name)
	}
	return namespaces[0], nil
}

// Rescan has the kernel ask the target again for n's namespaces and their sizes. It returns before the kernel has.
func (h Host) Rescan(ctx context.Context, n safety.NQN) error {
	if err := h.managed("rescan", n); err != nil {
		return err
	}
	list, err := h.controllers(ctx, n)
	if err != nil {
		return fmt.Errorf("rescan: %w", err)
	}
	if len(list) == 0 {
		return safety.Refuse(safety.PathLost, fmt.Errorf("rescan %s: there is no controller", n))
	}
	var errs []error
	for _, c := range list {
		errs = append(errs, h.rescan(c.Name, n))
	}
	return errors.Join(errs...)
}

func (h Host) rescan(name string, n safety.NQN) error {
	d, err := h.openController(name, n)
	if err != nil {
		return fmt.Errorf("rescan %s: %w", n, err)
	}
	defer d.close()
	if err := d.write("rescan_controller"); err != nil {
		return safety.Refuse(safety.PathLost, fmt.Errorf("rescan %s: %w", n, err))
	}
	return nil
}
