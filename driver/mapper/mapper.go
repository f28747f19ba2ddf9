// Package mapper puts a device-mapper multipath target with one path over a volume's NVMe device, so that I/O waits
// and mounts live when the kernel removes the device; it refuses to look at or touch a mapping that is not its own.
package mapper

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"srvlab.io/rds-csi/safety"
	"srvlab.io/rds-csi/safety/kernel"
)

// Mapping is one of our device-mapper devices as the kernel has it now.
type Mapping struct {
	ID
	Name      string
	Dev       kernel.DevID
	OpenCount int
	Path      kernel.DevID // zero: none
	// PathFailed: the mapping has given its path up, because I/O through it failed. It does not try the path again by
	// itself: Reinstate or Load it. A short outage does this, too: what was in flight when the connection broke comes
	// back with an error, and only what came later waits in the controller.
	PathFailed bool
	Suspended  bool
	// Queueing: without a usable path I/O waits. false: it fails.
	Queueing  bool
	SizeBytes int64 // 0: creation was torn half-way, there is no table
}

// Mapper is the kernel's device-mapper. It keeps no state but the calls under way; its methods may be called from
// several goroutines.
type Mapper struct {
	fs    kernel.FS
	ctl   control
	close func() error
	node  func(path string, d kernel.DevID) error // isNode; tests have no nodes of devices

	mu   sync.Mutex
	busy map[string]string // UUID → what is under way
}

// Open opens /dev/mapper/control. A node without device-mapper is refused with what it needs.
func Open(f kernel.FS) (*Mapper, error) {
	path := filepath.Join(f.Dev, "mapper/control")
	fd, err := unix.Open(path, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, safety.Refuse(safety.NodeUnsuited, fmt.Errorf("device-mapper: %w: the node needs the kernel module dm-mod",
			&fs.PathError{Op: "open", Path: path, Err: err}))
	}
	m := newMapper(f, controlNode{fd})
	m.close = func() error { return unix.Close(fd) }
	if _, err := ioctl(m.ctl, cmdVersion, call{}); err != nil {
		return nil, errors.Join(safety.Refuse(safety.NodeUnsuited, fmt.Errorf("device-mapper: %w", err)), m.Close())
	}
	return m, nil
}

func newMapper(f kernel.FS, ctl control) *Mapper {
	return &Mapper{fs: f, ctl: ctl, close: func() error { return nil }, node: isNode, busy: map[string]string{}}
}

// Close closes the control node; mappings stay.
func (m *Mapper) Close() error { return m.close() }

// DevicePath gives the path of the mapping's device, <Dev>/dm-<minor>. The kernel makes it (devtmpfs), with or without
// udev.
func (m *Mapper) DevicePath(mp Mapping) string {
	return filepath.Join(m.fs.Dev, "dm-"+strconv.FormatUint(uint64(mp.Dev.Minor), 10))
}

// List gives all our mappings, sorted by name. What is not ours is passed over; one of ours that cannot be read is an
// error for the whole list.
func (m *Mapper) List(ctx context.Context) ([]Mapping, error) {
	out, err := ioctl(m.ctl, cmdListDevices, call{})
	if err != nil {
		return nil, fmt.Errorf("list of mappings: %w", err)
	}
	names, err := decodeNames(out.data)
	if err != nil {
		return nil, err
	}
	slices.Sort(names)
	var list []Mapping
	for _, name := range names {
		rest, ours := strings.CutPrefix(name, nameStart)
		slot, _, err := safety.ParseSlot(rest)
		if !ours || err != nil {
			continue
		}
		mp, found, err := m.Get(ctx, slot)
		if err != nil && safety.ReasonOf(err) != safety.ForeignNQN {
			return nil, err
		}
		if found {
			list = append(list, mp)
		}
	}
	return list, nil
}

// Get gives the mapping of a volume and whether there is one. A mapping that has our name and another's UUID is
// refused: it stands where ours would have to be.
func (m *Mapper) Get(ctx context.Context, slot safety.Slot) (Mapping, bool, error) {
	if err := ctx.Err(); err != nil {
		return Mapping{}, false, err
	}
	name := nameOf(slot)
	info, err := ioctl(m.ctl, cmdTableStatus, call{name: name, flags: flagNoFlush})
	if errors.Is(err, unix.ENXIO) {
		return Mapping{}, false, nil
	}
	if err != nil {
		return Mapping{}, false, fmt.Errorf("mapping %s: %w", name, err)
	}
	id, err := ParseUUID(info.uuid)
	if err != nil || id.Slot != slot {
		return Mapping{}, false, safety.Refuse(safety.ForeignNQN,
			fmt.Errorf("mapping %s: has the UUID %q and is not ours", name, info.uuid))
	}
	mp := Mapping{ID: id, Name: name, Dev: info.dev, OpenCount: int(info.open), Suspended: info.flags&flagSuspend != 0}
	if info.flags&flagActivePresent == 0 {
		return mp, true, nil
	}
	tab, err := ioctl(m.ctl, cmdTableStatus, call{uuid: info.uuid, flags: flagNoFlush | flagStatusTable})
	if errors.Is(err, unix.ENXIO) { // removed between the two
		return Mapping{}, false, nil
	}
	if err == nil {
		err = mp.fill(info, tab)
	}
	if err != nil {
		return Mapping{}, false, fmt.Errorf("mapping %s: %w", name, err)
	}
	return mp, true, nil
}

