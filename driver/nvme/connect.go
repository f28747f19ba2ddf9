package nvme

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"srvlab.io/rds-csi/safety"
	"srvlab.io/rds-csi/safety/kernel"
)

// ErrRefusedByTarget is in the chain of the Refusal of a connect that reached the array and was not let in.
var ErrRefusedByTarget = errors.New("the target refused the connection")

// Target is what to connect to, and as whom. Connect checks every field: none can bring an option of its own into the
// line that is written to the kernel.
type Target struct {
	NQN     safety.NQN
	Address netip.Addr // of the array's portal, without a zone
	Port    uint16
	HostNQN safety.NQN
	HostID  string // the host's UUID
	// ReconnectDelay is the kernel's pause between two tries to reconnect, in whole seconds. 0: 2 s.
	ReconnectDelay time.Duration
	// CtrlLossTmo is how long the kernel tries to reconnect before it removes the device. 0 and below: for ever, and
	// nothing else is safe below a mount.
	CtrlLossTmo time.Duration
}

// defaultReconnectDelay keeps the stall after a short outage short; the kernel's own default is 10 s.
const defaultReconnectDelay = 2 * time.Second

// keepAlive is how long the array may be silent before the kernel ends the connection. It is the kernel's default,
// written out because without a working keep-alive a target may finish commands of a lost host minutes later
// (xnvme/xnvme#462).
const keepAlive = 5 * time.Second

// The states of a controller as sysfs writes them (drivers/nvme/host/sysfs.c).
const (
	stateLive = "live"
	stateDead = "dead"
	deleting  = "deleting" // also "deleting (no IO)"
)

// reachable is how long the array's portal may take to accept a TCP connection: three lost SYNs, repeated after 1, 3
// and 7 s, and some.
const reachable = 10 * time.Second

// Connect connects to t, by one write to /dev/nvme-fabrics. Being connected to it already, also while the kernel is
// reconnecting, is success; Wait tells when the connection is live. When ctx ends first, Connect gives control back
// while the kernel may go on; until it has finished, another Connect to the same NQN is refused. A connection that it
// makes late is found by the next Connect or Disconnect.
func (h Host) Connect(ctx context.Context, t Target) error {
	if err := h.managed("connect to", t.NQN); err != nil {
		return err
	}
	options, err := t.options()
	if err != nil {
		return fmt.Errorf("connect to %s: %w", t.NQN, err)
	}
	if connected, err := h.connected(ctx, t); err != nil || connected {
		return err
	}
	if err := dial(ctx, t); err != nil {
		return err
	}
	busy, acted, err := outstanding.run(ctx, h.place(t.NQN), "connect", func(act func() bool) error {
		if !act() {
			return nil
		}
		instance, err := h.create(options)
		if err == nil {
			h.warn(h.mark(instance))
		}
		return err
	})
	switch {
	case busy != "":
		return safety.Refuse(safety.InFlight,
			fmt.Errorf("connect to %s: the kernel has not answered an earlier %s yet", t.NQN, busy))
	case err == nil:
		return nil
	case errors.Is(err, unix.EALREADY): // somebody else was faster
		if connected, err := h.connected(ctx, t); err != nil || connected {
			return err
		}
	}
	return h.explain(t, acted, err)
}

func (h Host) place(n safety.NQN) place { return place{h.FS.Sys, n} }

// maxConnectNQN is the longest NQN that Linux connects to: nvmf_parse_options refuses 223 bytes, which the
// specification allows (measured on 6.1 and 6.12).
const maxConnectNQN = safety.MaxNQNLength - 1

// options gives the line to write. All values are checked here or are numbers.
func (t Target) options() (string, error) {
	nqn, errNQN := safety.ParseNQN(string(t.NQN))
	host, errHost := safety.ParseNQN(string(t.HostNQN))
	id, errID := safety.ParseUUID(t.HostID)
	errs := []error{errNQN, errHost, errID}
	if max(len(nqn), len(host)) > maxConnectNQN {
		errs = append(errs, safety.Refuse(safety.NodeUnsuited,
			fmt.Errorf("the NQN has %d bytes: Linux connects to %d at most", max(len(nqn), len(host)), maxConnectNQN)))
	}
	if !t.Address.IsValid() || t.Address.Zone() != "" { // a zone is free text
		errs = append(errs, fmt.Errorf("address %q: must be an IP address without a zone", t.Address))
	}
	if t.Port == 0 {
		errs = append(errs, errors.New("port 0: must be the port of the array's NVMe/TCP listener"))
	}
	delay := t.ReconnectDelay
	if delay == 0 {
		delay = defaultReconnectDelay
	}
	if delay < time.Second || delay%time.Second != 0 {
		errs = append(errs, fmt.Errorf("reconnect delay %s: must be whole seconds, at least one", delay))
	}
	loss := int64(-1)
	if t.CtrlLossTmo > 0 {
		loss = int64(max(t.CtrlLossTmo, time.Second) / time.Second)
	}
	if err := errors.Join(errs...); err != nil {
		return "", err
	}
	return strings.Join([]string{
		"transport=tcp",
		"traddr=" + t.Address.Unmap().String(),
		"trsvcid=" + strconv.Itoa(int(t.Port)),
		"nqn=" + string(nqn),
		"hostnqn=" + string(host),
		"hostid=" + id.String(),
		"ctrl_loss_tmo=" + strconv.FormatInt(loss, 10),
		"reconnect_delay=" + strconv.FormatInt(int64(delay/time.Second), 10),
		"keep_alive_tmo=" + strconv.FormatInt(int64(keepAlive/time.Second), 10),
	}, ","), nil
}

