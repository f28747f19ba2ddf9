package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"srvlab.io/rds-csi/test/vm/machine"
)

// onHostVariable chooses this host's own kernel instead of a machine's.
const onHostVariable = "RDS_TEST_ON_HOST"

// hostPlace runs tests on this host. It is for somebody with a real kernel, and for a distribution whose kernel is
// none of ours.
type hostPlace struct{ disk string }

// needed are the files that show what the tests need, and what brings them.
var needed = []struct{ file, remedy string }{
	{"/dev/nvme-fabrics", "modprobe nvme-tcp"},
	{"/sys/module/nvme_tcp", "modprobe nvme-tcp"},
	{"/sys/module/nvmet_tcp", "modprobe nvmet-tcp"},
	{"/sys/kernel/config/nvmet", "modprobe nvmet; mount -t configfs configfs /sys/kernel/config"},
	{"/dev/mapper/control", "modprobe dm-mod"},
	{"/sys/module/dm_multipath", "modprobe dm-multipath"},
	{"/sys/module/dm_round_robin", "modprobe dm-round-robin"},
	{"/dev/loop-control", "modprobe loop"},
}

func (h *hostPlace) prepare(context.Context) error {
	if os.Geteuid() != 0 {
		return fmt.Errorf("%s: must be root", onHostVariable)
	}
	if err := missing("/"); err != nil {
		return fmt.Errorf("%s: %w", onHostVariable, err)
	}
	// Not below /tmp, which often is a tmpfs: exported files need direct I/O.
	dir, err := os.MkdirTemp("/var/lib", "rds-csi-vm-")
	h.disk = dir
	return err
}

// missing names everything that is not there, in one error.
func missing(root string) error {
	var all []error
	for _, n := range needed {
		if _, err := os.Stat(root + n.file); err != nil {
			all = append(all, fmt.Errorf("%s is missing: %s", n.file, n.remedy))
		}
	}
	return errors.Join(all...)
}

func (h *hostPlace) run(ctx context.Context, c machine.Command) (int, error) {
	cmd := exec.CommandContext(ctx, c.Args[0], c.Args[1:]...)
	cmd.Env = append(machine.BaseEnv(), "TMPDIR="+os.TempDir(), "RDS_VM_DISK="+h.disk)
	cmd.Env = append(cmd.Env, c.Env...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = c.Dir, c.Stdout, c.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = 10 * time.Second
	err := cmd.Run()
	var exit *exec.ExitError
	if errors.As(err, &exit) && ctx.Err() == nil {
		return exit.ExitCode(), nil
	}
	if err != nil {
		return 0, fmt.Errorf("%s: %w", strings.Join(c.Args, " "), errors.Join(err, ctx.Err()))
	}
	return 0, nil
}

// spoiled leaves everything as it is: this host is somebody's.
func (h *hostPlace) spoiled() {}

// end removes the directory if the tests have cleaned up after themselves. Files that are left are named by the
// error: each may still be exported.
func (h *hostPlace) end(bool) error {
	if h.disk == "" {
		return nil
	}
	return os.Remove(h.disk)
}
