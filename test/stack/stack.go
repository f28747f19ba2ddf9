// Package stack runs the real programs, built into bin/, as one array with one node: the emulator, the controller and
// the node driver, wired by nothing but what a cluster has too: keys, files, ports and sockets. It refuses to reach
// into any of them.
package stack

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"golang.org/x/crypto/ssh"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"srvlab.io/rds-csi/safety"
)

// Config says what runs and where.
type Config struct {
	Bin string // the folder with the programs
	Dir string // an empty folder of one's own for keys, configuration and sockets, at most 60 bytes long
	Log string // the folder for the programs' logs, one file each

	Prefix  safety.Prefix
	Cluster string
	Node    string // the node's name; empty: no node driver, which needs NVMe in the kernel
	Kubelet string // the node's kubelet directory

	Array Array
}

// Array is the emulated box.
type Array struct {
	Name    safety.ArrayName
	SSH     netip.AddrPort
	Portal  netip.AddrPort
	Version string        // of RouterOS
	Pool    string        // the slot of the pool's disk
	Format  string        // the pool's file system, xfs or btrfs
	Size    string        // the pool's size, as --pool takes it
	Files   string        // where real exports keep their files; empty: a model without files and exports
	Latency time.Duration // of each command
	Trace   bool          // log each command line and its answer, as JSON
}

// directory is the volumes' directory below the pool's mount point.
const directory = "csi"

// Stack is the running programs and the ways to talk to them.
type Stack struct {
	Controller csi.ControllerClient
	Node       csi.NodeClient // nil without a node
	Programs   []*Program     // in the order they were started
	Control    string         // the emulator's control socket

	config  Config
	console *ssh.ClientConfig
	conns   []*grpc.ClientConn
}

// Start starts everything and waits until each answers its readiness probe. On an error nothing runs any more.
func Start(ctx context.Context, c Config) (*Stack, error) {
	s := &Stack{config: c, Control: filepath.Join(c.Dir, "emulator.sock")}
	if err := s.start(ctx); err != nil {
		return nil, errors.Join(err, s.Stop())
	}
	return s, nil
}

func (s *Stack) start(ctx context.Context) error {
	if err := s.StartArray(ctx); err != nil {
		return err
	}
	if err := s.StartController(ctx); err != nil {
		return err
	}
	if s.config.Node == "" {
		return nil
	}
	return s.StartNode(ctx)
}

// New gives a stack in which nothing runs yet, for callers that start its parts one by one.
func New(c Config) *Stack {
	return &Stack{config: c, Control: filepath.Join(c.Dir, "emulator.sock")}
}

// StartArray makes the keys and starts the emulator.
func (s *Stack) StartArray(ctx context.Context) error {
	c, a := s.config, s.config.Array
	keys, err := makeKeys(c.Dir, a.SSH.String())
	if err != nil {
		return err
	}
	s.console = keys.client
	args := []string{
		"--listen", a.SSH.String(), "--user", user, "--authorized-keys", keys.authorized, "--host-key", keys.host,
		"--version", a.Version, "--pool", a.Pool + "=" + a.Format + ":" + a.Size,
		"--control", s.Control,
	}
	if a.Files != "" {
		args = append(args, "--backend", "nvmet", "--data", a.Files, "--portal", a.Portal.String())
	}
	if a.Trace {
		args = append(args, "--trace", "--log-format", "json")
	}
	if a.Latency > 0 {
		args = append(args, "--latency", a.Latency.String())
	}
	p, err := start(ctx, c.Bin, c.Log, "routeros-emulator", nil, args...)
	if err != nil {
		return err
	}
	s.Programs = append(s.Programs, p)
	return s.await(ctx, p, func(ctx context.Context) error {
		_, err := s.Console(ctx, `:put "up"`)
		return err
	})
}

