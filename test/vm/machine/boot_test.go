//go:build vm

// These tests boot machines on this host: `go test -tags vm ./test/vm/machine`, two minutes.

package machine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestMain(m *testing.M) {
	GuestMain()
	os.Exit(m.Run())
}

func fetch(t *testing.T) Kernel {
	t.Helper()
	k, err := FetchKernel(t.Context(), "6.12", func(s string) { t.Log(s) })
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func bootMachine(t *testing.T, o Options) *Machine {
	t.Helper()
	start := time.Now()
	m, err := Boot(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%s is up after %s", m.Release(), time.Since(start).Round(100*time.Millisecond))
	t.Cleanup(func() {
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	})
	return m
}

func TestRun(t *testing.T) {
	share := filepath.Join(t.TempDir(), "results, all") // a comma separates QEMU's options
	m := bootMachine(t, Options{Kernel: fetch(t), Shares: []string{share}, Console: filepath.Join(t.TempDir(), "console")})
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	testCommands(ctx, t, m)
	t.Run("only the share reaches the host", func(t *testing.T) {
		stray := filepath.Join(t.TempDir(), "stray")
		sh(t, m, fmt.Sprintf("mkdir -p %s; echo x >%s; echo result >'%s/r'", filepath.Dir(stray), stray, share))
		if text, err := os.ReadFile(filepath.Join(share, "r")); err != nil || string(text) != "result\n" {
			t.Errorf("share: %q, %v", text, err)
		}
		if _, err := os.Stat(stray); err == nil {
			t.Error("a file outside the share was written on the host")
		}
	})
	t.Run("clock", func(t *testing.T) {
		var guest int64
		if _, err := fmt.Sscan(sh(t, m, "date +%s"), &guest); err != nil {
			t.Fatal(err)
		}
		if off := time.Since(time.Unix(guest, 0)).Abs(); off > 5*time.Second {
			t.Errorf("off by %s", off)
		}
	})
	t.Run("panic", func(t *testing.T) {
		_, err := m.Run(ctx, Command{Args: []string{"sh", "-c", "echo c >/proc/sysrq-trigger; sleep 600"}})
		if !errors.Is(err, ErrGuestGone) || !strings.Contains(err.Error(), "sysrq triggered crash") {
			t.Errorf("error %v", err)
		}
		if _, err := m.Run(ctx, Command{Args: []string{"true"}}); !errors.Is(err, ErrGuestGone) {
			t.Errorf("after the panic: error %v", err)
		}
	})
}

// TestPowerLoss: a machine is killed and started again with its disk, and nothing that was written is lost.
func TestPowerLoss(t *testing.T) {
	o := Options{Kernel: fetch(t), CPUs: 1, MemoryMiB: 1024, Disk: filepath.Join(t.TempDir(), "disk.img"), DiskGiB: 1}
	m := bootMachine(t, o)
	sh(t, m, "echo kept >$RDS_VM_DISK/f; sync")
	m.Kill()
	if _, err := m.Run(t.Context(), Command{Args: []string{"true"}}); !errors.Is(err, ErrGuestGone) {
		t.Errorf("after the kill: error %v", err)
	}
	m = bootMachine(t, o)
	uptime := func() (seconds float64) {
		if _, err := fmt.Sscan(sh(t, m, "cat /proc/uptime"), &seconds); err != nil {
			t.Error(err)
		}
		return seconds
	}
	before := uptime()
	if err := m.Pause(); err != nil {
		t.Error(err)
	}
	time.Sleep(3 * time.Second)
	if err := m.Continue(); err != nil {
		t.Error(err)
	}
	if passed := uptime() - before; passed < 3 {
		t.Errorf("the clock stood still while the machine was paused: %f", passed)
	}
	if got := sh(t, m, "cat $RDS_VM_DISK/f"); got != "kept\n" {
		t.Errorf("after the power loss: %q", got)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	if err := m.Shutdown(ctx); err != nil {
		t.Error(err)
	}
}

// TestNetwork has an array that exports a file, and two nodes that connect to it. A cut node loses its connection and
// no other; a frozen one delays nobody.
func TestNetwork(t *testing.T) {
	k := fetch(t)
	var network Network
	names := []string{"array", "node1", "node2"}
	machines := make([]*Machine, len(names))
	errs := make(chan error, len(names))
	for i, name := range names {
		go func() {
			var err error
			machines[i], err = Boot(t.Context(), Options{
				Kernel: k, Name: name, CPUs: 1, MemoryMiB: 1024, Network: &network,
				Address: netip.PrefixFrom(netip.AddrFrom4([4]byte{192, 0, 2, byte(i + 1)}), 24),
			})
			errs <- err
		}()
	}
	for range names {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
	for _, m := range machines {
		if m != nil {
			t.Cleanup(func() { _ = m.Close() })
		}
	}
	if t.Failed() {
		t.FailNow()
	}
	array, node1, node2 := machines[0], machines[1], machines[2]
	if got := sh(t, node2, "hostname"); got != "node2\n" {
		t.Errorf("host name %q", got)
	}
	sh(t, array, `
		truncate -s 64M $RDS_VM_DISK/a.img
		cd /sys/kernel/config/nvmet
		mkdir subsystems/nqn.2000-02.test:a ports/1
		echo 1 >subsystems/nqn.2000-02.test:a/attr_allow_any_host
		mkdir subsystems/nqn.2000-02.test:a/namespaces/1
		echo $RDS_VM_DISK/a.img >subsystems/nqn.2000-02.test:a/namespaces/1/device_path
		echo 1 >subsystems/nqn.2000-02.test:a/namespaces/1/enable
		echo tcp >ports/1/addr_trtype; echo ipv4 >ports/1/addr_adrfam
		echo 192.0.2.1 >ports/1/addr_traddr; echo 4420 >ports/1/addr_trsvcid
		ln -s $PWD/subsystems/nqn.2000-02.test:a ports/1/subsystems/`)
	for i, node := range []*Machine{node1, node2} {
		sh(t, node, fmt.Sprintf(`
			id=00000000-0000-4000-8000-00000000000%d
			host=hostnqn=nqn.2014-08.org.nvmexpress:uuid:$id,hostid=$id
			target=transport=tcp,traddr=192.0.2.1,trsvcid=4420,nqn=nqn.2000-02.test:a
			echo $target,$host,keep_alive_tmo=2,reconnect_delay=1 >/dev/nvme-fabrics
			for i in $(seq 50); do [ -b /dev/nvme0n1 ] && break; sleep 0.1; done
			dd if=/dev/nvme0n1 of=/dev/null bs=1M count=4 iflag=direct`, i+1))
	}

	node1.Cut()
	wait(t, node1, "connecting")
	if got := state(t, node2); got != "live" {
		t.Errorf("the other node is %s", got)
	}
	node1.Heal()
	wait(t, node1, "live")

	if err := node1.Pause(); err != nil {
		t.Fatal(err)
	}
	sh(t, node2, "dd if=/dev/nvme0n1 of=/dev/null bs=1M count=16 iflag=direct")
	if err := node1.Continue(); err != nil {
		t.Fatal(err)
	}
	wait(t, node1, "live")
}

func state(t *testing.T, m *Machine) string {
	t.Helper()
	return strings.TrimSpace(sh(t, m, "cat /sys/class/nvme/nvme0/state"))
}

func wait(t *testing.T, m *Machine, want string) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(200 * time.Millisecond) {
		got := state(t, m)
		if got == want {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("the connection is %s, not %s", got, want)
		}
	}
}

// TestNothingIsLeftBehind boots in a child process that is then killed without warning.
func TestNothingIsLeftBehind(t *testing.T) {
	if os.Getenv("RDS_VM_CHILD") != "" {
		m := bootMachine(t, Options{Kernel: fetch(t), CPUs: 1, MemoryMiB: 512, Name: "orphan-test"})
		fmt.Println("up")
		<-m.ended
		return
	}
	temp := t.TempDir()
	child := exec.Command(os.Args[0], "-test.run=^TestNothingIsLeftBehind$")
	child.Env = append(os.Environ(), "RDS_VM_CHILD=1", "TMPDIR="+temp)
	out, err := child.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	var up [3]byte
	if _, err := io.ReadFull(out, up[:]); err != nil {
		t.Fatal(err)
	}
	if len(emulators(t)) == 0 {
		t.Fatal("no emulator runs")
	}
	_ = child.Process.Kill()
	_ = child.Wait()
	for deadline := time.Now().Add(10 * time.Second); len(emulators(t)) > 0; time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("still running: %q", emulators(t))
		}
	}
	left, err := os.ReadDir(temp)
	if err != nil || len(left) > 0 {
		t.Errorf("left in the temporary directory: %v, %v", left, err)
	}
}

// emulators gives the processes whose machine is named orphan-test.
func emulators(t *testing.T) []string {
	t.Helper()
	files, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	var found []string
	for _, f := range files {
		if text, err := os.ReadFile(f); err == nil && strings.Contains(string(text), "-name\x00orphan-test\x00") {
			found = append(found, f)
		}
	}
	return found
}
