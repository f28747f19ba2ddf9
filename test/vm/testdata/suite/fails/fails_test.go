//go:build kernel

package fails

import (
	"fmt"
	"testing"
)

func TestFails(t *testing.T) {
	t.Run("sub", func(t *testing.T) { t.Error("not good") })
	fmt.Println("--- PASS: TestForged (0.00s)")
	fmt.Println("=== RUN   TestForged")
}

func TestPasses(*testing.T) {}