// StartController writes arrays.yaml and starts the controller.
func (s *Stack) StartController(ctx context.Context) error {
	c, a := s.config, s.config.Array
	arrays := filepath.Join(c.Dir, "arrays.yaml")
	text := fmt.Sprintf(`arrays:
- name: %s
  ssh:  {address: %q, user: %s, privateKeyFile: %q, knownHostsFile: %q}
  nvme: {address: %s, port: %d}
  pool: %s
  directory: %s
`, a.Name, a.SSH, user, filepath.Join(c.Dir, clientKey), filepath.Join(c.Dir, knownHosts),
		a.Portal.Addr(), a.Portal.Port(), a.Pool, directory)
	if err := os.WriteFile(arrays, []byte(text), 0o600); err != nil {
		return err
	}
	socket := filepath.Join(c.Dir, "controller.sock")
	p, err := start(ctx, c.Bin, c.Log, "rds-csi-controller", s.env(),
		"--endpoint", "unix://"+socket, "--arrays", arrays, "--cluster-id", c.Cluster, "--metrics-address", "127.0.0.1:0")
	if err != nil {
		return err
	}
	s.Programs = append(s.Programs, p)
	conn, err := s.dial(ctx, p, socket)
	if err != nil {
		return err
	}
	s.Controller = csi.NewControllerClient(conn)
	return nil
}

// StartNode starts the node driver.
func (s *Stack) StartNode(ctx context.Context) error {
	c := s.config
	report, attempts := filepath.Join(c.Dir, "report"), filepath.Join(c.Dir, "attempts")
	for _, dir := range []string{report, attempts, c.Kubelet} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	socket := filepath.Join(c.Dir, "node.sock")
	p, err := start(ctx, c.Bin, c.Log, "rds-csi-node", s.env(),
		"--endpoint", "unix://"+socket, "--node-name", c.Node, "--cluster-id", c.Cluster, "--kubelet-dir", c.Kubelet,
		"--report-dir", report, "--attempts-dir", attempts, "--metrics-address", "127.0.0.1:0",
		"--portal", fmt.Sprintf("%s=%s", c.Array.Name, c.Array.Portal))
	if err != nil {
		return err
	}
	s.Programs = append(s.Programs, p)
	conn, err := s.dial(ctx, p, socket)
	if err != nil {
		return err
	}
	s.Node = csi.NewNodeClient(conn)
	return nil
}

// Stop stops everything, the last one started first, and says what did not end cleanly.
func (s *Stack) Stop() error {
	var errs []error
	for _, conn := range s.conns {
		errs = append(errs, conn.Close())
	}
	for _, p := range slices.Backward(s.Programs) {
		errs = append(errs, p.Stop())
	}
	s.conns, s.Programs = nil, nil
	return errors.Join(errs...)
}

// Program gives the running program of that name, nil where there is none.
func (s *Stack) Program(name string) *Program {
	for _, p := range s.Programs {
		if p.Name == name {
			return p
		}
	}
	return nil
}

func (s *Stack) env() []string {
	return []string{"CSI_MANAGED_NQN_PREFIX=" + s.config.Prefix.String()}
}

// dial connects to a driver's socket and waits until its Probe says ready.
func (s *Stack) dial(ctx context.Context, p *Program, socket string) (*grpc.ClientConn, error) {
	conn, err := grpc.NewClient("unix://"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return nil, err
	}
	s.conns = append(s.conns, conn)
	identity := csi.NewIdentityClient(conn)
	return conn, s.await(ctx, p, func(ctx context.Context) error {
		r, err := identity.Probe(ctx, &csi.ProbeRequest{})
		if err == nil && r.GetReady() != nil && !r.GetReady().GetValue() {
			err = errors.New("not ready")
		}
		return err
	})
}

// startTime is what a program gets until it answers. It is long because a program in an emulated machine takes
// seconds to load.
const startTime = 60 * time.Second

// await asks until answers gives no error, the program has ended or startTime is over.
func (s *Stack) await(ctx context.Context, p *Program, answers func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, startTime)
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		once, done := context.WithTimeout(ctx, 10*time.Second)
		err := answers(once)
		done()
		if err == nil {
			return nil
		}
		select {
		case <-p.done:
			return errors.Join(fmt.Errorf("%s ended before it was ready", p.Name), p.ended())
		case <-ctx.Done():
			return fmt.Errorf("%s was not ready in time: %w; its last lines:\n%s", p.Name, err, tail(p.Log, 5))
		case <-tick.C:
		}
	}
}
