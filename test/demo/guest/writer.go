package guest

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"srvlab.io/rds-csi/test/demo/record"
	program "srvlab.io/rds-csi/test/demo/writer"
)

// writer is a running writer program.
type writer struct {
	file, logFile string
	stream        record.Stream
	cmd           *exec.Cmd
	done          chan error
}

// startWriter starts the program on a file and waits for its first record. Its log is on the root file system, which
// no outage of the array touches.
func (d *demo) startWriter(ctx context.Context, name, file string, interval time.Duration) (*writer, error) {
	w := &writer{file: file, logFile: filepath.Join(d.dir, name), done: make(chan error, 1)}
	if _, err := rand.Read(w.stream[:]); err != nil {
		return nil, err
	}
	o := program.Options{File: file, Log: w.logFile, Stream: w.stream, Interval: interval}
	// It outlives the step that starts it.
	w.cmd = exec.CommandContext(context.WithoutCancel(ctx), d.options.Self[0], append(d.options.Self[1:], o.Args()...)...)
	w.cmd.Stderr = os.Stderr
	if err := w.cmd.Start(); err != nil {
		return nil, err
	}
	go func() { w.done <- w.cmd.Wait() }()
	return w, w.reach(ctx, 1)
}

// log reads what the writer has logged so far.
func (w *writer) log() ([]record.Write, error) {
	f, err := os.Open(w.logFile)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil // it has not got that far
	}
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	return record.ReadLog(f)
}

// reach waits until the writer has logged n writes. A write that failed ends the wait at once: no demo needs to run on
// after that.
func (w *writer) reach(ctx context.Context, n int) error {
	return until(ctx, fmt.Sprintf("write number %d in %s", n, w.file), func() (bool, error) {
		select {
		case err := <-w.done:
			w.done <- err
			return false, final{fmt.Errorf("the writer has ended: %w", err)}
		default:
		}
		log, err := w.log()
		if err != nil {
			return false, err
		}
		if s := record.Summarize(log); s.Errors > 0 {
			return false, final{fmt.Errorf("the writer saw %d errors, the first: %s", s.Errors, s.FirstError)}
		}
		return len(log) >= n, nil
	})
}

// more waits for n writes more than there are.
func (w *writer) more(ctx context.Context, n int) error {
	log, err := w.log()
	if err != nil {
		return err
	}
	return w.reach(ctx, len(log)+n)
}

// stop lets the writer finish the record it is at.
func (w *writer) stop(ctx context.Context) error {
	if err := w.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		return fmt.Errorf("stop the writer: %w", err)
	}
	select {
	case err := <-w.done:
		w.done <- err
		return err
	case <-ctx.Done():
		return fmt.Errorf("stop the writer: it hangs in a write: %w", context.Cause(ctx))
	}
}

// verify holds a file, wherever it can be read now, against the writer's log.
func (w *writer) verify(file string) (record.Summary, record.Verdict, error) {
	log, err := w.log()
	if err != nil {
		return record.Summary{}, record.Verdict{}, err
	}
	f, err := os.Open(file)
	if err != nil {
		return record.Summary{}, record.Verdict{}, err
	}
	defer func() { _ = f.Close() }()
	v, err := record.Verify(f, w.stream, log)
	return record.Summarize(log), v, err
}
