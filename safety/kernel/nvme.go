package kernel

import (
	"errors"
	"fmt"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"

	"srvlab.io/rds-csi/safety"
)

// Subsystem is one entry of /sys/class/nvme-subsystem. It may have no controller and no namespace: while something
// still holds a namespace that the kernel has removed, the subsystem stays.
type Subsystem struct {
	Name        string // nvme-subsys0
	NQN         safety.NQN
	Controllers []Controller
	Namespaces  []Namespace
	// Gaps says what of this entry could not be read. An entry with gaps is known in part only: what is missing from
	// its lists may be there.
	Gaps []error
}

// Controller is one entry of /sys/class/nvme: a connection, for NVMe/TCP.
type Controller struct {
	Name           string     // nvme0
	NQN            safety.NQN // subsysnqn; "(null)" while the kernel has not asked the target yet
	State          string     // new, live, resetting, connecting, deleting, "deleting (no IO)", dead
	Transport      string     // tcp, pcie, …
	Address        string     // traddr=192.0.2.9,trsvcid=4420,src_addr=192.0.2.7
	HostNQN        string     // "" for what is no fabrics controller
	CtrlLossTmo    string     // seconds, or "off": never give up
	ReconnectDelay string     // seconds
}

// Namespace is a block device on a namespace: with native multipath the head nvmeXnY of the subsystem, without it the
// nvmeXnY of the controller. The hidden devices nvmeXcYnZ of single paths are no block devices and never appear here.
type Namespace struct {
	Name      string // nvme0n1; a name is given anew after a reconnect, never store it
	Dev       DevID
	NSID      int
	UUID      string // "" if the target gives none
	NGUID     string // "" if the target gives none
	WWID      string // the kernel's choice among the identifiers
	DiskSeq   uint64 // counts the disks since boot, so a reused Name or Dev is told from the old one
	SizeBytes int64
}

var (
	controllerName = regexp.MustCompile(`^nvme[0-9]+$`)
	namespaceName  = regexp.MustCompile(`^nvme[0-9]+n[0-9]+$`) // not nvme0c1n1, the hidden device of one path
)

// Subsystems reads /sys/class/nvme-subsystem entry by entry. One that vanishes meanwhile is left out; one of which
// something cannot be read is there with Gaps, so that a single bad entry does not hide all others. The error is for
// the list itself.
func (f FS) Subsystems() ([]Subsystem, error) {
	class := filepath.Join(f.Sys, "class/nvme-subsystem")
	list, err := entries(class)
	if err != nil {
		return nil, fmt.Errorf("subsystems: %w", err)
	}
	var found []Subsystem
	for _, e := range list {
		if s, ok := readSubsystem(class, e.Name()); ok {
			found = append(found, s)
		}
	}
	return found, nil
}

// Subsystem gives the subsystems with exactly the NQN n; the kernel has one at most, but the type does not promise it
// for it. What could be n and cannot be read, or is n and has gaps, is an error.
func (f FS) Subsystem(n safety.NQN) ([]Subsystem, error) {
	all, err := f.Subsystems()
	if err != nil {
		return nil, err
	}
	var found []Subsystem
	for _, s := range all {
		if s.NQN != n && s.NQN != "" {
			continue
		}
		if len(s.Gaps) > 0 {
			return nil, fmt.Errorf("subsystem %s: could not tell whether or how it is %s: %w", s.Name, n, errors.Join(s.Gaps...))
		}
		if s.NQN == n {
			found = append(found, s)
		}
	}
	return found, nil
}

// readSubsystem reads one entry; false means that it has vanished.
func readSubsystem(class, name string) (Subsystem, bool) {
	dir := filepath.Join(class, name)
	s := Subsystem{Name: name}
	nqn, err := readNQN(dir)
	if err != nil {
		s.Gaps = append(s.Gaps, err)
	}
	s.NQN = nqn
	list, err := entries(dir)
	if err != nil {
		s.Gaps = append(s.Gaps, err)
	}
	for _, e := range list {
		switch {
		case controllerName.MatchString(e.Name()):
			s.addController(dir, e.Name())
		case namespaceName.MatchString(e.Name()):
			s.addNamespace(dir, e.Name())
		}
	}
	return s, !gone(dir)
}

