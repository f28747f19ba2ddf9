package safety

import (
	"bytes"
	"strings"
	"testing"
)

func TestParseUUID(t *testing.T) {
	for _, test := range []struct {
		in string
		ok bool
	}{
		{"0a1b2c3d-4e5f-6071-8293-a4b5c6d7e8f9", true},
		{"00000000-0000-0000-0000-000000000000", true},
		{"0A1B2C3D-4E5F-6071-8293-A4B5C6D7E8F9", false},
		{"0a1b2c3d4e5f60718293a4b5c6d7e8f9", false},
		{"{0a1b2c3d-4e5f-6071-8293-a4b5c6d7e8f9}", false},
		{"0a1b2c3d-4e5f-6071-8293-a4b5c6d7e8f", false},
		{"0a1b2c3d-4e5f-6071-8293-a4b5c6d7e8f90", false},
		{"0a1b2c3-d4e5f-6071-8293-a4b5c6d7e8f9", false},
		{"0a1b2c3d-4e5f-6071-8293-a4b5c6d7-8f9", false},
		{"0a1b2c3d-4e5f-6071-8293-a4b5c6d7e8g9", false},
		{"", false},
	} {
		u, err := ParseUUID(test.in)
		if (err == nil) != test.ok {
			t.Errorf("%q: %v", test.in, err)
		}
		if err == nil && u.String() != test.in || err != nil && u != (UUID{}) {
			t.Errorf("%q gives %s", test.in, u)
		}
	}
}

