//go:build kernel

package silent

import (
	"os"
	"testing"
)

func TestMain(*testing.M) { os.Exit(0) }

func TestNeverRuns(*testing.T) {}
