package machine

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Options describe a machine. Only Kernel has no default.
type Options struct {
	Kernel      Kernel
	Name        string        // host name; default "vm"
	CPUs        int           // default 2
	MemoryMiB   int           // default 2048
	DiskGiB     int           // size of a new disk, which is sparse; default 8
	Disk        string        // raw image that outlives the machine, made when missing; default: gone with the machine
	Shares      []string      // directories that the guest may write, mounted where the host has them; made when missing
	Console     string        // file for the kernel's console; default: kept only for error messages
	Network     *Network      // private network; default none
	Address     netip.Prefix  // the machine's address on it
	UserNetwork bool          // gives the guest 10.0.2.15, the host being 10.0.2.2
	BootTimeout time.Duration // default 5 minutes: a busy host emulates slowly
}

func (o Options) withDefaults() Options {
	o.Name = cmp.Or(o.Name, "vm")
	o.CPUs = cmp.Or(o.CPUs, 2)
	o.MemoryMiB = cmp.Or(o.MemoryMiB, 2048)
	o.DiskGiB = cmp.Or(o.DiskGiB, 8)
	o.BootTimeout = cmp.Or(o.BootTimeout, 5*time.Minute)
	return o
}

// Machine is a running virtual machine. Its methods may be called from several goroutines.
type Machine struct {
	kernel  string // the running one's release
	qemu    *qemu
	conn    net.Conn
	port    *port
	console *os.File
	link    *link // nil: no private network

	cancel context.CancelFunc // of the context that QEMU runs under

	mu       sync.Mutex // guards what follows
	next     uint32
	sessions map[uint32]*session
	gone     error         // why there is no guest any more
	ended    chan struct{} // closed when gone is set
}

// session is a command as the host sees it.
type session struct {
	taken chan struct{}
	exit  chan exitReport

	mu             sync.Mutex // guards what follows: nothing is written any more when Run has returned
	stdout, stderr io.Writer
}

// output hands a frame of output to the caller.
func (s *session) output(f frame) {
	s.mu.Lock()
	defer s.mu.Unlock()
	w := s.stdout
	if f.kind == frameStderr {
		w = s.stderr
	}
	if w != nil {
		_, _ = w.Write(f.payload)
	}
}

// ErrGuestGone is in the error of everything that was under way when the guest ended: a kernel panic, a kill, a
// power-off. The error carries the end of the console.
var ErrGuestGone = errors.New("the virtual machine is gone")

// Boot starts a machine and waits until it takes commands. The machine is killed when ctx ends. Close must be called
// in any case.
func Boot(ctx context.Context, o Options) (*Machine, error) {
	if !guestMainCalled {
		return nil, errors.New("boot: machine.GuestMain must be the first call of main or TestMain")
	}
	if o.Network != nil && !o.Address.Addr().Is4() {
		return nil, fmt.Errorf("boot: a machine on a network needs an IPv4 address, not %s", o.Address)
	}
	o = o.withDefaults()
	for _, dir := range o.Shares {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return nil, fmt.Errorf("boot: share: %w", err)
		}
	}
	m := &Machine{sessions: map[uint32]*session{}, ended: make(chan struct{})}
	ctx, m.cancel = context.WithCancel(ctx)
	if err := m.start(ctx, o); err != nil {
		return nil, fmt.Errorf("boot: %w", errors.Join(err, m.release()))
	}
	if err := m.handshake(o); err != nil {
		m.Kill() // first: the console is complete then
		err = fmt.Errorf("boot kernel %s: %w", o.Kernel.Release, m.explain(ctx, err))
		return nil, errors.Join(err, m.Close())
	}
	go m.dispatch()
	return m, nil
}

// start opens what QEMU needs and starts it. What it has opened for m is given back by the caller.
func (m *Machine) start(ctx context.Context, o Options) (err error) {
	var f startFiles
	defer func() {
		for _, file := range []*os.File{f.image, f.initramfs, f.disk, f.line, f.lan} {
			if file != nil {
				_ = file.Close() // QEMU has its own descriptors
			}
		}
	}()
	if f.image, err = os.Open(o.Kernel.Image()); err != nil {
		return fmt.Errorf("kernel image: %w", err)
	}
	if f.initramfs, err = openInitramfs(o.Kernel); err != nil {
		return err
	}
	if f.disk, err = openDisk(ctx, o); err != nil {
		return err
	}
	if m.console, err = openConsole(o.Console); err != nil {
		return err
	}
	f.console = m.console
	if m.conn, f.line, err = socketPair(); err != nil {
		return err
	}
	m.port = &port{r: m.conn, w: deadlineWriter{m.conn}}
	if o.Network != nil {
		if m.link, f.lan, err = o.Network.plug(); err != nil {
			return err
		}
	}
	m.qemu, err = startQEMU(ctx, o, f)
	return err
}

