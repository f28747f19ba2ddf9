package safety

import (
	"errors"
	"math"
	"strings"
	"testing"
)

// boot is the NQN of a diskless node's /var on the same array. Nothing here may ever own it.
const boot NQN = "nqn.2000-02.com.mikrotik:nixos-node1-var"

// mustPrefix gives the Prefix s, which the test knows to be good.
func mustPrefix(tb testing.TB, s string) Prefix {
	tb.Helper()
	p, err := ParsePrefix(s)
	if err != nil {
		tb.Fatal(err)
	}
	return p
}

// mustUUID gives the UUID s, which the test knows to be good.
func mustUUID(tb testing.TB, s string) UUID {
	tb.Helper()
	u, err := ParseUUID(s)
	if err != nil {
		tb.Fatal(err)
	}
	return u
}

// errorHas fails the test unless err's text holds part; an empty part wants no error.
func errorHas(t *testing.T, err error, part string) {
	t.Helper()
	switch {
	case part == "" && err != nil:
		t.Errorf("unexpected error: %v", err)
	case part != "" && err == nil:
		t.Errorf("no error, want one that says %q", part)
	case part != "" && !strings.Contains(err.Error(), part):
		t.Errorf("error %q, want one that says %q", err, part)
	}
}

func TestParseNQN(t *testing.T) {
	long := "nqn.2000-02.com.mikrotik:" + strings.Repeat("x", MaxNQNLength)
	for _, test := range []struct{ name, in, err string }{
		{"a volume", "nqn.2000-02.com.mikrotik:pvc-1", ""},
		{"a host", "nqn.2014-08.org.nvmexpress:uuid:00000000-0000-0000-0000-000000000000", ""},
		{"nothing behind the colon", "nqn.2000-02.com.mikrotik:", ""},
		{"the longest", long[:MaxNQNLength], ""},
		{"one byte too long", long[:MaxNQNLength+1], "224 bytes long, more than 223"},
		{"empty", "", "is empty"},
		{"iSCSI's name", "iqn.2000-02.com.mikrotik:pvc-1", `does not start with "nqn."`},
		{"upper case", "NQN.2000-02.com.mikrotik:pvc-1", `does not start with "nqn."`},
		{"no colon", "nqn.2000-02.com.mikrotik", `has no ":"`},
		// A comma ends the value in the options written to /dev/nvme-fabrics: what follows would be options of its own.
		{"an option smuggled in", "nqn.2000-02.com.mikrotik:x,ctrl_loss_tmo=0", "holds the byte 0x2c at 26"},
		{"a line end, as sysfs gives it", "nqn.2000-02.com.mikrotik:x\n", "holds the byte 0x0a at 26"},
		{"a blank", "nqn.2000-02.com.mikrotik:a b", "holds the byte 0x20 at 26"},
		{"a quote", `nqn.2000-02.com.mikrotik:a"b`, "holds the byte 0x22 at 26"},
		{"a backslash", `nqn.2000-02.com.mikrotik:a\b`, "holds the byte 0x5c at 26"},
		{"a NUL", "nqn.2000-02.com.mikrotik:a\x00", "holds the byte 0x00 at 26"},
		{"a delete", "nqn.2000-02.com.mikrotik:a\x7f", "holds the byte 0x7f at 26"},
		{"no ASCII", "nqn.2000-02.com.mikrotik:ä", "holds the byte 0xc3 at 25"},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, err := ParseNQN(test.in)
			errorHas(t, err, test.err)
			if err == nil && string(got) != test.in || err != nil && got != "" {
				t.Errorf("got %q from %q", got, test.in)
			}
		})
	}
}

func TestParsePrefix(t *testing.T) {
	room := MaxNQNLength - len("00000000-0000-0000-0000-000000000000.g18446744073709551615")
	long := "nqn.2000-02.com.mikrotik:" + strings.Repeat("x", MaxNQNLength)
	for _, test := range []struct{ name, in, err string }{
		{"a cluster's", "nqn.2000-02.com.mikrotik:cluster1-", ""},
		{"one letter", "nqn.2000-02.com.mikrotik:c", ""},
		{"the longest that leaves room for a volume", long[:room], ""},
		{"one byte longer", long[:room+1], "leave room for the volume"},
		{"an unset variable", "", "is empty"},
		{"a blank one", " ", `does not start with "nqn."`},
		{"an accident of the shell", "${PREFIX}", `does not start with "nqn."`},
		// Every export of an array starts so, the boot disks of diskless nodes too.
		{"nothing behind the colon", "nqn.2000-02.com.mikrotik:", "boot disks included"},
		{"no colon", "nqn.2000-02.com.mikrotik", `has no ":"`},
		{"only the beginning", "nqn.", `has no ":"`},
		{"a line end from a secret", "nqn.2000-02.com.mikrotik:c-\n", "holds the byte 0x0a"},
		{"a comma", "nqn.2000-02.com.mikrotik:a,b", "holds the byte 0x2c"},
	} {
		t.Run(test.name, func(t *testing.T) {
			p, err := ParsePrefix(test.in)
			errorHas(t, err, test.err)
			if err != nil && p != (Prefix{}) {
				t.Errorf("a refused prefix is %q, want the zero one", p)
			}
			if err == nil && p.String() != test.in {
				t.Errorf("String gives %q, want %q", p, test.in)
			}
			if p.Owns(boot) {
				t.Errorf("%q owns %s", test.in, boot)
			}
		})
	}
}

