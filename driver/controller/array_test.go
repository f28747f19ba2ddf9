package controller

import (
	"bytes"
	"context"
	"log/slog"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc/codes"

	"srvlab.io/rds-csi/driver/routeros"
	"srvlab.io/rds-csi/safety"
	"srvlab.io/rds-csi/test/routerostest"
)

// watched is the log of a Watch that is running.
type watched struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (w *watched) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.text.Write(p)
}

func (w *watched) String() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.text.String()
}

// watch runs Watch at a pace for tests.
func watch(t *testing.T, r *replica) *watched {
	t.Helper()
	for _, a := range r.server.arrays {
		a.pace = pace{first: 10 * time.Millisecond, longest: 20 * time.Millisecond, ready: 20 * time.Millisecond}
	}
	w := &watched{}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- r.server.Watch(ctx, slog.New(slog.NewTextHandler(w, nil))) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return w
}

// wait waits until a condition holds.
func wait(t *testing.T, what string, holds func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !holds(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("in vain waited for: %s", what)
		}
	}
}

func TestArrayThatIsNotReady(t *testing.T) {
	old, err := routerostest.ParseVersion("7.20")
	if err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name    string
		options routerostest.Options
		says    string
	}{
		{"old RouterOS", routerostest.Options{Version: old}, "at least 7.21 is needed"},
		{"no rose-storage", routerostest.Options{Rose: routerostest.Missing}, "rose-storage"},
		{
			"pool not mounted",
			routerostest.Options{Pools: []routerostest.Pool{{Slot: "raid10", Size: poolSize, FS: "xfs", Unmounted: true}}},
			"not mounted",
		},
		{"no such pool", routerostest.Options{Pools: []routerostest.Pool{{Slot: "raid5", Size: poolSize, FS: "xfs"}}}, "raid10"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			bad, good := newBox(t, "bad", tt.options), newBox(t, "good", routerostest.Options{})
			r := newReplica(t, "", bad, good)
			if err := r.server.Readiness()["bad"]; err == nil {
				t.Error("ready before the first check")
			}
			log := watch(t, r)
			wait(t, "both are checked", func() bool {
				all := r.server.Readiness()
				return all["good"] == nil && safety.ReasonOf(all["bad"]) == safety.ArrayNotReady
			})
			if err := r.server.Readiness()["bad"]; !strings.Contains(err.Error(), tt.says) {
				t.Errorf("the shortfall is %v, want %q in it", err, tt.says)
			}

			req := request("data")
			req.Parameters = map[string]string{"array": "bad"}
			_, err := r.CreateVolume(t.Context(), req)
			wantCode(t, err, codes.FailedPrecondition, tt.says, "[array-not-ready]")
			req.Parameters = map[string]string{"array": "good"}
			mustPublishAndBack(t, r, r.mustCreate(t, req).GetVolumeId())
			bad.wantState(t)
			time.Sleep(100 * time.Millisecond)
			if n := strings.Count(log.String(), "array is not ready"); n != 1 {
				t.Errorf("said %d times:\n%s", n, log)
			}
		})
	}
}

// TestDegradedPool: a pool that lost a disk takes no new volumes, and keeps nobody from those that it has.
func TestDegradedPool(t *testing.T) {
	b := newBox(t, "rds1", routerostest.Options{})
	r := newReplica(t, "", b)
	log := watch(t, r)
	v := r.mustCreate(t, request("data")).GetVolumeId()
	wait(t, "ready", func() bool { return strings.Contains(log.String(), "array is ready") })
	if err := b.SetPool("raid10", true, "degraded"); err != nil {
		t.Fatal(err)
	}
	wait(t, "not ready", func() bool { return r.server.Readiness()["rds1"] != nil })
	_, err := r.CreateVolume(t.Context(), request("other"))
	wantCode(t, err, codes.FailedPrecondition, "degraded", "[array-not-ready]")
	_, err = r.expand(t, v, 2*gib, 0)
	wantCode(t, err, codes.FailedPrecondition, "[array-not-ready]")
	if size, err := r.expand(t, v, gib, 0); err != nil || size != gib {
		t.Errorf("an expansion to what it has: %d bytes, %v", size, err)
	}
	mustPublishAndBack(t, r, v)
	if err := r.remove(t, v); err != nil {
		t.Fatal(err)
	}
	if err := b.SetPool("raid10", true, "clean"); err != nil {
		t.Fatal(err)
	}
	wait(t, "ready again", func() bool { return r.server.Readiness()["rds1"] == nil })
	r.mustCreate(t, request("other"))
	if text := log.String(); strings.Count(text, "array is ready") != 2 || !strings.Contains(text, "reason=array-not-ready") {
		t.Errorf("the log is\n%s", text)
	}
}

