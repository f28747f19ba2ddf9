package metrics

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"

	"srvlab.io/rds-csi/safety"
)

// get gives the status and body of a page.
func get(t *testing.T, h http.Handler, page string) (int, string) {
	t.Helper()
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, page, nil))
	return w.Code, w.Body.String()
}

func TestMetricsPage(t *testing.T) {
	m := New("v1.2.3")
	m.Register(Arrays(func() map[safety.ArrayName]error {
		return map[safety.ArrayName]error{"rds1": nil, "rds2": errors.New("down")}
	}))
	m.BeginRPC("NodeStageVolume")(codes.OK, "")
	m.BeginRPC("CreateVolume")(codes.ResourceExhausted, safety.NoSpace)
	m.BeginRPC("DeleteVolume")
	code, page := get(t, m.Handler(), "/metrics")
	if code != http.StatusOK {
		t.Fatalf("status %d", code)
	}
	for _, want := range []string{
		`rds_csi_build_info{go_version="go`, `version="v1.2.3"} 1`,
		`rds_csi_rpc_duration_seconds_count{code="OK",method="NodeStageVolume"} 1`,
		`rds_csi_rpc_duration_seconds_count{code="ResourceExhausted",method="CreateVolume"} 1`,
		`rds_csi_refusals_total{reason="no-space"} 1`,
		`rds_csi_refusals_total{reason="foreign-nqn"} 0`,
		`rds_csi_rpcs_in_flight{method="NodeStageVolume"} 0`,
		`rds_csi_rpcs_in_flight{method="DeleteVolume"} 1`,
		`rds_csi_array_ready{array="rds1"} 1`,
		`rds_csi_array_ready{array="rds2"} 0`,
		`process_resident_memory_bytes`, `go_goroutines`,
	} {
		if !strings.Contains(page, want) {
			t.Errorf("the page lacks %s", want)
		}
	}
	if strings.Contains(page, "DeleteVolume\"} 0") || strings.Contains(page, `code="OK",method="DeleteVolume"`) {
		t.Error("a call that has not ended is counted")
	}
	for _, r := range safety.Reasons() {
		if !strings.Contains(page, `rds_csi_refusals_total{reason="`+string(r)+`"}`) {
			t.Errorf("no counter for the reason %s", r)
		}
	}
}

func TestReadyz(t *testing.T) {
	ok := func() error { return nil }
	tests := []struct {
		name   string
		checks []Check
		code   int
		text   string
	}{
		{"nothing to check", nil, 200, "ok\n"},
		{"all ready", []Check{{"array rds1", ok}, {"array rds2", ok}}, 200, "array rds1: ok\narray rds2: ok\n"},
		{
			"one not",
			[]Check{{"array rds1", func() error { return errors.New("pool not mounted") }}, {"array rds2", ok}},
			503, "array rds1: not ready: pool not mounted\narray rds2: ok\n",
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			code, text := get(t, New("").Handler(tt.checks...), "/readyz")
			if code != tt.code || text != tt.text {
				t.Errorf("got %d %q, want %d %q", code, text, tt.code, tt.text)
			}
		})
	}
}

func TestHealthzDoesNotAskForReadiness(t *testing.T) {
	h := New("").Handler(Check{"array", func() error { return errors.New("down") }})
	if code, text := get(t, h, "/healthz"); code != http.StatusOK || text != "ok\n" {
		t.Errorf("got %d %q", code, text)
	}
	if code, _ := get(t, h, "/debug/pprof/"); code != http.StatusNotFound {
		t.Errorf("another page: %d", code)
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest(http.MethodPost, "/healthz", nil))
	if w.Code != http.StatusMethodNotAllowed {
		t.Errorf("POST: %d", w.Code)
	}
}

func TestServe(t *testing.T) {
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- Serve(ctx, lis, New("").Handler()) }()
	resp, err := http.Get("http://" + lis.Addr().String() + "/healthz")
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(resp.Body)
	if err != nil || string(body) != "ok\n" {
		t.Errorf("%q, %v", body, err)
	}
	if err := resp.Body.Close(); err != nil {
		t.Error(err)
	}
	stop()
	if err := <-done; err != nil {
		t.Errorf("serve: %v", err)
	}
	if conn, err := net.Dial("tcp", lis.Addr().String()); err == nil {
		t.Error("still listening", conn.Close())
	}

	if err := lis.Close(); err == nil {
		t.Error("the listener was left open")
	}
	if err := Serve(t.Context(), lis, New("").Handler()); err == nil {
		t.Error("serving on a closed listener is no error")
	}
}
