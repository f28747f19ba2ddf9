//go:build kernel

package sanity

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"srvlab.io/rds-csi/test/bystander"
	"srvlab.io/rds-csi/test/stack"
)

// TestKernelSanity runs all of csi-sanity against the real programs and a real NVMe/TCP target and initiator, beside
// somebody else's subsystem that carries the node's /var.
func TestKernelSanity(t *testing.T) {
	access := os.Getenv(inChild)
	if access == "" {
		runParts(t, 10*time.Minute, "mount", "block")
		return
	}
	disk := os.Getenv("RDS_VM_DISK")
	if disk == "" {
		t.Fatal("RDS_VM_DISK names no folder on a disk; run this through test/vm")
	}
	b, err := bystander.Start(t.Context(), disk)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	})
	//nolint:usetesting // must be on the disk, and nothing is removed recursively where something may be mounted
	dir, err := os.MkdirTemp(disk, "sanity")
	if err != nil {
		t.Fatal(err)
	}
	p := part{access: access, stack: stackConfig(t, dir)}
	p.stack.Node = nodeName
	p.stack.Array.Files = filepath.Join(dir, "files")
	p.stack.Array.Size = "1G"
	if err := os.Mkdir(p.stack.Array.Files, 0o755); err != nil {
		t.Fatal(err)
	}
	p.checkAfter = func(ctx context.Context, s *stack.Stack) error {
		return errors.Join(nothingLeft(ctx, s), nothingOnNode(p.stack.Prefix.String()), b.Check())
	}
	p.run(t, nil)
}

// nothingOnNode looks for mappings and controllers of ours that the suite left behind.
func nothingOnNode(prefix string) error {
	var left []string
	for pattern, ours := range map[string]string{
		"/sys/block/dm-*/dm/uuid":                          "RDSCSI-",
		"/sys/class/nvme-subsystem/nvme-subsys*/subsysnqn": prefix,
	} {
		files, err := filepath.Glob(pattern)
		if err != nil {
			return err
		}
		for _, f := range files {
			b, err := os.ReadFile(f)
			if err != nil {
				return err
			}
			if strings.HasPrefix(string(b), ours) {
				left = append(left, f+": "+strings.TrimSpace(string(b)))
			}
		}
	}
	if len(left) > 0 {
		return fmt.Errorf("still on the node: %s", strings.Join(left, ", "))
	}
	return nil
}
