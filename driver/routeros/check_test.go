package routeros

import (
	"errors"
	"strings"
	"testing"

	"srvlab.io/rds-csi/safety"
	"srvlab.io/rds-csi/test/routerostest"
)

// TestCheckShortfalls: each is a message of its own that says what to do, and a not-ready array.
func TestCheckShortfalls(t *testing.T) {
	for _, tt := range []struct {
		name   string
		option func(*routerostest.Options)
		config func(*ArrayConfig)
		want   []string // nil: ready
	}{
		{name: "ready"},
		{name: "nested directory", config: func(c *ArrayConfig) { c.Directory = "k8s/csi/volumes" }},
		{name: "RAID that is read through", option: pool(routerostest.Pool{State: "clean, sync:repair, resync = 4.1%"})},
		{name: "single disk", option: pool(routerostest.Pool{Type: "hardware"})},
		{name: "login name with flags", config: func(c *ArrayConfig) { c.SSH.User = "csi+cet511w" }},
		{
			name: "package missing", option: rose(routerostest.Missing),
			want: []string{"rose-storage is not installed", "/system/package"},
		},
		{
			name: "package disabled", option: rose(routerostest.Disabled),
			want: []string{"rose-storage is disabled", "/system/package/enable"},
		},
		{
			name: "no policy write", option: policies("ssh", "read"),
			want: []string{"lacks the policies write", "/user/group/set csi policy=ssh,read,write"},
		},
		{
			name: "no policy read", option: policies("ssh", "write"),
			want: []string{`user "csi" needs the policies ssh, read, write`},
		},
		{
			name: "no such pool", config: func(c *ArrayConfig) { c.Pool = "raid10" },
			want: []string{`no disk has the slot "raid10"`, "arrays.yaml", "/disk/print"},
		},
		{
			name: "pool not mounted", option: pool(routerostest.Pool{Unmounted: true}),
			want: []string{"not mounted", "/disk/print detail"},
		},
		{name: "other file system", option: pool(routerostest.Pool{FS: "ext4"}), want: []string{`"ext4"`, "xfs and btrfs"}},
		{
			name: "degraded", option: pool(routerostest.Pool{State: "degraded"}),
			want: []string{`"degraded", not clean`, "raid-member-failed"},
		},
		{
			name: "two at once", want: []string{"rose-storage is not installed", "lacks the policies write"},
			option: func(o *routerostest.Options) {
				rose(routerostest.Missing)(o)
				policies("ssh", "read")(o)
			},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			o := onPool(xfs)
			if tt.option != nil {
				tt.option(&o)
			}
			var tweaks []func(*ArrayConfig)
			if tt.config != nil {
				tweaks = append(tweaks, tt.config)
			}
			b := openWithout(t, o, tweaks...)
			err := b.array.Check(t.Context())
			if tt.want == nil {
				must(t, err)
				if !strings.Contains(b.box.String(), "file pool/"+b.config.Directory+" directory") {
					t.Errorf("no directory:\n%s", b.box)
				}
				return
			}
			if safety.ReasonOf(err) != safety.ArrayNotReady {
				t.Errorf("reason %q", safety.ReasonOf(err))
			}
			for _, w := range tt.want {
				if err == nil || !strings.Contains(err.Error(), w) {
					t.Errorf("%v\ndoes not say %q", err, w)
				}
			}
		})
	}
}

func pool(p routerostest.Pool) func(*routerostest.Options) {
	p.Slot, p.Size = "pool", 10*gib
	return func(o *routerostest.Options) { o.Pools = []routerostest.Pool{p} }
}

func rose(p routerostest.Presence) func(*routerostest.Options) {
	return func(o *routerostest.Options) { o.Rose = p }
}

func policies(list ...string) func(*routerostest.Options) {
	return func(o *routerostest.Options) { o.Groups = map[string][]string{"csi": list} }
}

