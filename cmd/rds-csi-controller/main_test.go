package main

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"flag"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"golang.org/x/crypto/ssh"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"srvlab.io/rds-csi/cmd/internal/program"
	"srvlab.io/rds-csi/driver"
	"srvlab.io/rds-csi/metrics"
	"srvlab.io/rds-csi/safety"
)

func env(t *testing.T, log *strings.Builder) *program.Env {
	t.Helper()
	p, err := safety.ParsePrefix("nqn.2000-02.com.mikrotik:unit-")
	if err != nil {
		t.Fatal(err)
	}
	return &program.Env{Prefix: p, Version: "v1.2.3", Log: slog.New(slog.NewTextHandler(log, nil)), Metrics: metrics.New("v1.2.3")}
}

// arraysFile writes a configuration whose array nobody answers for (192.0.2.0/24 is for documentation, RFC 5737).
func arraysFile(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	block, err := ssh.MarshalPrivateKey(key, "")
	if err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string]string{
		"key":         string(pem.EncodeToMemory(block)),
		"known_hosts": "192.0.2.1 ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA\n",
		"arrays.yaml": "arrays:\n- name: rds1\n  ssh: {address: '192.0.2.1:22', user: csi, privateKeyFile: key, knownHostsFile: known_hosts}\n" +
			"  nvme: {address: 192.0.2.9, port: 4420}\n  pool: raid10\n  directory: csi\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return filepath.Join(dir, "arrays.yaml")
}

// TestServesWhileTheArrayIsDown: the program starts, answers, and ends on the signal, with its only array unreachable.
func TestServesWhileTheArrayIsDown(t *testing.T) {
	f := flags{
		endpoint: driver.Endpoint("unix://" + filepath.Join(t.TempDir(), "csi.sock")), arrays: arraysFile(t), cluster: "unit",
	}
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	var log strings.Builder
	go func() { ended <- f.run(ctx, env(t, &log)) }()
	conn, err := grpc.NewClient(string(f.endpoint), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	probe, err := csi.NewIdentityClient(conn).Probe(t.Context(), &csi.ProbeRequest{}, grpc.WaitForReady(true))
	if err != nil || !probe.GetReady().GetValue() {
		t.Errorf("probe: %v, %v; a restart would not bring the array back", probe, err)
	}
	if err := conn.Close(); err != nil {
		t.Error(err)
	}
	stop()
	if err := <-ended; err != nil {
		t.Errorf("run: %v", err)
	}
}

func TestRunRefuses(t *testing.T) {
	good := arraysFile(t)
	socket := "unix://" + filepath.Join(t.TempDir(), "csi.sock")
	tests := []struct {
		name string
		f    flags
		says string
	}{
		{"no arrays file", flags{driver.Endpoint(socket), "/nonexistent/arrays.yaml", "unit"}, "arrays.yaml"},
		{"no cluster ID", flags{driver.Endpoint(socket), good, ""}, "cluster ID"},
		{"bad endpoint", flags{"tcp://:1", good, "unit"}, "unix:///"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if err := tt.f.run(t.Context(), env(t, &strings.Builder{})); err == nil || !strings.Contains(err.Error(), tt.says) {
				t.Errorf("got %v, want %q", err, tt.says)
			}
		})
	}
}

// TestFlags holds the names that scripts rely on (design, section 8).
func TestFlags(t *testing.T) {
	var f flags
	fs := flag.NewFlagSet("", flag.ContinueOnError)
	f.declare(fs)
	if err := fs.Parse([]string{"--endpoint", "unix:///run/csi.sock", "--arrays", "a.yaml", "--cluster-id", "c"}); err != nil {
		t.Fatal(err)
	}
	if (f != flags{"unix:///run/csi.sock", "a.yaml", "c"}) {
		t.Errorf("got %+v", f)
	}
	if err := fs.Parse([]string{"--endpoint", "/run/csi.sock"}); err == nil {
		t.Error("an endpoint without unix:// is taken")
	}
}
