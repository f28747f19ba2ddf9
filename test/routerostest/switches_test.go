package routerostest

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

const (
	addX    = `/disk/add type=file file-path=pool/x file-size=8M slot=x mount-filesystem=no; `
	exportX = `/disk/set x nvme-tcp-export=yes nvme-tcp-server-nqn="nqn.t:x"; `
	jsonX   = `:put [:serialize to=json options=json.no-string-conversion [/disk/print detail as-value proplist=`
)

// clock is a box's clock that a test moves.
type clock struct{ t time.Time }

func (c *clock) now() time.Time { return c.t }

// TestSwitches runs the same lines on a box with a switch at its default and in each of its other positions.
func TestSwitches(t *testing.T) {
	long := strings.Repeat("s", 33)
	tests := map[string]struct {
		line string
		want map[string]string // by position, the default among them
	}{
		"error-texts": {`/disk/add type=file file-path=pool/x file-size=200G slot=x`, map[string]string{
			"guessed": "failure: not enough space\n",
			"bare":    "not enough space\n",
			"located": "failure: not enough space (/disk/add; line 1)\n",
			"generic": "action failed (6)\n",
		}},
		"error-command": {`:error "x"`, map[string]string{"located": "x (:error; line 1)\n", "plain": "x\n"}},
		"unknown-argument": {`/disk/add bogus=1`, map[string]string{
			"end-of-command": "expected end of command (line 1 column 11)\n",
			"bad-parameter":  "bad parameter bogus (line 1 column 11)\n",
		}},
		"parse-errors": {`:put 1; /disk/add bogus=1`, map[string]string{
			"whole-line": "expected end of command (line 1 column 19)\n",
			"statement":  "1\nexpected end of command (line 1 column 19)\n",
		}},
		"empty-find": {`/disk/remove [find slot=no]; :put 1`, map[string]string{
			"silent": "1\n", "refused": "no such item\n",
		}},
		"missing-argument": {`/disk/add slot=x`, map[string]string{
			"prompted": "type: ", "refused": "missing value(s) of argument(s) type\n",
		}},
		"duplicate-slot": {
			addX + `/disk/add type=file file-path=pool/y file-size=8M slot=x; :put [/disk/get [find file-path="/pool/y"] slot]`,
			map[string]string{"refused": "failure: already have device with such name\n", "suffixed": "x1\n"},
		},
		"slot-length": {
			`/disk/add type=file file-path=pool/x file-size=8M slot=` + long + `; :put [:len [/disk/get [find type=file] slot]]`,
			map[string]string{
				"by-version": "failure: slot name too long\n",
				"enforced":   "failure: slot name too long\n",
				"truncated":  "32\n",
				"unlimited":  "33\n",
			},
		},
		"file-twice": {addX + `/disk/add type=file file-path=pool/x slot=y; :put 1`, map[string]string{
			"refused": "failure: file already in use\n", "allowed": "1\n",
		}},
		"existing-larger": {
			addX + `/disk/remove x; /disk/add type=file file-path=pool/x file-size=4M slot=x; :put [/disk/get x size]`,
			map[string]string{"kept": "8388608\n", "truncated": "4194304\n", "refused": "failure: file already exists\n"},
		},
		"existing-smaller": {
			addX + `/disk/remove x; /disk/add type=file file-path=pool/x file-size=16M slot=x; :put [/disk/get x size]`,
			map[string]string{"grown": "16777216\n", "kept": "8388608\n", "refused": "failure: file already exists\n"},
		},
		"shrink": {addX + `:do { /disk/set x file-size=4M } on-error={ :put refused }; :put [/disk/get x size]`, map[string]string{
			"refused": "refused\n8388608\n", "done": "4194304\n", "ignored": "8388608\n",
		}},
		"grow-exported": {
			addX + exportX + `:do { /disk/set x file-size=16M } on-error={ :put refused }; :put [/disk/get x size]`,
			map[string]string{"done": "16777216\n", "unannounced": "16777216\n", "refused": "refused\n8388608\n"},
		},
		"parent-directory": {
			`/disk/add type=file file-path=pool/a/b/x file-size=8M slot=x; :put [/file/get pool/a/b type]`,
			map[string]string{"refused": "failure: no such file or directory\n", "created": "directory\n"},
		},
		"file-size": {addX + jsonX + `file-size where slot=x]]`, map[string]string{
			"integer": `[{".id":"*2","file-size":8388608}]` + "\n",
			"text":    `[{".id":"*2","file-size":"8192.0KiB"}]` + "\n",
			"absent":  `[{".id":"*2"}]` + "\n",
		}},
		"no-filesystem": {addX + jsonX + `fs where slot=x]]`, map[string]string{
			"dash": `[{".id":"*2","fs":"-"}]` + "\n", "absent": `[{".id":"*2"}]` + "\n",
		}},
		"false-flags": {addX + jsonX + `mounted,block-device where slot=x]]`, map[string]string{
			"present": `[{".id":"*2","block-device":true,"mounted":false}]` + "\n",
			"absent":  `[{".id":"*2","block-device":true}]` + "\n",
		}},
		"truth-values": {addX + jsonX + `nvme-tcp-export,mounted]]`, map[string]string{
			"booleans": `[{".id":"*1","mounted":true,"nvme-tcp-export":false},{".id":"*2","mounted":false,"nvme-tcp-export":false}]` + "\n",
			"yes-no":   `[{".id":"*1","mounted":"yes","nvme-tcp-export":"no"},{".id":"*2","mounted":"no","nvme-tcp-export":"no"}]` + "\n",
			"text":     `[{".id":"*1","mounted":"true","nvme-tcp-export":"false"},{".id":"*2","mounted":"false","nvme-tcp-export":"false"}]` + "\n",
		}},
		"numbers": {addX + jsonX + `size where slot=x]]`, map[string]string{
			"integer": `[{".id":"*2","size":8388608}]` + "\n", "strings": `[{".id":"*2","size":"8388608"}]` + "\n",
		}},
		"no-value": {addX + jsonX + `free,comment where slot=x]]`, map[string]string{
			"absent": `[{".id":"*2"}]` + "\n", "null": `[{".id":"*2","comment":null,"free":null}]` + "\n",
		}},
		"file-path": {addX + `:put [/disk/get x file-path]`, map[string]string{"slash": "/pool/x\n", "plain": "pool/x\n"}},
		"row-visible": {addX + `:put [:len [/disk/find slot=x]]`, map[string]string{
			"at-once": "1\n", "delayed": "0\n",
		}},
		"nqn-while-off": {
			addX + `:do { /disk/set x nvme-tcp-server-nqn="nqn.t:y" } on-error={ :put refused }; ` +
				`/disk/set x nvme-tcp-export=yes; :put [/disk/get x nvme-tcp-server-nqn]`,
			map[string]string{
				"kept": "nqn.t:y\n", "refused": "refused\nnqn.2000-02.com.mikrotik:x\n", "forgotten": "nqn.2000-02.com.mikrotik:x\n",
			},
		},
		"invalid-nqn": {addX + `/disk/set x nvme-tcp-export=yes nvme-tcp-server-nqn="disk1"; :put 1`, map[string]string{
			"allowed": "1\n", "refused": "failure: invalid nqn\n",
		}},
		"remove-exported": {addX + exportX + `/disk/remove x; :put 1`, map[string]string{
			"done": "1\n", "refused": "failure: device is in use\n",
		}},
		"remove-attached-file": {
			addX + `/file/remove pool/x; :put [:len [/file/find name="pool/x"]]; :put [/disk/get x size]`,
			map[string]string{"unlinked": "0\n8388608\n", "refused": "failure: file is in use\n"},
		},
		"remove-in-snapshot": {
			`/disk/btrfs/subvolume/add fs=pool-fs name=v; /file/add name=pool/v/f contents=12345; ` +
				`/disk/btrfs/subvolume/add fs=pool-fs name=s parent=v read-only=yes; /file/remove pool/s/f; ` +
				`:put [/file/get pool/s/f size]`,
			map[string]string{"refused": "failure: read-only file system\n", "silent": "5\n"},
		},
		"space-return": {
			addX + `:local f [/disk/get pool free]; /disk/remove x; /file/remove pool/x; :put ([/disk/get pool free] - $f)`,
			map[string]string{"at-once": "8388608\n", "delayed": "0\n"},
		},
		"accounting": {`:local f [/disk/get pool free]; ` + addX + `:put ($f - [/disk/get pool free])`, map[string]string{
			"thick": "8388608\n", "thin": "0\n",
		}},
	}
	elsewhere := []string{
		"allow-host", "allow-host-change", // TestExports
		"session-limit", "global-requests", // TestServerSessionLimit, TestServerGlobalRequests
		"target-model", // TestNVMetModel
	}
	for _, c := range choices {
		tt, ok := tests[c.name]
		if ok == slices.Contains(elsewhere, c.name) {
			t.Errorf("switch %s is tested neither here nor elsewhere, or twice", c.name)
		}
		for _, at := range c.at {
			if !ok {
				continue
			}
			t.Run(c.name+"="+at[0], func(t *testing.T) {
				want, ok := tt.want[at[0]]
				if !ok {
					t.Fatal("there is no case for this position")
				}
				s, err := ParseSwitches(c.name + "=" + at[0])
				if err != nil {
					t.Fatal(err)
				}
				now := &clock{time.Unix(1e9, 0)}
				b := newBox(t, Options{
					Switches: s, Now: now.now,
					Pools: []Pool{{Slot: "pool", Size: 100 << 30, FS: "btrfs"}},
				})
				if got := lf(t, b.Exec("admin", tt.line)); got != want {
					t.Errorf("> %s\n%s--- want:\n%s", tt.line, got, want)
				}
			})
		}
	}
}

