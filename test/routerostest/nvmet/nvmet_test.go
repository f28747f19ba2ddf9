package nvmet

import (
	"errors"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
)

const nqn = "nqn.2000-02.com.mikrotik:t-1"

var portal = netip.MustParseAddrPort("127.0.0.1:4420")

func setUp(t *testing.T) (target *Target, dir string, log *[]string) {
	t.Helper()
	dir, log = t.TempDir(), new([]string)
	target, err := Simulated(dir, func(op string) { *log = append(*log, op) })
	if err != nil {
		t.Fatal(err)
	}
	return target, dir, log
}

func backing(t *testing.T) string {
	t.Helper()
	f := filepath.Join(t.TempDir(), "disk.img")
	if err := os.WriteFile(f, make([]byte, 4096), 0o600); err != nil {
		t.Fatal(err)
	}
	return f
}

// tree lists what lies under dir.
func tree(t *testing.T, dir string) []string {
	t.Helper()
	var names []string
	err := filepath.WalkDir(dir, func(p string, _ fs.DirEntry, err error) error {
		if rel := strings.TrimPrefix(p, dir+"/"); rel != p {
			names = append(names, rel)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return names
}

// TestOrder is the whole life of an export in the one order that the kernel accepts.
func TestOrder(t *testing.T) {
	target, dir, log := setUp(t)
	file := backing(t)
	id, err := target.AddPort(4420, portal)
	steps := []error{
		err,
		target.AddSubsystem(Subsystem{NQN: nqn, Path: file, Hosts: []string{"nqn.host:a"}, Model: "ROSE"}),
		target.Link(id, nqn),
		target.Link(id, nqn), // twice is once
		target.Revalidate(nqn),
		target.SetHosts(nqn, nil),
		target.SetHosts(nqn, []string{"nqn.host:b", "nqn.host:b"}),
		target.Unlink(id, nqn),
		target.Unlink(id, nqn),
		target.Link(id, nqn),
		target.Close(),
	}
	if err := errors.Join(steps...); err != nil {
		t.Fatal(err)
	}
	want := `mkdir ports/4420
write ports/4420/addr_trtype "tcp"
write ports/4420/addr_adrfam "ipv4"
write ports/4420/addr_traddr "127.0.0.1"
write ports/4420/addr_trsvcid "4420"
mkdir subsystems/NQN
write subsystems/NQN/attr_model "ROSE"
mkdir subsystems/NQN/namespaces/1
write subsystems/NQN/namespaces/1/device_path "FILE"
write subsystems/NQN/namespaces/1/device_uuid "UUID"
write subsystems/NQN/namespaces/1/enable "1"
write subsystems/NQN/attr_allow_any_host "0"
mkdir hosts/nqn.host:a
link subsystems/NQN/allowed_hosts/nqn.host:a
link ports/4420/subsystems/NQN
write subsystems/NQN/namespaces/1/revalidate_size "1"
unlink subsystems/NQN/allowed_hosts/nqn.host:a
rmdir hosts/nqn.host:a
write subsystems/NQN/attr_allow_any_host "1"
write subsystems/NQN/attr_allow_any_host "0"
mkdir hosts/nqn.host:b
link subsystems/NQN/allowed_hosts/nqn.host:b
unlink ports/4420/subsystems/NQN
link ports/4420/subsystems/NQN
unlink ports/4420/subsystems/NQN
rmdir ports/4420
write subsystems/NQN/namespaces/1/enable "0"
rmdir subsystems/NQN/namespaces/1
unlink subsystems/NQN/allowed_hosts/nqn.host:b
rmdir hosts/nqn.host:b
rmdir subsystems/NQN`
	got := strings.NewReplacer(nqn, "NQN", file, "FILE", UUIDOf(nqn), "UUID").Replace(strings.Join(*log, "\n"))
	if got != want {
		t.Errorf("operations:\n%s\nwant:\n%s", got, want)
	}
	if left := tree(t, dir); !slices.Equal(left, []string{"hosts", "ports", "subsystems"}) {
		t.Errorf("Close left %v", left)
	}
}

// TestForeign: what somebody else made in the same configfs is neither changed nor removed.
func TestForeign(t *testing.T) {
	target, dir, _ := setUp(t)
	other, err := Simulated(dir, nil)
	if err != nil {
		t.Fatal(err)
	}
	const boot = "nqn.2000-02.com.mikrotik:nixos-boot"
	file := backing(t)
	port, err := other.AddPort(4420, portal)
	if err := errors.Join(err,
		other.AddSubsystem(Subsystem{NQN: boot, Path: file, Hosts: []string{"nqn.host:a"}}),
		other.Link(port, boot)); err != nil {
		t.Fatal(err)
	}
	before := tree(t, dir)

	id, err := target.AddPort(4420, portal)
	if err != nil || id != 4421 {
		t.Errorf("AddPort beside a foreign port 4420 = %d, %v, want 4421", id, err)
	}
	if err := target.AddSubsystem(Subsystem{NQN: nqn, Path: file, Hosts: []string{"nqn.host:a"}}); err != nil {
		t.Error(err) // shares the host that is there
	}
	if err := target.AddSubsystem(Subsystem{NQN: boot, Path: file}); !errors.Is(err, fs.ErrExist) {
		t.Errorf("AddSubsystem of a foreign name: %v, want %v", err, fs.ErrExist)
	}
	for name, err := range map[string]error{
		"Link":            target.Link(id, boot),
		"Link on port":    target.Link(port, nqn),
		"SetHosts":        target.SetHosts(boot, nil),
		"Revalidate":      target.Revalidate(boot),
		"RemoveSubsystem": target.RemoveSubsystem(boot),
		"RemovePort":      target.RemovePort(port),
	} {
		if err == nil || !strings.Contains(err.Error(), "was not made here") {
			t.Errorf("%s of a foreign object: %v, want a refusal", name, err)
		}
	}
	if err := target.Unlink(port, boot); err != nil {
		t.Error(err) // nothing of ours is linked there
	}
	if err := target.Close(); err != nil {
		t.Error(err)
	}
	if after := tree(t, dir); !slices.Equal(before, after) {
		t.Errorf("foreign objects were %v, are %v", before, after)
	}
}

// TestFailures: a refused step names the attribute and leaves nothing half made.
func TestFailures(t *testing.T) {
	tests := []struct {
		name string
		do   func(*Target) error
		want error
		text string
	}{
		{"no file", func(tg *Target) error {
			return tg.AddSubsystem(Subsystem{NQN: nqn, Path: "/does/not/exist"})
		}, syscall.ENOENT, "namespaces/1/enable"},
		{"attribute unknown to the kernel", func(tg *Target) error {
			tg.files = lacking{tg.files, "attr_model"}
			return tg.AddSubsystem(Subsystem{NQN: nqn, Path: "/dev/null", Model: "ROSE"})
		}, fs.ErrNotExist, "attr_model"},
		{"host refused", func(tg *Target) error {
			tg.files = lacking{tg.files, "nqn.host:a"}
			return tg.AddSubsystem(Subsystem{NQN: nqn, Path: "/dev/null", Hosts: []string{"nqn.host:a"}})
		}, fs.ErrNotExist, "nqn.host:a"},
		{"port attribute", func(tg *Target) error {
			tg.files = lacking{tg.files, "addr_traddr"}
			_, err := tg.AddPort(1, portal)
			return err
		}, fs.ErrNotExist, "addr_traddr"},
		{"name with a slash", func(tg *Target) error {
			return tg.AddSubsystem(Subsystem{NQN: "../ports", Path: "/dev/null"})
		}, nil, "no name for a directory"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			target, dir, _ := setUp(t)
			err := tt.do(target)
			if err == nil || !strings.Contains(err.Error(), tt.text) || (tt.want != nil && !errors.Is(err, tt.want)) {
				t.Errorf("error %v, want one with %q", err, tt.text)
			}
			if left := tree(t, dir); !slices.Equal(left, []string{"hosts", "ports", "subsystems"}) {
				t.Errorf("left %v", left)
			}
		})
	}
}

// lacking refuses what is called name.
type lacking struct {
	files
	name string
}

func (l lacking) write(path, value string) error {
	if filepath.Base(path) == l.name {
		return &os.PathError{Op: "open", Path: path, Err: syscall.ENOENT}
	}
	return l.files.write(path, value)
}

func (l lacking) symlink(target, path string) error {
	if filepath.Base(path) == l.name {
		return &os.LinkError{Op: "symlink", Old: target, New: path, Err: syscall.ENOENT}
	}
	return l.files.symlink(target, path)
}

func TestUUIDOf(t *testing.T) {
	if a, b := UUIDOf(nqn), UUIDOf(nqn+"2"); a == b || a != UUIDOf(nqn) || len(a) != 36 || a[14] != '5' {
		t.Errorf("UUIDOf gives %s and %s: want two different, stable UUIDs of version 5", a, b)
	}
}
