// Package driver is the CSI end of rds-csi: a gRPC server on a unix socket, the identity service, one log line a call
// and one table from errors to gRPC codes; it refuses to know what an array, a node or a mount is.
package driver

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"

	"srvlab.io/rds-csi/safety"
)

const (
	// drainTime is how long calls under way may go on after the stop signal. Programs promise to be gone after 30 s;
	// two of them are left for everything that ends after the last call.
	drainTime = 28 * time.Second
	// callTime bounds a call whose caller gave no deadline: kubelet and the sidecars give one of at most two minutes,
	// and a call without an end would hold its volume's in-flight mark for ever.
	callTime = 2 * time.Minute
)

// Config is what a Server serves and whom it tells.
type Config struct {
	// Version is answered as vendor_version.
	Version string
	// Ready is asked by Probe: false means not ready yet, try again. nil is always ready.
	Ready func(context.Context) bool
	// Controller and Node are the services of this socket; nil means that it has none.
	Controller csi.ControllerServer
	Node       csi.NodeServer
	// Log gets one line a call. nil is slog.Default().
	Log *slog.Logger
	// Begin is told that a call of the method (its last word) starts, and what it returns how it ended: the gRPC code
	// and the reason, "" where there is none. nil is nobody. It is a function because the driver may not import metrics.
	Begin func(method string) func(codes.Code, safety.Reason)
}

// Server answers CSI calls on one listener.
type Server struct {
	grpc  *grpc.Server
	drain time.Duration
}

// NewServer gives a server of c's services. It does not listen yet.
func NewServer(c Config) *Server {
	if c.Log == nil {
		c.Log = slog.Default()
	}
	if c.Begin == nil {
		c.Begin = func(string) func(codes.Code, safety.Reason) { return func(codes.Code, safety.Reason) {} }
	}
	if c.Ready == nil {
		c.Ready = func(context.Context) bool { return true }
	}
	r := recorder{log: c.Log, begin: c.Begin}
	s := grpc.NewServer(grpc.ChainUnaryInterceptor(r.record, mapErrors, bound, recoverPanic))
	csi.RegisterIdentityServer(s, &identity{version: c.Version, ready: c.Ready})
	if c.Controller != nil {
		csi.RegisterControllerServer(s, c.Controller)
	}
	if c.Node != nil {
		csi.RegisterNodeServer(s, c.Node)
	}
	return &Server{grpc: s, drain: drainTime}
}

// Serve answers calls on lis until ctx ends. Then it refuses new ones, lets those under way finish for drainTime, and
// cancels what is left. It closes lis, and with it removes the socket. The error is nil unless the listener failed.
func (s *Server) Serve(ctx context.Context, lis net.Listener) error {
	failed := make(chan error, 1)
	go func() { failed <- s.grpc.Serve(lis) }()
	select {
	case err := <-failed:
		return fmt.Errorf("serve CSI on %s: %w", lis.Addr(), err)
	case <-ctx.Done():
	}
	drained := make(chan struct{})
	go func() {
		s.grpc.GracefulStop()
		close(drained)
	}()
	patience := time.NewTimer(s.drain)
	defer patience.Stop()
	select {
	case <-drained:
	case <-patience.C:
		s.grpc.Stop()
		<-drained
	}
	return <-failed
}

// maxSocketPath is what fits into sockaddr_un with its closing NUL (unix(7)).
const maxSocketPath = 107

// Endpoint is the unix socket of a server, "unix:///absolute/path". It is a flag value: flag.TextVar checks it.
type Endpoint string

// UnmarshalText takes an endpoint, or says what is wrong with it.
func (e *Endpoint) UnmarshalText(text []byte) error {
	path, found := strings.CutPrefix(string(text), "unix://")
	switch {
	case !found || !filepath.IsAbs(path):
		return errors.New("is not unix:///absolute/path")
	case len(path) > maxSocketPath:
		return fmt.Errorf("the path has %d bytes, a unix socket's at most %d", len(path), maxSocketPath)
	}
	*e = Endpoint(text)
	return nil
}

// MarshalText gives the endpoint as UnmarshalText takes it.
func (e Endpoint) MarshalText() ([]byte, error) { return []byte(e), nil }

// Listen opens the socket of an endpoint. One that a killed predecessor left there is removed, but only when it is a
// socket and nobody answers on it. Only the socket's owner can connect: the usual umask takes the others' write
// permission.
func Listen(ctx context.Context, endpoint Endpoint) (net.Listener, error) {
	if err := endpoint.UnmarshalText([]byte(endpoint)); err != nil {
		return nil, fmt.Errorf("endpoint %q: %w", endpoint, err)
	}
	path := strings.TrimPrefix(string(endpoint), "unix://")
	if err := removeStale(ctx, path); err != nil {
		return nil, fmt.Errorf("endpoint %q: %w", endpoint, err)
	}
	var lc net.ListenConfig
	lis, err := lc.Listen(ctx, "unix", path)
	if err != nil {
		return nil, fmt.Errorf("endpoint %q: %w", endpoint, err)
	}
	return lis, nil
}

func removeStale(ctx context.Context, path string) error {
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return fmt.Errorf("look for a stale socket: %w", err)
	case info.Mode().Type() != fs.ModeSocket:
		return errors.New("something that is no socket is there; it is not removed")
	}
	d := net.Dialer{Timeout: time.Second}
	conn, err := d.DialContext(ctx, "unix", path)
	if err == nil {
		return errors.Join(errors.New("another process answers there"), conn.Close())
	}
	if !errors.Is(err, syscall.ECONNREFUSED) {
		return fmt.Errorf("ask whether the socket is stale: %w", err)
	}
	if err := os.Remove(path); err != nil {
		return fmt.Errorf("remove the stale socket: %w", err)
	}
	return nil
}
