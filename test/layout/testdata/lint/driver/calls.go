package driver

import (
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"time"
)

// Log logs as it likes.
func Log(l *slog.Logger, volume string) {
	slog.Info("started")                      // want "sloglint: default logger"
	l.Info("staged", "volumeID", volume)      // want "sloglint: snake_case" "sloglint: key is not allowed"
	l.Info("staged", "disk", volume)          // want "sloglint: disk"
	l.Info("staged " + volume)                // want "sloglint: string literal"
	l.Info("Staged", slog.String("nqn", "n")) // want "sloglint: lowercased" "sloglint: attributes should not be used"
	l.Info("staged", "volume", volume, "err", ErrGone)
}

// Wait cannot be stopped.
func Wait(d time.Duration) {
	time.Sleep(d * time.Second) // want "forbidigo: nobody can cancel it" "durationcheck: Multiplication"
	_ = time.Tick(d)            // want "forbidigo: nobody can cancel it"
	os.Exit(1)                  // want "forbidigo: skips every defer"
}

// Took reads the clock, which the interceptor may, and the environment, which it may not.
func Took(start time.Time) time.Duration {
	if os.Getenv("SLOW") != "" { // want "forbidigo: configuration is flags"
		return time.Until(start) // want "forbidigo: take now as an argument"
	}
	return time.Since(start)
}

// Serve hangs into the default mux.
func Serve() (net.Listener, error) {
	http.HandleFunc("/", nil)                          // want "forbidigo: the default mux serves"
	fmt.Println(http.DefaultClient)                    // want "forbidigo: use slog; standard output" "forbidigo: has no timeout"
	if err := os.RemoveAll("/var/lib/x"); err != nil { // want "forbidigo: deletes the user's data"
		return nil, err
	}
	return net.Listen("unix", "csi.sock") // want "noctx: net.Listen"
}
