package routerostest

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// export is a disk's NVMe/TCP export as it is configured. It is reachable while the box is up.
type export struct {
	Export
	size int64 // what initiators see
}

// phase is where the box is between a reboot and its end.
type phase int

const (
	phaseUp       phase = iota
	phaseDown           // neither SSH nor NVMe answers
	phaseListener       // SSH works, the NVMe port answers, nothing is exported yet
	phaseClosed         // for good
)

// off tells whether nothing of the box answers.
func (p phase) off() bool { return p == phaseDown || p == phaseClosed }

// changeExport makes the exports follow a disk's change from old to next.
func (b *Box) changeExport(place string, old, next *disk) error {
	v := b.console.version
	was, is := old.export && !old.disabled, next.export && !next.disabled
	moved := was && is && (old.subsystem(v) != next.subsystem(v) || old.port != next.port)
	renamed := !was || old.subsystem(v) != next.subsystem(v)
	if is && renamed && b.exports[next.subsystem(v)] != nil {
		return b.failure(place, "nqn already in use")
	}
	if was && (!is || moved) {
		if err := b.unexport(old.subsystem(v)); err != nil {
			return b.failure(place, "%v", err)
		}
	}
	var err error
	switch {
	case is && (!was || moved):
		err = b.export(next)
	case is && old.allowHost != next.allowHost:
		err = b.changeHost(next)
	}
	if err != nil {
		return b.failure(place, "%v", err)
	}
	return nil
}

// host is the host NQN that the target is told to let in, "" for every host.
func (b *Box) host(d *disk) string {
	if b.switches.AllowHost == Ignored {
		return ""
	}
	return d.allowHost
}

func (b *Box) export(d *disk) error {
	e := &export{
		Export: Export{
			NQN: d.subsystem(b.console.version), Path: d.file.path, AllowHost: b.host(d), Port: d.port, Slot: d.slot,
			Named: b.switches.TargetModel == Text,
		},
		size: d.size(),
	}
	if b.phase == phaseUp {
		if err := b.opts.Backend.Export(e.Export); err != nil {
			return err
		}
	}
	b.exports[e.NQN] = e
	return nil
}

// unexport ends an export, and with it every connection to it.
func (b *Box) unexport(nqn string) error {
	if b.phase == phaseUp {
		if err := b.opts.Backend.Unexport(nqn); err != nil {
			return err
		}
	}
	delete(b.exports, nqn)
	b.endConnections(func(c *Connection) bool { return c.NQN == nqn })
	return nil
}

// changeHost lets another host in while the export goes on.
func (b *Box) changeHost(d *disk) error {
	e := b.exports[d.subsystem(b.console.version)]
	e.AllowHost = b.host(d)
	if b.switches.AllowHostChange == Ends {
		if err := b.unexport(e.NQN); err != nil {
			return err
		}
		return b.export(d)
	}
	if b.phase != phaseUp {
		return nil
	}
	return b.opts.Backend.SetHost(e.NQN, e.AllowHost)
}

// Connection is an initiator's connection in the model. With the back end nvmet the kernel has the real ones.
type Connection struct {
	NQN, Host string
	box       *Box
	ended     bool
}

// The refusals of Connect.
var (
	ErrNotExported = errors.New("there is no such subsystem")
	ErrHostRefused = errors.New("the subsystem does not allow this host")
)

// Connect is an initiator called host connecting to nqn: ErrDown, ErrNotExported and ErrHostRefused tell what stands in
// its way, although a real target answers the last two alike.
func (b *Box) Connect(host, nqn string) (*Connection, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	e := b.exports[nqn]
	switch {
	case b.phase.off():
		return nil, ErrDown
	case e == nil || b.phase != phaseUp:
		return nil, fmt.Errorf("connect %s: %w", nqn, ErrNotExported)
	case e.AllowHost != "" && e.AllowHost != host:
		return nil, fmt.Errorf("connect %s as %s: %w", nqn, host, ErrHostRefused)
	}
	c := &Connection{NQN: nqn, Host: host, box: b}
	b.conns = append(b.conns, c)
	return c, nil
}

// Alive tells whether the connection still is there.
func (c *Connection) Alive() bool {
	c.box.mu.Lock()
	defer c.box.mu.Unlock()
	return !c.ended
}

// Size gives the size that the initiator sees, 0 when the connection has ended.
func (c *Connection) Size() int64 {
	c.box.mu.Lock()
	defer c.box.mu.Unlock()
	if c.ended {
		return 0
	}
	return c.box.exports[c.NQN].size
}

