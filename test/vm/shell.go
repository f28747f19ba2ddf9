package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"golang.org/x/sys/unix"

	"srvlab.io/rds-csi/test/vm/machine"
)

// runShell gives an interactive shell in the guest, on a terminal of its own.
func runShell(ctx context.Context, s settings) (code int, err error) {
	root, err := repository()
	if err != nil {
		return exitFailure, err
	}
	dir, err := os.Getwd()
	if err != nil {
		return exitFailure, err
	}
	terminal := int(os.Stdin.Fd())
	before, err := unix.IoctlGetTermios(terminal, unix.TCGETS)
	if err != nil {
		return exitUsage, errors.New("a shell needs a terminal; give a command behind --")
	}
	g, err := boot(ctx, s, s.kernels[0], root)
	if err != nil {
		return exitFailure, err
	}
	defer func() { err = errors.Join(err, g.close(true)) }()
	fmt.Fprintf(os.Stderr, "vm: kernel %s. What you write stays in the machine, but for %s/out. Disk: %s\n",
		g.Release(), root, machine.DiskDir)

	sizes, stop := windowSizes(terminal)
	defer stop()
	if err := unix.IoctlSetTermios(terminal, unix.TCSETS, raw(*before)); err != nil {
		return exitFailure, fmt.Errorf("terminal: %w", err)
	}
	defer func() { err = errors.Join(err, unix.IoctlSetTermios(terminal, unix.TCSETS, before)) }()
	code, err = g.Run(ctx, machine.Command{
		Args: []string{"bash", "-i"}, Env: environ(), Dir: dir,
		Stdin: os.Stdin, Stdout: os.Stdout, Terminal: true, Resize: sizes,
	})
	if err != nil {
		return exitFailure, err
	}
	return code, nil
}

// raw is cfmakeraw(3): the guest's terminal does the line editing and the signals.
func raw(t unix.Termios) *unix.Termios {
	t.Iflag &^= unix.IGNBRK | unix.BRKINT | unix.PARMRK | unix.ISTRIP | unix.INLCR | unix.IGNCR | unix.ICRNL | unix.IXON
	t.Oflag &^= unix.OPOST
	t.Lflag &^= unix.ECHO | unix.ECHONL | unix.ICANON | unix.ISIG | unix.IEXTEN
	t.Cflag &^= unix.CSIZE | unix.PARENB
	t.Cflag |= unix.CS8
	t.Cc[unix.VMIN], t.Cc[unix.VTIME] = 1, 0
	return &t
}

// windowSizes gives the size of our terminal now and at each change.
func windowSizes(terminal int) (<-chan [2]uint16, func()) {
	sizes := make(chan [2]uint16, 1)
	changed := make(chan os.Signal, 1)
	signal.Notify(changed, syscall.SIGWINCH)
	done := make(chan struct{})
	changed <- syscall.SIGWINCH
	go func() {
		for {
			select {
			case <-changed:
				size, err := unix.IoctlGetWinsize(terminal, unix.TIOCGWINSZ)
				if err != nil {
					size = &unix.Winsize{Row: 24, Col: 80}
				}
				select {
				case sizes <- [2]uint16{size.Row, size.Col}:
				case <-done:
					return
				}
			case <-done:
				return
			}
		}
	}()
	return sizes, func() { signal.Stop(changed); close(done) }
}
