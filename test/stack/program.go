package stack

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// stopTime is what a program gets between SIGTERM and SIGKILL: all of them promise to be gone after 30 s.
const stopTime = 31 * time.Second

// Program is one of ours, running.
type Program struct {
	Name string
	// Log is the file with its standard error.
	Log string

	cmd  *exec.Cmd
	done chan struct{}
	err  error // how it ended; to be read after done
}

// start runs bin/name until Stop: the program outlives the call, and the ctx, that started it. env is added to the
// environment.
func start(ctx context.Context, bin, logs, name string, env []string, args ...string) (*Program, error) {
	p := &Program{Name: name, Log: filepath.Join(logs, name+".log"), done: make(chan struct{})}
	log, err := os.OpenFile(p.Log, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o644)
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	defer func() { _ = log.Close() }() // the child has its own descriptor
	p.cmd = exec.CommandContext(context.WithoutCancel(ctx), filepath.Join(bin, name), args...)
	p.cmd.Env = append(append(os.Environ(), "LC_ALL=C"), env...)
	p.cmd.Stdout, p.cmd.Stderr = log, log
	// Its own group: a Ctrl-C in the terminal must reach the one who stops the programs in order, not all at once.
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := p.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	go func() {
		p.err = p.cmd.Wait()
		close(p.done)
	}()
	return p, nil
}

// PID gives the process' number.
func (p *Program) PID() int { return p.cmd.Process.Pid }

// Done is closed when the program has ended.
func (p *Program) Done() <-chan struct{} { return p.done }

// Stop asks the program to end and waits until it has. An exit code other than 0 is an error: they all promise to
// end cleanly on SIGTERM.
func (p *Program) Stop() error {
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("stop %s: %w", p.Name, err)
	}
	patience := time.NewTimer(stopTime)
	defer patience.Stop()
	select {
	case <-p.done:
	case <-patience.C:
		err := p.cmd.Process.Kill()
		<-p.done
		return errors.Join(fmt.Errorf("stop %s: still there after %s", p.Name, stopTime), err)
	}
	return p.ended()
}

// ended gives how a program ended that is done, with the end of its log.
func (p *Program) ended() error {
	if p.err == nil {
		return nil
	}
	return fmt.Errorf("%s ended: %w; its last lines:\n%s", p.Name, p.err, tail(p.Log, 5))
}

// RSS gives the program's resident memory in bytes, from VmRSS in /proc/<pid>/status.
func (p *Program) RSS() (int64, error) {
	b, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(p.PID()), "status"))
	if err != nil {
		return 0, fmt.Errorf("memory of %s: %w", p.Name, err)
	}
	for line := range strings.Lines(string(b)) {
		if value, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			kB, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(value), " kB"), 10, 64)
			if err != nil {
				return 0, fmt.Errorf("memory of %s: %w", p.Name, err)
			}
			return kB << 10, nil
		}
	}
	return 0, fmt.Errorf("memory of %s: no VmRSS in its status", p.Name)
}

// tail gives the last n lines of a file, or why it cannot be read.
func tail(file string, n int) string {
	b, err := os.ReadFile(file)
	if err != nil {
		return err.Error()
	}
	lines := strings.Split(strings.TrimRight(string(b), "\n"), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}
