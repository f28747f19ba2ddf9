package metrics

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// Check is one line of /readyz.
type Check struct {
	Name string
	// Ready gives nil, or what is missing. It is called at each request and must answer at once.
	Ready func() error
}

// Handler serves /metrics, /healthz (200 while the program answers at all) and /readyz (200 when every check is ready,
// else 503; one line a check, saying what is missing).
func (m *Metrics) Handler(checks ...Check) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{Registry: m.registry}))
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { answer(w, http.StatusOK, "ok\n") })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		code, text := readiness(checks)
		answer(w, code, text)
	})
	return mux
}

func readiness(checks []Check) (code int, text string) {
	code = http.StatusOK
	for _, c := range checks {
		if err := c.Ready(); err != nil {
			code = http.StatusServiceUnavailable
			text += fmt.Sprintf("%s: not ready: %v\n", c.Name, err)
			continue
		}
		text += c.Name + ": ok\n"
	}
	if text == "" {
		text = "ok\n"
	}
	return code, text
}

func answer(w http.ResponseWriter, code int, text string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.WriteHeader(code)
	_, _ = io.WriteString(w, text) // the client has gone: nobody is left to tell
}

const (
	// slowest is how long a client may take to send a request: without it, idle connections pile up.
	slowest = 10 * time.Second
	// goodbye is how long a scrape under way may take once the program stops.
	goodbye = time.Second
)

// Serve answers with h on lis until ctx ends. It closes lis.
func Serve(ctx context.Context, lis net.Listener, h http.Handler) error {
	s := &http.Server{Handler: h, ReadHeaderTimeout: slowest, ReadTimeout: slowest, IdleTimeout: time.Minute}
	failed := make(chan error, 1)
	go func() { failed <- s.Serve(lis) }()
	select {
	case err := <-failed:
		return fmt.Errorf("serve metrics on %s: %w", lis.Addr(), err)
	case <-ctx.Done():
	}
	last, cancel := context.WithTimeout(context.WithoutCancel(ctx), goodbye)
	defer cancel()
	if err := s.Shutdown(last); err != nil {
		_ = s.Close() // what did not end in time ends now; the program is going away
	}
	if err := <-failed; !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve metrics on %s: %w", lis.Addr(), err)
	}
	return nil
}
