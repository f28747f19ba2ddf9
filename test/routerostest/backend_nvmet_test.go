package routerostest

import (
	"errors"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"srvlab.io/rds-csi/test/routerostest/nvmet"
)

// simulatedNVMet is the back end on real files, with a plain directory in the place of configfs.
func simulatedNVMet(t *testing.T, o Options) (b *Box, data, config string) {
	t.Helper()
	data, config = t.TempDir(), t.TempDir()
	target, err := nvmet.Simulated(config, nil)
	if err != nil {
		t.Fatal(err)
	}
	o.Backend, err = NewNVMet(NVMetOptions{
		Data: data, Portal: netip.MustParseAddrPort("127.0.0.1:4420"), Target: target,
	})
	if err != nil {
		t.Fatal(err)
	}
	if o.Pools == nil {
		o.Pools = []Pool{{Slot: "pool", Size: 64 << 20, FS: "btrfs"}}
	}
	return newBox(t, o), data, config
}

// listing gives what is exported and how: links of ports, hosts, and a namespace's file.
func listing(t *testing.T, config string) string {
	t.Helper()
	var lines []string
	err := filepath.WalkDir(config, func(p string, e fs.DirEntry, err error) error {
		rel := strings.TrimPrefix(p, config+"/")
		switch {
		case err != nil:
			return err
		case e.Type() == fs.ModeSymlink:
			lines = append(lines, rel)
		case filepath.Base(p) == "device_path" || filepath.Base(p) == "addr_trsvcid" || filepath.Base(p) == "attr_model":
			text, err := os.ReadFile(p)
			if err != nil {
				return err
			}
			lines = append(lines, rel+" "+filepath.Base(string(text)))
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return strings.Join(lines, "\n")
}

func sizeOnDisk(t *testing.T, data, name string) int64 {
	t.Helper()
	info, err := os.Stat(filepath.Join(data, name))
	if err != nil {
		t.Error(err)
		return -1
	}
	return info.Size()
}

// write changes some bytes of a file and leaves its size.
func write(t *testing.T, file string, at int64, text string) {
	t.Helper()
	f, err := os.OpenFile(file, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	_, err = f.WriteAt([]byte(text), at)
	if err := errors.Join(err, f.Close()); err != nil {
		t.Fatal(err)
	}
}

// TestNVMetExports follows one volume through the console down to the files and the target.
func TestNVMetExports(t *testing.T) {
	b, data, config := simulatedNVMet(t, Options{})
	steps := []struct{ line, want string }{
		{addX, ""},
		{exportX + `/disk/set x nvme-tcp-server-allow-host-name="nqn.host:a"`, `ports/4420/addr_trsvcid 4420
ports/4420/subsystems/nqn.t:x
subsystems/nqn.t:x/allowed_hosts/nqn.host:a
subsystems/nqn.t:x/attr_model Linux
subsystems/nqn.t:x/namespaces/1/device_path x`},
		{`/disk/set x nvme-tcp-server-allow-host-name=""`, `ports/4420/addr_trsvcid 4420
ports/4420/subsystems/nqn.t:x
subsystems/nqn.t:x/attr_model Linux
subsystems/nqn.t:x/namespaces/1/device_path x`},
		{`/disk/set x nvme-tcp-server-port=4421 nvme-tcp-server-nqn="nqn.t:y"`, `ports/4420/addr_trsvcid 4420
ports/4421/addr_trsvcid 4421
ports/4421/subsystems/nqn.t:y
subsystems/nqn.t:y/attr_model Linux
subsystems/nqn.t:y/namespaces/1/device_path x`},
		{`/disk/set x nvme-tcp-export=no`, "ports/4420/addr_trsvcid 4420\nports/4421/addr_trsvcid 4421"},
		{`/disk/set x nvme-tcp-export=yes; /disk/remove x`, "ports/4420/addr_trsvcid 4420\nports/4421/addr_trsvcid 4421"},
	}
	for _, s := range steps {
		mustPrint(t, b, s.line, "")
		if got := listing(t, config); got != s.want {
			t.Errorf("> %s\n%s\n--- want:\n%s", s.line, got, s.want)
		}
	}
	if n := sizeOnDisk(t, data, "pool/x"); n != 8<<20 {
		t.Errorf("the file has %d bytes after the disk was removed", n)
	}
}

// TestNVMetGrow: the file grows, and initiators are told unless the switch says otherwise.
func TestNVMetGrow(t *testing.T) {
	for pos, told := range map[Position]string{Done: "1", Unannounced: ""} {
		b, data, config := simulatedNVMet(t, Options{Switches: Switches{GrowExported: pos}})
		mustPrint(t, b, addX+exportX+`/disk/set x file-size=12M`, "")
		text, err := os.ReadFile(filepath.Join(config, "subsystems/nqn.t:x/namespaces/1/revalidate_size"))
		if n := sizeOnDisk(t, data, "pool/x"); err != nil || string(text) != told || n != 12<<20 {
			t.Errorf("%s: revalidate_size %q, want %q; the file has %d bytes; %v", pos, text, told, n, err)
		}
	}
}

// TestNVMetFiles: what the console does to files happens to real ones.
func TestNVMetFiles(t *testing.T) {
	b, data, _ := simulatedNVMet(t, Options{Switches: Switches{Shrink: Done}})
	mustPrint(t, b, `/file/add type=directory name=pool/d; /disk/add type=file file-path=pool/d/x file-size=8M slot=x`, "")
	for set, want := range map[string]int64{"file-size=12M": 12 << 20, "file-size=4M": 4 << 20} {
		mustPrint(t, b, `/disk/set x `+set, "")
		if n := sizeOnDisk(t, data, "pool/d/x"); n != want {
			t.Errorf("%s: the file has %d bytes", set, n)
		}
	}
	write(t, filepath.Join(data, "pool/d/x"), 0, "data")
	mustPrint(t, b, `/file/copy pool/d/x name=pool/c`, "")
	if text, err := os.ReadFile(filepath.Join(data, "pool/c")); err != nil || !strings.HasPrefix(string(text), "data\x00") {
		t.Errorf("the copy does not begin with the data: %v", err)
	}
	mustPrint(t, b, `/disk/remove x; /file/set pool/d name=pool/e; /file/remove pool/e`, "")
	mustPrint(t, b, `/disk/btrfs/subvolume/add fs=pool-fs name=v; /file/add name=pool/v/f; /disk/btrfs/subvolume/add fs=pool-fs name=s parent=v`, "")
	if n := sizeOnDisk(t, data, "pool/s/f"); n != 0 {
		t.Errorf("the snapshot's file has %d bytes", n)
	}
	mustPrint(t, b, `/disk/btrfs/subvolume/remove [find]; /file/remove pool/c`, "")
	if left, err := os.ReadDir(filepath.Join(data, "pool")); err != nil || len(left) > 0 {
		t.Errorf("left in the pool: %v, %v", left, err)
	}
	mustPrint(t, b, `/disk/add type=file file-path="../../../../pool/x" file-size=1M slot=x; :put [/disk/get x file-path]`, "/pool/x\n")
}

// TestNVMetAdopts: what an earlier run left in the data directory is on the array.
func TestNVMetAdopts(t *testing.T) {
	b, data, config := simulatedNVMet(t, Options{})
	mustPrint(t, b, `/file/add type=directory name=pool/d; /disk/add type=file file-path=pool/d/x file-size=8M slot=x`, "")
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	target, err := nvmet.Simulated(config, nil)
	if err != nil {
		t.Fatal(err)
	}
	back, err := NewNVMet(NVMetOptions{Data: data, Portal: netip.MustParseAddrPort("127.0.0.1:4420"), Target: target})
	if err != nil {
		t.Fatal(err)
	}
	b = newBox(t, Options{Backend: back, Pools: []Pool{{Slot: "pool", Size: 64 << 20}}})
	mustPrint(t, b, `:put [/disk/print count-only]; :put [/file/get pool/d/x size]; :put [/disk/get pool free]`, "1\n8388608\n58720256\n")
}

func TestNVMetProbe(t *testing.T) {
	b, data, _ := simulatedNVMet(t, Options{})
	mustPrint(t, b, addX, "")
	for _, tt := range []struct {
		at        int64
		magic, fs string
	}{{0, "", "-"}, {0x10040, "_BHRfS_M", "btrfs"}, {0x438, "\x53\xEF", "ext4"}, {0, "XFSB", "xfs"}} {
		write(t, filepath.Join(data, "pool/x"), tt.at, tt.magic)
		mustPrint(t, b, exportX+`/disk/set x nvme-tcp-export=no; :put [/disk/get x fs]; :put [/disk/get x mounted]`, tt.fs+"\nfalse\n")
	}
	mustPrint(t, b, `/disk/set x mount-filesystem=yes; :put [/disk/get x mounted]`, "true\n")
}

// TestNVMetReboot: first nothing, then a listener that knows no volume, then the exports.
func TestNVMetReboot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, _, config := simulatedNVMet(t, Options{})
		mustPrint(t, b, addX+exportX, "")
		up := listing(t, config)
		if err := b.Reboot(50*time.Millisecond, 200*time.Millisecond); err != nil {
			t.Fatal(err)
		}
		if got := listing(t, config); got != "ports/4420/addr_trsvcid 4420" {
			t.Errorf("down:\n%s", got)
		}
		waitFor(t, "the listener", func() bool { return b.Phase() == "listener" })
		const listener = "nqn.2000-02.com.mikrotik:listener-127.0.0.1:4420"
		want := "ports/4420/addr_trsvcid 4420\nports/4420/subsystems/" + listener +
			"\nsubsystems/" + listener + "/allowed_hosts/" + listener + "-nobody\nsubsystems/" + listener + "/attr_model Linux"
		if got := listing(t, config); got != want {
			t.Errorf("listener:\n%s\n--- want:\n%s", got, want)
		}
		waitFor(t, "the exports", func() bool { return b.Phase() == "up" })
		if got := listing(t, config); got != up || b.Trouble() != nil {
			t.Errorf("up again:\n%s\n--- want:\n%s\n%v", got, up, b.Trouble())
		}
	})
}

// TestNVMetClose leaves nothing of the target, in any phase, and all the files.
func TestNVMetClose(t *testing.T) {
	for _, listener := range []time.Duration{0, time.Hour} {
		b, data, config := simulatedNVMet(t, Options{})
		mustPrint(t, b, addX+exportX, "")
		if listener > 0 {
			if err := b.Reboot(0, listener); err != nil {
				t.Fatal(err)
			}
			waitFor(t, "the listener", func() bool { return b.Phase() == "listener" })
		}
		if err := b.Close(); err != nil {
			t.Fatal(err)
		}
		if got := listing(t, config); got != "" {
			t.Errorf("Close left\n%s", got)
		}
		if n := sizeOnDisk(t, data, "pool/x"); n != 8<<20 {
			t.Errorf("the file has %d bytes", n)
		}
	}
}

// TestNVMetModel is the switch target-model.
func TestNVMetModel(t *testing.T) {
	for pos, want := range map[Position]string{Plain: "attr_model Linux", Text: "attr_model ROSE"} {
		b, _, config := simulatedNVMet(t, Options{Switches: Switches{TargetModel: pos}})
		mustPrint(t, b, addX+exportX, "")
		if got := listing(t, config); !strings.Contains(got, want) {
			t.Errorf("%s:\n%s\nhas no %q", pos, got, want)
		}
	}
}

// TestNVMetFailure: what the kernel refuses is a failure at the console, and the disk stays as it was.
func TestNVMetFailure(t *testing.T) {
	b, data, config := simulatedNVMet(t, Options{})
	mustPrint(t, b, addX, "")
	before := b.String()
	if err := os.Remove(filepath.Join(data, "pool/x")); err != nil {
		t.Fatal(err)
	}
	out := b.Exec("admin", `/disk/set x nvme-tcp-export=yes nvme-tcp-server-nqn="nqn.t:x"`)
	if !strings.HasPrefix(out, "failure: nvmet subsystem nqn.t:x: ") || b.String() != before {
		t.Errorf("%s\n%s", out, b)
	}
	if got := listing(t, config); strings.Contains(got, "nqn.t:x") {
		t.Errorf("left:\n%s", got)
	}
}

func TestNewNVMet(t *testing.T) {
	portal := netip.MustParseAddrPort("127.0.0.1:4420")
	file := filepath.Join(t.TempDir(), "f")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for text, o := range map[string]NVMetOptions{
		"portal":         {Data: t.TempDir(), Target: &nvmet.Target{}},
		"data directory": {Data: file, Portal: portal, Target: &nvmet.Target{}},
	} {
		if _, err := NewNVMet(o); err == nil || !strings.Contains(err.Error(), text) {
			t.Errorf("%+v: %v, want an error about the %s", o, err, text)
		}
	}
}
