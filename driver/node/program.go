package node

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"

	"srvlab.io/rds-csi/safety"
)

// Whatever may wait for a dead disk is done by a program of its own, never by a thread of the driver: a thread that
// hangs in the kernel keeps a killed driver from ending, and its successor, whose repair would end the hang, from
// starting.

// command is one run of an external program.
type command struct {
	slot  safety.Slot   // whose share of hanging programs it may use up
	limit time.Duration // how long it may run, if the context allows as much
	argv  []string
	in    io.Reader // nil: /dev/null; an *os.File is handed over as it is
	out   io.Writer // nil: stdout is in the outcome; an *os.File is handed over as it is

	started chan<- struct{} // closed as soon as the program runs; may be nil
}

// outcome is what a program that ended by itself left behind.
type outcome struct {
	stdout, stderr []byte
	exit           int
}

// runner exists so that tests can put a program in another's place or make it hang.
type runner interface {
	// run gives the outcome of a program that ended with exit status 0. Everything else is an error; with an
	// *exitError the outcome is given, too.
	run(ctx context.Context, c command) (outcome, error)
}

// exitError says that a program ended by itself with another status than 0.
type exitError struct {
	argv   []string
	exit   int
	stderr string
}

func (e *exitError) Error() string {
	s := fmt.Sprintf("%s: exit status %d", strings.Join(e.argv, " "), e.exit)
	if e.stderr != "" {
		s += ": " + e.stderr
	}
	return s
}

const (
	// reapTime is how long a killed program has to go away before it counts as hanging in the kernel.
	reapTime = 2 * time.Second
	// maxHanging is how many hanging programs a volume may have. kubelet comes again every few seconds to minutes for
	// as long as an array is down, and each attempt could leave one more behind.
	maxHanging = 3
	// maxText is how much of a program's stderr goes into an error.
	maxText = 1000
)

// programs runs programs of the machine and keeps count of those that neither end nor die. The zero value is ready.
type programs struct {
	mu      sync.Mutex
	hanging map[safety.Slot]int
}

var _ runner = (*programs)(nil)

// Hanging counts the programs that were killed, but are held in the kernel.
func (p *programs) Hanging() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	sum := 0
	for _, n := range p.hanging {
		sum += n
	}
	return sum
}

func (p *programs) run(ctx context.Context, c command) (outcome, error) {
	name := strings.Join(c.argv, " ")
	if err := p.room(c.slot); err != nil {
		return outcome{}, fmt.Errorf("%s: %w", name, err)
	}
	if err := ctx.Err(); err != nil {
		return outcome{}, fmt.Errorf("%s: not started: %w", name, err)
	}
	ctx, cancel := context.WithTimeout(ctx, c.limit)
	defer cancel()

	var stdout, stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, c.argv[0], c.argv[1:]...)
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	cmd.Stdin, cmd.Stderr = c.in, &stderr
	cmd.Stdout = &stdout
	if c.out != nil {
		cmd.Stdout = c.out
	}
	cmd.WaitDelay = reapTime
	// A mkfs that outlives a killed driver would go on writing below its successor.
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}

	ended := start(cmd, c.started)
	select {
	case err := <-ended:
		return conclude(ctx, c.argv, err, stdout.Bytes(), stderr.Bytes())
	case <-ctx.Done():
	}
	patience := time.NewTimer(reapTime) // exec has killed it; Wait returns as soon as the kernel has let go of it
	defer patience.Stop()
	select {
	case err := <-ended:
		return conclude(ctx, c.argv, err, stdout.Bytes(), stderr.Bytes())
	case <-patience.C:
		p.abandon(c.slot, ended)
		return outcome{}, fmt.Errorf("%s: killed, but the kernel does not let go of it: %w", name, ctx.Err())
	}
}

// start runs cmd in a goroutine with a thread of its own: the kernel sends the death signal when the thread that
// started the child ends, not the process (prctl(2), PR_SET_PDEATHSIG).
func start(cmd *exec.Cmd, started chan<- struct{}) <-chan error {
	ended := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		if err := cmd.Start(); err != nil {
			ended <- err
			return
		}
		if started != nil {
			close(started)
		}
		ended <- cmd.Wait()
	}()
	return ended
}

// conclude tells what the end of a program means.
func conclude(ctx context.Context, argv []string, err error, stdout, stderr []byte) (outcome, error) {
	name := strings.Join(argv, " ")
	o := outcome{stdout: stdout, stderr: stderr}
	var exited *exec.ExitError
	switch {
	case err == nil:
		return o, nil
	case errors.Is(err, exec.ErrNotFound):
		return outcome{}, safety.Refuse(safety.NodeUnsuited, fmt.Errorf("%s: %w", name, err))
	case errors.As(err, &exited) && exited.Exited():
		o.exit = exited.ExitCode()
		return o, &exitError{argv: argv, exit: o.exit, stderr: shorten(stderr)}
	case ctx.Err() != nil:
		return outcome{}, fmt.Errorf("%s: killed: %w", name, ctx.Err())
	}
	return outcome{}, fmt.Errorf("%s: %w: %s", name, err, shorten(stderr))
}

// shorten makes one line of what a program said.
func shorten(text []byte) string {
	s := strings.Join(strings.Fields(string(text)), " ")
	if len(s) > maxText {
		s = s[:maxText] + "…"
	}
	return s
}

// room refuses one more program for a volume that has hanging ones enough.
func (p *programs) room(slot safety.Slot) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if n := p.hanging[slot]; n >= maxHanging {
		return safety.Refuse(safety.PathLost, fmt.Errorf("%d programs hang on volume %s already; waiting for its array", n, slot))
	}
	return nil
}

func (p *programs) abandon(slot safety.Slot, ended <-chan error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.hanging == nil {
		p.hanging = map[safety.Slot]int{}
	}
	p.hanging[slot]++
	go func() {
		<-ended //nolint:errcheck // how it ended is nobody's business any more
		p.mu.Lock()
		defer p.mu.Unlock()
		if p.hanging[slot]--; p.hanging[slot] == 0 {
			delete(p.hanging, slot)
		}
	}()
}
