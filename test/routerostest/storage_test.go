package routerostest

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"
)

// TestAccounts: after any sequence of operations, what is free and what the files and subvolumes of a pool take add up
// to its size; nothing is ever free that is not there.
func TestAccounts(t *testing.T) {
	const size, overhead = 64 << 20, 3 << 20
	switches := []Switches{
		{},
		{Shrink: Done},
		{ExistingLarger: Truncated},
		{RemoveAttachedFile: Refused},
		{FileTwice: Allowed},
		{Accounting: Thin},
		{ParentDirectory: Created},
	}
	for i, sw := range switches {
		t.Run(sw.String(), func(t *testing.T) {
			b := newBox(t, Options{Pools: []Pool{{Slot: "p", Size: size, FS: "btrfs", Overhead: overhead}}, Switches: sw})
			rnd := rand.New(rand.NewPCG(uint64(i), 7))
			for range 400 {
				line := randomLine(rnd)
				b.Exec("admin", line)
				checkAccounts(t, b, line, size-overhead)
				if t.Failed() {
					t.Fatalf("after %s:\n%s", line, b)
				}
			}
			for _, line := range []string{
				`/disk/remove [find type=file]`, `/disk/btrfs/subvolume/remove [find]`, `/file/remove [find type!=disk]`,
			} {
				b.Exec("admin", line)
			}
			for range 3 { // a directory that went with its parent ends the line
				b.Exec("admin", `/file/remove [find type!=disk]`)
			}
			mustPrint(t, b, `:put [/disk/get p free]`, fmt.Sprintln(size-overhead))
		})
	}
}

func randomLine(rnd *rand.Rand) string {
	n := func(k int) int { return rnd.IntN(k) }
	path := func() string { return []string{"p/f", "p/s0/f", "p/s1/f", "p/d/f"}[n(4)] + fmt.Sprint(n(3)) }
	lines := []string{
		fmt.Sprintf(`/disk/add type=file file-path=%s file-size=%dM slot=d%d nvme-tcp-export=%t`, path(), n(24), n(5), n(2) == 0),
		fmt.Sprintf(`/disk/set d%d file-size=%dM`, n(5), n(32)),
		fmt.Sprintf(`/disk/set d%d nvme-tcp-export=%t`, n(5), n(2) == 0),
		fmt.Sprintf(`/disk/remove d%d`, n(5)),
		fmt.Sprintf(`/file/remove %s`, path()),
		fmt.Sprintf(`/file/copy %s name=%s`, path(), path()),
		fmt.Sprintf(`/file/set %s name=%s`, path(), path()),
		`/file/add type=directory name=p/d`,
		`/file/remove p/d`,
		fmt.Sprintf(`/disk/btrfs/subvolume/add fs=p-fs name=s%d`, n(2)),
		`/disk/btrfs/subvolume/add fs=p-fs name=s1 parent=s0`,
		fmt.Sprintf(`/disk/btrfs/subvolume/remove [find name=s%d]`, n(2)),
	}
	return lines[n(len(lines))]
}

func checkAccounts(t *testing.T, b *Box, line string, room int64) {
	t.Helper()
	b.mu.Lock()
	defer b.mu.Unlock()
	p := b.disks[0].pool
	used := int64(0)
	for f := range b.held() {
		used += f.alloc
		if f.alloc > f.size || f.alloc < 0 {
			t.Errorf("%s: %s takes %d of its %d", line, f.path, f.alloc, f.size)
		}
		if b.switches.Accounting == Thick && f.kind == regular && f.alloc < f.size && !strings.HasPrefix(f.path, "p/s1") {
			t.Errorf("%s: %s takes %d of its %d, and no snapshot made it", line, f.path, f.alloc, f.size)
		}
	}
	if free := b.free(p); free < 0 || free+used != room {
		t.Errorf("%s: %d free and %d used, of %d", line, free, used, room)
	}
	for _, d := range b.disks[1:] {
		if !d.file.unlinked && b.files[d.file.path] != d.file {
			t.Errorf("%s: disk %s is on a file that is not there", line, d.slot)
		}
	}
}

// TestThick: a size is taken at once, and what does not fit is refused and leaves nothing.
func TestThick(t *testing.T) {
	b := newBox(t, Options{Pools: []Pool{{Slot: "p", Size: 10 << 20}}})
	free := func(want int64) {
		t.Helper()
		mustPrint(t, b, `:put [/disk/get p free]`, fmt.Sprintln(want))
	}
	mustPrint(t, b, `/disk/add type=file file-path=p/a file-size=6M slot=a`, "")
	free(4 << 20)
	before := b.String()
	mustPrint(t, b, `/disk/add type=file file-path=p/b file-size=5M slot=b`, "failure: not enough space\n")
	mustPrint(t, b, `/disk/set a file-size=11M`, "failure: not enough space\n")
	if after := b.String(); after != before {
		t.Errorf("a refusal changed\n%sto\n%s", before, after)
	}
	mustPrint(t, b, `/disk/set a file-size=10M`, "")
	free(0)
	mustPrint(t, b, `/disk/remove a`, "") // "Removing the disk item does not delete the file."
	free(0)
	mustPrint(t, b, `:put [/file/get p/a size]; /file/remove p/a`, "10485760\n")
	free(10 << 20)
	mustPrint(t, b, `/disk/add type=file file-path=p/a file-size=6M slot=a; /file/remove p/a`, "")
	free(4 << 20) // the name is gone, the disk still uses the space
	mustPrint(t, b, `/disk/remove a`, "")
	free(10 << 20)
}

