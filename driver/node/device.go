package node

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"srvlab.io/rds-csi/driver/mapper"
	"srvlab.io/rds-csi/driver/nvme"
	"srvlab.io/rds-csi/safety"
	"srvlab.io/rds-csi/safety/kernel"
)

// device is the block device that a volume's users see on this node: its mapping, or the namespace itself where the
// volume has none.
type device struct {
	dev       kernel.DevID
	path      string
	sizeBytes int64
	through   kernel.DevID     // the namespace that I/O reaches; zero: it waits for one
	namespace kernel.Namespace // the same with all that identifies it, where it was looked up
}

const (
	// connectTime bounds the connection and the wait for its namespace.
	connectTime = 30 * time.Second
	// reconnectDelay is how often the kernel knocks at an array that went away.
	reconnectDelay = 2 * time.Second
	// pollTime is the pause between two looks at what the kernel has not announced.
	pollTime = 20 * time.Millisecond
)

// target is what to connect to for a mapping or volume. ctrl_loss_tmo is off: the kernel's default of ten minutes
// ended in read-only file systems.
func (n *Node) target(id mapper.ID) nvme.Target {
	return nvme.Target{
		NQN: n.prefix.Export(id.Slot.UUID(), id.Generation), Address: id.Address, Port: id.Port,
		HostNQN: n.host.NQN(), HostID: n.host.UUID.String(),
		ReconnectDelay: reconnectDelay, CtrlLossTmo: -1,
	}
}

// attach gives the volume's device, connecting and mapping what is not yet. Called again it changes nothing. touched
// says that it has changed something, also where it ends in an error.
func (n *Node) attach(ctx context.Context, v volume) (d device, touched bool, err error) {
	m, mapped, touched, err := n.clear(ctx, v)
	if err != nil {
		return device{}, touched, err
	}
	ns, err := n.connect(ctx, v)
	if err != nil {
		return device{}, true, err
	}
	if !v.queue {
		return n.plain(ns), true, nil
	}
	mp, err := n.mapper()
	if err != nil {
		return device{}, true, err
	}
	switch {
	case !mapped:
		m, err = mp.Create(ctx, v.ID, ns.Dev, ns.SizeBytes)
	case m.Path != ns.Dev || m.SizeBytes < ns.SizeBytes:
		if m, err = n.load(ctx, mp, m, ns); err != nil {
			err = fmt.Errorf("load the mapping of volume %s with %s: %w", v.Slot, ns.Name, err)
		}
	case m.PathFailed:
		err = mp.Reinstate(ctx, m)
	}
	if err != nil {
		return device{}, true, err
	}
	d = mappedDevice(mp, m)
	d.through, d.namespace = ns.Dev, ns
	return d, true, nil
}

func (n *Node) plain(ns kernel.Namespace) device {
	return device{
		dev: ns.Dev, path: filepath.Join(n.fs.Dev, ns.Name), sizeBytes: ns.SizeBytes, through: ns.Dev, namespace: ns,
	}
}

// load gives a mapping the namespace as its path, and its size where it has grown. A namespace that is smaller than
// the mapping was is another volume, or one whose end is gone.
func (n *Node) load(ctx context.Context, mp *mapper.Mapper, m mapper.Mapping, ns kernel.Namespace) (mapper.Mapping, error) {
	if ns.SizeBytes < m.SizeBytes {
		return m, safety.Refuse(safety.WrongDevice, fmt.Errorf("%s has %d bytes, the mapping %s has %d", ns.Name, ns.SizeBytes, m.Name, m.SizeBytes))
	}
	if err := mp.Load(ctx, m, ns.Dev, ns.SizeBytes); err != nil {
		return m, err
	}
	m.Path, m.PathFailed, m.SizeBytes = ns.Dev, false, ns.SizeBytes
	return m, nil
}

// clear takes away what is left of other publications of the volume: a mapping of another generation, whose queued
// writes belong to a time when this node may have been fenced and must never reach the array, and connections under
// other generations' names. What is in use is refused. It gives the mapping of exactly this publication, if there is
// one.
func (n *Node) clear(ctx context.Context, v volume) (m mapper.Mapping, found, touched bool, err error) {
	mp, err := n.mapper()
	if err != nil {
		return mapper.Mapping{}, false, false, err
	}
	m, found, err = mp.Get(ctx, v.Slot)
	if err != nil {
		return mapper.Mapping{}, false, false, err
	}
	if found && m.ID == v.ID && m.SizeBytes == 0 {
		found = false // a driver was killed while it made the mapping; Create takes over
	}
	if found && (m.ID != v.ID || !v.queue) {
		if m.OpenCount > 0 {
			return mapper.Mapping{}, false, false, safety.Refuse(safety.DeviceBusy, fmt.Errorf(
				"mapping %s is of another publication of the volume (generation %d at %s, not %d at %s) and still in use by %s",
				m.Name, m.Generation, m.Address, v.Generation, v.Address, n.users(m.Dev)))
		}
		if err := mp.Remove(ctx, m); err != nil {
			return mapper.Mapping{}, false, true, err
		}
		found, touched = false, true
	}
	others, err := n.connections(v.Slot)
	if err != nil {
		return mapper.Mapping{}, false, touched, err
	}
	for _, nqn := range others {
		if nqn == v.nqn {
			continue
		}
		if err := n.nvme.Disconnect(ctx, nqn); err != nil {
			return mapper.Mapping{}, false, touched, err
		}
		touched = true
	}
	return m, found, touched, nil
}

// users names who uses a device, for an error message.
func (n *Node) users(d kernel.DevID) string {
	u, err := n.fs.Users(d)
	switch {
	case err != nil:
		return "somebody; who could not be told: " + err.Error()
	case u.None():
		return "somebody who left no trace"
	}
	return u.String()
}

