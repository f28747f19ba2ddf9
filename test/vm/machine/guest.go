package machine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// The arguments by which a program that uses this package is started as a part of the guest.
const (
	initArgument  = "rds-csi-vm-init"
	agentArgument = "rds-csi-vm-agent"
)

// portName is the serial port between host and guest.
const portName = "srvlab.rds-csi.vm"

// guestMainCalled tells Boot that the guest can be started from this program.
var guestMainCalled bool

// GuestMain must be the first call in main, or in TestMain, of every program that boots a machine. The guest runs
// that same program, which it finds on the host's file system, so host and guest never speak different versions and
// no agent needs to be built; in the guest GuestMain does not return.
func GuestMain() {
	guestMainCalled = true
	if len(os.Args) != 2 {
		return
	}
	switch os.Args[1] {
	case initArgument:
		guestInit()
	case agentArgument:
		if err := guestAgent(); err != nil {
			fmt.Fprintln(os.Stderr, "rds-csi-vm:", err)
			os.Exit(1)
		}
		os.Exit(0)
	}
}

// guestInit is process 1: it starts the agent, reaps every orphan, and turns the machine off when the agent ends. The
// two are apart because reaping everything would take the exit codes of the agent's own commands.
func guestInit() {
	if os.Getpid() != 1 {
		fmt.Fprintln(os.Stderr, "rds-csi-vm: "+initArgument+" is for process 1 of a virtual machine")
		os.Exit(2)
	}
	agent := exec.CommandContext(context.Background(), "/proc/self/exe", agentArgument)
	agent.Env = []string{"PATH=" + systemPath, "HOME=/root", "LC_ALL=C"}
	agent.Stdout, agent.Stderr = os.Stdout, os.Stderr
	if err := agent.Start(); err != nil {
		fmt.Fprintln(os.Stderr, "rds-csi-vm: start the agent:", err)
	} else {
		for {
			pid, err := syscall.Wait4(-1, nil, 0, nil)
			if pid == agent.Process.Pid || (err != nil && !errors.Is(err, syscall.EINTR)) {
				break
			}
		}
	}
	_ = syscall.Reboot(syscall.LINUX_REBOOT_CMD_POWER_OFF)
}

// guestAgent sets the guest up as it is told and serves commands until it is told to end.
func guestAgent() error {
	line, err := openPort()
	if err != nil {
		return err
	}
	p := newPort(line)
	first, err := p.receive()
	if err != nil {
		return err
	}
	var config guestConfig
	if err := first.decode(&config); err != nil {
		return err
	}
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		return fmt.Errorf("uname: %w", err)
	}
	ready := guestReady{Release: unix.ByteSliceToString(name.Release[:])}
	if err := setUp(config); err != nil {
		ready.Err = err.Error()
	}
	if err := p.sendJSON(frameReady, 0, ready); err != nil {
		return err
	}
	a := &agent{port: p, commands: map[uint32]*guestCommand{}}
	return a.serve()
}

// openPort finds the port by its name: without udev there are no links in /dev/virtio-ports. The file is a blocking
// one, because the poller would gain nothing on a line with one reader.
func openPort() (*os.File, error) {
	names, err := filepath.Glob("/sys/class/virtio-ports/*/name")
	if err != nil {
		return nil, fmt.Errorf("serial port: %w", err)
	}
	for _, n := range names {
		text, err := os.ReadFile(n)
		if err != nil || strings.TrimSpace(string(text)) != portName {
			continue
		}
		dev := "/dev/" + filepath.Base(filepath.Dir(n))
		fd, err := syscall.Open(dev, syscall.O_RDWR|syscall.O_CLOEXEC, 0)
		if err != nil {
			return nil, fmt.Errorf("serial port %s: %w", dev, err)
		}
		return os.NewFile(uintptr(fd), dev), nil
	}
	return nil, fmt.Errorf("no serial port %s among %q", portName, names)
}

// agent runs the commands that the host asks for.
type agent struct {
	port *port

	mu       sync.Mutex // guards commands
	commands map[uint32]*guestCommand
}

func (a *agent) serve() error {
	for {
		f, err := a.port.receive()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if f.kind == framePowerOff {
			syscall.Sync()
			return nil
		}
		if f.kind == frameStart {
			a.start(f)
			continue
		}
		a.mu.Lock()
		c := a.commands[f.id]
		a.mu.Unlock()
		if c != nil { // else it has ended while the frame was on its way
			c.handle(f)
		}
	}
}

func (a *agent) start(f frame) {
	var request startRequest
	err := f.decode(&request)
	var c *guestCommand
	if err == nil {
		c, err = startCommand(a.port, f.id, request)
	}
	if err != nil {
		_ = a.port.sendJSON(frameExit, f.id, exitReport{Err: err.Error()})
		return
	}
	a.mu.Lock()
	a.commands[f.id] = c
	a.mu.Unlock()
	go func() {
		code := c.wait()
		a.mu.Lock()
		delete(a.commands, f.id)
		a.mu.Unlock()
		_ = a.port.sendJSON(frameExit, f.id, exitReport{Code: code})
	}()
}

// guestCommand is a running command.
type guestCommand struct {
	port *port
	id   uint32
	cmd  *exec.Cmd

	stdin    chan []byte   // closed: end of input; the host sends one piece at a time, so sending here never blocks
	terminal *os.File      // nil: pipes
	copied   chan struct{} // closed when the terminal's output has been read to its end
	ended    chan struct{} // closed when the command has ended
}

// outputGrace is how long a command's output is waited for after its end, when a child that it left behind still
// holds the other end of the pipe.
const outputGrace = 2 * time.Second