// TestSwitchesPassWithTime: what comes late comes.
func TestSwitchesPassWithTime(t *testing.T) {
	now := &clock{time.Unix(1e9, 0)}
	b := newBox(t, Options{
		Switches: Switches{RowVisible: Delayed, SpaceReturn: Delayed}, Now: now.now,
		RowDelay: 3 * time.Second, SpaceDelay: 5 * time.Second,
	})
	mustPrint(t, b, addX, "")
	mustPrint(t, b, `/disk/print count-only`, "1\n")
	mustPrint(t, b, `/disk/add type=file file-path=pool/y file-size=8M slot=x`, "failure: already have device with such name\n")
	now.t = now.t.Add(3 * time.Second)
	mustPrint(t, b, `/disk/print count-only`, "2\n")
	mustPrint(t, b, `/disk/remove x; /file/remove pool/x; :put [/disk/get pool free]`, "107365793792\n")
	const all = `/disk/add type=file file-path=pool/all file-size=100G slot=all`
	mustPrint(t, b, all, "failure: not enough space\n")
	now.t = now.t.Add(5 * time.Second)
	mustPrint(t, b, all, "")
}

func TestSwitchesText(t *testing.T) {
	positions, names := AllSwitchPositions(), map[string]bool{}
	for _, s := range positions {
		text := s.String()
		back, err := ParseSwitches(text)
		if err != nil || back != s || text == "" || strings.Contains(text, ",") || names[text] {
			t.Errorf("%q does not name one position of its own: %+v, %v", text, back, err)
		}
		names[text] = true
		if err := s.check(); err != nil {
			t.Error(err)
		}
	}
	if len(positions) < len(choices) {
		t.Errorf("%d positions for %d switches", len(positions), len(choices))
	}
	if s := (Switches{}).fill(); s.String() != "" || s.Shrink != Refused {
		t.Errorf("the defaults are %+v", s)
	}
	for _, bad := range []string{"shrink", "shrink=maybe", "size=1", "shrink=done,x=y"} {
		if _, err := ParseSwitches(bad); err == nil {
			t.Errorf("ParseSwitches(%q) gives no error", bad)
		}
	}
	if _, err := NewBox(Options{Switches: Switches{Shrink: Dash}}); err == nil {
		t.Error("a position of another switch is taken")
	}
	for _, c := range choices {
		if !strings.Contains(SwitchHelp(), "\n"+c.name+"\n") && !strings.HasPrefix(SwitchHelp(), c.name+"\n") {
			t.Errorf("--help does not tell of %s", c.name)
		}
	}
}

