package controller

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/knownhosts"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"srvlab.io/rds-csi/driver"
	"srvlab.io/rds-csi/driver/routeros"
	"srvlab.io/rds-csi/safety"
	"srvlab.io/rds-csi/test/routerostest"
)

const (
	cluster = "unit"
	prefix  = "nqn.2000-02.com.mikrotik:unit-"
	gib     = 1024 * mib
	// poolSize is that of every emulated pool.
	poolSize = 20 * gib
)

// box is an emulated array behind SSH.
type box struct {
	*routerostest.Box
	config  routeros.ArrayConfig
	hostKey ssh.Signer
	stop    func() // ends its SSH server
}

// newBox starts an array that is called name. What o leaves out is an XFS pool "raid10" of 20 GiB and the user csi.
func newBox(t *testing.T, name string, o routerostest.Options) *box {
	t.Helper()
	client, clientFile := newKey(t)
	host, _ := newKey(t)
	if len(o.Pools) == 0 {
		o.Pools = []routerostest.Pool{{Slot: "raid10", Size: poolSize, FS: "xfs"}}
	}
	o.Users = append(o.Users, routerostest.User{Name: "csi", Keys: []ssh.PublicKey{client.PublicKey()}})
	emulated, err := routerostest.NewBox(o)
	if err != nil {
		t.Fatal(err)
	}
	lis := listen(t, "127.0.0.1:0")
	known := filepath.Join(t.TempDir(), "known_hosts")
	line := knownhosts.Line([]string{knownhosts.Normalize(lis.Addr().String())}, host.PublicKey())
	if err := os.WriteFile(known, []byte(line+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	b := &box{Box: emulated, hostKey: host, config: routeros.ArrayConfig{
		Name:      safety.ArrayName(name),
		SSH:       routeros.SSHConfig{Address: lis.Addr().String(), User: "csi", PrivateKeyFile: clientFile, KnownHostsFile: known},
		NVMe:      routeros.NVMeConfig{Address: "192.0.2.9", Port: 4420},
		Pool:      "raid10",
		Directory: "csi",
	}}
	b.serve(t, lis)
	t.Cleanup(func() {
		b.stop()
		if err := emulated.Close(); err != nil {
			t.Error(err)
		}
	})
	return b
}

// serve starts the box's SSH server.
func (b *box) serve(t *testing.T, lis net.Listener) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	var served sync.WaitGroup
	served.Go(func() {
		if err := (&routerostest.Server{Box: b.Box, HostKey: b.hostKey}).Serve(ctx, lis); err != nil {
			t.Errorf("emulator: %v", err)
		}
	})
	b.stop = sync.OnceFunc(func() { cancel(); served.Wait() })
}

func listen(t *testing.T, address string) net.Listener {
	t.Helper()
	var lc net.ListenConfig
	lis, err := lc.Listen(t.Context(), "tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	return lis
}

// newKey makes a key pair; the private half is also in a file.
func newKey(t *testing.T) (ssh.Signer, string) {
	t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	block, err := ssh.MarshalPrivateKey(key, "")
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "id_ed25519")
	if err := os.WriteFile(file, pem.EncodeToMemory(block), 0o600); err != nil {
		t.Fatal(err)
	}
	signer, err := ssh.NewSignerFromKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return signer, file
}

// replica is a running controller and a client of it.
type replica struct {
	csi.ControllerClient
	server *Controller
	prefix safety.Prefix
}

// newReplica starts a controller on the boxes, behind gRPC on a unix socket as in the program. An empty prefix is the
// usual one.
func newReplica(t *testing.T, managed string, boxes ...*box) *replica {
	t.Helper()
	if managed == "" {
		managed = prefix
	}
	p, err := safety.ParsePrefix(managed)
	if err != nil {
		t.Fatal(err)
	}
	var arrays []*routeros.Array
	for _, b := range boxes {
		a, err := routeros.Open(b.config, routeros.Options{Prefix: p, Cluster: cluster})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := a.Close(); err != nil {
				t.Error(err)
			}
		})
		arrays = append(arrays, a)
	}
	c, err := New(Config{Arrays: arrays, Prefix: p, Cluster: cluster})
	if err != nil {
		t.Fatal(err)
	}
	endpoint := driver.Endpoint("unix://" + filepath.Join(t.TempDir(), "csi.sock"))
	lis, err := driver.Listen(t.Context(), endpoint)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	quiet := slog.New(slog.DiscardHandler)
	go func() { ended <- driver.NewServer(driver.Config{Controller: c, Log: quiet}).Serve(ctx, lis) }()
	conn, err := grpc.NewClient(string(endpoint), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := conn.Close(); err != nil {
			t.Error(err)
		}
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return &replica{ControllerClient: csi.NewControllerClient(conn), server: c, prefix: p}
}

