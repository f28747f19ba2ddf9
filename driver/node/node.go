package node

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"sync"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"srvlab.io/rds-csi/driver"
	"srvlab.io/rds-csi/driver/mapper"
	"srvlab.io/rds-csi/driver/nvme"
	"srvlab.io/rds-csi/safety"
	"srvlab.io/rds-csi/safety/kernel"
)

// Config is what a Node is made of. There is no default for anything but Log.
type Config struct {
	FS     kernel.FS
	Prefix safety.Prefix
	Host   safety.Host
	// KubeletDir is kubelet's root directory. Nothing is mounted, made or removed outside it. It must have the same
	// name in the driver's mount namespace and in the host's, where it must not be reached through a symbolic link.
	KubeletDir string
	// Portals are the arrays whose reachability becomes the node's topology. None: no topology.
	Portals []Portal
	// Log hears of changes in the repair of volumes; calls are logged by the server. nil is slog.Default().
	Log *slog.Logger
}

// Portal is where an array's NVMe/TCP target listens.
type Portal struct {
	Array   safety.ArrayName
	Address netip.AddrPort
}

// Node answers the calls of CSI's node service and repairs the paths of staged volumes. It keeps no state of its own:
// what is connected, mapped, mounted or made is read from the kernel by every call, so a restart loses nothing.
type Node struct {
	csi.UnimplementedNodeServer

	fs         kernel.FS
	prefix     safety.Prefix
	host       safety.Host
	kubeletDir string
	portals    []Portal
	log        *slog.Logger
	nvme       nvme.Host
	programs   runner
	hanging    func() int
	inFlight   driver.InFlight

	mu     sync.Mutex
	opened *mapper.Mapper
}

var _ csi.NodeServer = (*Node)(nil)

// New gives a node service. It refuses a configuration with which it could touch what is not its own.
func New(c Config) (*Node, error) {
	if c.Prefix == (safety.Prefix{}) {
		return nil, errors.New("node: no managed NQN prefix")
	}
	if c.Host == (safety.Host{}) {
		return nil, errors.New("node: no host")
	}
	if !filepath.IsAbs(c.KubeletDir) || filepath.Clean(c.KubeletDir) != c.KubeletDir || c.KubeletDir == "/" {
		return nil, fmt.Errorf("kubelet directory %q: must be a clean absolute path, and not the root", c.KubeletDir)
	}
	if c.Log == nil {
		c.Log = slog.Default()
	}
	p := &programs{}
	return &Node{
		fs: c.FS, prefix: c.Prefix, host: c.Host, kubeletDir: c.KubeletDir, portals: c.Portals, log: c.Log,
		nvme: nvme.Host{
			FS: c.FS, Prefix: c.Prefix,
			Warn: func(err error) { c.Log.Warn("connection", "err", err) },
		},
		programs: p, hanging: p.Hanging,
	}, nil
}

// Hanging counts the external programs that were killed, but are held in the kernel by a disk that does not answer.
func (n *Node) Hanging() int { return n.hanging() }

// tools are the programs that the node service runs.
var tools = []string{
	"blkid", "dd", "e2fsck", "mkfs.ext4", "mkfs.xfs", "mount", "resize2fs", "sleep", "stat", "umount", "xfs_growfs", "xfs_repair",
}

// Ready tells whether the node has what the calls need; the error names everything that is missing and what to do.
func (n *Node) Ready() error {
	var errs []error
	for _, need := range []struct{ path, module string }{
		{filepath.Join(n.fs.Dev, "nvme-fabrics"), "nvme-tcp"},
		{filepath.Join(n.fs.Dev, "mapper/control"), "dm-multipath and dm-round-robin"},
	} {
		if _, err := os.Lstat(need.path); errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, fmt.Errorf("%s is missing: load %s (modprobe, /etc/modules-load.d)", need.path, need.module))
		} else if err != nil {
			errs = append(errs, err)
		}
	}
	for _, tool := range tools {
		if _, err := exec.LookPath(tool); err != nil {
			errs = append(errs, fmt.Errorf("program %s: %w", tool, err))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return safety.Refuse(safety.NodeUnsuited, err)
	}
	return nil
}

// mapper gives the device-mapper. It is opened at the first need, so that a node whose module is missing has a driver
// that says so, and no driver that does not start.
func (n *Node) mapper() (*mapper.Mapper, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.opened != nil {
		return n.opened, nil
	}
	m, err := mapper.Open(n.fs)
	if err != nil {
		return nil, err
	}
	n.opened = m
	return m, nil
}

// Close gives back what the node holds of the machine: a file descriptor. Nothing is unmounted or disconnected.
func (n *Node) Close() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.opened == nil {
		return nil
	}
	err := n.opened.Close()
	n.opened = nil
	return err
}

// NodeGetCapabilities tells what the node service can do. VOLUME_MOUNT_GROUP is not among it: kubelet applies a pod's
// fsGroup itself, and the root directory of a new file system stays as mkfs makes it.
func (n *Node) NodeGetCapabilities(context.Context, *csi.NodeGetCapabilitiesRequest) (*csi.NodeGetCapabilitiesResponse, error) {
	resp := &csi.NodeGetCapabilitiesResponse{}
	for _, t := range []csi.NodeServiceCapability_RPC_Type{
		csi.NodeServiceCapability_RPC_STAGE_UNSTAGE_VOLUME,
		csi.NodeServiceCapability_RPC_EXPAND_VOLUME,
		csi.NodeServiceCapability_RPC_GET_VOLUME_STATS,
		csi.NodeServiceCapability_RPC_SINGLE_NODE_MULTI_WRITER,
	} {
		resp.Capabilities = append(resp.Capabilities, &csi.NodeServiceCapability{
			Type: &csi.NodeServiceCapability_Rpc{Rpc: &csi.NodeServiceCapability_RPC{Type: t}},
		})
	}
	return resp, nil
}
