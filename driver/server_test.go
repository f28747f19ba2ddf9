package driver

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"srvlab.io/rds-csi/safety"
)

// fake is a controller and node service whose calls do what the test says.
type fake struct {
	csi.UnimplementedControllerServer
	csi.UnimplementedNodeServer
	publish func(context.Context) (*csi.ControllerPublishVolumeResponse, error)
	create  func(context.Context) (*csi.CreateVolumeResponse, error)
	stage   func(context.Context) error
}

func (f *fake) ControllerPublishVolume(ctx context.Context, _ *csi.ControllerPublishVolumeRequest) (*csi.ControllerPublishVolumeResponse, error) {
	return f.publish(ctx)
}

func (f *fake) CreateVolume(ctx context.Context, _ *csi.CreateVolumeRequest) (*csi.CreateVolumeResponse, error) {
	return f.create(ctx)
}

func (f *fake) NodeStageVolume(ctx context.Context, _ *csi.NodeStageVolumeRequest) (*csi.NodeStageVolumeResponse, error) {
	return &csi.NodeStageVolumeResponse{}, f.stage(ctx)
}

// served is a running server with a client.
type served struct {
	conn  *grpc.ClientConn
	path  string
	log   *lines
	ended []string // "method code reason"
	stop  func()
	done  chan error
}

// lines is a log that a test may read while it is written.
type lines struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *lines) all() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Split(strings.TrimSuffix(l.text.String(), "\n"), "\n")
}

