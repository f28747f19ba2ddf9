// Package nvmet builds real NVMe/TCP targets through the kernel's configfs, and refuses to change or remove any object
// there that it did not make itself.
package nvmet

import (
	"cmp"
	"crypto/sha1"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
)

// DefaultRoot is where the kernel shows the target's objects once configfs is mounted and the module nvmet is loaded.
const DefaultRoot = "/sys/kernel/config/nvmet"

// NSID is the only namespace of each subsystem, as on the RDS (facts/routeros.md, section 6).
const NSID = 1

// Subsystem says what Target.AddSubsystem makes.
type Subsystem struct {
	NQN string
	// Path is the file or block device behind the namespace, "" for a subsystem without one. Without BufferedIO it must
	// allow direct I/O, which a file on tmpfs does not.
	Path       string
	BufferedIO bool
	// UUID of the namespace in 8-4-4-4-12 form; "" takes UUIDOf(NQN).
	UUID string
	// Hosts are the host NQNs that may connect; none lets every host in.
	Hosts []string
	// Model and Serial are what the initiator shows; "" leaves the kernel's own.
	Model, Serial string
}

// Target is a set of subsystems and ports under one configfs root. Its methods may be called by several goroutines.
// The zero value works on DefaultRoot.
type Target struct {
	// Root is the nvmet directory of configfs; "" is DefaultRoot.
	Root string

	mu    sync.Mutex
	files files
	subs  map[string]*subsystem
	ports map[int]map[string]bool // port ID → linked NQNs
	hosts map[string]*host
}

type subsystem struct {
	namespace bool // the namespace's directory was made
	hosts     []string
}

type host struct {
	mine bool // false: it was there before, made by somebody else, and stays
	uses int
}

// files is what Target does to configfs. It exists to let Simulated put a directory in the kernel's place.
type files interface {
	mkdir(path string) error
	rmdir(path string) error
	write(path, value string) error
	symlink(target, path string) error
	unlink(path string) error
}

// UUIDOf derives the namespace's UUID from the NQN (a version 5 UUID), so that a volume that is taken down and made
// again is the same device to its initiator.
func UUIDOf(nqn string) string {
	h := sha1.New()
	h.Write([]byte("srvlab.io/rds-csi/test/routerostest/nvmet\x00" + nqn))
	u := h.Sum(nil)[:16]
	u[6] = u[6]&0x0f | 0x50
	u[8] = u[8]&0x3f | 0x80
	s := hex.EncodeToString(u)
	return s[:8] + "-" + s[8:12] + "-" + s[12:16] + "-" + s[16:20] + "-" + s[20:]
}

// AddSubsystem makes a subsystem with one enabled namespace. It is reachable once it is linked to a port. A half-made
// one is taken away again.
func (t *Target) AddSubsystem(s Subsystem) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.init()
	if s.NQN == "" || filepath.Base(s.NQN) != s.NQN {
		return fmt.Errorf("nvmet subsystem %q: is no name for a directory", s.NQN)
	}
	if err := t.files.mkdir(t.sub(s.NQN)); err != nil {
		return fmt.Errorf("nvmet subsystem %s: %w", s.NQN, err)
	}
	t.subs[s.NQN] = &subsystem{}
	if err := t.fill(s); err != nil {
		return errors.Join(fmt.Errorf("nvmet subsystem %s: %w", s.NQN, err), t.removeSubsystem(s.NQN))
	}
	return nil
}

// fill gives a new subsystem its attributes, its namespace and its hosts. The namespace is enabled last: the kernel
// refuses to change device_path and device_uuid of an enabled one.
func (t *Target) fill(s Subsystem) error {
	if err := t.setAll(t.sub(s.NQN), [][2]string{{"attr_model", s.Model}, {"attr_serial", s.Serial}}); err != nil {
		return err
	}
	if s.Path != "" {
		if err := t.addNamespace(s); err != nil {
			return err
		}
	}
	return t.setHosts(s.NQN, s.Hosts)
}

func (t *Target) addNamespace(s Subsystem) error {
	ns := t.namespace(s.NQN)
	if err := t.files.mkdir(ns); err != nil {
		return err
	}
	t.subs[s.NQN].namespace = true
	buffered := ""
	if s.BufferedIO {
		buffered = "1"
	}
	return t.setAll(ns, [][2]string{
		{"device_path", s.Path},
		{"device_uuid", cmp.Or(s.UUID, UUIDOf(s.NQN))},
		{"buffered_io", buffered},
		{"enable", "1"},
	})
}