func startCommand(p *port, id uint32, r startRequest) (*guestCommand, error) {
	if len(r.Args) == 0 {
		return nil, errors.New("no command")
	}
	path, err := findProgram(r.Args[0], r.Env)
	if err != nil {
		return nil, err
	}
	c := &guestCommand{
		port: p, id: id, stdin: make(chan []byte, 1), copied: make(chan struct{}), ended: make(chan struct{}),
	}
	c.cmd = &exec.Cmd{
		Path: path, Args: r.Args, Env: r.Env, Dir: r.Dir, WaitDelay: outputGrace,
		SysProcAttr: &syscall.SysProcAttr{Setsid: true},
	}
	if r.Terminal != nil {
		err = c.startOnTerminal(*r.Terminal)
	} else {
		err = c.startOnPipes(r.Stdin, r.Merged)
	}
	if err != nil {
		return nil, err
	}
	return c, nil
}

// findProgram looks a name up in the command's own PATH, not in the agent's.
func findProgram(name string, env []string) (string, error) {
	if strings.Contains(name, "/") {
		return name, nil
	}
	path := systemPath
	for _, e := range env {
		if v, ok := strings.CutPrefix(e, "PATH="); ok {
			path = v
		}
	}
	for dir := range strings.SplitSeq(path, ":") {
		if found, err := exec.LookPath(filepath.Join(dir, name)); err == nil && filepath.IsAbs(found) {
			return found, nil
		}
	}
	return "", fmt.Errorf("%s: no such program in %s", name, path)
}

func (c *guestCommand) startOnPipes(stdin, merged bool) error {
	c.cmd.Stdout = frameWriter{c.port, frameStdout, c.id}
	c.cmd.Stderr = frameWriter{c.port, frameStderr, c.id}
	if merged {
		c.cmd.Stderr = c.cmd.Stdout // exec makes one pipe of equal writers, and the order is that of the writes
	}
	var input io.WriteCloser
	if stdin {
		var err error
		if input, err = c.cmd.StdinPipe(); err != nil {
			return fmt.Errorf("standard input: %w", err)
		}
	}
	if err := c.cmd.Start(); err != nil {
		return err
	}
	if stdin {
		go c.feed(input)
	}
	close(c.copied) // exec's own goroutines copy, and Wait waits for them
	return nil
}

func (c *guestCommand) startOnTerminal(size windowSize) error {
	control, user, err := openTerminal(size)
	if err != nil {
		return err
	}
	defer func() { _ = user.Close() }()
	c.terminal = control
	c.cmd.Stdin, c.cmd.Stdout, c.cmd.Stderr = user, user, user
	c.cmd.SysProcAttr.Setctty = true
	if err := c.cmd.Start(); err != nil {
		_ = control.Close()
		return err
	}
	go func() {
		defer close(c.copied)
		_, _ = io.Copy(frameWriter{c.port, frameStdout, c.id}, control) // ends in EIO when the last user closes it
	}()
	go c.feed(control)
	return nil
}

// feed hands input on, and tells the host after each piece, also when nobody reads it any more.
func (c *guestCommand) feed(w io.WriteCloser) {
	for {
		select {
		case piece, more := <-c.stdin:
			if !more {
				if c.terminal == nil {
					_ = w.Close()
				}
				return
			}
			_, _ = w.Write(piece)
			_ = c.port.send(frameStdinTaken, c.id, nil)
		case <-c.ended:
			return
		}
	}
}

func (c *guestCommand) handle(f frame) {
	switch f.kind {
	case frameStdin:
		c.stdin <- f.payload
	case frameStdinEnd:
		close(c.stdin)
	case frameSignal:
		if len(f.payload) == 1 {
			_ = syscall.Kill(-c.cmd.Process.Pid, syscall.Signal(f.payload[0]))
		}
	case frameResize:
		var size windowSize
		if c.terminal != nil && f.decode(&size) == nil {
			_ = resize(c.terminal, size)
		}
	default: // the host has no other for a command that runs
	}
}

// wait gives the exit code as a shell does: 128 and the signal for a command that was killed.
func (c *guestCommand) wait() int {
	_ = c.cmd.Wait()
	close(c.ended)
	select {
	case <-c.copied:
	case <-time.After(outputGrace):
	}
	if c.terminal != nil {
		_ = c.terminal.Close()
	}
	status, ok := c.cmd.ProcessState.Sys().(syscall.WaitStatus)
	if ok && status.Signaled() {
		return 128 + int(status.Signal())
	}
	return c.cmd.ProcessState.ExitCode()
}

// frameWriter sends what is written to it.
type frameWriter struct {
	port *port
	kind frameKind
	id   uint32
}

func (w frameWriter) Write(b []byte) (int, error) {
	for sent := 0; sent < len(b); {
		n := min(len(b)-sent, maxFrame)
		if err := w.port.send(w.kind, w.id, b[sent:sent+n]); err != nil {
			return sent, err
		}
		sent += n
	}
	return len(b), nil
}

func openTerminal(size windowSize) (control, user *os.File, err error) {
	control, err = os.OpenFile("/dev/ptmx", os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("terminal: %w", err)
	}
	fd := int(control.Fd())
	number, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err == nil {
		err = unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0)
	}
	if err == nil {
		err = resize(control, size)
	}
	if err == nil {
		user, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|syscall.O_NOCTTY, 0)
	}
	if err != nil {
		_ = control.Close()
		return nil, nil, fmt.Errorf("terminal: %w", err)
	}
	return control, user, nil
}

func resize(terminal *os.File, s windowSize) error {
	return unix.IoctlSetWinsize(int(terminal.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: s.Rows, Col: s.Columns})
}