// openInitramfs makes the initramfs. It names the running program as the guest's.
func openInitramfs(k Kernel) (*os.File, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("guest program: %w", err)
	}
	for _, own := range []string{"/dev/", "/proc/", "/sys/"} {
		if strings.HasPrefix(self, own) {
			return nil, fmt.Errorf("guest program %s: the guest has its own %s", self, own)
		}
	}
	f, err := unnamedFile()
	if err != nil {
		return nil, err
	}
	if err := writeInitramfs(f, k, self); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// unnamedFile gives a file that is gone when the last process that holds it ends.
func unnamedFile() (*os.File, error) {
	f, err := os.CreateTemp("", "rds-csi-vm-")
	if err != nil {
		return nil, fmt.Errorf("temporary file: %w", err)
	}
	if err := os.Remove(f.Name()); err != nil {
		return nil, errors.Join(fmt.Errorf("temporary file: %w", err), f.Close())
	}
	return f, nil
}

func openConsole(name string) (*os.File, error) {
	if name == "" {
		return unnamedFile()
	}
	f, err := os.OpenFile(name, os.O_CREATE|os.O_TRUNC|os.O_RDWR, 0o644)
	if err != nil {
		return nil, fmt.Errorf("console log: %w", err)
	}
	return f, nil
}

// openDisk opens the disk, and makes the file system on a new one: here and not in the guest, where it takes seconds.
func openDisk(ctx context.Context, o Options) (*os.File, error) {
	open := unnamedFile
	if o.Disk != "" {
		open = func() (*os.File, error) { return os.OpenFile(o.Disk, os.O_CREATE|os.O_RDWR, 0o644) }
	}
	disk, err := open()
	if err != nil {
		return nil, fmt.Errorf("disk: %w", err)
	}
	st, err := disk.Stat()
	if err == nil && st.Size() > 0 {
		return disk, nil
	}
	if err == nil {
		err = disk.Truncate(int64(o.DiskGiB) << 30)
	}
	if err == nil {
		// mkfs opens our descriptor: the file may have no name.
		_, err = output(ctx, programTimeout, "", "mkfs.ext4", "-q", "-F", "-E", "lazy_itable_init=1,lazy_journal_init=1",
			fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), disk.Fd()))
	}
	if err != nil {
		// Empty again, so that the next machine does not take it for a disk with a file system.
		return nil, errors.Join(fmt.Errorf("disk: %w", err), disk.Truncate(0), disk.Close())
	}
	return disk, nil
}

// handshake tells the guest what it is and waits until it is that.
func (m *Machine) handshake(o Options) error {
	config := guestConfig{
		Hostname: o.Name, DiskDir: DiskDir, Modules: o.Kernel.ModulesDir(), Release: o.Kernel.Release,
	}
	for i, dir := range o.Shares {
		config.Shares = append(config.Shares, guestShare{Tag: shareTag(i), Dir: dir})
	}
	if o.Network != nil {
		config.Links = append(config.Links, guestLink{MAC: lanMAC(o.Address.Addr()), Address: o.Address.String()})
	}
	if o.UserNetwork {
		config.Links = append(config.Links, guestLink{MAC: userMAC, Address: "10.0.2.15/24", Gateway: "10.0.2.2"})
	}
	if err := m.port.sendJSON(frameConfig, 0, config); err != nil {
		return err
	}
	if err := m.conn.SetReadDeadline(time.Now().Add(o.BootTimeout)); err != nil {
		return fmt.Errorf("serial line: %w", err)
	}
	first, err := m.port.receive()
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		return fmt.Errorf("not up after %s", o.BootTimeout)
	case err != nil:
		return fmt.Errorf("%w: %w", ErrGuestGone, err)
	}
	var ready guestReady
	if err := first.decode(&ready); err != nil {
		return err
	}
	if ready.Err != "" {
		return fmt.Errorf("set up the guest: %s", ready.Err)
	}
	m.kernel = ready.Release
	return m.conn.SetReadDeadline(time.Time{})
}

// Release is what uname -r says in the guest.
func (m *Machine) Release() string { return m.kernel }

// sendTimeout bounds how long a frame may wait for a guest that reads nothing: one that is paused, or hangs.
const sendTimeout = 10 * time.Second

type deadlineWriter struct{ conn net.Conn }

