package machine

import (
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"sync"
)

// Network is a private Ethernet between machines, a switch in this process: no interface, bridge or socket of the
// host takes part, so several may exist at once and none can be seen from outside. A machine may be started again and
// a link cut without any guest's help. The zero value is ready.
type Network struct {
	mu    sync.Mutex // guards links, and cut in each of them
	links map[*link]struct{}
}

// link is the cable of one machine.
type link struct {
	network *Network
	conn    net.Conn
	queue   chan []byte   // to the machine
	done    chan struct{} // closed when the cable is pulled for good
	once    sync.Once
	cut     bool
}

const (
	// maxPacket bounds a frame, with every offload. A larger length means that the stream is out of step.
	maxPacket = 128 << 10
	// queuedPackets is what the switch holds for a machine that does not read. Then it drops, as Ethernet does: a
	// frozen machine must not stop its peers.
	queuedPackets = 1024
)

// plug gives a machine its cable: the end for QEMU is a file.
func (n *Network) plug() (*link, *os.File, error) {
	conn, theirs, err := socketPair()
	if err != nil {
		return nil, nil, err
	}
	l := &link{network: n, conn: conn, queue: make(chan []byte, queuedPackets), done: make(chan struct{})}
	n.mu.Lock()
	if n.links == nil {
		n.links = map[*link]struct{}{}
	}
	n.links[l] = struct{}{}
	n.mu.Unlock()
	go l.receive()
	go l.transmit()
	return l, theirs, nil
}

// receive takes what the machine sends to all others, each packet behind its length in four bytes, which is QEMU's
// form of Ethernet on a stream. No addresses are learned: that pays for more machines than a test has.
func (l *link) receive() {
	defer l.unplug()
	var size [4]byte
	for {
		if _, err := io.ReadFull(l.conn, size[:]); err != nil {
			return
		}
		length := binary.BigEndian.Uint32(size[:])
		if length > maxPacket {
			return
		}
		packet := make([]byte, 4+length)
		copy(packet, size[:])
		if _, err := io.ReadFull(l.conn, packet[4:]); err != nil {
			return
		}
		l.network.spread(l, packet)
	}
}

func (n *Network) spread(from *link, packet []byte) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if from.cut {
		return
	}
	for to := range n.links {
		if to == from || to.cut {
			continue
		}
		select {
		case to.queue <- packet:
		default:
		}
	}
}

func (l *link) transmit() {
	for {
		select {
		case packet := <-l.queue:
			if _, err := l.conn.Write(packet); err != nil {
				return
			}
		case <-l.done:
			return
		}
	}
}

func (l *link) unplug() {
	l.once.Do(func() {
		l.network.mu.Lock()
		delete(l.network.links, l)
		l.network.mu.Unlock()
		close(l.done)
		_ = l.conn.Close()
	})
}

// Cut lets no packet of this machine through any more, in either direction. The guest sees no loss of carrier, as a
// node does not when a switch further on dies.
func (m *Machine) Cut() { m.setCut(true) }

// Heal undoes Cut.
func (m *Machine) Heal() { m.setCut(false) }

func (m *Machine) setCut(cut bool) {
	m.link.network.mu.Lock()
	defer m.link.network.mu.Unlock()
	m.link.cut = cut
}

// userMAC is the hardware address of the interface on QEMU's user network.
const userMAC = "52:54:00:ff:00:0f"

// lanMAC derives a hardware address from the IPv4 address, so that it is the same each time a machine is started.
func lanMAC(a netip.Addr) string {
	b := a.As4()
	return fmt.Sprintf("52:54:%02x:%02x:%02x:%02x", b[0], b[1], b[2], b[3])
}
