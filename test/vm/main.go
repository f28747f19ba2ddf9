// Command vm boots a Debian kernel in a virtual machine and runs a command in it, or the tests of packages. It refuses
// to call a run good in which a test was skipped without a reason, or none ran.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"srvlab.io/rds-csi/test/vm/machine"
)

const usage = `Vm boots a Debian kernel on this machine's own file system, in a virtual machine.

  vm [FLAG…] -- COMMAND [ARGUMENT…]   run a command in it, as root, in this directory
  vm [FLAG…] --suite                  run all tests with the build tag kernel
  vm [FLAG…] --tests DIR[/...],…      run those of some packages
  vm [FLAG…] [--shell]                an interactive shell

RDS_TEST_ON_HOST=1 runs the tests on the kernel of this host instead.

`

// settings are what the flags and the environment say.
type settings struct {
	kernels []string
	tests   []string // empty: all
	timeout time.Duration
	memory  int
	cpus    int
	onHost  bool

	parallel bool // the kernels at once
}

func main() {
	machine.GuestMain()
	code, err := run(os.Args[1:])
	if err != nil {
		fmt.Fprintln(os.Stderr, "vm:", err)
	}
	os.Exit(code)
}

// Exit codes of our own; a command's code is handed on.
const (
	exitFailure = 1
	exitUsage   = 2
)

func run(args []string) (int, error) {
	var s settings
	var suite, shell bool
	flags := flag.NewFlagSet("vm", flag.ContinueOnError)
	s.kernels = []string{"6.12"}
	list := func(to *[]string) func(string) error {
		return func(text string) error {
			*to = strings.Split(text, ",")
			return nil
		}
	}
	flags.Func("kernel", "series of the Debian kernel: 6.1 or 6.12 (default)", list(&s.kernels))
	flags.Func("kernels", "several series for the tests, as 6.1,6.12", list(&s.kernels))
	flags.Func("tests", "packages whose kernel tests to run", list(&s.tests))
	flags.BoolVar(&suite, "suite", false, "run the kernel tests of the whole repository")
	flags.BoolVar(&shell, "shell", false, "give a shell, as without a command")
	flags.BoolVar(&s.parallel, "parallel", false, "run the tests on all kernels at once")
	flags.DurationVar(&s.timeout, "timeout", 10*time.Minute, "time limit of the command, or of one package's tests")
	flags.IntVar(&s.memory, "memory", 2048, "MiB of memory")
	flags.IntVar(&s.cpus, "cpus", 2, "processors")
	flags.Usage = func() {}
	flags.SetOutput(io.Discard) // main says what is wrong
	switch err := flags.Parse(args); {
	case errors.Is(err, flag.ErrHelp):
		fmt.Print(usage)
		flags.SetOutput(os.Stdout)
		flags.PrintDefaults()
		return 0, nil
	case err != nil:
		return exitUsage, err
	}
	if s.onHost = os.Getenv(onHostVariable) == "1"; s.onHost {
		s.kernels = []string{"this host"}
	}
	tests := suite || len(s.tests) > 0
	switch {
	case tests && (shell || flags.NArg() > 0), shell && flags.NArg() > 0:
		return exitUsage, errors.New("a command, tests or a shell: only one of them")
	case !tests && len(s.kernels) != 1:
		return exitUsage, errors.New("several kernels are for tests")
	}

	ctx, cancel := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	defer cancel()
	ctx, cancelParent := withParent(ctx)
	defer cancelParent()
	switch {
	case tests:
		if err := runSuite(ctx, s); err != nil {
			return exitFailure, err
		}
		return 0, nil
	case flags.NArg() > 0:
		return runCommand(ctx, s, flags.Args())
	default:
		return runShell(ctx, s)
	}
}

// withParent ends the context when the parent process dies: "go run" that is killed does not tell its child.
func withParent(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	parent := os.Getppid()
	go func() {
		ticker := time.NewTicker(time.Second)
		defer ticker.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-ticker.C:
				if os.Getppid() != parent {
					cancel()
					return
				}
			}
		}
	}()
	return ctx, cancel
}

// repository gives the root of the module that the current directory belongs to.
func repository() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for d := dir; d != "/"; d = filepath.Dir(d) {
		text, err := os.ReadFile(filepath.Join(d, "go.mod"))
		if err == nil && strings.HasPrefix(string(text), "module srvlab.io/rds-csi\n") {
			return d, nil
		}
	}
	return "", fmt.Errorf("%s is not in the repository", dir)
}

func runCommand(ctx context.Context, s settings, args []string) (code int, err error) {
	root, err := repository()
	if err != nil {
		return exitFailure, err
	}
	dir, err := os.Getwd()
	if err != nil {
		return exitFailure, err
	}
	g, err := boot(ctx, s, s.kernels[0], root)
	if err != nil {
		return exitFailure, err
	}
	defer func() { err = errors.Join(err, g.close(code == 0 && err == nil || ctx.Err() != nil)) }()
	limited, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	code, err = g.Run(limited, machine.Command{Args: args, Env: environ(), Dir: dir, Stdout: os.Stdout, Stderr: os.Stderr})
	if err != nil {
		return exitFailure, err
	}
	return code, nil
}

// environ hands on the caller's environment, but for what must be the guest's.
func environ() []string {
	var kept []string
	for _, e := range os.Environ() {
		if !strings.HasPrefix(e, "TMPDIR=") && !strings.HasPrefix(e, "RDS_VM_DISK=") {
			kept = append(kept, e)
		}
	}
	return kept
}

// guest is a machine and its console log.
type guest struct {
	*machine.Machine
	console string
}

// boot starts a machine that may write to the repository's out directory.
func boot(ctx context.Context, s settings, series, root string) (*guest, error) {
	kernel, err := machine.FetchKernel(ctx, series, func(text string) { fmt.Fprintln(os.Stderr, "vm:", text) })
	if err != nil {
		return nil, err
	}
	out := filepath.Join(root, "out")
	if err := os.MkdirAll(filepath.Join(out, "vm"), 0o755); err != nil {
		return nil, err
	}
	console, err := os.CreateTemp(filepath.Join(out, "vm"), series+"-*.console.log")
	if err != nil {
		return nil, err
	}
	if err := console.Close(); err != nil {
		return nil, err
	}
	g := &guest{console: console.Name()}
	g.Machine, err = machine.Boot(ctx, machine.Options{
		Kernel: kernel, CPUs: s.cpus, MemoryMiB: s.memory, Shares: []string{out}, Console: g.console,
	})
	switch {
	case err == nil:
		return g, nil
	case ctx.Err() != nil: // interrupted, which the console says nothing about
		return nil, errors.Join(err, os.Remove(g.console))
	default:
		return nil, fmt.Errorf("%w\nconsole log: %s", err, g.console)
	}
}

// close ends the machine. The console log of a good run tells nobody anything.
func (g *guest) close(good bool) error {
	err := g.Close()
	if good {
		return errors.Join(err, os.Remove(g.console))
	}
	fmt.Fprintln(os.Stderr, "vm: console log:", g.console)
	return err
}