// TestIDs grow for ever, in hexadecimal.
func TestIDs(t *testing.T) {
	b := newBox(t, Options{})
	for i := range 15 {
		mustPrint(t, b, `:put [/disk/add type=file file-path=pool/x file-size=1M slot=x]; /disk/remove x`, fmt.Sprintf("*%X\n", i+2))
	}
	got := b.Exec("admin", `:put [/file/find name="pool/x"]`)
	if !strings.HasPrefix(got, "**") || len(got) != 2+32+2 {
		t.Errorf("file ID %q is not like **iCZmBt9q4djvHQJupsHY er1RuFc04iP0l", got)
	}
	mustPrint(t, b, `/file/remove [/file/find name="pool/x"]; :put [:len [/file/find name="pool/x"]]`, "0\n")
}

// TestGuest: a file system that a node made is found by the array's probe, and mounted unless mount-filesystem=no.
func TestGuest(t *testing.T) {
	for arg, harm := range map[string]bool{"": true, "mount-filesystem=yes": true, "mount-filesystem=no": false} {
		b := newBox(t, Options{})
		mustPrint(t, b, `/disk/add type=file file-path=pool/x file-size=8M slot=x nvme-tcp-export=yes `+arg, "")
		b.SetGuest("/pool/x", "ext4")
		mustPrint(t, b, `:put [/disk/get x mounted]`, "false\n") // not while it is exported
		mustPrint(t, b, `/disk/set x nvme-tcp-export=no; :put [/disk/get x mounted]; :put [/disk/get x fs]`,
			fmt.Sprintf("%t\next4\n", harm))
		if marked := strings.Contains(b.String(), "GUEST-FILESYSTEM-MOUNTED"); marked != harm {
			t.Errorf("%s: a test sees the harm: %t, want %t", arg, marked, harm)
		}
	}
}

// TestPoolState: an unmounted pool shows no free space, hides its files and takes no disk.
func TestPoolState(t *testing.T) {
	b := newBox(t, Options{})
	mustPrint(t, b, addX, "")
	if err := b.SetPool("pool", false, "clean, sync:repair, resync = 3.2%"); err != nil {
		t.Fatal(err)
	}
	mustPrint(t, b, `:put [/disk/get pool mounted]; :put [/disk/get pool free]; :put [/disk/get pool state]`,
		"false\n\nclean, sync:repair, resync = 3.2%\n")
	mustPrint(t, b, `/file/get pool/x size`, "no such item\n")
	mustPrint(t, b, `/disk/add type=file file-path=pool/y file-size=1M slot=y`, "failure: no such file or directory\n")
	if err := b.SetPool("pool", true, ""); err != nil {
		t.Fatal(err)
	}
	mustPrint(t, b, `:put [/file/get pool/x size]`, "8388608\n")
	if err := b.SetPool("nope", true, ""); err == nil {
		t.Error("SetPool of a pool that is not there gives no error")
	}
}

// TestFlash: a path outside of every pool leads to the device's own small storage.
func TestFlash(t *testing.T) {
	b := newBox(t, Options{})
	mustPrint(t, b, `/file/add type=directory name=skins; /disk/add type=file file-path=skins/x file-size=1G slot=x`,
		"failure: not enough space\n")
	mustPrint(t, b, `/disk/add type=file file-path=skins/x file-size=100M slot=x; :put [/system/resource/get free-hdd-space]`,
		fmt.Sprintln(28<<20))
}

