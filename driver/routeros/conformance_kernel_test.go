//go:build kernel

package routeros

import (
	"net/netip"
	"os"
	"path/filepath"
	"testing"

	"srvlab.io/rds-csi/test/routerostest"
)

// TestKernelConformance runs the suite where exports are real: the emulator over the kernel's NVMe/TCP target. There
// everything about hosts and connections can be told, and must hold, or be what the emulator was told to be.
func TestKernelConformance(t *testing.T) {
	portal := netip.MustParseAddrPort("127.0.0.1:4437")
	for _, position := range []string{"", "allow-host=ignored,target-model=text", "allow-host-change=ends"} {
		t.Run("switches="+position, func(t *testing.T) {
			dir, err := os.MkdirTemp(os.Getenv("RDS_VM_DISK"), "conformance") //nolint:usetesting // the guest's TMPDIR is a tmpfs, without direct I/O
			must(t, err)
			backend, err := routerostest.NewNVMet(routerostest.NVMetOptions{Data: filepath.Join(dir, "data"), Portal: portal})
			must(t, err)
			o := onPool(xfs)
			o.Backend = backend
			o.Switches, err = routerostest.ParseSwitches(position)
			must(t, err)
			b := open(t, o, func(c *ArrayConfig) {
				c.NVMe = NVMeConfig{Address: portal.Addr().String(), Port: portal.Port()}
			})
			s := conformance(t, b.config)
			s.report(t)
			if got := s.switches(); got != position {
				t.Errorf("found %q", got)
			}
			for _, f := range s.findings {
				if f.verdict == unclear && f.nvme {
					t.Errorf("%s: %s, %s", f.assumption, f.verdict, f.evidence)
				}
			}
			must(t, b.box.Trouble())
		})
	}
}