func serve(t *testing.T, c Config, f *fake) *served {
	t.Helper()
	s := &served{path: filepath.Join(t.TempDir(), "csi.sock"), log: &lines{}, done: make(chan error, 1)}
	var mu sync.Mutex
	c.Begin = func(method string) func(codes.Code, safety.Reason) {
		return func(code codes.Code, r safety.Reason) {
			mu.Lock()
			defer mu.Unlock()
			s.ended = append(s.ended, strings.TrimSpace(method+" "+code.String()+" "+string(r)))
		}
	}
	c.Log = slog.New(slog.NewTextHandler(s.log, &slog.HandlerOptions{
		ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
			if a.Key == slog.TimeKey {
				return slog.Attr{}
			}
			return a
		},
	}))
	if f != nil {
		c.Controller, c.Node = f, f
	}
	ctx, cancel := context.WithCancel(t.Context())
	s.stop = cancel
	lis, err := Listen(ctx, Endpoint("unix://"+s.path))
	if err != nil {
		t.Fatal(err)
	}
	server := NewServer(c)
	server.drain = 200 * time.Millisecond
	go func() { s.done <- server.Serve(ctx, lis) }()
	s.conn, err = grpc.NewClient("unix://"+s.path, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cancel()
		if err := s.conn.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func TestIdentity(t *testing.T) {
	ready := false
	s := serve(t, Config{Version: "v1.2.3", Ready: func(context.Context) bool { return ready }}, nil)
	id := csi.NewIdentityClient(s.conn)

	info, err := id.GetPluginInfo(t.Context(), &csi.GetPluginInfoRequest{})
	if err != nil || info.GetName() != "rds.csi.srvlab.io" || info.GetVendorVersion() != "v1.2.3" {
		t.Errorf("plugin info: %v, %v", info, err)
	}
	caps, err := id.GetPluginCapabilities(t.Context(), &csi.GetPluginCapabilitiesRequest{})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, c := range caps.GetCapabilities() {
		if c.GetService() != nil {
			got = append(got, c.GetService().GetType().String())
		}
		if c.GetVolumeExpansion() != nil {
			got = append(got, c.GetVolumeExpansion().GetType().String())
		}
	}
	if want := "CONTROLLER_SERVICE VOLUME_ACCESSIBILITY_CONSTRAINTS ONLINE"; strings.Join(got, " ") != want {
		t.Errorf("plugin capabilities %v, want %s", got, want)
	}
	for _, ready = range []bool{false, true} {
		probe, err := id.Probe(t.Context(), &csi.ProbeRequest{})
		if err != nil || probe.GetReady().GetValue() != ready {
			t.Errorf("probe: %v, %v; want ready %v and no error: the sidecars end on an error", probe, err, ready)
		}
	}
	_, err = csi.NewControllerClient(s.conn).CreateVolume(t.Context(), &csi.CreateVolumeRequest{})
	if status.Code(err) != codes.Unimplemented {
		t.Errorf("a service that is not there: %v", err)
	}
}

func TestOneLogLinePerCall(t *testing.T) {
	f := &fake{
		publish: func(context.Context) (*csi.ControllerPublishVolumeResponse, error) {
			return &csi.ControllerPublishVolumeResponse{PublishContext: map[string]string{PublishNQN: "nqn.2000-02.com.x:k-1.g1"}}, nil
		},
		create: func(context.Context) (*csi.CreateVolumeResponse, error) {
			return nil, safety.Refuse(safety.NoSpace, errors.New("full"))
		},
		stage: func(context.Context) error { return nil },
	}
	s := serve(t, Config{}, f)
	secrets := map[string]string{"password": "hunter2"}
	ctl, node := csi.NewControllerClient(s.conn), csi.NewNodeClient(s.conn)
	_, _ = ctl.ControllerPublishVolume(t.Context(), &csi.ControllerPublishVolumeRequest{VolumeId: "rds1/pvc-a", Secrets: secrets})
	_, _ = ctl.CreateVolume(t.Context(), &csi.CreateVolumeRequest{Name: "pvc-b", Secrets: secrets})
	_, _ = node.NodeStageVolume(t.Context(), &csi.NodeStageVolumeRequest{
		VolumeId: "rds1/pvc-c", PublishContext: map[string]string{PublishNQN: "nqn.2000-02.com.x:k-2.g1"}, Secrets: secrets,
	})
	_, _ = csi.NewIdentityClient(s.conn).Probe(t.Context(), &csi.ProbeRequest{})

	want := []string{
		`level=INFO msg=call op=ControllerPublishVolume volume=rds1/pvc-a nqn=nqn.2000-02.com.x:k-1.g1`,
		`level=WARN msg=call op=CreateVolume volume=pvc-b reason=no-space err="ResourceExhausted: full [no-space]"`,
		`level=INFO msg=call op=NodeStageVolume volume=rds1/pvc-c nqn=nqn.2000-02.com.x:k-2.g1`,
	}
	got := s.log.all()
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("log:\n%s\nwant:\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if strings.Contains(strings.Join(got, ""), "hunter2") {
		t.Error("the log has a secret")
	}
	wantEnded := "ControllerPublishVolume OK|CreateVolume ResourceExhausted no-space|NodeStageVolume OK|Probe OK"
	if ended := strings.Join(s.ended, "|"); ended != wantEnded {
		t.Errorf("told of %s, want %s", ended, wantEnded)
	}
}

func TestPanicEndsOneCall(t *testing.T) {
	f := &fake{stage: func(context.Context) error { panic("nobody home") }}
	s := serve(t, Config{}, f)
	node := csi.NewNodeClient(s.conn)
	for range 2 {
		_, err := node.NodeStageVolume(t.Context(), &csi.NodeStageVolumeRequest{VolumeId: "rds1/pvc-a"})
		if status.Code(err) != codes.Internal || status.Convert(err).Message() != "NodeStageVolume panicked: nobody home" {
			t.Fatalf("got %v", err)
		}
	}
	for _, line := range s.log.all() {
		if !strings.Contains(line, "level=ERROR") || !strings.Contains(line, "server_test.go") {
			t.Errorf("the log line has no stack: %s", line)
		}
	}
	if n := len(s.log.all()); n != 2 {
		t.Errorf("%d log lines for two calls", n)
	}
}

func TestCallWithoutDeadlineGetsOne(t *testing.T) {
	var got time.Duration
	f := &fake{stage: func(ctx context.Context) error {
		deadline, _ := ctx.Deadline()
		got = time.Until(deadline)
		return nil
	}}
	node := csi.NewNodeClient(serve(t, Config{}, f).conn)
	if _, err := node.NodeStageVolume(t.Context(), &csi.NodeStageVolumeRequest{}); err != nil {
		t.Fatal(err)
	}
	if got <= callTime-time.Minute || got > callTime {
		t.Errorf("the default deadline is in %s, want %s", got, callTime)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
	defer cancel()
	if _, err := node.NodeStageVolume(ctx, &csi.NodeStageVolumeRequest{}); err != nil {
		t.Fatal(err)
	}
	if got <= callTime {
		t.Errorf("the caller gave an hour, the call has %s", got)
	}
}

func TestStopLetsCallsFinish(t *testing.T) {
	entered, release := make(chan struct{}), make(chan struct{})
	f := &fake{stage: func(context.Context) error {
		close(entered)
		<-release
		return nil
	}}
	s := serve(t, Config{}, f)
	node := csi.NewNodeClient(s.conn)
	answered := make(chan error, 1)
	go func() {
		_, err := node.NodeStageVolume(t.Context(), &csi.NodeStageVolumeRequest{})
		answered <- err
	}()
	<-entered
	s.stop()
	for { // new calls are refused once the socket is gone
		if _, err := os.Stat(s.path); errors.Is(err, os.ErrNotExist) {
			break
		}
		time.Sleep(time.Millisecond)
	}
	if conn, err := net.Dial("unix", s.path); err == nil {
		t.Error(conn.Close(), "a new connection is let in after the stop")
	}
	close(release)
	if err := <-answered; err != nil {
		t.Errorf("the call under way: %v", err)
	}
	if err := <-s.done; err != nil {
		t.Errorf("serve: %v", err)
	}
}

func TestStopDoesNotWaitForEver(t *testing.T) {
	entered, cancelled := make(chan struct{}), make(chan struct{})
	f := &fake{stage: func(ctx context.Context) error {
		close(entered)
		<-ctx.Done()
		close(cancelled)
		return ctx.Err()
	}}
	s := serve(t, Config{}, f)
	go func() {
		_, _ = csi.NewNodeClient(s.conn).NodeStageVolume(t.Context(), &csi.NodeStageVolumeRequest{})
	}()
	<-entered
	s.stop()
	if err := <-s.done; err != nil {
		t.Errorf("serve: %v", err)
	}
	<-cancelled
}

func TestListen(t *testing.T) {
	tests := []struct {
		name    string
		prepare func(t *testing.T, path string)
		wantErr string
	}{
		{"nothing there", func(*testing.T, string) {}, ""},
		{"stale socket", func(t *testing.T, path string) {
			lis := listen(t, path)
			lis.SetUnlinkOnClose(false)
			if err := lis.Close(); err != nil {
				t.Fatal(err)
			}
		}, ""},
		{"somebody answers", func(t *testing.T, path string) {
			lis := listen(t, path)
			t.Cleanup(func() { _ = lis.Close() })
		}, "another process answers there"},
		{"a file", func(t *testing.T, path string) {
			if err := os.WriteFile(path, []byte("precious"), 0o600); err != nil {
				t.Fatal(err)
			}
		}, "no socket"},
		{"a directory", func(t *testing.T, path string) {
			if err := os.Mkdir(path, 0o700); err != nil {
				t.Fatal(err)
			}
		}, "no socket"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "csi.sock")
			tt.prepare(t, path)
			before, _ := os.Lstat(path)
			lis, err := Listen(t.Context(), Endpoint("unix://"+path))
			if tt.wantErr == "" {
				if err != nil {
					t.Fatal(err)
				}
				if err := lis.Close(); err != nil {
					t.Fatal(err)
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), tt.wantErr) {
				t.Fatalf("got %v, want an error with %q", err, tt.wantErr)
			}
			if after, err := os.Lstat(path); err != nil || !os.SameFile(before, after) {
				t.Errorf("what was there is gone: %v", err)
			}
		})
	}
}