// TestUUID5 holds uuid5 against RFC 9562, appendix A.4: the version 5 UUID of www.example.com in the DNS name space.
func TestUUID5(t *testing.T) {
	dns := mustUUID(t, "6ba7b810-9dad-11d1-80b4-00c04fd430c8")
	if got, want := uuid5(dns, "www.example.com").String(), "2ed6657d-e927-568b-95e1-2665a8aea6a2"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestVolumeUUID(t *testing.T) {
	one, two := mustPrefix(t, "nqn.2000-02.com.mikrotik:one-"), mustPrefix(t, "nqn.2000-02.com.mikrotik:two-")
	const id = "0a1b2c3d-4e5f-6071-8293-a4b5c6d7e8f9"
	for _, test := range []struct {
		name   string
		prefix Prefix
		volume string
		want   string
	}{
		{"as external-provisioner names it", one, "pvc-" + id, id},
		{"the same in another cluster", two, "pvc-" + id, id},
		// Golden values, made with Python's uuid.uuid5: a change gives every such volume a new slot, and its data is not
		// found any more.
		{"a name of its own", one, "data", "59d710a1-9d4c-579e-8433-0b7392d6dab3"},
		{"the same in another cluster is another volume", two, "data", "a5ff77ba-c8db-5d17-843b-0dbd7f01c9d8"},
		{"nearly a UUID", one, "pvc-" + id + "0", "1cd7d1c6-f12c-52b5-94cd-8b0209afbd96"},
		{"a UUID in capitals", one, "pvc-" + strings.ToUpper(id), "30b9be6e-b093-5183-af10-b6e1cd043382"},
		{"longer than any slot", one, strings.Repeat("n", 128), "c78384a6-2951-578d-91ce-4a997a133a7e"},
		{"empty", one, "", "01dc41f6-8916-531f-8c10-3774bbd695f0"},
	} {
		t.Run(test.name, func(t *testing.T) {
			if got := VolumeUUID(test.prefix, test.volume).String(); got != test.want {
				t.Errorf("got %s, want %s", got, test.want)
			}
		})
	}
}

func TestSlot(t *testing.T) {
	for _, test := range []struct {
		uuid string
		slot Slot
	}{
		{"00000000-0000-0000-0000-000000000000", "pvc-aaaaaaaaaaaaaaaaaaaaaaaaaa"},
		{"ffffffff-ffff-ffff-ffff-ffffffffffff", "pvc-77777777777777777777777774"},
		{"0a1b2c3d-4e5f-6071-8293-a4b5c6d7e8f9", "pvc-binsypkol5qhdautus24nv7i7e"},
	} {
		u := mustUUID(t, test.uuid)
		s := SlotOf(u)
		if s != test.slot {
			t.Errorf("SlotOf(%s) = %s, want %s", u, s, test.slot)
		}
		if len(s) > 32 {
			t.Errorf("%s has %d characters, RouterOS takes 32", s, len(s))
		}
		if got := s.UUID(); got != u {
			t.Errorf("%s.UUID() = %s, want %s", s, got, u)
		}
		if got, want := s.FileStem(), "pvc-"+test.uuid; got != want {
			t.Errorf("%s.FileStem() = %s, want %s", s, got, want)
		}
	}
}

func TestParseSlotRefuses(t *testing.T) {
	for _, in := range []string{
		"", "pvc-", "raid10", "nixos-node1-var",
		"aaaaaaaaaaaaaaaaaaaaaaaaaa",
		"csi-aaaaaaaaaaaaaaaaaaaaaaaaaa",
		"pvc-aaaaaaaaaaaaaaaaaaaaaaaaa",
		"pvc-aaaaaaaaaaaaaaaaaaaaaaaaaaa",
		"pvc-AAAAAAAAAAAAAAAAAAAAAAAAAA",
		"pvc-aaaaaaaaaaaaaaaaaaaaaaaa==",
		"pvc-aaaaaaaaaaaaaaaaaaaaaaaaa1", // 0, 1, 8 and 9 are no base32
		"pvc-aaaaaaaaaaaaaaaaaaaaaaaaab", // a second writing of the zero UUID: two unused bits are set
		"pvc-aaaaaaaaaaaaaaaaaaaaaaaa\na",
		"pvc-0a1b2c3d-4e5f-6071-8293-a4b5c6d7e8f9",
	} {
		s, u, err := ParseSlot(in)
		if err == nil || s != "" || u != (UUID{}) {
			t.Errorf("ParseSlot(%q) gives %q, %s, %v", in, s, u, err)
		}
		if got := Slot(in).UUID(); got != (UUID{}) {
			t.Errorf("Slot(%q).UUID() = %s, want the zero UUID", in, got)
		}
	}
}

func TestParseArrayName(t *testing.T) {
	for _, test := range []struct {
		in string
		ok bool
	}{
		{"rds1", true},
		{"a", true},
		{"9", true},
		{"rack-4-left", true},
		{"a2345678901234567890", true},
		{"a23456789012345678901", false},
		{"", false},
		{"-a", false},
		{"a-", false},
		{"Rds1", false},
		{"rds.1", false},
		{"rds_1", false},
		{"rds/1", false},
		{"rds1\n", false},
		{"räck", false},
	} {
		a, err := ParseArrayName(test.in)
		if (err == nil) != test.ok || err == nil && string(a) != test.in || err != nil && a != "" {
			t.Errorf("ParseArrayName(%q) gives %q, %v", test.in, a, err)
		}
	}
}

func TestParseVolumeID(t *testing.T) {
	good := "rds1/pvc-aaaaaaaaaaaaaaaaaaaaaaaaaa"
	v, err := ParseVolumeID(good)
	if err != nil || v.Array != "rds1" || v.Slot != "pvc-aaaaaaaaaaaaaaaaaaaaaaaaaa" || v.String() != good {
		t.Errorf("ParseVolumeID(%q) gives %+v, %v", good, v, err)
	}
	for _, test := range []struct{ in, err string }{
		{"", "is not <array>/<slot>"},
		{"pvc-aaaaaaaaaaaaaaaaaaaaaaaaaa", "is not <array>/<slot>"},
		{"/pvc-aaaaaaaaaaaaaaaaaaaaaaaaaa", `array name ""`},
		{"rds1/", `slot ""`},
		{"rds1/raid10", `slot "raid10"`},
		{"rds1/pvc-aaaaaaaaaaaaaaaaaaaaaaaaaa/x", `slot "pvc-aaaaaaaaaaaaaaaaaaaaaaaaaa/x"`},
		{"rds1/../pvc-aaaaaaaaaaaaaaaaaaaaaaaaaa", `slot "../pvc`},
		{"RDS/raid10", `array name "RDS"`},
		{"RDS/raid10", `slot "raid10"`}, // both mistakes at once
	} {
		v, err := ParseVolumeID(test.in)
		errorHas(t, err, test.err)
		if v != (VolumeID{}) {
			t.Errorf("ParseVolumeID(%q) gives %+v, want the zero value", test.in, v)
		}
	}
}

// FuzzSlot: a UUID and its slot stand for each other, and no text but SlotOf's is a slot.
func FuzzSlot(f *testing.F) {
	f.Add("pvc-aaaaaaaaaaaaaaaaaaaaaaaaaa", []byte{})
	f.Add("pvc-aaaaaaaaaaaaaaaaaaaaaaaaab", bytes.Repeat([]byte{0xff}, 16))
	f.Add("pvc-77777777777777777777777774", []byte("0123456789abcdef"))
	f.Fuzz(func(t *testing.T, text string, id []byte) {
		if s, u, err := ParseSlot(text); err == nil && (string(s) != text || SlotOf(u) != s || s.UUID() != u) {
			t.Fatalf("ParseSlot(%q) gives %q and %s, whose slot is %q", text, s, u, SlotOf(u))
		}
		var u UUID
		copy(u[:], id)
		s, back, err := ParseSlot(string(SlotOf(u)))
		if err != nil || back != u || len(s) > 32 {
			t.Fatalf("%s: the slot %q gives %s, %v", u, s, back, err)
		}
	})
}

// FuzzVolumeUUID: every name has a slot that RouterOS takes, a file that can be derived from the slot alone, and no
// two names of one cluster share them.
func FuzzVolumeUUID(f *testing.F) {
	f.Add("pvc-0a1b2c3d-4e5f-6071-8293-a4b5c6d7e8f9", "data")
	f.Add("", "a\x00b")
	f.Add("PVC-0a1b2c3d-4e5f-6071-8293-a4b5c6d7e8f9", "pvc-0a1b2c3d-4e5f-6071-8293-a4b5c6d7e8f9")
	p := mustPrefix(f, "nqn.2000-02.com.mikrotik:one-")
	f.Fuzz(func(t *testing.T, a, b string) {
		u, v := VolumeUUID(p, a), VolumeUUID(p, b)
		if (a == b) != (u == v) {
			t.Fatalf("%q and %q have the UUIDs %s and %s", a, b, u, v)
		}
		if got, want := SlotOf(u).FileStem(), "pvc-"+u.String(); got != want {
			t.Fatalf("%q: the slot gives the file %q, want %q", a, got, want)
		}
	})
}

// FuzzParseVolumeID: an accepted ID is the one writing of itself.
func FuzzParseVolumeID(f *testing.F) {
	f.Add("rds1/pvc-aaaaaaaaaaaaaaaaaaaaaaaaaa")
	f.Add("rds1//pvc-aaaaaaaaaaaaaaaaaaaaaaaaaa")
	f.Add("/")
	f.Fuzz(func(t *testing.T, s string) {
		v, err := ParseVolumeID(s)
		if err == nil && v.String() != s {
			t.Fatalf("%q is %+v, which is %q", s, v, v)
		}
		if err != nil && v != (VolumeID{}) {
			t.Fatalf("%q is refused and %+v", s, v)
		}
	})
}
