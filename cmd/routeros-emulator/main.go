// Command routeros-emulator is a RouterOS device with rose-storage for tests and demonstrations: SSH and NVMe/TCP in
// front of a model; it is no storage product and refuses to keep any state but its files.
package main

import (
	"cmp"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/signal"
	"runtime/debug"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/crypto/ssh"

	"srvlab.io/rds-csi/test/routerostest"
)

// The exit codes (design, section 8).
const (
	exitFailure = 1
	exitUsage   = 2
)

const usage = `routeros-emulator: a RouterOS device with rose-storage, for tests and demonstrations

  routeros-emulator --listen ADDR --user NAME --authorized-keys FILE [FLAG...]

On stderr it tells the address that it listens on and the known_hosts line that pins it. SIGTERM and SIGINT end it;
exports are then taken away, files stay.

FLAGS
`

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	context.AfterFunc(ctx, stop) // a second signal ends the program at once
	os.Exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

// config is what the flags say.
type config struct {
	listen, user, keys, hostKey, control string
	backend, data, portal, logFormat     string
	trace, buffered                      bool
	faults                               []routerostest.Fault
	box                                  routerostest.Options
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	if askedForVersion(args) {
		fmt.Fprintln(stdout, "routeros-emulator", version())
		return 0
	}
	c, err := parse(args, stdout)
	switch {
	case errors.Is(err, flag.ErrHelp):
		return 0
	case err != nil:
		fmt.Fprintf(stderr, "routeros-emulator: %v\nrouteros-emulator --help tells more\n", err)
		return exitUsage
	}
	var handler slog.Handler = slog.NewTextHandler(stderr, nil)
	if c.logFormat == "json" {
		handler = slog.NewJSONHandler(stderr, nil)
	}
	log := slog.New(handler)
	if err := serve(ctx, c, log, stderr); err != nil {
		log.Error("ended by an error", "err", err)
		return exitFailure
	}
	return 0
}

// askedForVersion finds a --version without a value: with one it is RouterOS' version.
func askedForVersion(args []string) bool {
	i := slices.IndexFunc(args, func(a string) bool { return a == "--version" || a == "-version" })
	return i >= 0 && (i+1 == len(args) || strings.HasPrefix(args[i+1], "-"))
}

// linked is the version that `make build` has the linker write here: what git describe says.
var linked string

func version() string {
	if linked != "" {
		return linked
	}
	if info, ok := debug.ReadBuildInfo(); ok {
		return info.Main.Version
	}
	return "unknown"
}

func parse(args []string, stdout io.Writer) (*config, error) {
	c := &config{}
	f := flag.NewFlagSet("routeros-emulator", flag.ContinueOnError)
	f.SetOutput(io.Discard)
	f.StringVar(&c.listen, "listen", "", "`ADDR:PORT` that SSH listens on; port 0 takes a free one")
	f.StringVar(&c.user, "user", "", "`NAME` of the user that may log in")
	f.StringVar(&c.keys, "authorized-keys", "", "`FILE` with the public keys of that user")
	f.StringVar(&c.hostKey, "host-key", "", "`FILE` with the host key, made if missing (default: a key for this run)")
	f.Func("version", "RouterOS `VERSION`, such as 7.17, 7.20, 7.21 (default 7.24.4); alone: print the program's own",
		func(s string) (err error) {
			c.box.Version, err = routerostest.ParseVersion(s)
			return err
		})
	f.Func("pool", "`NAME=FS:SIZE` of a pool, such as raid10=btrfs:20G; may be repeated (default pool=xfs:100G)",
		func(s string) error { return c.addPool(s) })
	f.StringVar(&c.backend, "backend", "memory", "`memory` for a model alone, nvmet for real files and exports")
	f.StringVar(&c.portal, "portal", "", "nvmet: `ADDR` of the NVMe/TCP exports, with :PORT where it is not 4420")
	f.StringVar(&c.data, "data", "", "nvmet: `DIR` for the pools' files (default "+defaultData+")")
	f.BoolVar(&c.buffered, "buffered-io", false, "nvmet: let --data lie on a file system without direct I/O")
	f.DurationVar(&c.box.Latency, "latency", 0, "`TIME` that each line takes")
	f.Func("fault", "arm a fault: `SPEC` as below; may be repeated", func(s string) error {
		fault, err := routerostest.ParseFault(s)
		c.faults = append(c.faults, fault)
		return err
	})
	f.Func("switch", "`NAME=POSITION[,...]`: how the device behaves where nobody knows, as below",
		func(s string) (err error) {
			c.box.Switches, err = routerostest.ParseSwitches(s)
			return err
		})
	f.DurationVar(&c.box.FilePrintDelay, "file-print-delay", 0, "`TIME` that listing /file takes for each file")
	f.IntVar(&c.box.MaxSessions, "max-sessions", 0, "`N` SSH sessions at a time (default 20)")
	f.StringVar(&c.control, "control", "", "unix `SOCKET` for the commands below")
	f.BoolVar(&c.trace, "trace", false, "log each line and its answer")
	f.StringVar(&c.logFormat, "log-format", "text", "`text` or json")
	err := f.Parse(args)
	if errors.Is(err, flag.ErrHelp) {
		help(f, stdout)
	}
	if err != nil {
		return nil, err
	}
	return c, c.check(f.Args())
}