// TestExports is what initiators meet, and what the allow-host switches change in it.
func TestExports(t *testing.T) {
	const a, other = "nqn.host:a", "nqn.host:b"
	tests := []struct {
		switches  Switches
		others    error // what a host that is not allowed meets
		afterHost bool  // a connection outlives a change of the allowed host
	}{
		{Switches{}, ErrHostRefused, true},
		{Switches{AllowHost: Ignored}, nil, true},
		{Switches{AllowHostChange: Ends}, ErrHostRefused, false},
	}
	for _, tt := range tests {
		t.Run(tt.switches.String(), func(t *testing.T) {
			b := newBox(t, Options{Switches: tt.switches})
			mustPrint(t, b, addX, "")
			if _, err := b.Connect(a, "nqn.t:x"); !errors.Is(err, ErrNotExported) {
				t.Errorf("before the export: %v", err)
			}
			mustPrint(t, b, exportX+`/disk/set x nvme-tcp-server-allow-host-name=`+`"`+a+`"`, "")
			if o, err := b.Connect(other, "nqn.t:x"); !errors.Is(err, tt.others) {
				t.Errorf("another host: %v, want %v", err, tt.others)
			} else if err == nil {
				o.Close()
			}
			c, err := b.Connect(a, "nqn.t:x")
			if err != nil {
				t.Fatal(err)
			}
			mustPrint(t, b, `/disk/set x comment=c`, "")
			if !c.Alive() || c.Size() != 8<<20 {
				t.Errorf("alive %t, size %d after an unrelated change", c.Alive(), c.Size())
			}
			mustPrint(t, b, `/disk/set x nvme-tcp-server-allow-host-name="`+other+`"`, "")
			if c.Alive() != tt.afterHost {
				t.Errorf("alive %t after a change of the allowed host, want %t", c.Alive(), tt.afterHost)
			}
			mine, err := b.Connect(other, "nqn.t:x")
			if err != nil {
				t.Fatal(err)
			}
			mine.Close() // the initiator's own end
			left := b.Connections()
			if slices.Contains(left, a+" nqn.t:x") != tt.afterHost || slices.Contains(left, other+" nqn.t:x") || mine.Size() != 0 {
				t.Errorf("connections %v", left)
			}
			mustPrint(t, b, `/disk/set x nvme-tcp-export=no`, "")
			if c.Alive() || len(b.Connections()) != 0 {
				t.Errorf("connections outlive the export: %v", b.Connections())
			}
		})
	}
}