// TestUnreachableArray: an array that is down at the start keeps nothing else from working.
func TestUnreachableArray(t *testing.T) {
	down, up := newBox(t, "down", routerostest.Options{}), newBox(t, "up", routerostest.Options{})
	down.stop()
	r := newReplica(t, "", down, up)
	log := watch(t, r)
	wait(t, "both are checked", func() bool {
		all := r.server.Readiness()
		return all["up"] == nil && safety.ReasonOf(all["down"]) == safety.ArrayUnreachable
	})
	req := request("data")
	req.Parameters = map[string]string{"array": "up"}
	r.mustCreate(t, req)
	req.Parameters = map[string]string{"array": "down"}
	_, err := r.CreateVolume(t.Context(), req)
	wantCode(t, err, codes.Unavailable, "[array-unreachable]")
	if !strings.Contains(log.String(), "reason=array-unreachable") {
		t.Errorf("the log is\n%s", log)
	}
}

// TestArrayThatIsBack: that the last check found nobody is no reason to refuse a call once the array is back.
func TestArrayThatIsBack(t *testing.T) {
	b := newBox(t, "rds1", routerostest.Options{})
	b.stop()
	r := newReplica(t, "", b)
	if err := r.server.arrays["rds1"].check(t.Context()); safety.ReasonOf(err) != safety.ArrayUnreachable {
		t.Fatalf("an array that is down: %v", err)
	}
	b.serve(t, listen(t, b.config.SSH.Address))
	r.mustCreate(t, request("data"))
}

func TestNew(t *testing.T) {
	p, err := safety.ParsePrefix(prefix)
	if err != nil {
		t.Fatal(err)
	}
	a, err := routeros.Open(newBox(t, "rds1", routerostest.Options{}).config, routeros.Options{Prefix: p, Cluster: cluster})
	if err != nil {
		t.Fatal(err)
	}
	for says, c := range map[string]Config{
		"no managed NQN prefix": {Arrays: []*routeros.Array{a}, Cluster: cluster},
		"no cluster ID":         {Arrays: []*routeros.Array{a}, Prefix: p},
		"no array":              {Prefix: p, Cluster: cluster},
		"two arrays are called": {Arrays: []*routeros.Array{a, a}, Prefix: p, Cluster: cluster},
	} {
		if _, err := New(c); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("got %v, want %q", err, says)
		}
	}
}

// TestNothingIsLeftRunning: goroutines that a call or the watch leaves behind would pile up for months.
func TestNothingIsLeftRunning(t *testing.T) {
	before := runtime.NumGoroutine()
	t.Run("work", func(t *testing.T) {
		b, gone := newBox(t, "rds1", routerostest.Options{}), newBox(t, "rds2", routerostest.Options{})
		gone.stop()
		r := newReplica(t, "", b, gone)
		watch(t, r)
		req := request("data")
		req.Parameters = map[string]string{"array": "rds1"}
		v := r.mustCreate(t, req).GetVolumeId()
		b.Inject(routerostest.Fault{Kind: routerostest.Hang})
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		_, err := r.CreateVolume(ctx, request("other"))
		wantCode(t, err, codes.DeadlineExceeded)
		wait(t, "the volume is published", func() bool { _, err := r.publish(t, v, "node-a", false); return err == nil })
	})
	wait(t, "all goroutines end", func() bool { return runtime.NumGoroutine() <= before })
}
