// Command rds-csi-node may print, exit, wire and read the clock and the environment.
package main

import (
	"fmt"
	"os"
	"time"

	_ "srvlab.io/rds-csi/metrics"
)

func main() {
	fmt.Println(time.Now(), os.Getenv("CSI_MANAGED_NQN_PREFIX"))
	os.Exit(2)
}
