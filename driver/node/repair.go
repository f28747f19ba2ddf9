package node

import (
	"context"
	"errors"
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync"
	"time"

	"srvlab.io/rds-csi/driver/mapper"
	"srvlab.io/rds-csi/safety"
	"srvlab.io/rds-csi/safety/kernel"
)

const (
	// repairPeriod is how often the mappings are looked at. The kernel announces some of what happens to a connection,
	// but a lost announcement must cost latency only.
	repairPeriod = 2 * time.Second
	// cureTime bounds the repair of one volume, which holds the volume's in-flight mark.
	cureTime = 15 * time.Second
	// doorTime is how long an array has to accept a TCP connection before it counts as away.
	doorTime = 2 * time.Second
	// firstDelay and lastDelay bound the back-off. The longest pause is short, because all of it may be added to the
	// outage that the application sees, and an attempt is cheap: one TCP connection and one refused Connect, where the
	// kernel itself knocks every reconnectDelay for as long as it has the controller.
	firstDelay = time.Second
	lastDelay  = 5 * time.Second
)

// stateLive is a controller that takes I/O. The other states of sysfs end by themselves: the kernel is making the
// connection, making it again, or taking it down.
const stateLive = "live"

// Repair gives mappings their path back until ctx ends: it connects volumes whose controller the kernel has removed,
// and loads the mapping with the namespace, whatever its name is now. It never writes to a volume and never lets
// queued I/O fail: an array that refuses may have fenced this node or may not yet export the volume, and the kernel's
// error is the same for both.
func (n *Node) Repair(ctx context.Context) error {
	r := repair{node: n, portals: map[netip.AddrPort]*portalState{}}
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			r.running.Wait()
			return nil
		case now := <-timer.C:
			r.pass(ctx, now)
			timer.Reset(repairPeriod)
		}
	}
}

// repair is the memory of the loop: when to try again and what has been said. Losing it costs nothing.
type repair struct {
	node    *Node
	portals map[netip.AddrPort]*portalState
	running sync.WaitGroup
	said    string // the last error that was not about one volume
}

// portalState is what is remembered of an array's portal. While busy it belongs to the goroutine that works on it.
type portalState struct {
	busy    chan struct{} // full while a goroutine works on it
	door    backoff
	shut    bool
	volumes map[safety.Slot]*volumeState
}

type volumeState struct {
	backoff backoff
	said    string
}

// pass looks at all mappings once, and has each array's ailing ones cured one after the other. A portal that is still
// being worked on is left for the next pass.
func (r *repair) pass(ctx context.Context, now time.Time) {
	mappings, subsystems, err := r.node.look(ctx)
	r.report(err)
	if err != nil {
		return
	}
	byPortal := map[netip.AddrPort][]mapper.Mapping{}
	for _, m := range mappings {
		p := netip.AddrPortFrom(m.Address, m.Port)
		byPortal[p] = append(byPortal[p], m)
	}
	for address, list := range byPortal {
		p := r.portals[address]
		if p == nil {
			p = &portalState{busy: make(chan struct{}, 1), volumes: map[safety.Slot]*volumeState{}}
			r.portals[address] = p
		}
		select {
		case p.busy <- struct{}{}:
		default:
			continue
		}
		r.running.Go(func() {
			defer func() { <-p.busy }()
			r.node.repairPortal(ctx, p, address, list, subsystems, now)
		})
	}
	for address := range r.portals {
		if byPortal[address] == nil && len(r.portals[address].busy) == 0 {
			delete(r.portals, address)
		}
	}
}

func (r *repair) report(err error) {
	text := ""
	if err != nil {
		text = err.Error()
	}
	if text != r.said && err != nil {
		r.node.log.Warn("repair cannot see the volumes", "op", "repair", "reason", string(safety.ReasonOf(err)), "err", err)
	}
	r.said = text
}

func (n *Node) look(ctx context.Context) ([]mapper.Mapping, []kernel.Subsystem, error) {
	mp, err := n.mapper()
	if err != nil {
		return nil, nil, err
	}
	mappings, err := mp.List(ctx)
	if err != nil || len(mappings) == 0 {
		return nil, nil, err
	}
	subsystems, err := n.fs.Subsystems()
	return mappings, subsystems, err
}

