// Package kernel acts and logs where it should read and return.
package kernel

import (
	_ "log/slog" // want "depguard: return the error or log it"
	_ "os/exec"  // want "depguard: the evidence comes from files" "depguard: only driver/node runs programs"

	_ "srvlab.io/rds-csi/driver/mapper" // want "depguard: evidence comes before action"
)
