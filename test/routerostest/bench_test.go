package routerostest

import (
	"fmt"
	"testing"
)

// BenchmarkFind is what a driver's guards do, on a box with many volumes.
func BenchmarkFind(b *testing.B) {
	box, err := NewBox(Options{})
	if err != nil {
		b.Fatal(err)
	}
	for i := range 100 {
		if out := box.Exec("admin", fmt.Sprintf(`/disk/add type=file file-path=pool/x%d file-size=1M slot=x%d`, i, i)); out != "" {
			b.Fatal(out)
		}
	}
	for b.Loop() {
		if out := box.Exec("admin", `:put [/disk/get [/disk/find where slot="x7"] size]`); out != "1048576\r\n" {
			b.Fatal(out)
		}
	}
}
