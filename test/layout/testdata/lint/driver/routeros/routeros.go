// Package routeros speaks SSH, which it may; logs, which it may not; and knows the node.
package routeros

import (
	_ "log/slog" // want "depguard: return the error or log it"

	_ "golang.org/x/crypto/ssh" // its rightful place
	_ "k8s.io/mount-utils"      // want "depguard: the controller mounts nothing"

	_ "srvlab.io/rds-csi/safety/kernel" // want "depguard: the controller runs anywhere"
)