func TestSubvolumes(t *testing.T) {
	b := newBox(t, Options{Pools: []Pool{{Slot: "p", Size: 1 << 30, FS: "btrfs", Label: "L"}, {Slot: "x", Size: 1 << 30}}})
	mustPrint(t, b, `:put [/disk/btrfs/filesystem/get [find] label]`, "L\n")
	mustPrint(t, b, `/disk/btrfs/subvolume/add fs=none name=v`, "input does not match any value of fs\n")
	mustPrint(t, b, `/disk/btrfs/subvolume/add fs=x-fs name=v`, "input does not match any value of fs\n") // XFS
	mustPrint(t, b, `/disk/btrfs/subvolume/add fs=L name=csi/v`, "failure: no such file or directory\n")
	mustPrint(t, b, `/file/add type=directory name=p/csi; :put [/disk/btrfs/subvolume/add fs=L name="csi/v"]`, "*3\n")
	mustPrint(t, b, `/disk/btrfs/subvolume/add fs=L name=csi/v`, "failure: File exists\n")
	mustPrint(t, b, `/disk/add type=file file-path=p/csi/v/disk.img file-size=100M slot=v`, "")
	mustPrint(t, b, `/disk/btrfs/subvolume/add fs=L name=snap parent=none`, "input does not match any value of parent\n")
	mustPrint(t, b, `/disk/btrfs/subvolume/add fs=L name=snap parent=csi/v read-only=yes`, "")
	mustPrint(t, b, `:put [/file/get p/snap/disk.img size]; :put (1073741824-[/disk/get p free])`, "104857600\n104857600\n")
	mustPrint(t, b, `/disk/btrfs/subvolume/print`, `Flags: S - SNAPSHOT; r - READ-ONLY
Columns: FS, NAME, PATH
#    FS  NAME   PATH
0    L   csi/v  /p/csi/v
1 Sr L   snap   /p/snap
`)
	mustPrint(t, b, `/file/add name=p/snap/new`, "failure: read-only file system\n")
	mustPrint(t, b, `:put [:len [/disk/btrfs/subvolume/find where name="csi/v" and fs="L"]]`, "1\n")
	mustPrint(t, b, `/disk/remove v; /disk/btrfs/subvolume/remove [find where name="csi/v"]`, "")
	mustPrint(t, b, `:put [/file/print count-only where name~"csi/v"]; /disk/btrfs/subvolume/remove [find name=nope]`, "0\n")
}

// TestFilePrintIsSlow: listing walks the tree, addressing a file by its name does not.
func TestFilePrintIsSlow(t *testing.T) {
	b := newBox(t, Options{FilePrintDelay: time.Hour})
	mustPrint(t, b, addX+`:put [/file/get "pool/x" size]; /disk/remove x; /file/remove "pool/x"; :put 1`, "8388608\n1\n")
	for _, line := range []string{`/file/print count-only where name="pool"`, `:put [/file/find name="pool"]`} {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
		_, err := b.Run(ctx, Session{User: "admin"}, line, &strings.Builder{})
		cancel()
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%s does not wait: %v", line, err)
		}
	}
}

func TestParsePool(t *testing.T) {
	p, err := ParsePool("raid10=btrfs:20G")
	if err != nil || p.Slot != "raid10" || p.FS != "btrfs" || p.Size != 20<<30 {
		t.Errorf("ParsePool: %+v, %v", p, err)
	}
	for _, bad := range []string{"", "raid10", "raid10=ext4:1G", "raid10=xfs:", "raid10=xfs:1Q", "=xfs:1G", "a/b=xfs:1G", "r=xfs:0"} {
		if _, err := ParsePool(bad); err == nil {
			t.Errorf("ParsePool(%q) gives no error", bad)
		}
	}
}

// TestPoolItem: a pool's own disk takes a comment and keeps its name.
func TestPoolItem(t *testing.T) {
	b := newBox(t, Options{Pools: []Pool{{Slot: "p", Size: 1 << 30, FS: "btrfs"}}})
	mustPrint(t, b, `/disk/set p comment=mine compress=yes; :put [/disk/get p comment]`, "mine\n")
	mustPrint(t, b, `/disk/remove p`, "failure: device is in use\n")
	for _, set := range []string{"nvme-tcp-export=yes", "slot=q"} {
		mustPrint(t, b, `/disk/set p `+set, "failure: the emulator does not model exporting or renaming a pool\n")
	}
	mustPrint(t, b, `/disk/set p file-size=5G`, "failure: not a file\n")
}

// TestSetSize is how a test makes the file that an earlier installation left.
func TestSetSize(t *testing.T) {
	b := newBox(t, Options{})
	for _, size := range []int64{5 << 20, 3 << 20, 7 << 20} {
		if err := b.SetSize("/pool/x.img", size); err != nil {
			t.Fatal(err)
		}
		mustPrint(t, b, `:put ([/file/get pool/x.img size] + [/disk/get pool free])`, fmt.Sprintln(100<<30))
		mustPrint(t, b, `:put [/file/get pool/x.img size]`, fmt.Sprintln(size))
	}
	for _, path := range []string{"pool/none/x", "pool/x.img"} {
		if err := b.SetSize(path, 200<<30); err == nil {
			t.Errorf("SetSize(%s) of more than the pool gives no error", path)
		}
	}
}

func TestUptime(t *testing.T) {
	for d, want := range map[time.Duration]string{
		24164 * time.Second: "06:42:44", 49*time.Hour + time.Second: "2d01:00:01", 15 * 24 * time.Hour: "2w1d00:00:00", // captured: 06:42:44
	} {
		if got := uptime(d); got != want {
			t.Errorf("uptime(%s) = %s, want %s", d, got, want)
		}
	}
}
