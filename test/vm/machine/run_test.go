package machine

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"
)

// localMachine has its guest in this process: the agent with nothing but the line between them.
func localMachine(t *testing.T) (m *Machine, guest net.Conn) {
	t.Helper()
	conn, file, err := socketPair()
	if err != nil {
		t.Fatal(err)
	}
	guest, err = net.FileConn(file)
	_ = file.Close()
	if err != nil {
		t.Fatal(err)
	}
	console, err := unnamedFile()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := console.WriteString("[1.0] first line\r\n[2.0] last line\r\n"); err != nil {
		t.Fatal(err)
	}
	m = &Machine{
		conn: conn, port: &port{r: conn, w: deadlineWriter{conn}}, console: console, qemu: &qemu{stderr: &tail{limit: 10}},
		sessions: map[uint32]*session{}, ended: make(chan struct{}), cancel: func() {},
	}
	go m.dispatch()
	t.Cleanup(func() {
		_ = guest.Close()
		_ = m.release()
	})
	return m, guest
}

// TestCommands is what TestRun does in a real machine.
func TestCommands(t *testing.T) {
	m, guest := localMachine(t)
	a := &agent{port: newPort(guest), commands: map[uint32]*guestCommand{}}
	go func() { _ = a.serve() }()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	testCommands(ctx, t, m)
}

// TestGuestGone: whoever waits for a guest that ends is told, with the end of its console.
func TestGuestGone(t *testing.T) {
	m, guest := localMachine(t)
	_, _ = m.qemu.stderr.Write([]byte("qemu said: 0123456789"))
	failed := make(chan error)
	go func() {
		_, err := m.Run(t.Context(), Command{Args: []string{"true"}})
		failed <- err
	}()
	if f, err := newPort(guest).receive(); err != nil || f.kind != frameStart {
		t.Fatalf("%v, %v", f, err)
	}
	_ = guest.Close()
	err := <-failed
	if !errors.Is(err, ErrGuestGone) || !strings.Contains(err.Error(), "[2.0] last line") ||
		!strings.Contains(err.Error(), "qemu: 0123456789") {
		t.Errorf("error %v", err)
	}
	if _, err := m.Run(t.Context(), Command{Args: []string{"true"}}); !errors.Is(err, ErrGuestGone) {
		t.Errorf("afterwards: error %v", err)
	}
}

// TestGuestSilent: a guest that hangs cannot hold its caller longer than the caller wants.
func TestGuestSilent(t *testing.T) {
	m, guest := localMachine(t)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	p := newPort(guest)
	signals := make(chan frame, 2)
	go func() {
		for range cap(signals) {
			f, _ := p.receive()
			signals <- f
		}
		_ = p.sendJSON(frameExit, 1, exitReport{Code: 137})
	}()
	if _, err := m.Run(ctx, Command{Args: []string{"true"}}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("error %v", err)
	}
	<-signals
	if f := <-signals; f.kind != frameSignal || f.payload[0] != byte(syscall.SIGKILL) {
		t.Errorf("the guest was sent %v", f)
	}
}

func TestBootWantsGuestMain(t *testing.T) {
	called := guestMainCalled
	guestMainCalled = false
	t.Cleanup(func() { guestMainCalled = called })
	if _, err := Boot(t.Context(), Options{}); err == nil || !strings.Contains(err.Error(), "GuestMain") {
		t.Errorf("error %v", err)
	}
}

// TestBootWithoutKernel leaves nothing open: not the disk, not the line.
func TestBootWithoutKernel(t *testing.T) {
	called := guestMainCalled
	guestMainCalled = true
	t.Cleanup(func() { guestMainCalled = called })
	open := func() int {
		files, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		return len(files)
	}
	before := open()
	if _, err := Boot(t.Context(), Options{Kernel: Kernel{dir: t.TempDir()}, Network: &Network{}}); err == nil {
		t.Error("no error")
	}
	if after := open(); after > before {
		t.Errorf("%d open files, before %d", after, before)
	}
}

// sh runs a shell command and wants exit code 0.
func sh(t *testing.T, m *Machine, script string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var out bytes.Buffer
	code, err := m.Run(ctx, Command{Args: []string{"sh", "-ec", script}, Stdout: &out, Stderr: &out})
	if err != nil || code != 0 {
		t.Fatalf("%s: exit code %d, %v: %s", script, code, err, out.String())
	}
	return out.String()
}