// fill takes what the state and the table of the mapping tell.
func (mp *Mapping) fill(info, tab reply) error {
	state, errState := oneTarget(info)
	table, errTable := oneTarget(tab)
	if err := errors.Join(errState, errTable); err != nil {
		return err
	}
	s, errState := parseState(state.params)
	t, errTable := parseTable(table.params)
	if err := errors.Join(errState, errTable); err != nil {
		return err
	}
	if s.path != t.path {
		return fmt.Errorf("its path changed from %s to %s while it was read", s.path, t.path)
	}
	mp.Path, mp.PathFailed, mp.Queueing = t.path, s.failed, t.queueing
	mp.SizeBytes = int64(table.length) * sectorSize
	return nil
}

const sectorSize = 512

// oneTarget gives the one target that a mapping of ours has.
func oneTarget(r reply) (target, error) {
	list, err := decodeTargets(r.data, r.targets)
	if err != nil {
		return target{}, err
	}
	if len(list) != 1 || list[0].kind != targetKind || list[0].start != 0 || list[0].length > math.MaxInt64/sectorSize {
		return target{}, fmt.Errorf("has %d targets %+v instead of one of type %s", len(list), list, targetKind)
	}
	return list[0], nil
}

// Create makes the mapping of a volume over the device path, and waits for its device node. What it has made is
// removed again when it fails half-way. A mapping of that name which was left without a table is replaced; any other
// is refused.
func (m *Mapper) Create(ctx context.Context, id ID, path kernel.DevID, sizeBytes int64) (Mapping, error) {
	t, err := newTarget(path, sizeBytes)
	if err := errors.Join(err, id.check()); err != nil {
		return Mapping{}, fmt.Errorf("create mapping: %w", err)
	}
	var mp Mapping
	err = m.run(ctx, id.UUID(), "creation", func() error {
		var err error
		mp, err = m.create(ctx, id, t)
		return err
	})
	if err != nil {
		return Mapping{}, fmt.Errorf("create mapping %s: %w", id.Name(), err)
	}
	return mp, nil
}

func (m *Mapper) create(ctx context.Context, id ID, t target) (Mapping, error) {
	if err := m.removeTorn(ctx, id.Slot); err != nil {
		return Mapping{}, err
	}
	if _, err := ioctl(m.ctl, cmdCreate, call{name: id.Name(), uuid: id.UUID()}); err != nil {
		if errors.Is(err, unix.EBUSY) {
			return Mapping{}, safety.Refuse(safety.DeviceBusy, fmt.Errorf("its name is taken: %w", err))
		}
		return Mapping{}, err
	}
	mp, err := m.complete(ctx, id, t)
	if err == nil {
		return mp, nil
	}
	if _, errRemove := ioctl(m.ctl, cmdRemove, call{uuid: id.UUID(), event: quiet}); errRemove != nil {
		return Mapping{}, safety.RefuseTouched(reasonOr(err, safety.DeviceBusy),
			fmt.Errorf("%w; taking the half-made mapping away: %w", err, errRemove))
	}
	return Mapping{}, err
}

// removeTorn removes what a driver killed between DM_DEV_CREATE and DM_TABLE_LOAD has left: nothing can have used it.
func (m *Mapper) removeTorn(ctx context.Context, slot safety.Slot) error {
	mp, found, err := m.Get(ctx, slot)
	if err != nil || !found || mp.SizeBytes > 0 || mp.OpenCount > 0 {
		return err
	}
	_, err = ioctl(m.ctl, cmdRemove, call{uuid: mp.UUID(), event: quiet})
	return err
}

// complete gives a new mapping its table and brings it to life.
func (m *Mapper) complete(ctx context.Context, id ID, t target) (Mapping, error) {
	if err := m.load(id.UUID(), t); err != nil {
		return Mapping{}, err
	}
	if err := m.resume(id.UUID()); err != nil {
		return Mapping{}, err
	}
	mp, found, err := m.Get(ctx, id.Slot)
	if err == nil && !found {
		err = errors.New("is gone again")
	}
	if err != nil {
		return Mapping{}, err
	}
	return mp, m.waitNode(ctx, mp)
}