// connections gives the NQNs, of whatever generation, under which the volume is connected.
func (n *Node) connections(slot safety.Slot) ([]safety.NQN, error) {
	subsystems, err := n.fs.Subsystems()
	if err != nil {
		return nil, err
	}
	var found []safety.NQN
	for _, s := range subsystems {
		if s.NQN == "" {
			return nil, fmt.Errorf("subsystem %s: could not tell whether it is of volume %s: %w", s.Name, slot, errors.Join(s.Gaps...))
		}
		if uuid, _, managed := n.prefix.Split(s.NQN); managed && uuid == slot.UUID() {
			found = append(found, s.NQN)
		}
	}
	return found, nil
}

// connect connects the volume and gives its namespace, which has at least the volume's size.
func (n *Node) connect(ctx context.Context, v volume) (kernel.Namespace, error) {
	ctx, cancel := context.WithTimeout(ctx, connectTime)
	defer cancel()
	if err := n.nvme.Connect(ctx, n.target(v.ID)); err != nil {
		return kernel.Namespace{}, err
	}
	ns, err := n.nvme.Wait(ctx, v.nqn)
	if err != nil {
		return kernel.Namespace{}, err
	}
	if ns.SizeBytes < v.sizeBytes {
		return kernel.Namespace{}, safety.Refuse(safety.WrongDevice, fmt.Errorf(
			"%s at %s has %d bytes, volume %s has %d", ns.Name, v.nqn, ns.SizeBytes, v.Slot, v.sizeBytes))
	}
	return ns, nil
}

// current gives the device of a publication that is already there, without changing anything.
func (n *Node) current(ctx context.Context, v volume) (device, bool, error) {
	if !v.queue {
		ns, found, err := n.namespace(v.nqn)
		if err != nil || !found {
			return device{}, false, err
		}
		return n.plain(ns), true, nil
	}
	mp, err := n.mapper()
	if err != nil {
		return device{}, false, err
	}
	m, found, err := mp.Get(ctx, v.Slot)
	if err != nil || !found || m.ID != v.ID {
		return device{}, false, err
	}
	return mappedDevice(mp, m), true, nil
}

// namespace gives the one namespace that the kernel has for the NQN. Several are none of ours: an export has one.
func (n *Node) namespace(nqn safety.NQN) (kernel.Namespace, bool, error) {
	subsystems, err := n.fs.Subsystem(nqn)
	if err != nil {
		return kernel.Namespace{}, false, err
	}
	var found []kernel.Namespace
	for _, s := range subsystems {
		found = append(found, s.Namespaces...)
	}
	switch len(found) {
	case 0:
		return kernel.Namespace{}, false, nil
	case 1:
		return found[0], true, nil
	}
	return kernel.Namespace{}, false, safety.Refuse(safety.WrongDevice, fmt.Errorf("%s has %d namespaces, an export has one", nqn, len(found)))
}

// confirm reads again what the device is made of: NQN, namespace, disk sequence number, path of the mapping, sizes.
// Any change since the device was found is a wrong device.
func (n *Node) confirm(ctx context.Context, v volume, d device) error {
	wrong := func(format string, args ...any) error {
		return safety.Refuse(safety.WrongDevice, fmt.Errorf("device of volume %s changed: "+format, append([]any{v.Slot}, args...)...))
	}
	ns, found, err := n.namespace(v.nqn)
	switch {
	case err != nil:
		return err
	case !found:
		return wrong("%s has no namespace any more", v.nqn)
	case ns != d.namespace:
		return wrong("the namespace of %s was %+v and is %+v", v.nqn, d.namespace, ns)
	}
	now, found, err := n.current(ctx, v)
	switch {
	case err != nil:
		return err
	case !found || now.dev != d.dev || now.sizeBytes != d.sizeBytes || now.through != ns.Dev:
		return wrong("it was %s with %d bytes on %s, and is %s with %d on %s",
			d.dev, d.sizeBytes, d.through, now.dev, now.sizeBytes, now.through)
	}
	return nil
}

// holding is a volume as the node has it, whatever the generation: what a call knows that comes without a publish
// context.
type holding struct {
	device
	nqn     safety.NQN
	mapping mapper.Mapping // zero where the volume has none
}

// mapped tells whether there is a mapping over the namespace.
func (h holding) mapped() bool { return h.mapping != (mapper.Mapping{}) }

// held gives the volume as it is on this node; false: it is not staged here. Without a mapping it is the newest
// generation that has a namespace.
func (n *Node) held(ctx context.Context, slot safety.Slot) (holding, bool, error) {
	mp, err := n.mapper()
	if err != nil {
		return holding{}, false, err
	}
	m, found, err := mp.Get(ctx, slot)
	if err != nil {
		return holding{}, false, err
	}
	if found {
		h := holding{nqn: n.prefix.Export(slot.UUID(), m.Generation), mapping: m}
		h.device = mappedDevice(mp, m)
		return h, true, nil
	}
	nqns, err := n.connections(slot)
	if err != nil {
		return holding{}, false, err
	}
	var newest holding
	var generation safety.Generation
	for _, nqn := range nqns {
		ns, connected, err := n.namespace(nqn)
		if err != nil {
			return holding{}, false, err
		}
		if _, g, _ := n.prefix.Split(nqn); connected && (!found || g > generation) {
			newest, generation, found = holding{device: n.plain(ns), nqn: nqn}, g, true
		}
	}
	return newest, found, nil
}

func mappedDevice(mp *mapper.Mapper, m mapper.Mapping) device {
	d := device{dev: m.Dev, path: mp.DevicePath(m), sizeBytes: m.SizeBytes}
	if !m.PathFailed {
		d.through = m.Path
	}
	return d
}
