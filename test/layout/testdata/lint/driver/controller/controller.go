// Package controller knows the node.
package controller

import (
	_ "srvlab.io/rds-csi/driver/mapper" // want "depguard: the controller knows the array and no node"
	_ "srvlab.io/rds-csi/driver/nvme"   // want "depguard: the controller knows the array and no node"
)