func help(f *flag.FlagSet, out io.Writer) {
	var b strings.Builder
	b.WriteString(usage)
	f.VisitAll(func(fl *flag.Flag) {
		arg, text := flag.UnquoteUsage(fl)
		fmt.Fprintf(&b, "  --%-32s %s\n", strings.TrimSpace(fl.Name+" "+arg), text)
	})
	b.WriteString("\nFAULTS\n" + routerostest.FaultHelp)
	b.WriteString("\nCONTROL: one command a line; the answer ends in a line \"ok\" or \"error: ...\"\n" +
		routerostest.ControlHelp)
	b.WriteString("\nSWITCHES and their positions, * the default\n" + routerostest.SwitchHelp())
	fmt.Fprint(out, b.String())
}

func (c *config) addPool(s string) error {
	p, err := routerostest.ParsePool(s)
	c.box.Pools = append(c.box.Pools, p)
	return err
}

func (c *config) check(rest []string) error {
	switch {
	case len(rest) > 0:
		return fmt.Errorf("argument %q: there are none beside the flags", rest[0])
	case c.listen == "" || c.user == "" || c.keys == "":
		return errors.New("--listen, --user and --authorized-keys are needed")
	case c.logFormat != "text" && c.logFormat != "json":
		return fmt.Errorf("--log-format %q: is neither text nor json", c.logFormat)
	case c.backend != "memory" && c.backend != "nvmet":
		return fmt.Errorf("--backend %q: is neither memory nor nvmet", c.backend)
	case c.backend == "nvmet" && c.portal == "":
		return errors.New("--backend nvmet needs --portal, the address that its exports listen on")
	case c.backend == "memory" && (c.portal != "" || c.data != ""):
		return errors.New("--portal and --data belong to --backend nvmet")
	}
	return nil
}

// serve runs the device until ctx ends, and then takes away what it exported.
func serve(ctx context.Context, c *config, log *slog.Logger, stderr io.Writer) (err error) {
	if c.trace {
		c.box.Trace = func(user, line, answer string) {
			log.Info("line", "user", user, "line", line, "answer", answer) //nolint:sloglint // a console has other words
		}
	}
	srv, err := assemble(c)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, srv.Box.Trouble(), srv.Box.Close()) }()
	for _, f := range c.faults {
		srv.Box.Inject(f)
	}
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", c.listen)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	control := make(chan error, 1)
	if c.control == "" {
		control <- nil
	} else {
		ctl, err := listenUnix(ctx, c.control)
		if err != nil {
			return errors.Join(err, l.Close())
		}
		go func() { control <- routerostest.ServeControl(ctx, ctl, srv.Box) }()
	}
	log.Info("listening", "address", l.Addr().String()) //nolint:sloglint // an emulator has an address and no volume
	fmt.Fprintf(stderr, "known_hosts %s\n", srv.KnownHosts(l.Addr().String()))
	err = srv.Serve(ctx, l)
	cancel()
	return errors.Join(err, <-control)
}

