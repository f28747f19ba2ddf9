package node

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"srvlab.io/rds-csi/safety"
)

const parentVariable = "RDS_TEST_PARENT"

// TestMain lets the test program stand for a driver that is killed while a program of its runs.
func TestMain(m *testing.M) {
	if os.Getenv(parentVariable) != "" {
		p := &programs{}
		_, err := p.run(context.Background(), command{limit: time.Minute, argv: []string{"sh", "-c", "echo $$; exec sleep 600"}, out: os.Stdout})
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

func run(t *testing.T, limit time.Duration, in string, argv ...string) (outcome, error) {
	t.Helper()
	c := command{slot: "x", limit: limit, argv: argv}
	if in != "" {
		c.in = strings.NewReader(in)
	}
	return (&programs{}).run(t.Context(), c)
}

func TestPrograms(t *testing.T) {
	t.Setenv("LC_ALL", "de_DE.UTF-8")
	o, err := run(t, time.Minute, "given", "sh", "-c", `cat; echo " $LC_ALL"; echo note >&2`)
	if err != nil || string(o.stdout) != "given C\n" || string(o.stderr) != "note\n" {
		t.Errorf("outcome %q %q, %v", o.stdout, o.stderr, err)
	}
	_, err = run(t, time.Minute, "", "sh", "-c", "echo some  thing >&2; exit 3")
	var exited *exitError
	if !errors.As(err, &exited) || exited.exit != 3 || !strings.HasSuffix(err.Error(), "exit status 3: some thing") {
		t.Errorf("exit status 3 gave %v", err)
	}
	_, err = run(t, time.Minute, "", "sh", "-c", "kill -9 $$")
	if err == nil || errors.As(err, &exited) && exited.exit != 3 {
		t.Errorf("a killed program gave %v", err)
	}
	if _, err = run(t, time.Minute, "", "no-such-program"); safety.ReasonOf(err) != safety.NodeUnsuited {
		t.Errorf("a missing program gave %v", err)
	}
}

func TestProgramsHaveADeadline(t *testing.T) {
	begin := time.Now()
	_, err := run(t, 50*time.Millisecond, "", "sleep", "600")
	if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "sleep 600") {
		t.Errorf("error %v", err)
	}
	if d := time.Since(begin); d > 10*time.Second {
		t.Errorf("took %s", d)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = (&programs{}).run(ctx, command{limit: time.Minute, argv: []string{"false"}})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("with a cancelled context: %v", err)
	}
}

// A program that the kernel does not let go of is left behind, counted, and after a few of them no more is started for
// this volume. No test can make a kernel hang at will, so the hanging ones are only entered as such.
func TestHangingProgramsAreCapped(t *testing.T) {
	p := &programs{}
	ends := make([]chan error, maxHanging)
	for i := range ends {
		if err := p.room("x"); err != nil {
			t.Fatal(err)
		}
		ends[i] = make(chan error, 1)
		p.abandon("x", ends[i])
	}
	if p.Hanging() != maxHanging {
		t.Errorf("%d hang, want %d", p.Hanging(), maxHanging)
	}
	_, err := p.run(t.Context(), command{slot: "x", limit: time.Minute, argv: []string{"true"}})
	if safety.ReasonOf(err) != safety.PathLost {
		t.Errorf("one more on the same volume: %v", err)
	}
	if _, err := p.run(t.Context(), command{slot: "y", limit: time.Minute, argv: []string{"true"}}); err != nil {
		t.Errorf("on another volume: %v", err)
	}
	ends[0] <- nil
	for deadline := time.Now().Add(10 * time.Second); p.Hanging() == maxHanging && time.Now().Before(deadline); {
		time.Sleep(time.Millisecond)
	}
	if _, err := p.run(t.Context(), command{slot: "x", limit: time.Minute, argv: []string{"true"}}); err != nil {
		t.Errorf("after one has ended: %v", err)
	}
}

// A mkfs must not outlive a killed driver.
func TestProgramsDieWithTheDriver(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	parent := exec.CommandContext(t.Context(), self)
	parent.Env = append(os.Environ(), parentVariable+"=1")
	out, err := parent.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := parent.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	child, err := strconv.Atoi(strings.TrimSpace(line))
	if err != nil {
		t.Fatal(err)
	}
	if !isSleep(child) {
		t.Fatalf("process %d does not run", child)
	}
	if err := parent.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = parent.Wait() // killed
	for deadline := time.Now().Add(10 * time.Second); isSleep(child); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			_ = unix.Kill(child, unix.SIGKILL)
			t.Fatal("the program outlived the driver")
		}
	}
}

// isSleep tells whether the process lives: its number may have passed to another, and a dead one may not be reaped.
func isSleep(pid int) bool {
	stat, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "stat"))
	return err == nil && (bytes.Contains(stat, []byte("(sleep) ")) || bytes.Contains(stat, []byte("(sh) "))) && !bytes.Contains(stat, []byte(") Z "))
}