// TestExportChanges: which changes of an exported disk end its connections.
func TestExportChanges(t *testing.T) {
	for set, ends := range map[string]bool{
		`nvme-tcp-server-nqn="nqn.t:new"`: true,
		`nvme-tcp-server-port=4421`:       true,
		`disabled=yes`:                    true,
		`nvme-tcp-export=no`:              true,
		`comment=x`:                       false,
		`file-size=16M`:                   false,
		`nvme-tcp-export=yes`:             false,
		`slot=z`:                          false,
	} {
		b := newBox(t, Options{})
		mustPrint(t, b, addX+exportX, "")
		c, err := b.Connect("h", "nqn.t:x")
		if err != nil {
			t.Fatal(err)
		}
		mustPrint(t, b, `/disk/set x `+set, "")
		if c.Alive() == ends {
			t.Errorf("set %s: the connection is alive: %t", set, c.Alive())
		}
	}
}

func TestExportTwice(t *testing.T) {
	b := newBox(t, Options{})
	mustPrint(t, b, addX+exportX, "")
	mustPrint(t, b, `/disk/add type=file file-path=pool/y file-size=8M slot=y nvme-tcp-export=yes nvme-tcp-server-nqn="nqn.t:x"`,
		"failure: nqn already in use\n")
	mustPrint(t, b, `/disk/print count-only`, "2\n") // the disk that could not be exported is not there
}

// TestGrowUnannounced: an initiator that was not told sees the new size after the next export, or a reboot.
func TestGrowUnannounced(t *testing.T) {
	synctest.Test(t, testGrowUnannounced)
}

func testGrowUnannounced(t *testing.T) {
	for pos, want := range map[Position]int64{Done: 16 << 20, Unannounced: 8 << 20} {
		b := newBox(t, Options{Switches: Switches{GrowExported: pos}})
		mustPrint(t, b, addX+exportX, "")
		c, err := b.Connect("h", "nqn.t:x")
		if err != nil {
			t.Fatal(err)
		}
		mustPrint(t, b, `/disk/set x file-size=16M`, "")
		if c.Size() != want {
			t.Errorf("%s: the initiator sees %d, want %d", pos, c.Size(), want)
		}
		mustPrint(t, b, `/disk/set x nvme-tcp-export=no; /disk/set x nvme-tcp-export=yes`, "")
		if c, err = b.Connect("h", "nqn.t:x"); err != nil || c.Size() != 16<<20 {
			t.Errorf("%s: after the next export: %v", pos, err)
		}
		mustPrint(t, b, `/disk/set x file-size=24M`, "")
		if err := b.Reboot(time.Second, 0); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * time.Second)
		if c, err = b.Connect("h", "nqn.t:x"); err != nil || c.Size() != 24<<20 {
			t.Errorf("%s: after a reboot: %v", pos, err)
		}
	}
}