// TestPermission: a command that is refused for want of a policy says so, whatever words the device has for it.
func TestPermission(t *testing.T) {
	for _, tt := range []struct {
		name string
		list []string
		want error
	}{{"no write", []string{"ssh", "read"}, ErrPermission}, {"no read", []string{"ssh", "write"}, ErrPermission}} {
		t.Run(tt.name, func(t *testing.T) {
			o := onPool(xfs)
			policies(tt.list...)(&o)
			b := open(t, o)
			b.exec(t, "/file/add type=directory name=pool/csi")
			before := b.box.String()
			_, err := b.array.Create(t.Context(), CreateSpec{Slot: volume(b.prefix, "data"), SizeBytes: gib, PV: "data"})
			wantError(t, err, tt.want)
			if after := b.box.String(); after != before {
				t.Errorf("the array had\n%s\nand has\n%s", before, after)
			}
		})
	}
}

// TestPoolNotMounted: with the pool gone its mount point is a path of the array's internal flash. Nothing is made
// there, and no file counts as deleted because it cannot be seen.
func TestPoolNotMounted(t *testing.T) {
	for _, fs := range bothFS {
		for _, known := range []string{"known", "unknown"} {
			t.Run(fs+"/"+known, func(t *testing.T) {
				t.Parallel()
				b := open(t, onPool(fs))
				ctx := t.Context()
				d := b.create(t, "data")
				b.exec(t, "/disk/remove %s", d.Slot)
				a := b.array
				if known == "unknown" {
					a = b.open(t, b.prefix)
				}
				must(t, b.box.SetPool("pool", false, ""))
				if err := a.Delete(ctx, d.Slot); err == nil || errors.Is(err, ErrNotFound) {
					t.Errorf("delete: %v", err)
				}
				if known == "known" { // both operations find out by themselves
					must(t, b.box.SetPool("pool", true, ""))
					if _, err := a.Pool(ctx); err != nil {
						t.Fatal(err)
					}
					_, err := a.place(ctx)
					must(t, err)
					must(t, b.box.SetPool("pool", false, ""))
				}
				_, err := a.Create(ctx, CreateSpec{Slot: volume(b.prefix, "more"), SizeBytes: 64 * mebibyte, PV: "more"})
				wantError(t, err, ErrUnsupported)
				must(t, b.box.SetPool("pool", true, ""))
				has := b.box.String()
				if !strings.Contains(has, "file "+d.Path) || strings.Contains(has, volume(b.prefix, "more").FileStem()) {
					t.Errorf("the array has\n%s", has)
				}
				must(t, a.Delete(ctx, d.Slot))
				if got := state(b.box); got != "" {
					t.Errorf("left:\n%s", got)
				}
			})
		}
	}
}

// TestCreateMakesDirectory: the directory may go after the check, or the check never have run.
func TestCreateMakesDirectory(t *testing.T) {
	for _, fs := range bothFS {
		t.Run(fs, func(t *testing.T) {
			b := open(t, onPool(fs), func(c *ArrayConfig) { c.Directory = "k8s/csi" })
			spec := CreateSpec{Slot: volume(b.prefix, "data"), SizeBytes: gib, PV: "data"}
			d, err := b.array.Create(t.Context(), spec)
			must(t, err)
			if !strings.HasPrefix(d.Path, "pool/k8s/csi/"+d.Slot.FileStem()) {
				t.Errorf("the file is %s", d.Path)
			}
		})
	}
}

func TestParseVersion(t *testing.T) {
	for in, want := range map[string]version{
		"7.24.4 (stable)": {7, 24}, "7.21beta2 (testing)": {7, 21}, "7.22rc1": {7, 22},
		"7.23_ab12 (development)": {7, 23}, "8.0": {8, 0}, "7.9": {7, 9},
	} {
		if got, err := parseVersion(in); got != want || err != nil {
			t.Errorf("%q: %v, %v", in, got, err)
		}
	}
	for _, in := range []string{"", "7", "7.", "7.x", "x.7", "stable"} {
		if got, err := parseVersion(in); err == nil {
			t.Errorf("%q: %v", in, got)
		}
	}
	if !(version{7, 9}).before(minVersion) || minVersion.before(minVersion) || (version{8, 0}).before(minVersion) {
		t.Error("want 7.9 < 7.21 < 8.0")
	}
}

func TestPoolRoom(t *testing.T) {
	for _, free := range []int64{0, mebibyte, 17 * mebibyte, gib, gib + 12345, 16 << 40} {
		room := (Pool{FreeBytes: free}).Room()
		if room%mebibyte != 0 || room > 0 && spaceFor(room) > free || spaceFor(room+2*mebibyte) <= free {
			t.Errorf("free %d: room %d", free, room)
		}
	}
}