func (n *Node) repairPortal(
	ctx context.Context, p *portalState, address netip.AddrPort, list []mapper.Mapping, subsystems []kernel.Subsystem, now time.Time,
) {
	p.forget(list)
	knocked := false
	for _, m := range list {
		if ctx.Err() != nil {
			return
		}
		a, _ := n.diagnose(m, subsystems)
		if a == gone && !knocked {
			knocked = true
			p.knock(ctx, address, m.Array, now)
		}
		n.attend(ctx, p.volume(m.Slot), m, a, p.shut, now)
	}
}

// attend does for one volume what its state asks for.
func (n *Node) attend(ctx context.Context, v *volumeState, m mapper.Mapping, a ailment, shut bool, now time.Time) {
	switch {
	case a == healthy || a == settling:
		v.backoff = backoff{}
		n.say(v, m, a, nil)
		return
	case a == gone && shut:
		n.say(v, m, away, nil)
		return
	case !v.backoff.due(now):
		return
	}
	err := n.cure(ctx, m)
	if safety.ReasonOf(err) == safety.InFlight {
		return // a call works on the volume, or the kernel still does what it was last told
	}
	// Also after a success: whether it has helped, the next pass sees. Where the array answers with errors the path is
	// given up again at once.
	v.backoff.fail(now)
	n.say(v, m, a, err)
}

// knock finds out whether the array's portal accepts connections. While it does not, no volume of it is tried: each
// would wait for the array's silence in turn. When it opens again every volume may try at once.
func (p *portalState) knock(ctx context.Context, address netip.AddrPort, array safety.ArrayName, now time.Time) {
	if !p.door.due(now) {
		return
	}
	if err := dial(ctx, Portal{Array: array, Address: address}, doorTime); err != nil {
		p.shut = true
		p.door.fail(now)
		return
	}
	p.door = backoff{}
	if p.shut {
		p.shut = false
		for _, v := range p.volumes {
			v.backoff = backoff{}
		}
	}
}

// forget drops what is remembered of volumes that are no longer here.
func (p *portalState) forget(list []mapper.Mapping) {
	for slot := range p.volumes {
		if !slices.ContainsFunc(list, func(m mapper.Mapping) bool { return m.Slot == slot }) {
			delete(p.volumes, slot)
		}
	}
}

func (p *portalState) volume(slot safety.Slot) *volumeState {
	v := p.volumes[slot]
	if v == nil {
		v = &volumeState{said: string(healthy)}
		p.volumes[slot] = v
	}
	return v
}

// ailment is what a mapping suffers from, as the log says it.
type ailment string

const (
	// healthy: I/O reaches the namespace.
	healthy ailment = "healthy"
	// settling: the kernel is connecting by itself.
	settling ailment = "the kernel reconnects"
	// gone: no controller, no namespace.
	gone ailment = "not connected"
	// away: the same, and the array's portal does not answer.
	away ailment = "not connected, the array does not answer"
	// empty: connected, and without a namespace.
	empty ailment = "connected without a namespace"
	// failed: the namespace is there, but the mapping has given its path up.
	failed ailment = "path failed"
	// moved: the namespace has another number than the mapping's path, or the mapping was left suspended.
	moved ailment = "path to another device"
	// failing: I/O reaches the namespace, but would fail instead of waiting without it.
	failing ailment = "does not queue"
	// untold: the kernel's answer cannot be read.
	untold ailment = "could not be told"
)

// diagnose compares a mapping with what the kernel has under its NQN.
func (n *Node) diagnose(m mapper.Mapping, subsystems []kernel.Subsystem) (ailment, kernel.Namespace) {
	nqn := n.prefix.Export(m.Slot.UUID(), m.Generation)
	var namespaces []kernel.Namespace
	live, nameless, controllers := false, false, 0
	for _, s := range subsystems {
		nameless = nameless || s.NQN == ""
		if s.NQN != nqn {
			continue
		}
		if len(s.Gaps) > 0 {
			return untold, kernel.Namespace{}
		}
		namespaces = append(namespaces, s.Namespaces...)
		controllers += len(s.Controllers)
		live = live || slices.ContainsFunc(s.Controllers, func(c kernel.Controller) bool { return c.State == stateLive })
	}
	switch {
	case controllers == 0 && nameless: // it may be the one whose name could not be read
		return untold, kernel.Namespace{}
	case controllers == 0:
		return gone, kernel.Namespace{}
	case !live:
		return settling, kernel.Namespace{}
	case len(namespaces) == 0:
		return empty, kernel.Namespace{}
	case len(namespaces) > 1:
		return untold, kernel.Namespace{}
	}
	return condition(m, namespaces[0]), namespaces[0]
}