// TestReboot: down, then the listener without exports, then everything is as it was configured.
func TestReboot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBox(t, Options{})
		mustPrint(t, b, addX+exportX, "")
		c, err := b.Connect("h", "nqn.t:x")
		if err != nil {
			t.Fatal(err)
		}
		before := b.String()
		if err := b.Reboot(30*time.Millisecond, 100*time.Millisecond); err != nil {
			t.Fatal(err)
		}
		if c.Alive() {
			t.Error("a connection outlives the reboot")
		}
		_, errConnect := b.Connect("h", "nqn.t:x")
		_, errRun := b.Run(t.Context(), Session{User: "admin"}, `:put 1`, &strings.Builder{})
		if !errors.Is(errConnect, ErrDown) || !errors.Is(errRun, ErrDown) || b.Exec("admin", `:put 1`) != "" {
			t.Errorf("during the reboot: connect %v, run %v", errConnect, errRun)
		}
		waitFor(t, "the listener", func() bool { return b.Phase() == "listener" })
		if _, err := b.Connect("h", "nqn.t:x"); !errors.Is(err, ErrNotExported) {
			t.Errorf("while only the listener is up: %v, want %v", err, ErrNotExported)
		}
		mustPrint(t, b, `:put [/disk/get x nvme-tcp-export]`, "true\n")
		waitFor(t, "the exports", func() bool { return b.Phase() == "up" })
		if c, err := b.Connect("h", "nqn.t:x"); err != nil || !c.Alive() {
			t.Errorf("after the reboot: %v", err)
		}
		if after := b.String(); after != before || b.Trouble() != nil {
			t.Errorf("the reboot changed\n%sto\n%s%v", before, after, b.Trouble())
		}
	})
}

// TestRebootWhileConfigured: what is changed while only the listener is up counts from the exports' return on.
func TestRebootWhileConfigured(t *testing.T) {
	b := newBox(t, Options{})
	mustPrint(t, b, addX+exportX, "")
	if err := b.Reboot(0, time.Hour); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "the listener", func() bool { return b.Phase() == "listener" })
	mustPrint(t, b, `/disk/set x nvme-tcp-export=no; /disk/set x nvme-tcp-server-nqn="nqn.t:y" nvme-tcp-export=yes`, "")
	if err := b.Reboot(0, 0); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "the exports", func() bool { return b.Phase() == "up" })
	if _, err := b.Connect("h", "nqn.t:y"); err != nil {
		t.Error(err)
	}
	if _, err := b.Connect("h", "nqn.t:x"); !errors.Is(err, ErrNotExported) {
		t.Errorf("the old name: %v", err)
	}
}

func ExampleBox_String() {
	b, err := NewBox(Options{})
	if err != nil {
		return
	}
	b.Exec("admin", addX+exportX)
	fmt.Print(b)
	// Output:
	// disk x path=pool/x size=8388608 export=true comment=""
	// export nqn.t:x path=pool/x port=4420 allow-host=""
	// file pool disk
	// file pool/x file size=8388608
	// pool pool fs=xfs size=107374182400 free=107365793792 mounted=true state="clean"
}

// TestClose: a closed box is closed, whatever was still to come.
func TestClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBox(t, Options{})
		mustPrint(t, b, addX+exportX, "")
		c, err := b.Connect("h", "nqn.t:x")
		if err != nil {
			t.Fatal(err)
		}
		if err := b.Reboot(time.Second, time.Second); err != nil {
			t.Fatal(err)
		}
		if err := b.Close(); err != nil || c.Alive() {
			t.Errorf("%v, the connection is alive: %t", err, c.Alive())
		}
		time.Sleep(time.Minute)
		_, errConnect := b.Connect("h", "nqn.t:x")
		errReboot := b.Reboot(0, 0)
		if b.Phase() != "closed" || !errors.Is(errConnect, ErrDown) || !errors.Is(errReboot, ErrDown) || b.Exec("admin", `:put 1`) != "" {
			t.Errorf("after Close: %s, connect %v, reboot %v", b.Phase(), errConnect, errReboot)
		}
	})
}