func (w deadlineWriter) Write(b []byte) (int, error) {
	if err := w.conn.SetWriteDeadline(time.Now().Add(sendTimeout)); err != nil {
		return 0, err
	}
	return w.conn.Write(b)
}

// dispatch hands the guest's frames to their sessions until the guest is gone.
func (m *Machine) dispatch() {
	for {
		f, err := m.port.receive()
		if err != nil {
			m.end(err)
			return
		}
		m.mu.Lock()
		s := m.sessions[f.id]
		m.mu.Unlock()
		if s == nil {
			continue // its caller has given up
		}
		switch f.kind {
		case frameStdout, frameStderr:
			s.output(f)
		case frameStdinTaken:
			s.taken <- struct{}{}
		case frameExit:
			var report exitReport
			if err := f.decode(&report); err != nil {
				report.Err = err.Error()
			}
			s.exit <- report
		default: // the guest has no other for a command
		}
	}
}

// end records why the guest is gone, and wakes everybody who waits for it.
func (m *Machine) end(err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.gone == nil {
		m.gone = fmt.Errorf("%w: %w", ErrGuestGone, err)
		close(m.ended)
	}
}

// Command is a program to run in the guest.
type Command struct {
	Args   []string // looked up in the PATH of Env
	Env    []string // in addition to BaseEnv; the last of a name counts
	Dir    string   // default /
	Stdin  io.Reader
	Stdout io.Writer // default: dropped
	Stderr io.Writer // default: dropped; the same as Stdout keeps the order of both

	Terminal bool             // run on a terminal of its own; everything goes to Stdout
	Resize   <-chan [2]uint16 // rows and columns of that terminal, which starts with 24 and 80 if none are there yet
}

// BaseEnv is the environment of every command.
func BaseEnv() []string {
	return []string{"PATH=" + systemPath, "HOME=/root", "LC_ALL=C", "TMPDIR=" + guestTemp, "RDS_VM_DISK=" + DiskDir}
}

// killGrace is how long a killed command may take to end. One that waits for a dead disk never does.
const killGrace = 10 * time.Second

// Run runs a command and gives its exit code, 128 and the signal's number if it was killed. When ctx ends, the
// command's process group is killed and the error is that of ctx; the machine goes on. The error says that the
// command did not run to its end.
func (m *Machine) Run(ctx context.Context, c Command) (int, error) {
	id, s, err := m.open(c)
	if err != nil {
		return 0, err
	}
	defer m.forget(id, s)
	request := startRequest{
		Args: c.Args, Env: append(BaseEnv(), c.Env...), Dir: cmp.Or(c.Dir, "/"),
		Stdin: c.Stdin != nil, Merged: c.Stdout != nil && sameWriter(c.Stdout, c.Stderr),
	}
	if c.Terminal {
		request.Terminal = &windowSize{Rows: 24, Columns: 80}
		select {
		case size := <-c.Resize:
			request.Terminal = &windowSize{Rows: size[0], Columns: size[1]}
		default:
		}
	}
	if err := m.port.sendJSON(frameStart, id, request); err != nil {
		return 0, m.explain(ctx, err)
	}
	done := make(chan struct{})
	defer close(done)
	if c.Stdin != nil {
		go m.feed(id, s, c.Stdin, done)
	}
	if c.Terminal {
		go m.resize(id, c.Resize, done)
	}
	select {
	case report := <-s.exit:
		return report.result(c)
	case <-m.ended:
		return 0, m.explain(ctx, m.cause())
	case <-ctx.Done():
	}
	if err := m.port.send(frameSignal, id, []byte{byte(syscall.SIGKILL)}); err != nil {
		return 0, errors.Join(ctx.Err(), err)
	}
	select {
	case <-s.exit:
		return 0, fmt.Errorf("%s: killed: %w", strings.Join(c.Args, " "), ctx.Err())
	case <-m.ended:
		return 0, m.explain(ctx, errors.Join(ctx.Err(), m.cause()))
	case <-time.After(killGrace):
		return 0, fmt.Errorf("%s: killed, and does not end: %w", strings.Join(c.Args, " "), ctx.Err())
	}
}

// sameWriter compares as exec.Cmd does: two writers of a type that has no == are different.
func sameWriter(a, b io.Writer) (same bool) {
	defer func() { _ = recover() }()
	return a == b
}

func (r exitReport) result(c Command) (int, error) {
	if r.Err != "" {
		return 0, fmt.Errorf("%s: %s", strings.Join(c.Args, " "), r.Err)
	}
	return r.Code, nil
}