// connected tells whether there is a connection to t already. One that the kernel is taking down is waited out, one to
// another portal or from another host is refused: a second connection beside it could be a second block device.
func (h Host) connected(ctx context.Context, t Target) (bool, error) {
	for {
		if op := outstanding.acting(h.place(t.NQN)); op == "disconnect" {
			return false, safety.Refuse(safety.InFlight,
				fmt.Errorf("connect to %s: the kernel has not finished an earlier %s yet", t.NQN, op))
		}
		list, err := h.controllers(ctx, t.NQN)
		if err != nil {
			return false, safety.Refuse(safety.PathLost, fmt.Errorf("connect: %w", err))
		}
		leaving := ""
		for _, c := range list {
			if strings.HasPrefix(c.State, deleting) || c.State == stateDead {
				leaving = c.Name + " is " + c.State
			} else if err := t.same(c); err != nil {
				return false, err
			}
		}
		if leaving == "" {
			return len(list) > 0, nil
		}
		if err := pause(ctx); err != nil {
			return false, safety.Refuse(safety.PathLost, fmt.Errorf("connect to %s: %s: %w", t.NQN, leaving, err))
		}
	}
}

// same refuses a controller that connects to t's NQN in another way than t.
func (t Target) same(c kernel.Controller) error {
	if c.HostNQN != string(t.HostNQN) {
		return safety.Refuse(safety.ForeignNQN, fmt.Errorf(
			"connect to %s: %s is connected to it as host %q already, not as %q", t.NQN, c.Name, c.HostNQN, t.HostNQN))
	}
	portal, err := parseAddress(c.Address)
	want := netip.AddrPortFrom(t.Address.Unmap(), t.Port)
	if err != nil || c.Transport != "tcp" || portal != want {
		return safety.Refuse(safety.PathLost, fmt.Errorf(
			"connect to %s: %s is connected to it through %s %q already, not through %s; disconnect it first",
			t.NQN, c.Name, c.Transport, c.Address, want))
	}
	return nil
}

// parseAddress reads a controller's address attribute: traddr=192.0.2.9,trsvcid=4420,src_addr=192.0.2.7.
func parseAddress(s string) (netip.AddrPort, error) {
	var addr netip.Addr
	var port uint64
	var errAddr, errPort error
	for field := range strings.SplitSeq(s, ",") {
		key, value, _ := strings.Cut(field, "=")
		switch key {
		case "traddr":
			addr, errAddr = netip.ParseAddr(value)
		case "trsvcid":
			port, errPort = strconv.ParseUint(value, 10, 16)
		}
	}
	if err := errors.Join(errAddr, errPort); err != nil || !addr.IsValid() || port == 0 {
		return netip.AddrPort{}, fmt.Errorf("controller address %q: has no address and port: %w", s, err)
	}
	return netip.AddrPortFrom(addr.Unmap(), uint16(port)), nil
}

// dial asks whether the portal accepts a TCP connection, before the kernel is asked to make one. The kernel holds one
// lock for the whole host while it connects (nvmf_dev_mutex), for two minutes where packets get no answer: one dead
// array would block the volumes of all others.
func dial(ctx context.Context, t Target) error {
	ctx, cancel := context.WithTimeout(ctx, reachable)
	defer cancel()
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp", netip.AddrPortFrom(t.Address, t.Port).String())
	if err != nil {
		return safety.Refuse(safety.PathLost, fmt.Errorf("connect to %s: the array's portal: %w", t.NQN, err))
	}
	_ = conn.Close() // it has done its work
	return nil
}