func TestPrefixOwns(t *testing.T) {
	one := mustPrefix(t, "nqn.2000-02.com.mikrotik:one-")
	for _, test := range []struct {
		name   string
		prefix Prefix
		nqn    NQN
		want   bool
	}{
		{"ours", one, "nqn.2000-02.com.mikrotik:one-x", true},
		{"the prefix itself is nobody's volume", one, "nqn.2000-02.com.mikrotik:one-", false},
		{"another cluster's", one, "nqn.2000-02.com.mikrotik:two-x", false},
		{"a cluster whose name ours begins", one, "nqn.2000-02.com.mikrotik:one", false},
		{"a boot disk", one, boot, false},
		{"ours in capitals", one, "nqn.2000-02.com.mikrotik:ONE-x", false},
		{"ours further back", one, "nqn.2000-02.com.mikrotik:x-nqn.2000-02.com.mikrotik:one-x", false},
		{"the discovery subsystem", one, "nqn.2014-08.org.nvmexpress.discovery", false},
		{"no name", one, "", false},
		{"the zero prefix and ours", Prefix{}, "nqn.2000-02.com.mikrotik:one-x", false},
		{"the zero prefix and a boot disk", Prefix{}, boot, false},
		{"the zero prefix and no name", Prefix{}, "", false},
	} {
		t.Run(test.name, func(t *testing.T) {
			if got := test.prefix.Owns(test.nqn); got != test.want {
				t.Errorf("%q owns %q: %v, want %v", test.prefix, test.nqn, got, test.want)
			}
		})
	}
}

func TestPrefixExportAndSplit(t *testing.T) {
	p := mustPrefix(t, "nqn.2000-02.com.mikrotik:one-")
	u := mustUUID(t, "0a1b2c3d-4e5f-6071-8293-a4b5c6d7e8f9")
	for _, test := range []struct {
		generation Generation
		want       NQN
	}{
		{0, "nqn.2000-02.com.mikrotik:one-0a1b2c3d-4e5f-6071-8293-a4b5c6d7e8f9.g0"},
		{1, "nqn.2000-02.com.mikrotik:one-0a1b2c3d-4e5f-6071-8293-a4b5c6d7e8f9.g1"},
		{math.MaxUint64, "nqn.2000-02.com.mikrotik:one-0a1b2c3d-4e5f-6071-8293-a4b5c6d7e8f9.g18446744073709551615"},
	} {
		got := p.Export(u, test.generation)
		if got != test.want {
			t.Errorf("generation %d: %s, want %s", test.generation, got, test.want)
		}
		gotUUID, gotGeneration, ok := p.Split(got)
		if !ok || gotUUID != u || gotGeneration != test.generation {
			t.Errorf("Split(%s) gives %s, %d, %v", got, gotUUID, gotGeneration, ok)
		}
	}
	if got := (Prefix{}).Export(u, 1); got != "" {
		t.Errorf("the zero prefix exports %q, want nothing", got)
	}
}

