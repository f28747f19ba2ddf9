//go:build kernel && linux

package good

import (
	"fmt"
	"os"
	"testing"
)

func TestA(t *testing.T) {
	fmt.Print("no line end")
	t.Run("sub", func(t *testing.T) { t.Parallel(); t.Skip("kernel: no listmount") })
	t.Run("other sub", func(*testing.T) {})
}

func TestPlace(t *testing.T) {
	if _, err := os.Stat("good_test.go"); err != nil {
		t.Error(err)
	}
}

func helper()  {}
func Testing() { helper() }
