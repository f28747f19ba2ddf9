// Package kerneltest gives tests a kernel: Tree, a model of /proc, /sys and /dev in a temporary directory for what no
// real kernel can be made to show, and, with the build tag kernel, Rig, a real NVMe/TCP target with a foreign
// subsystem beside it; it refuses to let a test end well in which the foreign subsystem was touched.
package kerneltest

import "srvlab.io/rds-csi/safety"

// The host of all tests, and the foreign subsystem, which stands for a diskless node's /var: the same array, another
// prefix.
const (
	HostNQN    = "nqn.2014-08.org.nvmexpress:uuid:5f1b1b0e-4a5f-4c39-9d43-1f3a5b7c9d10"
	HostID     = "5f1b1b0e-4a5f-4c39-9d43-1f3a5b7c9d10"
	ForeignNQN = safety.NQN("nqn.2000-02.com.mikrotik:nixos-test-var")
)