// request is a CreateVolumeRequest for an ordinary volume of 1 GiB.
func request(name string) *csi.CreateVolumeRequest {
	return &csi.CreateVolumeRequest{
		Name:               name,
		CapacityRange:      &csi.CapacityRange{RequiredBytes: gib},
		VolumeCapabilities: []*csi.VolumeCapability{mount(oneWriter, "")},
	}
}

func (r *replica) mustCreate(t *testing.T, req *csi.CreateVolumeRequest) *csi.Volume {
	t.Helper()
	resp, err := r.CreateVolume(t.Context(), req)
	if err != nil {
		t.Fatalf("create %s: %v", req.GetName(), err)
	}
	return resp.GetVolume()
}

// publish publishes to a node by its name, as a mounted volume or as a shared raw block volume.
func (r *replica) publish(t *testing.T, volumeID, node string, shared bool) (map[string]string, error) {
	t.Helper()
	c := mount(oneWriter, "")
	if shared {
		c = block(manyWriters)
	}
	resp, err := r.ControllerPublishVolume(t.Context(), &csi.ControllerPublishVolumeRequest{
		VolumeId: volumeID, NodeId: nodeID(t, node), VolumeCapability: c,
	})
	return resp.GetPublishContext(), err
}

func (r *replica) mustPublish(t *testing.T, volumeID, node string, shared bool) map[string]string {
	t.Helper()
	got, err := r.publish(t, volumeID, node, shared)
	if err != nil {
		t.Fatalf("publish to %s: %v", node, err)
	}
	return got
}

func (r *replica) unpublish(t *testing.T, volumeID, node string) error {
	t.Helper()
	req := &csi.ControllerUnpublishVolumeRequest{VolumeId: volumeID}
	if node != "" {
		req.NodeId = nodeID(t, node)
	}
	_, err := r.ControllerUnpublishVolume(t.Context(), req)
	return err
}

func (r *replica) remove(t *testing.T, volumeID string) error {
	t.Helper()
	_, err := r.DeleteVolume(t.Context(), &csi.DeleteVolumeRequest{VolumeId: volumeID})
	return err
}

// expand gives the new size. The node must always be told to do its part.
func (r *replica) expand(t *testing.T, volumeID string, required, limit int64) (int64, error) {
	t.Helper()
	resp, err := r.ControllerExpandVolume(t.Context(), &csi.ControllerExpandVolumeRequest{
		VolumeId: volumeID, CapacityRange: &csi.CapacityRange{RequiredBytes: required, LimitBytes: limit},
	})
	if err == nil && !resp.GetNodeExpansionRequired() {
		t.Error("an expansion that the node is not told of")
	}
	return resp.GetCapacityBytes(), err
}

// published gives the nodes that ControllerGetVolume tells.
func (r *replica) published(t *testing.T, volumeID string) []string {
	t.Helper()
	resp, err := r.ControllerGetVolume(t.Context(), &csi.ControllerGetVolumeRequest{VolumeId: volumeID})
	if err != nil {
		t.Fatalf("get volume: %v", err)
	}
	return resp.GetStatus().GetPublishedNodeIds()
}

func host(t *testing.T, node string) safety.Host {
	t.Helper()
	h, err := safety.NewHost(cluster, node)
	if err != nil {
		t.Fatal(err)
	}
	return h
}

func nodeID(t *testing.T, node string) string {
	t.Helper()
	return host(t, node).ID()
}

// connect is a node's initiator connecting to an export.
func (b *box) connect(t *testing.T, node, nqn string) (*routerostest.Connection, error) {
	t.Helper()
	return b.Connect(string(host(t, node).NQN()), nqn)
}

func (b *box) mustConnect(t *testing.T, node, nqn string) *routerostest.Connection {
	t.Helper()
	c, err := b.connect(t, node, nqn)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// wantState compares an array's state, without its pools and directories, with lines.
func (b *box) wantState(t *testing.T, lines ...string) {
	t.Helper()
	var got []string
	for line := range strings.Lines(b.String()) {
		line = strings.TrimSuffix(line, "\n")
		if strings.HasPrefix(line, "pool ") || strings.HasPrefix(line, "file ") && !strings.Contains(line, " size=") {
			continue
		}
		got = append(got, line)
	}
	if g, w := strings.Join(got, "\n"), strings.Join(lines, "\n"); g != w {
		t.Errorf("the array's state is\n%s\nwant\n%s", g, w)
	}
}

// wantCode fails unless err has the code, and in its message each of the texts.
func wantCode(t *testing.T, err error, code codes.Code, texts ...string) {
	t.Helper()
	if status.Code(err) != code {
		t.Fatalf("got %v, want %s", err, code)
	}
	for _, text := range texts {
		if !strings.Contains(status.Convert(err).Message(), text) {
			t.Errorf("the message %q lacks %q", status.Convert(err).Message(), text)
		}
	}
}