// Close ends the connection from the initiator's side.
func (c *Connection) Close() {
	c.box.mu.Lock()
	defer c.box.mu.Unlock()
	c.box.endConnections(func(o *Connection) bool { return o == c })
}

func (b *Box) endConnections(which func(*Connection) bool) {
	b.conns = slices.DeleteFunc(b.conns, func(c *Connection) bool {
		if !which(c) {
			return false
		}
		c.ended = true
		return true
	})
}

// Connections lists who is connected to what, sorted: "<host> <nqn>".
func (b *Box) Connections() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	list := make([]string, 0, len(b.conns))
	for _, c := range b.conns {
		list = append(list, c.Host+" "+c.NQN)
	}
	slices.Sort(list)
	return list
}

// Reboot takes the box down: every connection, of SSH and of NVMe, ends at once. After down it answers again; the NVMe
// port does so for listenerFirst before the exports exist, which is what makes a kernel give up a controller for good
// (facts/vm.md). A reboot during a reboot starts it anew. An error is the back end's, and the box is down all the same.
func (b *Box) Reboot(down, listenerFirst time.Duration) error {
	watchers, err := b.goDown(down, listenerFirst)
	for _, told := range watchers { // without the lock: a Server has one of its own
		told()
	}
	return err
}

func (b *Box) goDown(down, listenerFirst time.Duration) (watchers []func(), err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.phase == phaseClosed {
		return nil, ErrDown
	}
	if b.restart != nil {
		b.restart.Stop()
	}
	var errs []error
	if b.phase == phaseUp {
		for nqn := range b.exports {
			errs = append(errs, b.opts.Backend.Unexport(nqn))
		}
	}
	errs = append(errs, b.opts.Backend.Listen(false))
	b.phase = phaseDown
	b.endConnections(func(*Connection) bool { return true })
	b.restart = time.AfterFunc(down, func() { b.comeBack(listenerFirst) })
	return slices.Collect(maps.Values(b.watchers)), errors.Join(errs...)
}

// comeBack is the second half of a reboot. What the back end refuses then is kept for Trouble.
func (b *Box) comeBack(listenerFirst time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.phase != phaseDown {
		return
	}
	b.started = b.now()
	if listenerFirst <= 0 {
		b.restore()
		return
	}
	b.phase = phaseListener
	b.note(b.opts.Backend.Listen(true))
	b.restart = time.AfterFunc(listenerFirst, func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		if b.phase == phaseListener {
			b.restore()
		}
	})
}

// restore exports again what is configured.
func (b *Box) restore() {
	b.phase = phaseUp
	for _, e := range b.exports {
		if d := b.exporter(e.NQN); d != nil {
			e.size = d.size()
		}
		b.note(b.opts.Backend.Export(e.Export))
	}
	b.note(b.opts.Backend.Listen(false))
}

func (b *Box) exporter(nqn string) *disk {
	for _, d := range b.disks {
		if d.export && d.subsystem(b.console.version) == nqn {
			return d
		}
	}
	return nil
}

func (b *Box) note(err error) {
	if err != nil {
		b.trouble = errors.Join(b.trouble, err)
	}
}

// Trouble gives what the back end refused while nobody waited for an answer: the exports after a reboot.
func (b *Box) Trouble() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.trouble
}

// Phase tells whether the box is "up", "down", in the time of "listener" without exports, or "closed".
func (b *Box) Phase() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return [...]string{"up", "down", "listener", "closed"}[b.phase]
}

func (b *Box) down() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.phase.off()
}

// SetPool changes whether a pool is mounted and its state ("": as it is), as a RAID that degrades or is stopped does.
func (b *Box) SetPool(slot string, mounted bool, state string) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, d := range b.disks {
		if d.pool != nil && d.slot == slot {
			d.pool.Unmounted = !mounted
			setIf(&d.pool.State, state)
			return nil
		}
	}
	return fmt.Errorf("pool %q: there is none", slot)
}

func setIf(field *string, val string) {
	if val = strings.TrimSpace(val); val != "" {
		*field = val
	}
}

// watch has told called at each reboot until stop is called.
func (b *Box) watch(told func()) (stop func()) {
	b.mu.Lock()
	defer b.mu.Unlock()
	id := b.watchID
	b.watchID++
	b.watchers[id] = told
	return func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		delete(b.watchers, id)
	}
}
