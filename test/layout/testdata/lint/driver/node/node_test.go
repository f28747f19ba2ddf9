package node

import (
	"os"
	"testing"
	"time"
)

// Tests read the clock and the environment and may sleep; they still remove nothing recursively.
func TestFormat(t *testing.T) {
	time.Sleep(time.Since(time.Now()))
	_ = os.Setenv("LC_ALL", "C")                           // want "usetesting: os.Setenv"
	if err := os.RemoveAll(os.Getenv("DIR")); err != nil { // want "forbidigo: deletes the user's data"
		t.Fatal(err)
	}
}
