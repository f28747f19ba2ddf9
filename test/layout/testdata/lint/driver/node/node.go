// Package node runs programs, which it may, in a way that it may not.
package node

import (
	"os/exec"
	"time"

	"golang.org/x/crypto/ssh" // want "depguard: one package speaks to the array"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"

	_ "srvlab.io/rds-csi/driver/controller" // want "depguard: a node holds no key of the array"
	_ "srvlab.io/rds-csi/driver/routeros"   // want "depguard: a node holds no key of the array"
)

// Format leaves an orphan behind, and pins no key.
func Format() (codes.Code, error) {
	_ = ssh.InsecureIgnoreHostKey()                 // want "forbidigo: host keys are pinned" "gosec: G106"
	_ = unix.MNT_DETACH                             // want "forbidigo: a lazy unmount hides"
	_ = time.Now()                                  // want "forbidigo: take now as an argument"
	return codes.OK, exec.Command("mkfs.xfs").Run() // want "forbidigo: ignores the context" "noctx: os/exec.Command"
}
