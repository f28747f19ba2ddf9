//go:build kernel

package panics

import "testing"

func TestBefore(*testing.T) {}

// A panic in another goroutine ends the program without a word about any test.
func TestPanics(t *testing.T) {
	go panic("boom")
	<-t.Context().Done()
}

func TestZNeverStarts(*testing.T) {}
