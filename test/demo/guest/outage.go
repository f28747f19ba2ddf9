package guest

import (
	"context"
	"errors"
	"fmt"
	"regexp"

	"srvlab.io/rds-csi/test/demo/record"
)

// The array is down for a moment, as a box that starts anew; then its listener answers for long enough that the node's
// kernel, which knocks every two seconds, is refused for certain before the exports are back.
const rebootCommand = "reboot down=4s listener-first=12s"

// reboot takes the array down and waits until the node's kernel has noticed.
func (d *demo) reboot(ctx context.Context) (_ []string, err error) {
	v, o := &d.volume, &d.report.Outage
	if d.report.Before, err = device(ctx, v.nqn, v.slot); err != nil {
		return nil, err
	}
	if err := now(&o.Began); err != nil {
		return nil, err
	}
	if err := d.stack.Command(ctx, rebootCommand); err != nil {
		return nil, err
	}
	err = until(ctx, "the kernel to lose the connection", func() (bool, error) {
		s, err := standing(v.nqn, "")
		return errors.Is(err, errGone) || err == nil && s.State != "live", err
	})
	if err != nil {
		return nil, err
	}
	if err := now(&o.ConnectionLost); err != nil {
		return nil, err
	}
	up, err := listening(arrayPortal)
	if err != nil {
		return nil, err
	}
	if up {
		return nil, fmt.Errorf("the array is down, and yet somebody listens on %s", arrayPortal)
	}
	return controllers(v.nqn), nil
}

// removed is what the kernel logs when a reconnect was answered with do-not-retry, and it gives the controller up
// (drivers/nvme/host/tcp.c, nvme_tcp_reconnect_or_remove).
func removed(controller string) *regexp.Regexp {
	return regexp.MustCompile(regexp.QuoteMeta(controller) + `: Removing controller`)
}

// removal waits for the listener, and then until controller and block device are gone. They must go before the exports
// are back.
func (d *demo) removal(ctx context.Context) ([]string, error) {
	v, o := &d.volume, &d.report.Outage
	err := until(ctx, "the array's listener", func() (bool, error) { return listening(arrayPortal) })
	if err != nil {
		return nil, err
	}
	if err := now(&o.ListenerBack); err != nil {
		return nil, err
	}
	b := d.report.Before
	err = until(ctx, fmt.Sprintf("the kernel to remove %s and %s", b.Controller, b.Name), func() (bool, error) {
		there, err := inSysfs(b.Controller, b.Name)
		if err != nil || !there {
			return !there, err
		}
		back, err := exported(v.nqn)
		if back {
			err = final{errors.New("the exports are back, and it has not")}
		}
		return false, err
	})
	if err != nil {
		return nil, err
	}
	if err := now(&o.ControllerRemoved); err != nil {
		return nil, err
	}
	seen := append(controllers(v.nqn), fmt.Sprintf("sysfs: neither %s nor %s is there", b.Controller, b.Name))
	m, err := readMapping(ctx, v.slot)
	if err != nil {
		return seen, err
	}
	mounts, err := mounted(v.target, 1)
	return append(append(seen, m.Lines...), mounts...), err
}

// repair waits for the exports, and then for the driver, which is told nothing.
func (d *demo) repair(ctx context.Context) ([]string, error) {
	v, o := &d.volume, &d.report.Outage
	for _, line := range d.kernel.since(o.ListenerBack, removed(d.report.Before.Controller)) {
		o.KernelLine = line.String()
	}
	if err := until(ctx, "the array's export", func() (bool, error) { return exported(v.nqn) }); err != nil {
		return nil, err
	}
	if err := now(&o.ExportsBack); err != nil {
		return nil, err
	}
	err := until(ctx, "the driver to lead the mapping to a live device", func() (_ bool, err error) {
		d.report.After, err = device(ctx, v.nqn, v.slot)
		return err == nil, err
	})
	if err != nil {
		return nil, err
	}
	if err := now(&o.Repaired); err != nil {
		return nil, err
	}
	return d.path(ctx, v.target)
}

// goOn waits until the write that met the outage was acknowledged, and fifty after it.
func (d *demo) goOn(ctx context.Context) ([]string, error) {
	w, o := d.volume.writer, &d.report.Outage
	err := until(ctx, "the write that met the outage to end", func() (bool, error) {
		log, err := w.log()
		for _, one := range log {
			if one.Begin.Seconds() < o.ExportsBack && one.End.Seconds() > o.ExportsBack {
				o.WriterWentOn = one.End.Seconds()
			}
		}
		return o.WriterWentOn > 0, err
	})
	if err != nil {
		return nil, err
	}
	if err := w.more(ctx, 50); err != nil {
		return nil, err
	}
	return w.soFar()
}

// now reads the clock into a field of the report.
func now(at *float64) error {
	t, err := record.Clock()
	*at = t.Seconds()
	return err
}
