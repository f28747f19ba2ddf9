package routerostest

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"srvlab.io/rds-csi/test/routerostest/nvmet"
)

// NVMet is the back end whose files and exports are real: files below a data directory, exports by the kernel's
// NVMe/TCP target. It needs root, configfs and the module nvmet-tcp.
type NVMet struct {
	target   *nvmet.Target
	data     *os.Root
	portal   netip.AddrPort
	buffered bool

	mu      sync.Mutex
	ports   map[uint16]int // TCP port → nvmet's ID
	exports map[string]Export
	idle    bool // the placeholder is linked
}

// NVMetOptions say where NVMet works.
type NVMetOptions struct {
	Data   string         // directory with a directory for each pool; made if missing
	Portal netip.AddrPort // exports go to this address, at the port of each disk
	// Target makes the exports; nil is the kernel's own configfs.
	Target *nvmet.Target
	// BufferedIO lets Data lie on a file system without direct I/O, such as tmpfs.
	BufferedIO bool
}

// NewNVMet opens the data directory. Files that an earlier run left there are still on the array.
func NewNVMet(o NVMetOptions) (*NVMet, error) {
	if o.Target == nil {
		o.Target = &nvmet.Target{}
		if _, err := os.Stat(nvmet.DefaultRoot); err != nil {
			return nil, fmt.Errorf("kernel target: %w; mount configfs and load the module nvmet-tcp", err)
		}
	}
	if !o.Portal.IsValid() || o.Portal.Port() == 0 {
		return nil, fmt.Errorf("portal %s: is no address with a port", o.Portal)
	}
	dir, err := filepath.Abs(o.Data) // the kernel opens the files and knows no working directory
	if err != nil {
		return nil, fmt.Errorf("data directory: %w", err)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("data directory: %w", err)
	}
	data, err := os.OpenRoot(dir)
	if err != nil {
		return nil, fmt.Errorf("data directory: %w", err)
	}
	return &NVMet{
		target: o.Target, data: data, portal: o.Portal, buffered: o.BufferedIO,
		ports: map[uint16]int{}, exports: map[string]Export{},
	}, nil
}

// Mount implements Backend.
func (n *NVMet) Mount(point string) (map[string]int64, error) {
	if err := n.data.Mkdir(point, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, fmt.Errorf("directory of pool %s: %w", point, err)
	}
	found := map[string]int64{}
	err := fs.WalkDir(n.data.FS(), point, func(name string, e fs.DirEntry, err error) error {
		if err != nil || name == point {
			return err
		}
		if e.IsDir() {
			found[name+"/"] = 0
			return nil
		}
		info, err := e.Info()
		if err != nil {
			return err
		}
		found[name] = info.Size()
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("files of pool %s: %w", point, err)
	}
	return found, nil
}

// Mkdir implements Backend.
func (n *NVMet) Mkdir(path string) error { return short(n.data.Mkdir(path, 0o700)) }

// Create implements Backend.
func (n *NVMet) Create(path string, size int64, thick bool) error {
	f, err := n.data.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return short(err)
	}
	err = errors.Join(allocate(f, 0, size, thick), f.Close())
	if err != nil {
		err = errors.Join(err, n.data.Remove(path))
	}
	return short(err)
}

// allocate gives a file its size, with blocks behind it where thick.
func allocate(f *os.File, from, size int64, thick bool) error {
	if thick && size > from {
		return unix.Fallocate(int(f.Fd()), 0, from, size-from)
	}
	return f.Truncate(size)
}

// Resize implements Backend.
func (n *NVMet) Resize(path string, size int64, thick bool) error {
	f, err := n.data.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return short(err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return short(err)
	}
	return short(allocate(f, info.Size(), size, thick))
}

// Copy implements Backend. It shares the blocks where the file system can.
func (n *NVMet) Copy(src, dst string) error {
	in, err := n.data.Open(src)
	if err != nil {
		return short(err)
	}
	defer in.Close()
	out, err := n.data.OpenFile(dst, os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return short(err)
	}
	if unix.IoctlFileClone(int(out.Fd()), int(in.Fd())) != nil {
		_, err = io.Copy(out, in)
	}
	return short(errors.Join(err, out.Close()))
}

