//go:build kernel

package machine

import (
	"bytes"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestGuestHasWhatTestsNeed is what every other kernel test builds on. It runs in the guest, or on a host that offers
// itself.
func TestGuestHasWhatTestsNeed(t *testing.T) {
	for _, file := range []string{
		"/dev/nvme-fabrics", "/dev/mapper/control", "/dev/loop-control", "/sys/kernel/config/nvmet/subsystems",
		"/sys/module/nvmet_tcp", "/sys/module/dm_multipath", "/sys/module/dm_round_robin", "/proc/fs/ext4",
	} {
		if _, err := os.Stat(file); err != nil {
			t.Error(err)
		}
	}
	if os.Geteuid() != 0 {
		t.Error("not root")
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatalf("loopback: %v", err)
	}
	t.Cleanup(func() { _ = l.Close() })
	c, err := net.DialTimeout("tcp", l.Addr().String(), 5*time.Second)
	if err != nil {
		t.Fatalf("loopback: %v", err)
	}
	_ = c.Close()
}

func TestGuestMountsAreShared(t *testing.T) {
	text, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if fields := strings.Fields(line); fields[4] == "/" {
			if !strings.HasPrefix(fields[6], "shared:") {
				t.Errorf("/ is not shared: %s", line)
			}
			return
		}
	}
	t.Error("no mount at /")
}

// TestGuestDiskTakesExports: nvmet opens the backing file for direct I/O, and a blank volume is made by punching.
func TestGuestDiskTakesExports(t *testing.T) {
	name := filepath.Join(os.Getenv("RDS_VM_DISK"), "direct.img")
	f, err := os.OpenFile(name, os.O_CREATE|os.O_RDWR|syscall.O_DIRECT, 0o600)
	if err != nil {
		t.Fatalf("direct I/O: %v", err)
	}
	t.Cleanup(func() { _ = os.Remove(name) })
	t.Cleanup(func() { _ = f.Close() })
	if err := unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_ZERO_RANGE, 0, 1<<20); err != nil {
		t.Errorf("zero range: %v", err)
	}
	block, err := unix.Mmap(-1, 0, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Munmap(block) })
	copy(block, bytes.Repeat([]byte{0xa5}, len(block)))
	if _, err := f.WriteAt(block, 0); err != nil {
		t.Errorf("direct write: %v", err)
	}
}

// TestGuestLoadsModules: what the initramfs has not is loaded when somebody asks for it, as on a node.
func TestGuestLoadsModules(t *testing.T) {
	if os.Getenv("RDS_TEST_ON_HOST") != "" {
		t.Skip("kernel: this host's own has what its distribution builds")
	}
	for _, module := range []string{"xfs", "btrfs", "sch_netem", "bridge", "veth", "dm_flakey"} {
		if out, err := exec.Command("modprobe", module).CombinedOutput(); err != nil {
			t.Errorf("modprobe %s: %v: %s", module, err, out)
		}
	}
}
