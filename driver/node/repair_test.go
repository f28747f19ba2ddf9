package node

import (
	"errors"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"srvlab.io/rds-csi/driver/mapper"
	"srvlab.io/rds-csi/safety"
	"srvlab.io/rds-csi/safety/kernel"
)

func TestDiagnose(t *testing.T) {
	n := testNode(t)
	m := mapper.Mapping{
		ID:   mapper.ID{Slot: safety.SlotOf(testUUID), Generation: 3},
		Path: kernel.DevID{Major: 259, Minor: 1}, SizeBytes: 1 << 30, Queueing: true, OpenCount: 1,
	}
	nqn := n.prefix.Export(testUUID, 3)
	same := kernel.Namespace{Name: "nvme0n1", Dev: m.Path}
	other := kernel.Namespace{Name: "nvme3n2", Dev: kernel.DevID{Major: 259, Minor: 4}}
	sub := func(state string, namespaces ...kernel.Namespace) kernel.Subsystem {
		return kernel.Subsystem{NQN: nqn, Controllers: []kernel.Controller{{Name: "nvme0", State: state}}, Namespaces: namespaces}
	}
	with := func(change func(*mapper.Mapping)) mapper.Mapping { c := m; change(&c); return c }
	for _, c := range []struct {
		name string
		m    mapper.Mapping
		subs []kernel.Subsystem
		want ailment
	}{
		{"as it should be", m, []kernel.Subsystem{sub("live", same)}, healthy},
		{"reconnecting", m, []kernel.Subsystem{sub("connecting", same)}, settling},
		{"being taken down", m, []kernel.Subsystem{sub("deleting (no IO)")}, settling},
		{"no subsystem", m, nil, gone},
		{"another generation only", m, []kernel.Subsystem{{NQN: n.prefix.Export(testUUID, 4), Controllers: []kernel.Controller{{State: "live"}}}}, gone},
		{"held subsystem without a controller", m, []kernel.Subsystem{{NQN: nqn}}, gone},
		{"one that could not be named", m, []kernel.Subsystem{{Gaps: []error{errors.New("EIO")}}}, untold},
		{"healthy beside one that could not be named", m, []kernel.Subsystem{{Gaps: []error{errors.New("EIO")}}, sub("live", same)}, healthy},
		{"known in part", m, []kernel.Subsystem{{NQN: nqn, Gaps: []error{errors.New("EIO")}}}, untold},
		{"no namespace", m, []kernel.Subsystem{sub("live")}, empty},
		{"two namespaces", m, []kernel.Subsystem{sub("live", same, other)}, untold},
		{"another name", m, []kernel.Subsystem{sub("live", other)}, moved},
		{"no path", with(func(m *mapper.Mapping) { m.Path = kernel.DevID{} }), []kernel.Subsystem{sub("live", same)}, moved},
		{"left suspended", with(func(m *mapper.Mapping) { m.Suspended = true }), []kernel.Subsystem{sub("live", same)}, moved},
		{"in use and not queueing", with(func(m *mapper.Mapping) { m.Queueing = false }), []kernel.Subsystem{sub("live", same)}, failing},
		{"being formatted", with(func(m *mapper.Mapping) { m.Queueing, m.OpenCount = false, 0 }), []kernel.Subsystem{sub("live", same)}, healthy},
		{"path given up", with(func(m *mapper.Mapping) { m.PathFailed = true }), []kernel.Subsystem{sub("live", same)}, failed},
		{"path given up while reconnecting", with(func(m *mapper.Mapping) { m.PathFailed = true }), []kernel.Subsystem{sub("connecting", same)}, settling},
	} {
		if got, _ := n.diagnose(c.m, c.subs); got != c.want {
			t.Errorf("%s: %s, want %s", c.name, got, c.want)
		}
	}
}

func TestBackoff(t *testing.T) {
	now := time.Unix(1000, 0)
	var b backoff
	if !b.due(now) {
		t.Error("the zero value is not due")
	}
	for _, seconds := range []int{1, 2, 4, 5, 5, 5} {
		longest := time.Duration(seconds) * time.Second
		b.fail(now)
		if b.due(now.Add(longest/2 - 1)) {
			t.Errorf("due before %s", longest/2)
		}
		if !b.due(now.Add(longest)) {
			t.Errorf("not due after %s", longest)
		}
		now = now.Add(longest)
	}
	for range 100 { // for weeks
		b.fail(now)
	}
	if !b.due(now.Add(lastDelay)) {
		t.Error("the delay grows beyond its limit")
	}
}

// While an array is away its volumes are not tried; when it answers again all may try at once.
func TestPortalBackoff(t *testing.T) {
	// A socket that is bound and does not listen refuses, and keeps the port from everybody else.
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Close(fd) }()
	if err := unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		t.Fatal(err)
	}
	name, err := unix.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	local, is := name.(*unix.SockaddrInet4)
	if !is {
		t.Fatalf("bound to %T", name)
	}
	address := netip.AddrPortFrom(netip.AddrFrom4(local.Addr), uint16(local.Port))
	now := time.Unix(1000, 0)
	waiting := &volumeState{}
	waiting.backoff.fail(now)
	p := &portalState{volumes: map[safety.Slot]*volumeState{"x": waiting}}
	p.knock(t.Context(), address, "rds1", now)
	if !p.shut {
		t.Fatal("nobody listens, and the portal counts as open")
	}
	if err := unix.Listen(fd, 8); err != nil {
		t.Fatal(err)
	}
	p.knock(t.Context(), address, "rds1", now)
	if !p.shut {
		t.Error("asked again before the back-off was over")
	}
	now = now.Add(lastDelay)
	p.knock(t.Context(), address, "rds1", now)
	if p.shut {
		t.Error("somebody listens, and the portal counts as shut")
	}
	if !waiting.backoff.due(now) || waiting.backoff.fails != 0 {
		t.Error("the array is back, and its volumes still wait")
	}
}