// Rename implements Backend.
func (n *NVMet) Rename(src, dst string) error { return short(n.data.Rename(src, dst)) }

// Remove implements Backend.
func (n *NVMet) Remove(path string) error { return short(n.data.Remove(path)) }

// short keeps a host's path out of what the console prints.
func short(err error) error {
	var p *fs.PathError
	if errors.As(err, &p) {
		return p.Err
	}
	return err
}

// Probe implements Backend: it knows ext4, XFS and btrfs by the magic numbers of their superblocks.
func (n *NVMet) Probe(path string) string {
	f, err := n.data.Open(path)
	if err != nil {
		return ""
	}
	defer f.Close()
	for _, m := range []struct {
		at        int64
		magic, fs string
	}{{0, "XFSB", "xfs"}, {0x438, "\x53\xEF", "ext4"}, {0x10040, "_BHRfS_M", "btrfs"}} {
		b := make([]byte, len(m.magic))
		if _, err := f.ReadAt(b, m.at); err == nil && bytes.Equal(b, []byte(m.magic)) {
			return m.fs
		}
	}
	return ""
}

// port gives the nvmet port of a TCP port, making it at its first use.
func (n *NVMet) port(tcp uint16) (int, error) {
	if id, ok := n.ports[tcp]; ok {
		return id, nil
	}
	id, err := n.target.AddPort(int(tcp), netip.AddrPortFrom(n.portal.Addr(), tcp)) // portid = port, as captured
	if err == nil {
		n.ports[tcp] = id
	}
	return id, err
}

// Export implements Backend.
func (n *NVMet) Export(e Export) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	port, err := n.port(e.Port)
	if err != nil {
		return err
	}
	s := nvmet.Subsystem{
		NQN: e.NQN, Path: filepath.Join(n.data.Name(), e.Path), BufferedIO: n.buffered, Hosts: hosts(e.AllowHost),
	}
	if e.Named {
		s.Model, s.Serial = "ROSE", e.Slot[:min(len(e.Slot), 20)] // NVM Express: a serial number has 20 bytes
	}
	if err := n.target.AddSubsystem(s); err != nil {
		return err
	}
	if err := n.target.Link(port, e.NQN); err != nil {
		return errors.Join(err, n.target.RemoveSubsystem(e.NQN))
	}
	n.exports[e.NQN] = e
	return nil
}

func hosts(host string) []string {
	if host == "" {
		return nil
	}
	return []string{host}
}

// Unexport implements Backend.
func (n *NVMet) Unexport(nqn string) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if _, ok := n.exports[nqn]; !ok {
		return nil
	}
	if err := n.target.RemoveSubsystem(nqn); err != nil {
		return err
	}
	delete(n.exports, nqn)
	return nil
}

// SetHost implements Backend.
func (n *NVMet) SetHost(nqn, host string) error { return n.target.SetHosts(nqn, hosts(host)) }

// Announce implements Backend.
func (n *NVMet) Announce(nqn string) error { return n.target.Revalidate(nqn) }

// placeholder is a subsystem without namespace that admits nobody. The kernel listens on a port as long as any
// subsystem is linked there, so with this one alone the listener is up and every volume is still unknown.
func (n *NVMet) placeholder() string {
	return "nqn.2000-02.com.mikrotik:listener-" + strings.NewReplacer("[", "", "]", "").Replace(n.portal.String())
}

// Listen implements Backend.
func (n *NVMet) Listen(on bool) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if on == n.idle {
		return nil
	}
	if !on {
		n.idle = false
		return n.target.RemoveSubsystem(n.placeholder())
	}
	port, err := n.port(n.portal.Port())
	if err != nil {
		return err
	}
	nobody := []string{n.placeholder() + "-nobody"}
	if err := n.target.AddSubsystem(nvmet.Subsystem{NQN: n.placeholder(), Hosts: nobody}); err != nil {
		return err
	}
	n.idle = true
	return n.target.Link(port, n.placeholder())
}

// Close implements Backend: it takes all exports and ports away and leaves the files.
func (n *NVMet) Close() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.idle = false
	return errors.Join(n.target.Close(), n.data.Close())
}