// condition compares a mapping with the namespace that it should have as its path.
func condition(m mapper.Mapping, ns kernel.Namespace) ailment {
	switch {
	case m.Path != ns.Dev || m.Suspended:
		return moved
	case m.PathFailed:
		return failed
	case !m.Queueing && m.OpenCount > 0:
		return failing
	}
	return healthy
}

// cure repairs one mapping under the volume's in-flight mark. What the mark has been waited for may have changed
// everything, so all is read again.
func (n *Node) cure(ctx context.Context, m mapper.Mapping) error {
	leave, err := n.inFlight.Enter(m.Slot, "repair")
	if err != nil {
		return err
	}
	defer leave()
	ctx, cancel := context.WithTimeout(ctx, cureTime)
	defer cancel()
	mp, err := n.mapper()
	if err != nil {
		return err
	}
	now, found, err := mp.Get(ctx, m.Slot)
	if err != nil || !found || now.ID != m.ID || now.SizeBytes == 0 {
		return err
	}
	subsystems, err := n.fs.Subsystems()
	if err != nil {
		return err
	}
	if !now.Queueing && now.OpenCount > 0 { // a driver was killed between mkfs and mount; see queueing
		if err := mp.Message(ctx, now, "queue_if_no_path"); err != nil {
			return err
		}
	}
	a, ns := n.diagnose(now, subsystems)
	return n.treat(ctx, mp, now, a, ns)
}

// treat does what one ailment asks for.
func (n *Node) treat(ctx context.Context, mp *mapper.Mapper, m mapper.Mapping, a ailment, ns kernel.Namespace) error {
	nqn := n.target(m.ID).NQN
	switch a {
	case failed:
		return mp.Reinstate(ctx, m)
	case gone:
		var err error
		if ns, err = n.connect(ctx, volume{ID: m.ID, nqn: nqn, sizeBytes: m.SizeBytes}); err != nil {
			return err
		}
		_, err = n.load(ctx, mp, m, ns)
		return err
	case moved:
		_, err := n.load(ctx, mp, m, ns)
		return err
	case empty:
		return errors.Join(errNoNamespace, n.nvme.Rescan(ctx, nqn))
	case untold:
		return errUntold
	default: // healthy, or on its way
		return nil
	}
}

var (
	errNoNamespace = errors.New("connected, but the array shows no namespace")
	errUntold      = errors.New("what the kernel has of the volume could not be read")
)

// say logs a change of a volume's state, once.
func (n *Node) say(v *volumeState, m mapper.Mapping, a ailment, err error) {
	state := string(a)
	if err != nil {
		state += string(safety.ReasonOf(err))
	} else {
		err = errors.New(string(a))
	}
	if state == v.said {
		return
	}
	v.said = state
	id := safety.VolumeID{Array: m.Array, Slot: m.Slot}
	log := n.log.With("volume", id.String(), "nqn", string(n.target(m.ID).NQN), "op", "repair")
	if a == healthy {
		log.Info("path is back")
		return
	}
	log.Warn("path is lost", "reason", string(safety.PathLost), "err", err)
}

// backoff says when to try again. The zero value says at once.
type backoff struct {
	fails int
	until time.Time
}

func (b *backoff) due(now time.Time) bool { return !now.Before(b.until) }

// fail doubles the delay, up to lastDelay. A random part of up to half of it keeps the nodes of a cluster from knocking
// at a returning array all at once.
func (b *backoff) fail(now time.Time) {
	delay := min(firstDelay<<min(b.fails, 10), lastDelay)
	b.fails++
	b.until = now.Add(delay - rand.N(delay/2+1)) //nolint:gosec // spreads load, keeps no secret
}
