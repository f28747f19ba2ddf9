// Package guest is the half of the demo that runs in the virtual machine: it drives the real programs through one
// life of a volume, reads from the kernel what came of it, and writes down what it measured; it refuses to judge that.
package guest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"srvlab.io/rds-csi/safety"
	"srvlab.io/rds-csi/test/bystander"
	"srvlab.io/rds-csi/test/demo/record"
	"srvlab.io/rds-csi/test/demo/report"
	"srvlab.io/rds-csi/test/stack"
)

// demo is one run.
type demo struct {
	options Options
	screen  io.Writer
	dir     string // keys, sockets, mounts and logs while it runs
	pool    string // the array's files
	kubelet string

	kernel *kernelLog
	stack  *stack.Stack
	report report.Report

	foreign foreign
	volume  volume
	before  inventory
}

// Options say where everything is.
type Options struct {
	Bin  string   // the folder with the programs of rds-csi
	Out  string   // the folder for the results, shared with the host
	Disk string   // a folder on a disk that can do direct I/O, for the array's files
	Self []string // how to start the writer: a command line that its flags are added to
}

// Run does all steps, printing them to screen, and writes report.json and the logs into o.Out, also of a run that
// failed.
func Run(ctx context.Context, o Options, screen io.Writer) (err error) {
	d := demo{options: o, screen: screen}
	if d.kernel, err = openKernelLog(); err != nil {
		return err
	}
	if err := d.prepare(); err != nil {
		return err
	}
	failed := d.all(ctx)
	if failed != nil {
		d.report.Failure = failed.Error()
		d.explain()
	}
	// The foreign disk stays as it is until the machine is switched off: nobody here has a reason to touch it.
	return errors.Join(failed, d.stack.Stop(), d.save(), d.kernel.close())
}

func (d *demo) prepare() error {
	var uname unix.Utsname
	if err := unix.Uname(&uname); err != nil {
		return err
	}
	d.report.Kernel = unix.ByteSliceToString(uname.Release[:])
	d.dir, d.pool = "/run/rds-csi-demo", filepath.Join(d.options.Disk, "pool")
	d.kubelet = filepath.Join(d.dir, "kubelet")
	for _, dir := range []string{d.dir, d.pool, d.kubelet} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	prefix, err := safety.ParsePrefix("nqn.2000-02.com.mikrotik:demo-")
	if err != nil {
		return err
	}
	d.volume = volume{prefix: prefix, cluster: "demo", node: "node-1", name: "pvc-8a4b2c1e-5d3f-4a6b-9c7d-0e1f2a3b4c5d"}
	d.stack = stack.New(stack.Config{
		Bin: d.options.Bin, Dir: d.dir, Log: d.options.Out,
		Prefix: prefix, Cluster: d.volume.cluster, Node: d.volume.node, Kubelet: d.kubelet,
		Array: stack.Array{
			Name: "rds1", SSH: sshAddress, Portal: arrayPortal, Version: "7.24.4",
			Pool: "raid10", Format: "xfs", Size: "4G", Files: d.pool,
		},
	})
	return nil
}

// step is one thing that is done within a time, and gives what was seen of it.
type step struct {
	name   string
	within time.Duration
	do     func(context.Context) ([]string, error)
}

// step does one thing and shows what was seen of it, and what the kernel logged meanwhile.
func (d *demo) step(ctx context.Context, one step) error {
	ctx, cancel := context.WithTimeoutCause(ctx, one.within, fmt.Errorf("not within %s", one.within))
	defer cancel()
	begin, err := record.Clock()
	if err != nil {
		return err
	}
	seen, failed := one.do(ctx)
	end, err := record.Clock()
	if err != nil {
		return errors.Join(failed, err)
	}
	lines, err := d.kernel.next()
	if err != nil {
		return errors.Join(failed, err)
	}
	for _, l := range lines {
		seen = append(seen, "dmesg: "+l.String())
	}
	if seen == nil {
		seen = []string{} // a list in the report, not null
	}
	s := report.Step{Name: one.name, From: begin.Seconds(), Seconds: (end - begin).Seconds(), Seen: seen}
	if failed != nil {
		s.Error = failed.Error()
	}
	d.report.Steps = append(d.report.Steps, s)
	for _, line := range seen {
		_, _ = fmt.Fprintf(d.screen, "      %s\n", line)
	}
	_, _ = fmt.Fprintf(d.screen, "      %.1f s\n", s.Seconds)
	if failed != nil {
		_, _ = fmt.Fprintf(d.screen, "      FAILED: %v\n", failed)
		return fmt.Errorf("step %q: %w", one.name, failed)
	}
	return nil
}

// explain shows what the kernel has to say after a step failed.
func (d *demo) explain() {
	say := func(title, text string, err error) {
		if err != nil {
			text += err.Error()
		}
		_, _ = fmt.Fprintf(d.screen, "\n%s:\n%s\n", title, strings.TrimRight(text, "\n"))
	}
	ctx, cancel := context.WithTimeout(context.Background(), programTime)
	defer cancel()
	for _, nqn := range []safety.NQN{d.volume.nqn, bystander.NQN} {
		if nqn != "" {
			say("subsystem "+string(nqn), strings.Join(controllers(nqn), "\n"), nil)
		}
	}
	for _, args := range [][]string{{"dmsetup", "table"}, {"dmsetup", "status", "--noflush"}} {
		text, err := run(ctx, args[0], args[1:]...)
		say(strings.Join(args, " "), text, err)
	}
	lines, err := mountsBelow(d.dir)
	say("mounts below "+d.dir, strings.Join(lines, "\n"), err)
	var last strings.Builder
	for _, l := range d.kernel.lines[max(0, len(d.kernel.lines)-30):] {
		last.WriteString(l.String() + "\n")
	}
	say("the kernel's log", last.String(), nil)
}

// save writes the report, and copies the writers' logs and the kernel's beside it.
func (d *demo) save() error {
	errs := []error{d.report.WriteFile(filepath.Join(d.options.Out, report.File))}
	for _, name := range []string{report.WriterLog, report.ForeignLog} {
		b, err := os.ReadFile(filepath.Join(d.dir, name))
		if errors.Is(err, os.ErrNotExist) {
			continue // it was never started
		}
		errs = append(errs, err, os.WriteFile(filepath.Join(d.options.Out, name), b, 0o644))
	}
	var dmesg strings.Builder
	for _, l := range d.kernel.lines {
		dmesg.WriteString(l.String() + "\n")
	}
	errs = append(errs, os.WriteFile(filepath.Join(d.options.Out, "kernel.log"), []byte(dmesg.String()), 0o644))
	return errors.Join(errs...)
}