func (m *Machine) open(c Command) (uint32, *session, error) {
	// Both channels take what the guest may still send after the caller has given up, so dispatch never waits.
	s := &session{taken: make(chan struct{}, 1), exit: make(chan exitReport, 1), stdout: c.Stdout, stderr: c.Stderr}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.gone != nil {
		return 0, nil, m.gone
	}
	m.next++
	m.sessions[m.next] = s
	return m.next, s, nil
}

func (m *Machine) forget(id uint32, s *session) {
	m.mu.Lock()
	delete(m.sessions, id)
	m.mu.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stdout, s.stderr = nil, nil
}

// feed sends the input piece by piece, each when the one before was taken.
func (m *Machine) feed(id uint32, s *session, r io.Reader, done <-chan struct{}) {
	buf := make([]byte, 32<<10)
	for {
		n, err := r.Read(buf)
		if n > 0 {
			if m.port.send(frameStdin, id, buf[:n]) != nil {
				return
			}
			select {
			case <-s.taken:
			case <-done:
				return
			case <-m.ended:
				return
			}
		}
		if err != nil {
			_ = m.port.send(frameStdinEnd, id, nil)
			return
		}
	}
}

func (m *Machine) resize(id uint32, sizes <-chan [2]uint16, done <-chan struct{}) {
	for {
		select {
		case size, ok := <-sizes:
			if !ok || m.port.sendJSON(frameResize, id, windowSize{Rows: size[0], Columns: size[1]}) != nil {
				return
			}
		case <-done:
			return
		}
	}
}

func (m *Machine) cause() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.gone
}

// consoleLines is how much of the console an error carries.
const consoleLines = 40

// explain adds what the guest and QEMU said last, unless the caller has ended it all and knows.
func (m *Machine) explain(ctx context.Context, err error) error {
	if errors.Is(ctx.Err(), context.Canceled) {
		return ctx.Err()
	}
	var b strings.Builder
	if text := strings.TrimSpace(m.qemu.stderr.String()); text != "" {
		fmt.Fprintf(&b, "\nqemu: %s", text)
	}
	if lines := m.ConsoleTail(consoleLines); len(lines) > 0 {
		fmt.Fprintf(&b, "\nconsole:\n\t%s", strings.Join(lines, "\n\t"))
	}
	return fmt.Errorf("%w%s", err, b.String())
}

// ConsoleTail gives the last lines of the kernel's console.
func (m *Machine) ConsoleTail(lines int) []string {
	const enough = 64 << 10
	st, err := m.console.Stat()
	if err != nil {
		return nil
	}
	from := max(0, st.Size()-enough)
	text := make([]byte, st.Size()-from)
	n, _ := m.console.ReadAt(text, from)
	all := strings.Split(strings.TrimRight(strings.ReplaceAll(string(text[:n]), "\r", ""), "\n"), "\n")
	return all[max(0, len(all)-lines):]
}

// Kill ends the machine as a power loss does: nothing is flushed, nobody is told.
func (m *Machine) Kill() {
	_ = m.qemu.process.Signal(syscall.SIGKILL)
	<-m.qemu.exited
}

// Pause freezes the machine with all its processors, as a hypervisor or a stuck firmware does. Its peers see silence.
func (m *Machine) Pause() error { return m.qemu.process.Signal(syscall.SIGSTOP) }

// Continue ends a Pause. The guest's clock has gone on: whatever was due in between is due at once.
func (m *Machine) Continue() error { return m.qemu.process.Signal(syscall.SIGCONT) }

// Shutdown writes everything to the disk and turns the machine off. When ctx ends first, the machine is killed.
func (m *Machine) Shutdown(ctx context.Context) error {
	if err := m.port.send(framePowerOff, 0, nil); err != nil {
		m.Kill()
		return fmt.Errorf("shut down: %w", err)
	}
	select {
	case <-m.qemu.exited:
		return nil
	case <-ctx.Done():
		m.Kill()
		return fmt.Errorf("shut down: killed: %w", ctx.Err())
	}
}

// Close kills the machine if it still runs and gives everything back. It may be called more than once.
func (m *Machine) Close() error {
	m.Kill()
	m.end(net.ErrClosed)
	return m.release()
}

// release gives back what was opened, which after a failed start is not everything.
func (m *Machine) release() error {
	m.cancel()
	var err error
	if m.link != nil {
		m.link.unplug()
	}
	if m.conn != nil {
		err = ignoreClosed(m.conn.Close())
	}
	if m.console != nil {
		err = errors.Join(err, ignoreClosed(m.console.Close()))
	}
	return err
}

func ignoreClosed(err error) error {
	if errors.Is(err, net.ErrClosed) || errors.Is(err, os.ErrClosed) {
		return nil
	}
	return err
}