// readNQN reads the subsysnqn of a subsystem or controller. One that is longer than an NQN can be is an error: half
// of a name may be another's name.
func readNQN(dir string) (safety.NQN, error) {
	s, err := attribute(dir, "subsysnqn")
	if err != nil {
		return "", err
	}
	if len(s) > safety.MaxNQNLength || s == "" {
		return "", fmt.Errorf("%s/subsysnqn: has %d bytes, an NQN has 1 to %d", dir, len(s), safety.MaxNQNLength)
	}
	return safety.NQN(s), nil
}

func (s *Subsystem) addController(dir, name string) {
	c, err := readController(dir, name)
	path := filepath.Join(dir, name)
	if err != nil {
		if !gone(path) {
			s.Gaps = append(s.Gaps, err)
		}
		return
	}
	s.Controllers = append(s.Controllers, c)
	// Without native multipath (nvme_core.multipath=N, or a target that says it has one controller only) the block
	// devices are below the controller.
	list, err := entries(path)
	if err != nil && !gone(path) {
		s.Gaps = append(s.Gaps, err)
	}
	for _, e := range list {
		if namespaceName.MatchString(e.Name()) {
			s.addNamespace(path, e.Name())
		}
	}
}

func (s *Subsystem) addNamespace(dir, name string) {
	if slices.ContainsFunc(s.Namespaces, func(n Namespace) bool { return n.Name == name }) {
		return
	}
	n, hidden, err := readNamespace(dir, name)
	switch {
	case err != nil && gone(filepath.Join(dir, name)), err == nil && hidden:
	case err != nil:
		s.Gaps = append(s.Gaps, err)
	default:
		s.Namespaces = append(s.Namespaces, n)
	}
}

// Controllers gives the entries of /sys/class/nvme with exactly the NQN n. A controller may be in no subsystem: while
// its first connect is under way, or when that was torn half-way. What could be n and cannot be read is an error.
func (f FS) Controllers(n safety.NQN) ([]Controller, error) {
	class := filepath.Join(f.Sys, "class/nvme")
	list, err := entries(class)
	if err != nil {
		return nil, fmt.Errorf("controllers: %w", err)
	}
	var found []Controller
	for _, e := range list {
		dir := filepath.Join(class, e.Name())
		nqn, err := readNQN(dir)
		var c Controller
		if err == nil {
			if nqn != n {
				continue
			}
			c, err = readController(class, e.Name())
		}
		switch {
		case err != nil && gone(dir):
		case err != nil:
			return nil, fmt.Errorf("controller %s: could not tell whether or how it is %s: %w", e.Name(), n, err)
		case c.NQN == n:
			found = append(found, c)
		}
	}
	return found, nil
}

func readController(dir, name string) (Controller, error) {
	path := filepath.Join(dir, name)
	nqn, errNQN := readNQN(path)
	state, errState := attribute(path, "state")
	transport, errTransport := attribute(path, "transport")
	c := Controller{Name: name, NQN: nqn, State: state, Transport: transport}
	errs := []error{errNQN, errState, errTransport}
	for attr, to := range map[string]*string{ // what a PCI controller does not have
		"address":         &c.Address,
		"hostnqn":         &c.HostNQN,
		"ctrl_loss_tmo":   &c.CtrlLossTmo,
		"reconnect_delay": &c.ReconnectDelay,
	} {
		s, err := optional(path, attr)
		*to = s
		errs = append(errs, err)
	}
	return c, errors.Join(errs...)
}

func readNamespace(dir, name string) (ns Namespace, hidden bool, err error) {
	path := filepath.Join(dir, name)
	h, err := optional(path, "hidden")
	if err != nil || h == "1" {
		return Namespace{}, h == "1", err
	}
	ns.Name = name
	var errs []error
	number := func(bits int, attr string) int64 {
		s, err := attribute(path, attr)
		if err != nil {
			errs = append(errs, err)
			return 0
		}
		n, err := strconv.ParseInt(s, 10, bits)
		if err != nil {
			errs = append(errs, fmt.Errorf("%s/%s: %w", path, attr, err))
		}
		return n
	}
	ns.NSID = int(number(33, "nsid")) // 32 bits without a sign
	dev, size, seq, err := readBlock(path)
	errs = append(errs, err)
	ns.Dev, ns.SizeBytes, ns.DiskSeq = dev, size, seq
	for attr, to := range map[string]*string{"uuid": &ns.UUID, "nguid": &ns.NGUID, "wwid": &ns.WWID} {
		s, err := optional(path, attr)
		*to = s
		errs = append(errs, err)
	}
	return ns, false, errors.Join(errs...)
}