// create writes the options and reads back which controller the kernel made of them.
func (h Host) create(options string) (instance int, err error) {
	path := filepath.Join(h.FS.Dev, "nvme-fabrics")
	fd, err := open(unix.AT_FDCWD, path, unix.O_RDWR)
	if err != nil {
		return 0, err
	}
	defer func() { _ = unix.Close(fd) }() // the controller is there or not, whatever closing says
	if _, err := unix.Write(fd, []byte(options)); err != nil {
		return 0, &optionsError{
			PathError:   fs.PathError{Op: "write", Path: path, Err: err},
			unsupported: unsupported(fd, options),
		}
	}
	answer, err := readOnce(fd)
	if err != nil {
		return 0, &fs.PathError{Op: "read", Path: path, Err: err}
	}
	return parseInstance(answer)
}

// optionsError is a failed write, with the options that this kernel does not know.
type optionsError struct {
	fs.PathError
	unsupported []string
}

// Unwrap leads to the PathError; the one promoted from it would leave it out.
func (e *optionsError) Unwrap() error { return &e.PathError }

// readOnce reads what /dev/nvme-fabrics has to say: the controller after a successful write, the options that the
// kernel knows otherwise.
func readOnce(fd int) (string, error) {
	buf := make([]byte, 4096)
	n, err := uninterrupted(func() (int, error) { return unix.Read(fd, buf) })
	return strings.TrimSuffix(string(buf[:max(n, 0)]), "\n"), err
}

// parseInstance reads "instance=0,cntlid=1".
func parseInstance(answer string) (int, error) {
	for field := range strings.SplitSeq(answer, ",") {
		if value, ok := strings.CutPrefix(field, "instance="); ok {
			if n, err := strconv.ParseUint(value, 10, 31); err == nil {
				return int(n), nil
			}
		}
	}
	return 0, fmt.Errorf("answer %q of /dev/nvme-fabrics: names no controller", answer)
}

// unsupported gives the options in the line that the kernel does not list. Without a list it gives none.
func unsupported(fd int, options string) []string {
	answer, err := readOnce(fd)
	if err != nil {
		return nil
	}
	return missingOptions(answer, options)
}

// missingOptions compares the names in two lists of name=value.
func missingOptions(known, used string) []string {
	names := optionNames(known)
	if len(names) == 0 {
		return nil
	}
	var missing []string
	for _, name := range optionNames(used) {
		if !slices.Contains(names, name) {
			missing = append(missing, name)
		}
	}
	return missing
}

func optionNames(list string) []string {
	var names []string
	for field := range strings.SplitSeq(list, ",") {
		if name, _, found := strings.Cut(field, "="); found {
			names = append(names, name)
		}
	}
	return names
}

// SupportedOptions gives the names of the options that this kernel takes at /dev/nvme-fabrics.
func (h Host) SupportedOptions() ([]string, error) {
	data, err := os.ReadFile(filepath.Join(h.FS.Dev, "nvme-fabrics"))
	if err != nil {
		return nil, safety.Refuse(safety.NodeUnsuited, fmt.Errorf("options of nvme-fabrics: %w", err))
	}
	return optionNames(strings.TrimSuffix(string(data), "\n")), nil
}

// explain makes a Refusal of a failed connect. The errno stays in the chain.
func (h Host) explain(t Target, acted bool, err error) error {
	reason, why := safety.PathLost, ""
	var options *optionsError
	switch {
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		why = "the kernel has not answered yet and goes on trying"
	case errors.Is(err, unix.EIO):
		// One errno for both; the kernel's log alone has the reason.
		err = fmt.Errorf("%w: %w", ErrRefusedByTarget, err)
		why = "either the array does not export the volume now, or it does not let this host in; the kernel does not tell which"
	case errors.Is(err, unix.EACCES), errors.Is(err, unix.EKEYREJECTED):
		err = fmt.Errorf("%w: %w", ErrRefusedByTarget, err)
		why = "the array asks for an authentication that failed"
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, unix.ENODEV), errors.Is(err, unix.ENXIO):
		reason, why = safety.NodeUnsuited, "the node needs the kernel modules nvme-fabrics and nvme-tcp"
	case errors.As(err, &options) && len(options.unsupported) > 0:
		reason, why = safety.NodeUnsuited, "this kernel does not know the options "+strings.Join(options.unsupported, ", ")
	case errors.Is(err, unix.EINVAL):
		reason, why = safety.NodeUnsuited, "the kernel takes the options for senseless, or lacks the module nvme-tcp"
	}
	if why != "" {
		err = fmt.Errorf("%w: %s", err, why)
	}
	err = fmt.Errorf("connect to %s at %s: %w", t.NQN, netip.AddrPortFrom(t.Address, t.Port), err)
	if acted && (errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled)) {
		return safety.RefuseTouched(reason, err)
	}
	return safety.Refuse(reason, err)
}
