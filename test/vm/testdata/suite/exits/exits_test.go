//go:build kernel

package exits

import (
	"os"
	"testing"
)

func TestMain(m *testing.M) {
	m.Run()
	os.Exit(0) // whatever the tests said
}

func TestFails(t *testing.T) { t.Error("nobody looks at the exit code") }
