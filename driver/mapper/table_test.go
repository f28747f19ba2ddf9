package mapper

import (
	"encoding/binary"
	"net/netip"
	"strings"
	"testing"

	"srvlab.io/rds-csi/safety"
	"srvlab.io/rds-csi/safety/kernel"
)

func TestParseTable(t *testing.T) {
	for line, want := range map[string]table{
		"4 queue_if_no_path retain_attached_hw_handler queue_mode bio 0 1 1 round-robin 0 1 1 259:3 1 ": {true, kernel.DevID{Major: 259, Minor: 3}},
		"3 queue_if_no_path queue_mode bio 0 1 1 round-robin 0 1 1 259:3 1 ":                            {true, kernel.DevID{Major: 259, Minor: 3}},
		"2 queue_mode bio 0 1 1 round-robin 0 1 1 259:3 1 ":                                             {false, kernel.DevID{Major: 259, Minor: 3}},
		"3 queue_if_no_path queue_mode bio 0 0 0 ":                                                      {true, none},
		"0 0 0 0": {false, none},
		"1 queue_if_no_path 1 alua 1 1 service-time 0 1 2 8:16 1 1":                          {true, kernel.DevID{Major: 8, Minor: 16}},
		"5 queue_if_no_path pg_init_retries 50 queue_mode bio 0 1 1 round-robin 0 1 1 1:1 1": {true, kernel.DevID{Major: 1, Minor: 1}},
	} {
		if got, err := parseTable(line); err != nil || got != want {
			t.Errorf("%q is read as %+v, %v; want %+v", line, got, err, want)
		}
	}
	for _, line := range []string{
		"", "x", "3 queue_if_no_path queue_mode", "1 queue_if_no_path", "0 0", "0 0 1", "0 0 1 1", "0 0 1 1 round-robin",
		"0 0 1 1 round-robin 0", "0 0 1 1 round-robin 0 1 1", "0 0 1 1 round-robin 0 1 1 nvme0n1 1",
		"0 0 1 1 round-robin 0 1 1 259:3", "0 0 1 1 round-robin 0 1 1 259:3 1 more", "0 0 0 0 more",
		"0 0 2 1 round-robin 0 1 0 8:0 round-robin 0 1 0 8:16", "0 0 1 1 round-robin 0 2 0 8:0 8:16", "-1 0 0 0",
		"0 0 1 1 round-robin 0 1 2147483647 8:0", "99999999999 0 0 0",
	} {
		if got, err := parseTable(line); err == nil {
			t.Errorf("%q is read as %+v", line, got)
		}
	}
}

func TestParseState(t *testing.T) {
	for line, want := range map[string]state{
		"2 1 0 0 1 1 E 0 1 0 259:3 A 0 ":   {kernel.DevID{Major: 259, Minor: 3}, false},
		"2 0 0 0 1 1 A 0 1 0 259:3 A 0 ":   {kernel.DevID{Major: 259, Minor: 3}, false},
		"2 1 0 0 1 1 E 0 1 0 259:3 F 12 ":  {kernel.DevID{Major: 259, Minor: 3}, true},
		"2 0 0 0 1 1 D 0 1 2 8:16 A 0 0 1": {kernel.DevID{Major: 8, Minor: 16}, false},
		"2 0 0 0 0 0 ":                     {},
	} {
		if got, err := parseState(line); err != nil || got != want {
			t.Errorf("%q is read as %+v, %v; want %+v", line, got, err, want)
		}
	}
	for _, line := range []string{
		"", "2 0", "2 0 0 0 1 1", "2 0 0 0 1 1 A 0 1 0 259:3", "2 0 0 0 1 1 A 0 1 0 259:3 A", "2 0 0 0 1 1 A 0 1 0 259:3 X 0",
		"2 0 0 0 1 1 A 0 1 0 259:3 A x", "2 0 0 0 1 1 A 0 1 0 259:3 A 0 1", "2 0 0 0 1 1 A 0 0 0",
		"2 0 0 0 2 1 A 0 1 0 8:0 A 0 E 0 1 0 8:16 A 0",
	} {
		if got, err := parseState(line); err == nil {
			t.Errorf("%q is read as %+v", line, got)
		}
	}
}

// What is written is read back, and no line is read as something that is not in it.
func FuzzTable(f *testing.F) {
	f.Add("3 queue_if_no_path queue_mode bio 0 1 1 round-robin 0 1 1 259:3 1")
	f.Add("2 0 0 0 1 1 A 0 1 0 259:3 F 12")
	f.Add("0 0 0 0")
	f.Fuzz(func(t *testing.T, line string) {
		tab, err := parseTable(line)
		if err == nil && tab.path != none && !strings.Contains(line, ":") || err == nil && tab.queueing && !strings.Contains(line, queueFlag) {
			t.Fatalf("%q is read as %+v", line, tab)
		}
		st, err := parseState(line)
		if err == nil && st.failed && !strings.Contains(line, "F") {
			t.Fatalf("%q is read as %+v", line, st)
		}
		for _, d := range []kernel.DevID{tab.path, st.path} {
			back, err := parseTable(multipathTable(d))
			if err != nil || back.path != d || !back.queueing {
				t.Fatalf("%q is read back as %+v, %v", multipathTable(d), back, err)
			}
		}
	})
}

