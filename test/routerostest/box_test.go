package routerostest

import (
	"testing"
)

// newBox makes a box that ends with the test.
func newBox(t *testing.T, o Options) *Box {
	t.Helper()
	b, err := NewBox(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	})
	return b
}
