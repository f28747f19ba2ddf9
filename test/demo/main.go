// Command demo shows the main job on a real kernel: a volume is made, mounted, written to and grown, the array goes
// away in the nasty way and comes back, and the writer never sees an error. It refuses to call a run good in which any
// promise was not measured to be kept.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"srvlab.io/rds-csi/test/demo/guest"
	"srvlab.io/rds-csi/test/demo/record"
	"srvlab.io/rds-csi/test/demo/report"
	"srvlab.io/rds-csi/test/demo/timeline"
	"srvlab.io/rds-csi/test/demo/writer"
	"srvlab.io/rds-csi/test/vm/machine"
)

// The program is its own guest: started with one of these words it is another part of the demo, inside the machine.
const (
	guestPart  = "guest"
	writerPart = "writer"
)

// kernelSeries is the kernel of the machine. It must be one that removes the controller when the array answers before it
// exports: 6.1 goes on trying instead, which harms nobody and shows nothing (facts/vm.md).
const kernelSeries = "6.12"

// timeLimit is that of the whole run in the machine. A good one takes two minutes.
const timeLimit = 12 * time.Minute

func main() {
	machine.GuestMain()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	err := run(ctx, os.Args[1:])
	stop()
	if errors.Is(err, flag.ErrHelp) {
		os.Exit(2)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	part := ""
	if len(args) > 0 {
		part = args[0]
	}
	switch part {
	case guestPart:
		return inGuest(ctx, args[1:])
	case writerPart:
		o, err := writer.Parse(args[1:])
		if err != nil {
			return err
		}
		return writer.Run(ctx, o)
	}
	flags := flag.NewFlagSet("demo", flag.ContinueOnError)
	root := flags.String("root", "../..", "the repository, with the programs in bin/")
	if err := flags.Parse(args); err != nil {
		return err
	}
	return onHost(ctx, *root)
}

func inGuest(ctx context.Context, args []string) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	o := guest.Options{Self: []string{self, writerPart}, Disk: machine.DiskDir}
	flags := flag.NewFlagSet(guestPart, flag.ContinueOnError)
	flags.StringVar(&o.Bin, "bin", "", "folder with the programs of rds-csi")
	flags.StringVar(&o.Out, "out", "", "folder for the results")
	if err := flags.Parse(args); err != nil {
		return err
	}
	return guest.Run(ctx, o, os.Stdout)
}

// onHost runs the demo in a machine and judges what it brought back.
func onHost(ctx context.Context, root string) error {
	root, err := filepath.Abs(root)
	if err != nil {
		return err
	}
	bin, out := filepath.Join(root, "bin"), filepath.Join(root, "out", "demo")
	if _, err := os.Stat(filepath.Join(bin, "rds-csi-node")); err != nil {
		return fmt.Errorf("the programs are not built, run make build: %w", err)
	}
	if err := empty(out); err != nil {
		return err
	}
	failed := inMachine(ctx, bin, out)
	if ctx.Err() != nil {
		return errors.Join(errors.New("interrupted; the machine is gone, its logs are in "+out), failed)
	}
	kept, err := judge(out)
	switch {
	case err != nil || failed != nil:
		return errors.Join(failed, err, errors.New("the logs are in "+out))
	case !kept:
		return errors.New("a promise was broken; the logs are in " + out)
	}
	return nil
}

// inMachine boots a machine, runs the guest's part in it, and leaves nothing of it but what it wrote into out.
func inMachine(ctx context.Context, bin, out string) (err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, timeLimit, fmt.Errorf("the demo did not end within %s", timeLimit))
	defer cancel()
	k, err := machine.FetchKernel(ctx, kernelSeries, func(text string) { fmt.Fprintln(os.Stderr, text) })
	if err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	fmt.Printf("Booting Linux %s in a virtual machine\n", k.Release)
	m, err := machine.Boot(ctx, machine.Options{Kernel: k, Shares: []string{out}, Console: filepath.Join(out, "console.log")})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, m.Close()) }()
	code, err := m.Run(ctx, machine.Command{
		Args: []string{self, guestPart, "-bin", bin, "-out", out}, Stdout: os.Stdout, Stderr: os.Stderr,
	})
	if err != nil {
		return errors.Join(err, context.Cause(ctx))
	}
	if code != 0 {
		return fmt.Errorf("the demo in the machine ended with exit code %d", code)
	}
	return nil
}

// judge completes the report, draws the timeline and prints the table.
func judge(out string) (kept bool, err error) {
	f, err := os.Open(filepath.Join(out, report.File))
	if err != nil {
		return false, fmt.Errorf("the machine wrote no report: %w", err)
	}
	defer func() { _ = f.Close() }()
	r, err := report.Read(f)
	if err != nil {
		return false, err
	}
	kept = r.Judge()
	writes, errWrites := readLog(filepath.Join(out, report.WriterLog))
	others, errOthers := readLog(filepath.Join(out, report.ForeignLog))
	var errPicture error
	if len(writes) > 0 {
		picture := timeline.Of(r, writes, others)
		for _, name := range []string{"timeline.svg", "timeline.png"} {
			errPicture = errors.Join(errPicture, picture.Save(filepath.Join(out, name)))
		}
	}
	fmt.Println()
	return kept, errors.Join(errWrites, errOthers, errPicture,
		r.WriteFile(filepath.Join(out, report.File)), r.Table(os.Stdout))
}

// readLog reads a writer's log; of a writer that was never started there is none.
func readLog(file string) ([]record.Write, error) {
	f, err := os.Open(file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	return record.ReadLog(f)
}

// empty makes the folder and removes an earlier run's files: a report that is a week old must not pass for this one's.
func empty(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	files, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, f := range files {
		if strings.HasPrefix(f.Name(), ".") || f.IsDir() {
			continue // not ours
		}
		if err := os.Remove(filepath.Join(dir, f.Name())); err != nil {
			return err
		}
	}
	return nil
}
