package routerostest

import (
	"strings"
	"testing"
)

// TestVersions is the table of facts/routeros.md, 1.6, as far as the model goes. "" prints nothing: the line is known.
func TestVersions(t *testing.T) {
	end := func(column string) string { return "expected end of command (line 1 column " + column + ")\n" }
	bad := func(name, column string) string {
		return "bad command name " + name + " (line 1 column " + column + ")\n"
	}
	const add = `/disk/add type=file file-path=pool/x file-size=1M slot=x`
	tests := []struct {
		line   string
		before string // what releases without it say
		since  string
		after  string
	}{
		{add, end("21"), "7.17", ""},
		{`/disk/set pool mount-filesystem=no`, end("16"), "7.17", ""},
		{`:put [:serialize to=json options=json.no-string-conversion "1"]`, "input does not match any value of options\n", "7.17", "\"1\"\n"},
		{`:put [/disk/btrfs/filesystem/print count-only]`, bad("btrfs", "13"), "7.17", "0\n"},
		{`:put [/disk/btrfs/subvolume/print count-only]`, bad("subvolume", "19"), "7.18", "0\n"},
		{`/disk/set pool compress=no`, end("16"), "7.18", ""},
		{`/disk/set pool nvme-tcp-server-nqn="x"`, end("16"), "7.21", ""},
		{`:put [:len [/disk/find nvme-tcp-server-nqn="x"]]`, "bad parameter nvme-tcp-server-nqn (line 1 column 24)\n", "7.21", "0\n"},
		{`/disk/format-drive [find slot=no]`, "", "7.19", bad("format-drive", "7")},
		{`/disk/eject [find slot=no]`, bad("eject", "7"), "7.19", ""},
		{`/disk/check [find slot=no]`, bad("check", "7"), "7.23", ""},
		{`/file/add name=pool/f`, bad("add", "7"), "7.15", ""},
		{`/file/copy pool/f name=pool/g`, bad("copy", "7"), "7.23", "no such item\n"},
		{`/ip/service/set ssh max-sessions=5`, end("21"), "7.16", ""},
	}
	versions := []string{"7.13", "7.15", "7.16", "7.17", "7.18", "7.19", "7.20", "7.21", "7.23", "7.24.4"}
	for _, tt := range tests {
		since, err := ParseVersion(tt.since)
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range versions {
			v, err := ParseVersion(name)
			if err != nil {
				t.Fatal(err)
			}
			want := tt.after
			if v.before(since) {
				want = tt.before
			}
			t.Run(name+" "+tt.line, func(t *testing.T) {
				b := newBox(t, Options{Version: v})
				got := lf(t, b.Exec("admin", tt.line))
				if strings.HasPrefix(tt.line, "/disk/format") && want == "" {
					want = "All data will be lost, are you sure? [y/N]:"
				}
				if strings.Contains(tt.line, "options=") && v.before(Version{7, 16}) {
					want = end("26") // options came with 7.16, this one with 7.17
				}
				if strings.Contains(tt.line, "subvolume") && v.before(Version{7, 17}) {
					want = bad("btrfs", "13")
				}
				if got != want {
					t.Errorf("%q, want %q", got, want)
				}
			})
		}
	}
}

// TestVersionSlots: slots of more than 32 characters were taken by releases that others used.
func TestVersionSlots(t *testing.T) {
	for v, want := range map[Version]string{
		{7, 17}: "", {7, 20}: "", {7, 21}: "", {7, 24}: "failure: slot name too long\n", {7, 24, 4}: "failure: slot name too long\n",
	} {
		b := newBox(t, Options{Version: v})
		mustPrint(t, b, `/disk/add type=file file-path=pool/x file-size=1M slot=`+strings.Repeat("s", 33), want)
	}
}

// TestVersionNQN: before 7.21 the subsystem's name is the slot; since then it is free, with a default.
func TestVersionNQN(t *testing.T) {
	for v, want := range map[Version]string{{7, 20}: "x", {7, 21}: "nqn.2000-02.com.mikrotik:x"} {
		b := newBox(t, Options{Version: v})
		mustPrint(t, b, `/disk/add type=file file-path=pool/x file-size=1M slot=x nvme-tcp-export=yes`, "")
		if _, err := b.Connect("h", want); err != nil {
			t.Errorf("%s: %v", v, err)
		}
		has := strings.Contains(b.Exec("admin", `/disk/print detail`), "nvme-tcp-server-nqn")
		if has != (v == Version{7, 21}) {
			t.Errorf("%s: shows nvme-tcp-server-nqn: %t", v, has)
		}
	}
}

// TestRosePackage: without rose-storage there are no exports, and a list of packages may still name it.
func TestRosePackage(t *testing.T) {
	tests := []struct {
		version Version
		rose    Presence
		rows    string
		flags   string
		exports bool
	}{
		{DefaultVersion, Installed, "1", "false;false", true},
		{DefaultVersion, Missing, "1", "false;true", false},
		{Version{7, 17}, Missing, "0", "", false},
		{DefaultVersion, Disabled, "1", "true;false", false},
	}
	for _, tt := range tests {
		b := newBox(t, Options{Version: tt.version, Rose: tt.rose})
		mustPrint(t, b, `:put [/system/package/print count-only where name="rose-storage"]`, tt.rows+"\n")
		if tt.flags != "" {
			mustPrint(t, b, `:put ([/system/package/get rose-storage disabled] . ";" . [/system/package/get rose-storage available])`, tt.flags+"\n")
		}
		out := b.Exec("admin", `/disk/add type=file file-path=pool/x file-size=1M slot=x nvme-tcp-export=yes`)
		if (out == "") != tt.exports {
			t.Errorf("%s, presence %d: export says %q", tt.version, tt.rose, out)
		}
	}
}

func TestParseVersion(t *testing.T) {
	for text, want := range map[string]string{"7.24.4": "7.24.4", "7.21": "7.21", "7.21.0": "7.21", "8.1": "8.1"} {
		if v, err := ParseVersion(text); err != nil || v.String() != want {
			t.Errorf("ParseVersion(%q) = %v, %v, want %s", text, v, err, want)
		}
	}
	for _, bad := range []string{"", "7", "7.x", "7.1.2.3", "7.-1", "7.12", "6.49"} {
		if v, err := ParseVersion(bad); err == nil {
			t.Errorf("ParseVersion(%q) = %v", bad, v)
		}
	}
}
