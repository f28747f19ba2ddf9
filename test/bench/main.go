// Command bench measures what the driver costs, as ratios taken in one run against doing the same by hand, and writes
// them to out/bench/bench.json. It refuses to compare anything with a number from another run or another machine.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"srvlab.io/rds-csi/test/vm/machine"
)

const (
	// guestPart is the argument with which the program, in the machine, does its other half.
	guestPart = "guest"
	// timeLimit is that of the part in the machine.
	timeLimit = 15 * time.Minute
	// guestRows is what the guest leaves for the host.
	guestRows = "guest.json"
)

var sshAddress = netip.MustParseAddrPort("127.0.0.1:2222")

func main() {
	machine.GuestMain()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	err := run(ctx, os.Args[1:])
	stop()
	if errors.Is(err, flag.ErrHelp) {
		os.Exit(2)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	inGuest := len(args) > 0 && args[0] == guestPart
	if inGuest {
		args = args[1:]
	}
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	root := flags.String("root", "../..", "the repository, with the programs in bin/")
	kernel := flags.String("kernel", "6.12", "kernel series of the machine")
	if err := flags.Parse(args); err != nil {
		return err
	}
	dir, err := filepath.Abs(*root)
	if err != nil {
		return err
	}
	bin, out := filepath.Join(dir, "bin"), filepath.Join(dir, "out", "bench")
	if inGuest {
		rows, err := benchStage(ctx, bin, out, machine.DiskDir)
		return errors.Join(err, writeRows(filepath.Join(out, guestRows), rows))
	}
	return onHost(ctx, dir, bin, out, *kernel)
}

func onHost(ctx context.Context, root, bin, out, kernel string) error {
	if _, err := os.Stat(filepath.Join(bin, "rds-csi-node")); err != nil {
		return fmt.Errorf("the programs are not built, run make build: %w", err)
	}
	if err := os.MkdirAll(out, 0o755); err != nil {
		return err
	}
	if err := removeFiles(out); err != nil { // rows of an earlier run must not pass for this one's
		return err
	}
	if err := os.MkdirAll(out, 0o755); err != nil {
		return err
	}
	fmt.Printf("CreateVolume on this machine, %d rounds\n", createRounds)
	rows, err := benchCreate(ctx, bin, out)
	if err != nil {
		return err
	}
	fmt.Printf("Stage and unstage in a virtual machine, %d rounds\n", stageRounds)
	if err := inMachine(ctx, kernel, root, out); err != nil {
		return err
	}
	more, err := readRows(filepath.Join(out, guestRows))
	if err != nil {
		return err
	}
	rows = append(rows, more...)
	if err := errors.Join(writeRows(filepath.Join(out, "bench.json"), rows), os.Remove(filepath.Join(out, guestRows))); err != nil {
		return err
	}
	fmt.Println()
	if err := printRows(os.Stdout, rows); err != nil {
		return err
	}
	if !met(rows) {
		return errors.New("a target was missed")
	}
	return nil
}

// inMachine runs the guest's part and leaves nothing but what it wrote into out.
func inMachine(ctx context.Context, kernel, root, out string) (err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, timeLimit, fmt.Errorf("the bench did not end within %s", timeLimit))
	defer cancel()
	k, err := machine.FetchKernel(ctx, kernel, func(text string) { fmt.Fprintln(os.Stderr, text) })
	if err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	m, err := machine.Boot(ctx, machine.Options{Kernel: k, Shares: []string{out}, Console: filepath.Join(out, "console.log")})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, m.Close()) }()
	code, err := m.Run(ctx, machine.Command{
		Args: []string{self, guestPart, "-root", root}, Stdout: os.Stdout, Stderr: os.Stderr,
	})
	if err == nil && code != 0 {
		err = fmt.Errorf("ended with exit code %d; its logs are in %s", code, out)
	}
	return errors.Join(err, context.Cause(ctx))
}

// removeFiles removes a directory and the files in it. A directory in it is not of this program's making, and stays.
func removeFiles(dir string) error {
	files, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	errs := make([]error, 0, len(files)+1)
	for _, f := range files {
		errs = append(errs, os.Remove(filepath.Join(dir, f.Name())))
	}
	return errors.Join(append(errs, os.Remove(dir))...)
}