// assemble makes the box and its server from the flags.
func assemble(c *config) (*routerostest.Server, error) {
	keys, err := readKeys(c.keys)
	if err != nil {
		return nil, err
	}
	c.box.Users = []routerostest.User{{Name: c.user, Keys: keys}}
	host, err := hostKey(c.hostKey)
	if err != nil {
		return nil, err
	}
	if c.backend == "nvmet" {
		portal, err := parsePortal(c.portal)
		if err != nil {
			return nil, err
		}
		o := routerostest.NVMetOptions{Data: cmp.Or(c.data, defaultData), Portal: portal, BufferedIO: c.buffered}
		if c.box.Backend, err = routerostest.NewNVMet(o); err != nil {
			return nil, err
		}
	}
	box, err := routerostest.NewBox(c.box)
	if err != nil {
		return nil, err
	}
	return &routerostest.Server{Box: box, HostKey: host}, nil
}

// defaultData is where the nvmet back end keeps its files: on a disk, because the kernel's target wants direct I/O.
const defaultData = "/var/lib/routeros-emulator"

// defaultPort is RouterOS' for NVMe/TCP.
const defaultPort = 4420

// parsePortal takes an address with or without a port.
func parsePortal(s string) (netip.AddrPort, error) {
	if a, err := netip.ParseAddr(s); err == nil {
		return netip.AddrPortFrom(a, defaultPort), nil
	}
	p, err := netip.ParseAddrPort(s)
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("--portal %q: is neither an IP address nor ADDR:PORT", s)
	}
	return p, nil
}

func readKeys(file string) ([]ssh.PublicKey, error) {
	rest, err := os.ReadFile(file) //nolint:gosec // the file is the user's choice
	if err != nil {
		return nil, fmt.Errorf("authorized keys: %w", err)
	}
	var keys []ssh.PublicKey
	for len(rest) > 0 {
		var key ssh.PublicKey
		if key, _, _, rest, err = ssh.ParseAuthorizedKey(rest); err != nil {
			break
		}
		keys = append(keys, key)
	}
	if len(keys) == 0 {
		return nil, fmt.Errorf("authorized keys %s: holds no key: %w", file, err)
	}
	return keys, nil
}

// hostKey reads the host key, and makes it where the file is missing or none is named.
func hostKey(file string) (ssh.Signer, error) {
	if file != "" {
		text, err := os.ReadFile(file) //nolint:gosec // the file is the user's choice
		if err == nil {
			key, err := ssh.ParsePrivateKey(text)
			if err != nil {
				return nil, fmt.Errorf("host key %s: %w", file, err)
			}
			return key, nil
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("host key: %w", err)
		}
	}
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make host key: %w", err)
	}
	if file != "" {
		block, err := ssh.MarshalPrivateKey(private, "routeros-emulator")
		if err != nil {
			return nil, fmt.Errorf("make host key: %w", err)
		}
		if err := os.WriteFile(file, pem.EncodeToMemory(block), 0o600); err != nil { //nolint:gosec // the user's choice
			return nil, fmt.Errorf("make host key: %w", err)
		}
	}
	return ssh.NewSignerFromKey(private)
}

// listenUnix takes over a socket that a dead emulator left behind, and refuses one on which somebody answers.
func listenUnix(ctx context.Context, path string) (net.Listener, error) {
	l, err := (&net.ListenConfig{}).Listen(ctx, "unix", path)
	if !errors.Is(err, syscall.EADDRINUSE) {
		return l, err
	}
	c, err := (&net.Dialer{}).DialContext(ctx, "unix", path)
	if err == nil {
		return nil, errors.Join(fmt.Errorf("control socket %s: another emulator is there", path), c.Close())
	}
	if err := os.Remove(path); err != nil { //nolint:gosec // the socket is the user's choice
		return nil, fmt.Errorf("control socket: %w", err)
	}
	return (&net.ListenConfig{}).Listen(ctx, "unix", path)
}
