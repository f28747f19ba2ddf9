package guest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"

	"srvlab.io/rds-csi/safety"
)

// connect connects to a subsystem by hand, as a curious operator would; the driver has no part in it.
func connect(ctx context.Context, nqn safety.NQN, portal netip.AddrPort, as safety.Host) error {
	f, err := os.OpenFile(filepath.Join(host.Dev, "nvme-fabrics"), os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	options := fmt.Sprintf("transport=tcp,traddr=%s,trsvcid=%d,nqn=%s,hostnqn=%s,hostid=%s,ctrl_loss_tmo=-1,reconnect_delay=2",
		portal.Addr(), portal.Port(), nqn, as.NQN(), as.UUID)
	if _, err := f.WriteString(options); err != nil {
		return fmt.Errorf("connect %s: %w", nqn, err)
	}
	if _, err := io.ReadAll(f); err != nil { // "instance=0,cntlid=1": the kernel wants it read
		return fmt.Errorf("connect %s: %w", nqn, err)
	}
	return until(ctx, "a block device of "+string(nqn), func() (bool, error) {
		s, err := standing(nqn, "")
		if err != nil {
			return false, err
		}
		bytes, err := deviceBytes(s.Device)
		return err == nil && bytes > 0, err
	})
}

// disconnect ends what connect began.
func disconnect(ctx context.Context, nqn safety.NQN) error {
	s, err := standing(nqn, "")
	if err != nil {
		return err
	}
	dir := filepath.Join(host.Sys, "class", "nvme", s.Controller)
	if is, err := readLine(filepath.Join(dir, "subsysnqn")); err != nil || is != string(nqn) {
		return fmt.Errorf("disconnect %s: %s is %q now: %w", nqn, s.Controller, is, err)
	}
	if err := os.WriteFile(filepath.Join(dir, "delete_controller"), []byte("1"), 0); err != nil {
		return fmt.Errorf("disconnect %s: %w", nqn, err)
	}
	return until(ctx, s.Controller+" to go", func() (bool, error) {
		there, err := inSysfs(s.Controller, s.Device)
		return !there, err
	})
}

// pollTime is how often until looks. It bounds how exact the times of the report are.
const pollTime = 50 * time.Millisecond

// final is an error that ends a wait at once.
type final struct{ error }

// until waits for a state of the kernel. What is answers with an error may come right with the next look, for the
// kernel shows half of a thing while it makes it or takes it down; only a final error ends the wait.
func until(ctx context.Context, what string, is func() (bool, error)) error {
	tick := time.NewTicker(pollTime)
	defer tick.Stop()
	for {
		done, err := is()
		if done {
			return nil
		}
		if _, ends := errors.AsType[final](err); ends {
			return fmt.Errorf("wait for %s: %w", what, err)
		}
		select {
		case <-ctx.Done():
			return errors.Join(fmt.Errorf("wait for %s: %w", what, context.Cause(ctx)), err)
		case <-tick.C:
		}
	}
}

// trimLines gives the lines of a text that are not blank.
func trimLines(text string) []string {
	var lines []string
	for line := range strings.Lines(text) {
		if line = strings.TrimSpace(line); line != "" {
			lines = append(lines, line)
		}
	}
	return lines
}