// TestPrefixSplitRefuses has names that start with the prefix, or nearly, and that Export never makes. Whoever made
// them, they are not ours to touch.
func TestPrefixSplitRefuses(t *testing.T) {
	const start = "nqn.2000-02.com.mikrotik:one-"
	const id = "0a1b2c3d-4e5f-6071-8293-a4b5c6d7e8f9"
	p := mustPrefix(t, start)
	for _, nqn := range []NQN{
		"", boot, start,
		start + id,                            // no generation
		start + id + ".g",                     // none either
		start + id + ".g01",                   // not how a number is written
		start + id + ".g+1",                   // nor this
		start + id + ".g-1",                   // nor this
		start + id + ".g0x1",                  // nor this
		start + id + ".g1_0",                  // nor this
		start + id + ".g1 ",                   // nor this
		start + id + ".g1.g2",                 // twice
		start + id + ".g18446744073709551616", // 2^64
		start + id + ".G1",
		start + "0A1B2C3D-4E5F-6071-8293-A4B5C6D7E8F9.g1", // a name is compared byte by byte, so it has one writing
		start + "0a1b2c3d4e5f60718293a4b5c6d7e8f9.g1",
		start + "nixos-var.g1",
		start + "x" + id + ".g1",
		"nqn.2000-02.com.mikrotik:two-" + id + ".g1",
		"nqn.2000-02.com.mikrotik:" + id + ".g1",
	} {
		if u, g, ok := p.Split(nqn); ok || u != (UUID{}) || g != 0 {
			t.Errorf("Split(%q) gives %s, %d, %v; want nothing", nqn, u, g, ok)
		}
		if _, _, ok := (Prefix{}).Split(nqn); ok {
			t.Errorf("the zero prefix splits %q", nqn)
		}
	}
	if _, _, ok := (Prefix{}).Split(p.Export(mustUUID(t, id), 1)); ok {
		t.Error("the zero prefix splits a name of another")
	}
}

// FuzzPrefix: whatever a prefix was made of, it owns nothing that does not start with it, nothing at all if it was
// refused, and splits exactly what it exports.
func FuzzPrefix(f *testing.F) {
	f.Add("nqn.2000-02.com.mikrotik:one-", "nqn.2000-02.com.mikrotik:one-0a1b2c3d-4e5f-6071-8293-a4b5c6d7e8f9.g1", uint64(1))
	f.Add("", string(boot), uint64(0))
	f.Add("nqn.2000-02.com.mikrotik:", string(boot), uint64(math.MaxUint64))
	f.Add("nqn.a:b", "nqn.a:b", uint64(7))
	f.Add("nqn.a:b", "nqn.a:b0a1b2c3d-4e5f-6071-8293-a4b5c6d7e8f9.g007", uint64(7))
	f.Add("nqn.a:b.g1", "nqn.a:b.g10a1b2c3d-4e5f-6071-8293-a4b5c6d7e8f9.g1", uint64(1))
	f.Fuzz(func(t *testing.T, prefix, name string, generation uint64) {
		p, err := ParsePrefix(prefix)
		n := NQN(name)
		if err != nil && (p != (Prefix{}) || p.Owns(n) || p.Export(UUID{1}, 1) != "") {
			t.Fatalf("the refused prefix %q is %q, owns %q: %v", prefix, p, name, p.Owns(n))
		}
		if p.Owns(n) && (!strings.HasPrefix(name, prefix) || name == prefix) {
			t.Fatalf("%q owns %q", prefix, name)
		}
		u, g, ok := p.Split(n)
		if ok && (!p.Owns(n) || p.Export(u, g) != n) {
			t.Fatalf("%q splits %q into %s and %d, and exports these as %q", prefix, name, u, g, p.Export(u, g))
		}
		if err != nil {
			return
		}
		var own UUID
		copy(own[:], name)
		made := p.Export(own, Generation(generation))
		if _, err := ParseNQN(string(made)); err != nil {
			t.Fatalf("%q exports %q: %v", prefix, made, err)
		}
		if u, g, ok := p.Split(made); !ok || u != own || g != Generation(generation) {
			t.Fatalf("%q exports %q and splits it into %s, %d, %v", prefix, made, u, g, ok)
		}
	})
}

// FuzzParseNQN: what is accepted can stand in the comma-separated options of /dev/nvme-fabrics and in the quotes of
// the array's console without ending them.
func FuzzParseNQN(f *testing.F) {
	f.Add(string(boot))
	f.Add("nqn.2000-02.com.mikrotik:x,ctrl_loss_tmo=0")
	f.Add("nqn.:")
	f.Add("nqn.2000-02.com.mikrotik:\xff")
	f.Fuzz(func(t *testing.T, s string) {
		n, err := ParseNQN(s)
		if err != nil {
			if n != "" {
				t.Fatalf("refused %q and gave %q", s, n)
			}
			return
		}
		if string(n) != s || len(s) > MaxNQNLength || strings.ContainsAny(s, ", \"\\\r\n\t\x00") {
			t.Fatalf("accepted %q as %q", s, n)
		}
	})
}

func TestRefusedPrefixSaysWhatToDo(t *testing.T) {
	for _, in := range []string{"", "nqn.2000-02.com.mikrotik:"} {
		_, err := ParsePrefix(in)
		if err == nil || !strings.Contains(err.Error(), "nqn.2000-02.com.mikrotik:mycluster-") {
			t.Errorf("%q: %v: gives no example", in, err)
		}
		if errors.Unwrap(err) == nil && in == "" {
			t.Errorf("%q: %v: wraps no cause", in, err)
		}
	}
}
