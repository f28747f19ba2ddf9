// Package safety breaks its rules.
package safety

import (
	"os" // want "depguard: safety-is-pure"
	"strings"
	"time"

	_ "srvlab.io/rds-csi/driver/mapper" // want "depguard: safety-is-pure"
)

// Late reads the clock in a decision.
func Late(then time.Time) bool {
	return time.Now().After(then) || // want "forbidigo: take now as an argument"
		time.Since(then) > time.Hour || // want "forbidigo: take now as an argument"
		strings.Contains(os.Getenv("LATE"), "y") // want "forbidigo: configuration is flags"
}