// setAll writes name and value of each attribute in order, leaving out those with an empty value.
func (t *Target) setAll(dir string, attrs [][2]string) error {
	for _, a := range attrs {
		if a[1] == "" {
			continue
		}
		if err := t.files.write(filepath.Join(dir, a[0]), a[1]); err != nil {
			return err
		}
	}
	return nil
}

// SetHosts replaces the hosts that may connect to a subsystem; none lets every host in. Connections that are there
// stay, whatever their host (measured, facts/vm.md).
func (t *Target) SetHosts(nqn string, hosts []string) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if err := t.own(nqn); err != nil {
		return err
	}
	if err := t.setHosts(nqn, hosts); err != nil {
		return fmt.Errorf("nvmet subsystem %s: %w", nqn, err)
	}
	return nil
}

// setHosts keeps to the kernel's order: attr_allow_any_host cannot be set while a host is linked, and no host can be
// linked while it is set.
func (t *Target) setHosts(nqn string, hosts []string) error {
	s := t.subs[nqn]
	hosts = slices.Compact(slices.Sorted(slices.Values(hosts)))
	for _, h := range slices.Clone(s.hosts) {
		if slices.Contains(hosts, h) {
			continue
		}
		if err := t.dropHost(nqn, h); err != nil {
			return err
		}
	}
	anyHost := filepath.Join(t.sub(nqn), "attr_allow_any_host")
	if len(hosts) == 0 {
		return t.files.write(anyHost, "1")
	}
	if err := t.files.write(anyHost, "0"); err != nil {
		return err
	}
	for _, h := range hosts {
		if slices.Contains(s.hosts, h) {
			continue
		}
		if err := t.addHost(nqn, h); err != nil {
			return err
		}
	}
	return nil
}

func (t *Target) addHost(nqn, name string) error {
	h, known := t.hosts[name]
	if !known {
		err := t.files.mkdir(t.host(name))
		if err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
		h = &host{mine: err == nil}
		t.hosts[name] = h
	}
	if err := t.files.symlink(t.host(name), filepath.Join(t.sub(nqn), "allowed_hosts", name)); err != nil {
		return errors.Join(err, t.forgetHost(name))
	}
	h.uses++
	t.subs[nqn].hosts = append(t.subs[nqn].hosts, name)
	return nil
}

func (t *Target) dropHost(nqn, name string) error {
	if err := t.files.unlink(filepath.Join(t.sub(nqn), "allowed_hosts", name)); err != nil {
		return err
	}
	s := t.subs[nqn]
	s.hosts = slices.DeleteFunc(s.hosts, func(h string) bool { return h == name })
	t.hosts[name].uses--
	return t.forgetHost(name)
}

// forgetHost removes a host's directory when nothing here uses it and it was made here.
func (t *Target) forgetHost(name string) error {
	h := t.hosts[name]
	if h.uses > 0 {
		return nil
	}
	delete(t.hosts, name)
	if !h.mine {
		return nil
	}
	return t.files.rmdir(t.host(name))
}

// AddPort makes a TCP port with the lowest free ID from id on and gives the ID it got. The kernel listens from the
// first Link on until the last Unlink.
func (t *Target) AddPort(id int, addr netip.AddrPort) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.init()
	family := "ipv4"
	if addr.Addr().Is6() && !addr.Addr().Is4In6() {
		family = "ipv6"
	}
	id = max(id, 1)
	for ; ; id++ {
		err := t.files.mkdir(t.port(id))
		if err == nil {
			break
		}
		if !errors.Is(err, fs.ErrExist) || id >= 65535 {
			return 0, fmt.Errorf("nvmet port %d: %w", id, err)
		}
	}
	t.ports[id] = map[string]bool{}
	attrs := [][2]string{
		{"addr_trtype", "tcp"},
		{"addr_adrfam", family},
		{"addr_traddr", addr.Addr().Unmap().String()},
		{"addr_trsvcid", strconv.Itoa(int(addr.Port()))},
	}
	if err := t.setAll(t.port(id), attrs); err != nil {
		return 0, errors.Join(fmt.Errorf("nvmet port %d: %w", id, err), t.removePort(id))
	}
	return id, nil
}

// Link exports a subsystem on a port. Linking what is linked changes nothing.
func (t *Target) Link(port int, nqn string) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if err := t.own(nqn); err != nil {
		return err
	}
	links, ok := t.ports[port]
	if !ok {
		return fmt.Errorf("nvmet port %d: was not made here", port)
	}
	if links[nqn] {
		return nil
	}
	if err := t.files.symlink(t.sub(nqn), t.link(port, nqn)); err != nil {
		return fmt.Errorf("nvmet port %d: link %s: %w", port, nqn, err)
	}
	links[nqn] = true
	return nil
}