// nodeTime is how long devtmpfs may take to show a new device's node.
const nodeTime = 5 * time.Second

// waitNode waits until the mapping's device node is there and is the mapping's.
func (m *Mapper) waitNode(ctx context.Context, mp Mapping) error {
	ctx, cancel := context.WithTimeout(ctx, nodeTime)
	defer cancel()
	path := m.DevicePath(mp)
	for {
		err := m.node(path, mp.Dev)
		if err == nil {
			return nil
		}
		if errPause := pause(ctx); errPause != nil {
			return safety.Refuse(safety.NodeUnsuited,
				fmt.Errorf("device node: %w (%w); %s must be the host's devtmpfs", err, errPause, m.fs.Dev))
		}
	}
}

func isNode(path string, d kernel.DevID) error {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return &fs.PathError{Op: "stat", Path: path, Err: err}
	}
	if st.Mode&unix.S_IFMT != unix.S_IFBLK || st.Rdev != d.Rdev() {
		return fmt.Errorf("%s: is not the block device %s", path, d)
	}
	return nil
}

// Load gives the mapping another path, none (the zero DevID: I/O waits), or another size. I/O that waits for a path
// goes on with the new one; none is lost, and no error is seen. The new table is loaded beside the live one, which
// works on until the kernel exchanges them in one call: whatever fails, and whenever this process dies, the mapping
// is never left suspended. A mapping that somebody else has left suspended is resumed.
//
// The exchange waits for I/O that the old path has not answered. Where that hangs, because the path is just
// reconnecting, Load gives control back at ctx's end, and the exchange happens when the path answers.
func (m *Mapper) Load(ctx context.Context, mp Mapping, path kernel.DevID, sizeBytes int64) error {
	t, err := newTarget(path, sizeBytes)
	if err != nil {
		return fmt.Errorf("load mapping %s: %w", mp.Name, err)
	}
	err = m.run(ctx, mp.UUID(), "load", func() error {
		if err := m.load(mp.UUID(), t); err != nil {
			return errors.Join(err, m.resume(mp.UUID()))
		}
		if err := m.resume(mp.UUID()); err != nil {
			_, errClear := ioctl(m.ctl, cmdTableClear, call{uuid: mp.UUID()})
			return errors.Join(err, errClear, m.resume(mp.UUID()))
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("load mapping %s: %w", mp.Name, err)
	}
	return nil
}

// newTarget gives the one target of a table.
func newTarget(path kernel.DevID, sizeBytes int64) (target, error) {
	if sizeBytes <= 0 || sizeBytes%sectorSize != 0 {
		return target{}, fmt.Errorf("size of %d bytes: must be a positive number of sectors of %d", sizeBytes, sectorSize)
	}
	return target{length: uint64(sizeBytes / sectorSize), kind: targetKind, params: multipathTable(path)}, nil
}

// load puts a table beside the live one.
func (m *Mapper) load(uuid string, t target) error {
	_, err := ioctl(m.ctl, cmdTableLoad, call{uuid: uuid, targets: 1, data: t.encode()})
	if err != nil {
		return m.explainLoad(t, err)
	}
	return nil
}

// explainLoad says what the node lacks when the kernel does not take a table: it has EINVAL for everything.
func (m *Mapper) explainLoad(t target, err error) error {
	err = fmt.Errorf("%w for table \"0 %d %s %s\"", err, t.length, t.kind, t.params)
	if !errors.Is(err, unix.EINVAL) {
		return err
	}
	out, errList := ioctl(m.ctl, cmdListVersions, call{})
	if errList != nil {
		return errors.Join(err, errList)
	}
	kinds, errList := decodeVersions(out.data)
	if errList != nil {
		return errors.Join(err, errList)
	}
	missing := ""
	if !slices.Contains(kinds, targetKind) {
		missing = "dm-multipath"
	} else if _, errStat := os.Stat(filepath.Join(m.fs.Sys, "module/dm_round_robin")); errors.Is(errStat, fs.ErrNotExist) {
		missing = "dm-round-robin"
	}
	if missing == "" {
		return err
	}
	return safety.Refuse(safety.NodeUnsuited, fmt.Errorf("%w: the node needs the kernel module %s", err, missing))
}

// resume exchanges the table for a loaded one, if there is one, and has I/O go on.
func (m *Mapper) resume(uuid string) error {
	_, err := ioctl(m.ctl, cmdSuspend, call{uuid: uuid, flags: flagNoFlush | flagSkipLockFS, event: quiet})
	return err
}

// quiet goes with calls that make a uevent. It asks udev to leave the device alone (libdevmapper's flags
// DM_UDEV_DISABLE_SUBSYSTEM_RULES, _DISK_RULES, _OTHER_RULES, _LIBRARY_FALLBACK and DM_UDEV_PRIMARY_SOURCE, in the upper
// half of the cookie): blkid would hang on a device without path, and a guest's LVM or RAID on a raw volume would be
// started by the host.
const quiet = (0x02 | 0x04 | 0x08 | 0x20 | 0x40) << 16

// Message sends a message to the mapping's target, such as "queue_if_no_path".
func (m *Mapper) Message(ctx context.Context, mp Mapping, msg string) error {
	data := append(make([]byte, 8, 8+len(msg)+1), msg...) // struct dm_target_msg: u64 sector, then the text
	err := m.run(ctx, mp.UUID(), "message", func() error {
		_, err := ioctl(m.ctl, cmdTargetMsg, call{uuid: mp.UUID(), data: append(data, 0)})
		return err
	})
	if err != nil {
		return fmt.Errorf("message %q to mapping %s: %w", msg, mp.Name, err)
	}
	return nil
}

// Reinstate has the mapping use its path again, after it had given it up and the same device works again.
func (m *Mapper) Reinstate(ctx context.Context, mp Mapping) error {
	if mp.Path == (kernel.DevID{}) {
		return fmt.Errorf("reinstate the path of mapping %s: it has none", mp.Name)
	}
	return m.Message(ctx, mp, "reinstate_path "+mp.Path.String())
}

// FailIfNoPath ends the waiting: I/O that has no path fails, now and until a Load. It is for a volume that this node
// has lost for good, so that processes and unmounts end.
func (m *Mapper) FailIfNoPath(ctx context.Context, mp Mapping) error {
	return m.Message(ctx, mp, "fail_if_no_path")
}

// busyTime is how long Remove tries while the mapping is open: udev opens devices for a moment. answerTime is how long
// it waits for the kernel beyond that.
const (
	busyTime   = 2 * time.Second
	answerTime = 5 * time.Second
)

// Remove takes the mapping away. One that is open is refused, by the kernel itself, so nobody can open it between a
// check and the act. One that is gone is success. When ctx ends, it tries no more.
func (m *Mapper) Remove(ctx context.Context, mp Mapping) error {
	answer, cancel := context.WithTimeout(context.WithoutCancel(ctx), busyTime+answerTime)
	defer cancel()
	err := m.run(answer, mp.UUID(), "removal", func() error {
		ctx, cancel := context.WithTimeout(ctx, busyTime)
		defer cancel()
		for {
			_, err := ioctl(m.ctl, cmdRemove, call{uuid: mp.UUID(), event: quiet})
			if !errors.Is(err, unix.EBUSY) {
				return err
			}
			if pause(ctx) != nil {
				return m.explainBusy(mp, err)
			}
		}
	})
	if errors.Is(err, unix.ENXIO) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("remove mapping %s: %w", mp.Name, err)
	}
	return nil
}

func (m *Mapper) explainBusy(mp Mapping, err error) error {
	users, errUsers := m.fs.Users(mp.Dev)
	who := users.String()
	switch {
	case errUsers != nil:
		who = errUsers.Error()
	case who == "":
		who = "open, but not to be seen by whom"
	}
	return safety.Refuse(safety.DeviceBusy, fmt.Errorf("%w: %s", err, who))
}

// run runs f in a goroutine and gives its result, or ctx's error if that ends first; f then goes on, because an ioctl
// that the kernel has begun cannot be taken back. Meanwhile every other call for the same mapping is refused.
func (m *Mapper) run(ctx context.Context, uuid, op string, f func() error) error {
	m.mu.Lock()
	other := m.busy[uuid]
	if other == "" {
		m.busy[uuid] = op
	}
	m.mu.Unlock()
	if other != "" {
		return safety.Refuse(safety.InFlight, fmt.Errorf("the kernel has not finished an earlier %s yet", other))
	}
	done := make(chan error, 1) // one place, so that an abandoned f can leave its result and go
	go func() {
		err := f()
		m.mu.Lock()
		delete(m.busy, uuid)
		m.mu.Unlock()
		done <- err
	}()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return safety.RefuseTouched(safety.DeviceBusy,
			fmt.Errorf("the kernel has not finished the %s and goes on: %w", op, ctx.Err()))
	}
}

// poll is how often the kernel is asked again while waiting for it.
const poll = 20 * time.Millisecond

func pause(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(poll):
		return nil
	}
}

func reasonOr(err error, other safety.Reason) safety.Reason {
	if r := safety.ReasonOf(err); r != "" {
		return r
	}
	return other
}