func testCommands(ctx context.Context, t *testing.T, m *Machine) {
	t.Helper()
	t.Run("output and exit code", func(t *testing.T) {
		var stdout, stderr bytes.Buffer
		code, err := m.Run(ctx, Command{
			Args: []string{"sh", "-c", `printf 'a\r\n\000b'; echo "$X" >&2; pwd >&2; exit 7`}, Env: []string{"X=from the host"},
			Dir: "/etc", Stdout: &stdout, Stderr: &stderr,
		})
		if code != 7 || err != nil {
			t.Errorf("exit code %d, error %v", code, err)
		}
		if got := stdout.String(); got != "a\r\n\x00b" {
			t.Errorf("stdout %q", got)
		}
		if got := stderr.String(); got != "from the host\n/etc\n" {
			t.Errorf("stderr %q", got)
		}
	})
	t.Run("much output comes whole", func(t *testing.T) {
		var out bytes.Buffer
		code, err := m.Run(ctx, Command{Args: []string{"seq", "300000"}, Stdout: &out})
		if lines := bytes.Count(out.Bytes(), []byte("\n")); code != 0 || err != nil || lines != 300000 {
			t.Errorf("exit code %d, error %v, %d lines", code, err, lines)
		}
	})
	t.Run("one writer for both keeps their order", func(t *testing.T) {
		var out bytes.Buffer
		code, err := m.Run(ctx, Command{
			Args:   []string{"sh", "-c", "for i in $(seq 100); do echo a; echo b >&2; done"},
			Stdout: &out, Stderr: &out,
		})
		if code != 0 || err != nil || out.String() != strings.Repeat("a\nb\n", 100) {
			t.Errorf("exit code %d, error %v, output %q", code, err, out.String())
		}
	})
	t.Run("input", func(t *testing.T) {
		var out bytes.Buffer
		in := strings.Repeat("0123456789abcdef", 20000)
		code, err := m.Run(ctx, Command{Args: []string{"cat"}, Stdin: strings.NewReader(in), Stdout: &out})
		if code != 0 || err != nil || out.String() != in {
			t.Errorf("exit code %d, error %v, %d of %d bytes", code, err, out.Len(), len(in))
		}
	})
	t.Run("killed by a signal", func(t *testing.T) {
		if code, err := m.Run(ctx, Command{Args: []string{"sh", "-c", "kill -9 $$"}}); code != 137 || err != nil {
			t.Errorf("exit code %d, error %v", code, err)
		}
	})
	t.Run("no such program", func(t *testing.T) {
		for _, program := range []string{"no-such-program", "/no/such/program", "/etc/passwd", "/etc"} {
			if _, err := m.Run(ctx, Command{Args: []string{program}}); err == nil {
				t.Errorf("%s: no error", program)
			}
		}
		if _, err := m.Run(ctx, Command{}); err == nil {
			t.Error("no command: no error")
		}
	})
	t.Run("deadline", func(t *testing.T) {
		short, stop := context.WithTimeout(ctx, time.Second)
		defer stop()
		_, err := m.Run(short, Command{Args: []string{"sh", "-c", "sleep 6000.125 & sleep 6000.125"}})
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("error %v", err)
		}
		if out := sh(t, m, "grep -als '6000[.]125' /proc/[0-9]*/cmdline || true"); out != "" {
			t.Errorf("still running: %s", out)
		}
	})
	t.Run("a child left behind does not hold the command", func(t *testing.T) {
		start := time.Now()
		child := sh(t, m, "sleep 600 & echo $!")
		if took := time.Since(start); took > 30*time.Second {
			t.Errorf("took %s", took)
		}
		sh(t, m, "kill "+child)
	})
	t.Run("many at once", func(t *testing.T) {
		results := make(chan error)
		for i := range 5 {
			go func() {
				var out bytes.Buffer
				script := fmt.Sprintf("sleep 1; echo %d; exit %d", i, i)
				code, err := m.Run(ctx, Command{Args: []string{"sh", "-c", script}, Stdout: &out})
				if want := fmt.Sprintf("%d\n", i); code != i || out.String() != want {
					err = errors.Join(err, fmt.Errorf("%d: exit code %d, output %q", i, code, out.String()))
				}
				results <- err
			}()
		}
		for range 5 {
			if err := <-results; err != nil {
				t.Error(err)
			}
		}
	})
	t.Run("terminal", func(t *testing.T) {
		sizes := make(chan [2]uint16, 1)
		sizes <- [2]uint16{33, 77}
		var out bytes.Buffer
		code, err := m.Run(ctx, Command{
			Args: []string{"sh", "-c", "tty; stty size; read x; echo got $x"}, Stdin: strings.NewReader("line\n"),
			Stdout: &out, Terminal: true, Resize: sizes,
		})
		for _, want := range []string{"/dev/pts/", "33 77", "got line"} {
			if !strings.Contains(out.String(), want) {
				t.Errorf("exit code %d, error %v, output %q lacks %q", code, err, out.String(), want)
			}
		}
	})
}
