// Command rds-csi-node is the CSI node driver: it connects, mounts and repairs the volumes of the managed NQN prefix on
// one node, and refuses to start without a valid one. It holds no key of an array and asks no API server.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"

	"github.com/prometheus/client_golang/prometheus"

	"srvlab.io/rds-csi/cmd/internal/program"
	"srvlab.io/rds-csi/driver"
	"srvlab.io/rds-csi/driver/node"
	"srvlab.io/rds-csi/metrics"
	"srvlab.io/rds-csi/safety"
	"srvlab.io/rds-csi/safety/kernel"
)

func main() {
	f := flags{kernel: kernel.Default()}
	program.Main(program.Program{
		Name: "rds-csi-node",
		About: "The CSI node driver for volumes on RouterOS arrays: it connects, formats, mounts, publishes, grows and\n" +
			"repairs the volumes of the managed NQN prefix on this node, and touches nothing else. It needs the kernel\n" +
			"modules nvme-tcp, dm-multipath and dm-round-robin, and keeps no state.",
		MetricsAddress: ":9809",
		Flags:          f.declare,
		Required:       []string{"endpoint", "node-name", "cluster-id", "kubelet-dir", "report-dir", "attempts-dir"},
		Run:            f.run,
	})
}

type flags struct {
	endpoint               driver.Endpoint
	nodeName, cluster      string
	kubeletDir             string
	reportDir, attemptsDir string
	kernel                 kernel.FS
	portals                portals
}

func (f *flags) declare(fs *flag.FlagSet) {
	fs.TextVar(&f.endpoint, "endpoint", driver.Endpoint(""), "`SOCKET` to serve CSI on, unix:///absolute/path (required)")
	fs.StringVar(&f.nodeName, "node-name", "", "`NAME` of this Kubernetes node (required)")
	fs.StringVar(&f.cluster, "cluster-id", "", "`ID` of this cluster, the same as the controller has (required)")
	fs.StringVar(&f.kubeletDir, "kubelet-dir", "/var/lib/kubelet",
		"`DIR` of kubelet by its real name on the host; nothing is mounted or made elsewhere")
	fs.StringVar(&f.reportDir, "report-dir", "",
		"`DIR` in which the supervisor writes report.json; must be there, read from the next release on (required)")
	fs.StringVar(&f.attemptsDir, "attempts-dir", "",
		"`DIR` for attempts.json, which the supervisor reads; must be there, written from the next release on (required)")
	fs.StringVar(&f.kernel.Proc, "proc", f.kernel.Proc, "`DIR` of the host's /proc")
	fs.StringVar(&f.kernel.Sys, "sys", f.kernel.Sys, "`DIR` of the host's /sys")
	fs.StringVar(&f.kernel.Dev, "dev", f.kernel.Dev, "`DIR` of the host's /dev")
	fs.Var(&f.portals, "portal",
		"`ARRAY=ADDRESS:PORT` of an array's NVMe/TCP portal, repeatable; those that answer become the node's topology")
}

// portals is the repeatable flag --portal.
type portals []node.Portal

// String gives the flag's default: none.
func (p *portals) String() string { return "" }

// Set adds one portal.
func (p *portals) Set(s string) error {
	name, address, found := strings.Cut(s, "=")
	if !found {
		return errors.New("must be ARRAY=ADDRESS:PORT")
	}
	array, err := safety.ParseArrayName(name)
	if err != nil {
		return err
	}
	a, err := netip.ParseAddrPort(address)
	if err != nil {
		return err
	}
	*p = append(*p, node.Portal{Array: array, Address: a})
	return nil
}

// checkDirs refuses directories that are not there: a driver that made them would write its attempts where no
// supervisor looks.
func (f *flags) checkDirs() error {
	var errs []error
	for _, d := range []struct{ flag, dir string }{
		{"--kubelet-dir", f.kubeletDir}, {"--report-dir", f.reportDir}, {"--attempts-dir", f.attemptsDir},
	} {
		info, err := os.Stat(d.dir)
		switch {
		case !filepath.IsAbs(d.dir):
			errs = append(errs, fmt.Errorf("%s %q: must be absolute", d.flag, d.dir))
		case err != nil:
			errs = append(errs, fmt.Errorf("%s: %w", d.flag, err))
		case !info.IsDir():
			errs = append(errs, fmt.Errorf("%s %s: is no directory", d.flag, d.dir))
		}
	}
	return errors.Join(errs...)
}

// gcPercent has the garbage collector run at a quarter of the usual growth. What is live is a few MiB, so this costs
// next to nothing, and the memory belongs to the pods that the node is for.
const gcPercent = 25

func (f *flags) run(ctx context.Context, env *program.Env) (err error) {
	debug.SetGCPercent(gcPercent)
	host, err := safety.NewHost(f.cluster, f.nodeName)
	if err := errors.Join(err, f.checkDirs()); err != nil {
		return &program.UsageError{Err: err}
	}
	n, err := node.New(node.Config{
		FS: f.kernel, Prefix: env.Prefix, Host: host, KubeletDir: f.kubeletDir, Portals: f.portals, Log: env.Log,
	})
	if err != nil {
		return &program.UsageError{Err: err}
	}
	defer func() { err = errors.Join(err, n.Close()) }()
	if err := n.Ready(); err != nil { // the node may get its modules later; /readyz says so until then
		env.Log.Warn("the node lacks something", "op", "start", "reason", string(safety.ReasonOf(err)), "err", err)
	}
	env.Metrics.Register(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "rds_csi_hanging_programs",
		Help: "External programs that were killed, but are held in the kernel by a volume that does not answer.",
	}, func() float64 { return float64(n.Hanging()) }))
	answerMetrics, err := env.ServeMetrics(ctx, metrics.Check{Name: "node", Ready: n.Ready})
	if err != nil {
		return err
	}
	lis, err := driver.Listen(ctx, f.endpoint)
	if err != nil {
		return err
	}
	// Probe stays ready: a liveness probe would restart the driver for a missing module, and a restart loads none.
	server := driver.NewServer(driver.Config{
		Version: env.Version,
		Node:    n,
		Log:     env.Log,
		Begin:   env.Metrics.BeginRPC,
	})
	env.Log.Info("serving", "op", "start")
	return program.Together(ctx,
		func(ctx context.Context) error { return server.Serve(ctx, lis) },
		n.Repair,
		answerMetrics,
	)
}
