package machine

import (
	"encoding/binary"
	"io"
	"net"
	"net/netip"
	"testing"
	"time"
)

// station is a machine on a network, as far as the network knows.
type station struct {
	net.Conn
	machine *Machine
}

func join(t *testing.T, n *Network) station {
	t.Helper()
	l, file, err := n.plug()
	if err != nil {
		t.Fatal(err)
	}
	conn, err := net.FileConn(file)
	_ = file.Close()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close(); l.unplug() })
	return station{conn, &Machine{link: l}}
}

func (s station) say(t *testing.T, text string) {
	t.Helper()
	if _, err := s.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(text))), text...)); err != nil {
		t.Fatal(err)
	}
}

func (s station) hears(t *testing.T, want string) {
	t.Helper()
	_ = s.SetReadDeadline(time.Now().Add(5 * time.Second))
	buf := make([]byte, 4+len(want))
	if _, err := io.ReadFull(s, buf); err != nil || string(buf[4:]) != want {
		t.Errorf("heard %q, %v; want %q", buf, err, want)
	}
}

func TestNetworkCutAndHeal(t *testing.T) {
	var n Network
	a, b, c := join(t, &n), join(t, &n), join(t, &n)
	a.say(t, "to all")
	b.hears(t, "to all")
	c.hears(t, "to all")

	b.machine.Cut()
	a.say(t, "not to b")
	c.hears(t, "not to b")
	n.spread(b.machine.link, []byte("lost")) // as if b had said it; nobody could know when the network has read it
	b.machine.Heal()
	a.say(t, "again")
	b.hears(t, "again") // and nothing before it
	c.hears(t, "again")
}

// TestNetworkDropsForTheDeaf: a machine that reads nothing, because it is frozen, stops nobody else.
func TestNetworkDropsForTheDeaf(t *testing.T) {
	var n Network
	a, b := join(t, &n), join(t, &n)
	join(t, &n) // never reads
	packet := string(make([]byte, 4<<10))
	for range 2 * queuedPackets {
		a.say(t, packet)
		b.hears(t, packet)
	}
}

func TestNetworkOutOfStep(t *testing.T) {
	var n Network
	a, b := join(t, &n), join(t, &n)
	if _, err := a.Write([]byte{0xff, 0xff, 0xff, 0xff}); err != nil {
		t.Fatal(err)
	}
	_ = a.SetReadDeadline(time.Now().Add(5 * time.Second))
	if _, err := a.Read(make([]byte, 1)); err != io.EOF { //nolint:errorlint // Read gives it bare
		t.Errorf("a stream out of step is not closed: %v", err)
	}
	c := join(t, &n)
	b.say(t, "still there")
	c.hears(t, "still there")
}

func TestHardwareAddressIsStable(t *testing.T) {
	if got := lanMAC(netip.MustParseAddr("192.0.2.17")); got != "52:54:c0:00:02:11" {
		t.Error(got)
	}
}