// Unlink ends the export of a subsystem on a port, and every connection made through it. With the port's last link the
// kernel stops listening. Unlinking what is not linked changes nothing.
func (t *Target) Unlink(port int, nqn string) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.unlink(port, nqn)
}

func (t *Target) unlink(port int, nqn string) error {
	if !t.ports[port][nqn] {
		return nil
	}
	if err := t.files.unlink(t.link(port, nqn)); err != nil {
		return fmt.Errorf("nvmet port %d: unlink %s: %w", port, nqn, err)
	}
	delete(t.ports[port], nqn)
	return nil
}

// Revalidate makes the kernel read the size of the namespace's file or device again and tell the initiators.
func (t *Target) Revalidate(nqn string) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if err := t.own(nqn); err != nil {
		return err
	}
	if err := t.files.write(filepath.Join(t.namespace(nqn), "revalidate_size"), "1"); err != nil {
		return fmt.Errorf("nvmet subsystem %s: %w", nqn, err)
	}
	return nil
}

// RemoveSubsystem ends the exports of a subsystem and takes it away. One that was not made here is an error.
func (t *Target) RemoveSubsystem(nqn string) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if err := t.own(nqn); err != nil {
		return err
	}
	return t.removeSubsystem(nqn)
}

// removeSubsystem goes the one way the kernel allows: links, namespace off, namespace, hosts, subsystem.
func (t *Target) removeSubsystem(nqn string) error {
	for id := range t.ports {
		if err := t.unlink(id, nqn); err != nil {
			return err
		}
	}
	s := t.subs[nqn]
	if s.namespace {
		if err := t.files.write(filepath.Join(t.namespace(nqn), "enable"), "0"); err != nil {
			return fmt.Errorf("nvmet subsystem %s: %w", nqn, err)
		}
		if err := t.files.rmdir(t.namespace(nqn)); err != nil {
			return fmt.Errorf("nvmet subsystem %s: %w", nqn, err)
		}
		s.namespace = false
	}
	for _, h := range slices.Clone(s.hosts) {
		if err := t.dropHost(nqn, h); err != nil {
			return fmt.Errorf("nvmet subsystem %s: %w", nqn, err)
		}
	}
	if err := t.files.rmdir(t.sub(nqn)); err != nil {
		return fmt.Errorf("nvmet subsystem %s: %w", nqn, err)
	}
	delete(t.subs, nqn)
	return nil
}

// RemovePort ends a port's exports and takes it away. One that was not made here is an error.
func (t *Target) RemovePort(id int) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if _, ok := t.ports[id]; !ok {
		return fmt.Errorf("nvmet port %d: was not made here", id)
	}
	return t.removePort(id)
}

func (t *Target) removePort(id int) error {
	for nqn := range t.ports[id] {
		if err := t.unlink(id, nqn); err != nil {
			return err
		}
	}
	if err := t.files.rmdir(t.port(id)); err != nil {
		return fmt.Errorf("nvmet port %d: %w", id, err)
	}
	delete(t.ports, id)
	return nil
}

// Close takes away everything made here, ports first so that no initiator meets a subsystem half gone. What cannot be
// removed is in the error and stays known, so that Close can be called again.
func (t *Target) Close() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	var errs []error
	for id := range t.ports {
		errs = append(errs, t.removePort(id))
	}
	for nqn := range t.subs {
		errs = append(errs, t.removeSubsystem(nqn))
	}
	return errors.Join(errs...)
}

func (t *Target) own(nqn string) error {
	if t.subs[nqn] == nil {
		return fmt.Errorf("nvmet subsystem %q: was not made here", nqn)
	}
	return nil
}

func (t *Target) init() {
	if t.subs != nil {
		return
	}
	if t.files == nil {
		t.files = configfs{}
	}
	t.subs, t.ports, t.hosts = map[string]*subsystem{}, map[int]map[string]bool{}, map[string]*host{}
}

func (t *Target) path(elem ...string) string {
	root := t.Root
	if root == "" {
		root = DefaultRoot
	}
	return filepath.Join(append([]string{root}, elem...)...)
}

func (t *Target) sub(nqn string) string { return t.path("subsystems", nqn) }
func (t *Target) namespace(nqn string) string {
	return t.path("subsystems", nqn, "namespaces", strconv.Itoa(NSID))
}
func (t *Target) host(name string) string { return t.path("hosts", name) }
func (t *Target) port(id int) string      { return t.path("ports", strconv.Itoa(id)) }
func (t *Target) link(id int, nqn string) string {
	return t.path("ports", strconv.Itoa(id), "subsystems", nqn)
}