func listen(t *testing.T, path string) *net.UnixListener {
	t.Helper()
	lis, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	return lis
}

func TestEndpoint(t *testing.T) {
	for _, text := range []string{
		"", "/run/csi.sock", "tcp://127.0.0.1:1", "unix://", "unix://relative/csi.sock", "unix:///" + strings.Repeat("x", 107),
	} {
		var e Endpoint
		if err := e.UnmarshalText([]byte(text)); err == nil {
			t.Errorf("endpoint %q is taken", text)
		}
		if _, err := Listen(t.Context(), Endpoint(text)); err == nil {
			t.Errorf("endpoint %q is listened on", text)
		}
	}
	var e Endpoint
	if err := e.UnmarshalText([]byte("unix:///run/csi.sock")); err != nil || e != "unix:///run/csi.sock" {
		t.Errorf("%q, %v", e, err)
	}
}

func TestLogLevels(t *testing.T) {
	tests := []struct {
		method string
		code   codes.Code
		want   slog.Level
	}{
		{"NodeStageVolume", codes.OK, slog.LevelInfo},
		{"Probe", codes.OK, slog.LevelDebug},
		{"Probe", codes.Unavailable, slog.LevelWarn},
		{"NodeStageVolume", codes.FailedPrecondition, slog.LevelWarn},
		{"NodeStageVolume", codes.Internal, slog.LevelError},
	}
	for _, tt := range tests {
		if got := level(tt.method, tt.code); got != tt.want {
			t.Errorf("%s %s: %s, want %s", tt.method, tt.code, got, tt.want)
		}
	}
}
