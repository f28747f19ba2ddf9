package main

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"srvlab.io/rds-csi/driver/node"
	"srvlab.io/rds-csi/safety"
)

const mainVariable = "RDS_TEST_MAIN"

// TestMain lets the test program be the program itself.
func TestMain(m *testing.M) {
	if os.Getenv(mainVariable) != "" {
		main()
		return
	}
	os.Exit(m.Run())
}

// build gives the command of rds-csi-node with what it needs on a machine without any of the kernel's files, and args
// behind it.
func build(t *testing.T, args ...string) (cmd *exec.Cmd, dir string) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dir = t.TempDir()
	for _, d := range []string{"kubelet", "report", "attempts", "dev", "proc", "sys"} {
		if err := os.Mkdir(filepath.Join(dir, d), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	all := slices.Concat([]string{
		"--endpoint", "unix://" + filepath.Join(dir, "csi.sock"), "--node-name", "node1", "--cluster-id", "test",
		"--kubelet-dir", filepath.Join(dir, "kubelet"), "--report-dir", filepath.Join(dir, "report"),
		"--attempts-dir", filepath.Join(dir, "attempts"), "--metrics-address", "127.0.0.1:0",
		"--proc", filepath.Join(dir, "proc"), "--sys", filepath.Join(dir, "sys"), "--dev", filepath.Join(dir, "dev"),
		"--managed-nqn-prefix", "nqn.2000-02.com.mikrotik:test-",
	}, args)
	cmd = exec.CommandContext(t.Context(), self, all...)
	cmd.Env = append(os.Environ(), mainVariable+"=1", "CSI_MANAGED_NQN_PREFIX=")
	return cmd, dir
}

func TestWrongUseEndsWithTwo(t *testing.T) {
	for _, c := range []struct {
		name string
		args []string
		want string
	}{
		{"no prefix", []string{"--managed-nqn-prefix", ""}, "CSI_MANAGED_NQN_PREFIX"},
		{"a prefix that owns the boot disks", []string{"--managed-nqn-prefix", "nqn.2000-02.com.mikrotik:"}, "every export"},
		{"no cluster", []string{"--cluster-id", ""}, "--cluster-id"},
		{"a node name that is none", []string{"--node-name", "Node_1"}, "Node_1"},
		{"a missing report directory", []string{"--report-dir", "/does/not/exist"}, "--report-dir"},
		{"a missing attempts directory", []string{"--attempts-dir", "/does/not/exist"}, "--attempts-dir"},
		{"a relative kubelet directory", []string{"--kubelet-dir", "."}, "--kubelet-dir"},
		{"the root as kubelet directory", []string{"--kubelet-dir", "/"}, "not the root"},
		{"a portal without a name", []string{"--portal", "192.0.2.9:4420"}, "ARRAY=ADDRESS:PORT"},
		{"a portal without a port", []string{"--portal", "rds1=192.0.2.9"}, "192.0.2.9"},
		{"a portal with a host name", []string{"--portal", "rds1=rds1.example.org:4420"}, "rds1.example.org"},
	} {
		cmd, _ := build(t, c.args...)
		out, err := cmd.CombinedOutput()
		var exited *exec.ExitError
		if !errors.As(err, &exited) || exited.ExitCode() != 2 || !strings.Contains(string(out), c.want) {
			t.Errorf("%s: %v, %s", c.name, err, out)
		}
	}
}

// A node that lacks the kernel modules has a driver that says so, serves, and ends when it is told to.
func TestServesAndStops(t *testing.T) {
	address := freeAddress(t)
	cmd, dir := build(t, "--metrics-address", address)
	var log bytes.Buffer
	cmd.Stderr = &log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	conn, err := grpc.NewClient("unix://"+filepath.Join(dir, "csi.sock"), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	info, err := csi.NewNodeClient(conn).NodeGetInfo(ctx, &csi.NodeGetInfoRequest{}, grpc.WaitForReady(true))
	if err != nil {
		t.Fatalf("%v\n%s", err, log.String())
	}
	if host, err := safety.ParseNodeID("test", info.GetNodeId()); err != nil || host.Node != "node1" {
		t.Errorf("node ID %q: %v", info.GetNodeId(), err)
	}
	if status, text := get(t, "http://"+address+"/readyz"); status == http.StatusOK ||
		!strings.Contains(text, "nvme-fabrics") || !strings.Contains(text, "mapper/control") {
		t.Errorf("readyz without the kernel modules: %d %s", status, text)
	}
	if status, _ := get(t, "http://"+address+"/healthz"); status != http.StatusOK {
		t.Errorf("healthz: %d", status)
	}
	if _, text := get(t, "http://"+address+"/metrics"); !strings.Contains(text, "\nrds_csi_hanging_programs 0\n") {
		t.Error("the hanging programs are not among the metrics")
	}
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("SIGTERM: %v\n%s", err, log.String())
	}
	if _, err := os.Lstat(filepath.Join(dir, "csi.sock")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the socket is left: %v", err)
	}
}

func get(t *testing.T, url string) (int, string) {
	t.Helper()
	resp, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(text)
}

func TestPortals(t *testing.T) {
	var p portals
	for _, s := range []string{"rds1=192.0.2.9:4420", "rds2=[2001:db8::1]:4421"} {
		if err := p.Set(s); err != nil {
			t.Fatal(err)
		}
	}
	want := portals{
		{Array: "rds1", Address: netip.MustParseAddrPort("192.0.2.9:4420")},
		{Array: "rds2", Address: netip.MustParseAddrPort("[2001:db8::1]:4421")},
	}
	if !slices.Equal(p, want) {
		t.Errorf("portals %+v, want %+v", p, []node.Portal(want))
	}
}

// freeAddress gives an address that nobody listened on a moment ago.
func freeAddress(t *testing.T) string {
	t.Helper()
	lis, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = lis.Close() }()
	return lis.Addr().String()
}