// FuzzDecode: no answer, however broken, is read outside its bounds or without end.
func FuzzDecode(f *testing.F) {
	one := target{length: 8, kind: targetKind, params: "0 0 0 0"}.encode()
	f.Add(one, uint32(1))
	f.Add(make([]byte, 40), uint32(3))
	f.Fuzz(func(t *testing.T, data []byte, n uint32) {
		list, err := decodeTargets(data, n%64)
		if err == nil && len(list) != int(n%64) {
			t.Fatalf("%d targets, want %d", len(list), n%64)
		}
		_, _ = decodeNames(data)
		_, _ = decodeVersions(data)
		if r, err := decode(append(make([]byte, headerSize), data...)); err == nil && len(r.data) > len(data) {
			t.Fatalf("%d bytes of %d", len(r.data), len(data))
		}
	})
}

func TestID(t *testing.T) {
	longest := ID{
		Slot: id.Slot, Generation: 1<<64 - 1, Address: netip.MustParseAddr("2001:db8:1111:2222:3333:4444:5555:6666"),
		Port: 65535, Array: "abcdefghij0123456789",
	}
	for want, x := range map[string]ID{
		"RDSCSI-pvc-aebagaaaaaaaaaaaaaaaaaaaaa_g7_192.0.2.9_4420_rds1":                                                                  id,
		"RDSCSI-pvc-aebagaaaaaaaaaaaaaaaaaaaaa_g18446744073709551615_2001:db8:1111:2222:3333:4444:5555:6666_65535_abcdefghij0123456789": longest,
	} {
		if got := x.UUID(); got != want || len(got) > maxUUID {
			t.Errorf("%q of %d bytes, want %q", got, len(got), want)
		}
		if back, err := ParseUUID(want); err != nil || back != x {
			t.Errorf("%q is read as %+v, %v", want, back, err)
		}
	}
	for name, change := range map[string]func(*ID){
		"no slot":     func(x *ID) { x.Slot = "" },
		"bad slot":    func(x *ID) { x.Slot = "pvc-x" },
		"no address":  func(x *ID) { x.Address = netip.Addr{} },
		"zone":        func(x *ID) { x.Address = netip.MustParseAddr("fe80::1%eth0") },
		"no array":    func(x *ID) { x.Array = "" },
		"array with_": func(x *ID) { x.Array = "a_b" },
		"blank":       func(x *ID) { x.Array = "a b" },
	} {
		x := id
		change(&x)
		if err := x.check(); err == nil {
			t.Errorf("%s: %q is taken", name, x.UUID())
		}
	}
}

func FuzzParseUUID(f *testing.F) {
	f.Add(id.UUID())
	f.Add("RDSCSI-pvc-aebagaaaaaaaaaaaaaaaaaaaaa_g07_::ffff:1.2.3.4_04420_rds1")
	f.Add("LVM-abc")
	f.Fuzz(func(t *testing.T, s string) {
		x, err := ParseUUID(s)
		if err != nil {
			return
		}
		if x.UUID() != s || len(s) > maxUUID || x.check() != nil {
			t.Fatalf("%q is read as %+v", s, x)
		}
		if _, _, err := safety.ParseSlot(string(x.Slot)); err != nil {
			t.Fatal(err)
		}
	})
}

func TestDevNumbers(t *testing.T) {
	for _, d := range []kernel.DevID{{}, {Major: 253, Minor: 7}, {Major: 259, Minor: 255}, {Major: 259, Minor: 256}, {Major: 4095, Minor: 1<<20 - 1}} {
		if got := decodeDev(encodeDev(d)); got != d {
			t.Errorf("%s is read back as %s", d, got)
		}
	}
	// huge_encode_dev of 253:300, by hand: the low byte 2c, the major fd, the rest of the minor above
	if got := decodeDev(0x10fd2c); got != (kernel.DevID{Major: 253, Minor: 300}) {
		t.Errorf("got %s", got)
	}
}

// The sizes and the number of include/uapi/linux/dm-ioctl.h: dmsetup's ioctls begin with c138fd.
func TestLayout(t *testing.T) {
	if got := cmdCreate.request(); got != 0xc138fd03 {
		t.Errorf("DM_DEV_CREATE is %#x", got)
	}
	spec := target{start: 1, length: 2, kind: "multipath", params: "x"}.encode()
	if len(spec) != 48 || binary.NativeEndian.Uint32(spec[20:]) != 48 || text(spec[24:]) != "multipath" || text(spec[40:]) != "x" {
		t.Errorf("spec % x", spec)
	}
}
