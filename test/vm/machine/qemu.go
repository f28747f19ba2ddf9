package machine

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"syscall"
)

// qemu is the running emulator. Everything it is given are open files without a name, so that nothing is left in any
// directory however it ends.
type qemu struct {
	process *os.Process
	stderr  *tail
	exited  chan struct{} // closed when the process has been waited for
}

// inherited collects the files that QEMU gets; they stay the caller's.
type inherited struct{ files []*os.File }

// add gives the number that the file will have in QEMU.
func (i *inherited) add(f *os.File) int {
	i.files = append(i.files, f)
	return 2 + len(i.files) // after the standard three
}

// path gives a name by which QEMU opens the file anew.
func (i *inherited) path(f *os.File) string { return fmt.Sprintf("/proc/self/fd/%d", i.add(f)) }

// kernelLine is the kernel's command line. A panic or an oops ends the machine, so that a test that broke its kernel
// fails at once; the mitigations only cost time in a kernel that runs nothing foreign.
const kernelLine = "console=ttyS0 panic=-1 oops=panic net.ifnames=0 mitigations=off random.trust_cpu=on " +
	"no_timer_check tsc=reliable nowatchdog"

// accelerator is TCG, which works everywhere; the hypervisor device of the machines that this was made on starts no
// stock kernel.
const accelerator = "tcg,thread=multi"

// startFiles are what QEMU is started with.
type startFiles struct {
	image, initramfs, disk, console *os.File // opened anew by QEMU
	line, lan                       *os.File // sockets; lan is nil without a network
}

func startQEMU(ctx context.Context, o Options, f startFiles) (*qemu, error) {
	path, err := lookPath("qemu-system-x86_64")
	if err != nil {
		return nil, err
	}
	in := &inherited{}
	args := []string{
		"-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-name", o.Name,
		"-machine", "q35", "-accel", accelerator, "-cpu", "max",
		"-smp", fmt.Sprint(o.CPUs), "-m", fmt.Sprint(o.MemoryMiB), "-rtc", "base=utc",
		"-kernel", in.path(f.image), "-initrd", in.path(f.initramfs), "-append", kernelLine,
		"-chardev", "file,id=console,path=" + in.path(f.console), "-serial", "chardev:console",
		"-device", "virtio-serial-pci",
		"-chardev", fmt.Sprintf("socket,id=line,fd=%d", in.add(f.line)),
		"-device", "virtserialport,chardev=line,name=" + portName,
		"-drive", "if=none,id=disk,format=raw,cache=unsafe,discard=unmap,file=" + in.path(f.disk),
		"-device", "virtio-blk-pci,drive=disk",
		"-virtfs", "local,path=/,mount_tag=host,security_model=none,readonly=on,multidevs=remap",
	}
	for i, dir := range o.Shares {
		args = append(args, "-virtfs", fmt.Sprintf("local,path=%s,mount_tag=%s,security_model=none,multidevs=remap",
			escapeOption(dir), shareTag(i)))
	}
	if f.lan != nil {
		args = append(args,
			"-netdev", fmt.Sprintf("stream,id=lan,server=off,addr.type=fd,addr.str=%d", in.add(f.lan)),
			"-device", "virtio-net-pci,netdev=lan,romfile=,mac="+lanMAC(o.Address.Addr()))
	}
	if o.UserNetwork {
		args = append(args, "-netdev", "user,id=user", "-device", "virtio-net-pci,netdev=user,romfile=,mac="+userMAC)
	}
	q := &qemu{stderr: &tail{limit: 8 << 10}, exited: make(chan struct{})}
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.ExtraFiles = in.files
	cmd.Stdout, cmd.Stderr = q.stderr, q.stderr
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	// Its own process group, so that Ctrl-C reaches us first and the machine ends in order; and death with the
	// parent, for the case that we do not end in order.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	started := make(chan error)
	go func() {
		// The kernel sends that signal when the starting *thread* ends, so the thread must live as long.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		q.process = cmd.Process
		started <- err
		if err == nil {
			_ = cmd.Wait()
			close(q.exited)
		}
	}()
	if err := <-started; err != nil {
		return nil, fmt.Errorf("start %s: %w", path, err)
	}
	return q, nil
}

// escapeOption doubles commas, which separate QEMU's options.
func escapeOption(s string) string { return strings.ReplaceAll(s, ",", ",,") }

func shareTag(i int) string { return fmt.Sprintf("share%d", i) }

// socketPair gives our end as a connection, which has deadlines, and the other as a file to inherit.
func socketPair() (net.Conn, *os.File, error) {
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("socket pair: %w", err)
	}
	ours, theirs := os.NewFile(uintptr(fds[0]), "ours"), os.NewFile(uintptr(fds[1]), "theirs")
	conn, err := net.FileConn(ours)
	_ = ours.Close()
	if err != nil {
		_ = theirs.Close()
		return nil, nil, fmt.Errorf("socket pair: %w", err)
	}
	return conn, theirs, nil
}

// tail keeps the last bytes that were written to it.
type tail struct {
	limit int
	mu    sync.Mutex // guards text
	text  []byte
}

func (t *tail) Write(b []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.text = append(t.text, b...)
	if over := len(t.text) - t.limit; over > 0 {
		t.text = bytes.Clone(t.text[over:])
	}
	return len(b), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return string(t.text)
}
