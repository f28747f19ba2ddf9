package routeros

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"srvlab.io/rds-csi/safety"
	"srvlab.io/rds-csi/test/routerostest"
)

// bench is an array behind an emulated device, with real SSH in between.
type bench struct {
	box      *routerostest.Box
	server   *routerostest.Server
	array    *Array
	prefix   safety.Prefix
	switches routerostest.Switches
	config   ArrayConfig
	lines    *recorder
	ssh      *sshRunner
}

// recorder remembers the lines that were sent.
type recorder struct {
	next runner
	mu   sync.Mutex
	sent []string
	// hook is told of a line just before it is sent, and gives what is sent.
	hook func(line string) string
}

func (r *recorder) Run(ctx context.Context, line string) (string, error) {
	r.mu.Lock()
	r.sent = append(r.sent, line)
	hook := r.hook
	r.mu.Unlock()
	if hook != nil {
		line = hook(line)
	}
	return r.next.Run(ctx, line)
}

// take gives the lines since the last time.
func (r *recorder) take() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	sent := r.sent
	r.sent = nil
	return sent
}

// open starts a device with two disks that are not ours, and opens it as an array.
func open(t *testing.T, o routerostest.Options, tweaks ...func(*ArrayConfig)) *bench {
	t.Helper()
	b := openWithout(t, o, tweaks...)
	addForeign(t, b.box)
	return b
}

// openWithout is open with nothing on the pool, for versions that have no file disks.
func openWithout(t *testing.T, o routerostest.Options, tweaks ...func(*ArrayConfig)) *bench {
	t.Helper()
	dir := t.TempDir()
	key := newSigner(t, filepath.Join(dir, "id"))
	if o.Groups == nil {
		o.Groups = map[string][]string{"csi": {"ssh", "read", "write"}}
	}
	o.Users = append(o.Users, routerostest.User{Name: "admin"},
		routerostest.User{Name: "csi", Group: "csi", Keys: []ssh.PublicKey{key.PublicKey()}})
	box, err := routerostest.NewBox(o)
	must(t, err)
	t.Cleanup(func() { box.Close() })
	b := &bench{box: box, prefix: prefixOf(t, "test-"), switches: o.Switches}
	b.server = &routerostest.Server{Box: box, HostKey: newSigner(t, "")}
	addr := serve(t, b.server)
	must(t, os.WriteFile(filepath.Join(dir, "known_hosts"), []byte(b.server.KnownHosts(addr)+"\n"), 0o600))
	b.config = ArrayConfig{
		Name: "rds1", Pool: "pool", Directory: "csi", NVMe: NVMeConfig{Address: "192.0.2.9"},
		SSH: SSHConfig{
			Address: addr, User: "csi",
			PrivateKeyFile: filepath.Join(dir, "id"), KnownHostsFile: filepath.Join(dir, "known_hosts"),
			DialTimeout: Duration(5 * time.Second), CommandTimeout: Duration(5 * time.Second),
		},
	}
	for _, tweak := range tweaks {
		tweak(&b.config)
	}
	b.array = b.open(t, b.prefix)
	return b
}

// open gives one more array on the same device, as another cluster or another replica of the controller has it.
func (b *bench) open(t *testing.T, p safety.Prefix) *Array {
	t.Helper()
	a, err := Open(b.config, Options{Prefix: p, Cluster: "cluster"})
	must(t, err)
	t.Cleanup(func() { a.Close() })
	b.lines = &recorder{next: a.run}
	b.ssh, _ = a.run.(*guarded).next.(*sshRunner)
	a.run = b.lines
	a.settle = settle{limit: time.Second, pause: 20 * time.Millisecond}
	return a
}

// newSigner makes a key, and writes it to a file if one is named.
func newSigner(t *testing.T, file string) ssh.Signer {
	t.Helper()
	_, private, err := ed25519.GenerateKey(rand.Reader)
	must(t, err)
	if file != "" {
		block, err := ssh.MarshalPrivateKey(private, "")
		must(t, err)
		must(t, os.WriteFile(file, pem.EncodeToMemory(block), 0o600))
	}
	signer, err := ssh.NewSignerFromKey(private)
	must(t, err)
	return signer
}

// serve runs the server until the test ends, and gives its address.
func serve(t *testing.T, s *routerostest.Server) string {
	t.Helper()
	var lc net.ListenConfig
	l, err := lc.Listen(t.Context(), "tcp", "127.0.0.1:0")
	must(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx, l) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return l.Addr().String()
}
