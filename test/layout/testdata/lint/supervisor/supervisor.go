// Package supervisor acts through the driver.
package supervisor

import _ "srvlab.io/rds-csi/driver/mapper" // want "depguard: each half runs"
