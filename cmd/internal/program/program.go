// Package program is what the rds-csi programs have in common: flags, log, signals, exit codes and the metrics
// address; it refuses to start without a valid managed NQN prefix, and knows nothing of volumes.
package program

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"runtime/debug"
	"strings"
	"syscall"

	"srvlab.io/rds-csi/metrics"
	"srvlab.io/rds-csi/safety"
)

// Exit codes: contracts that scripts rely on.
const (
	exitOK      = 0
	exitFailure = 1
	exitUsage   = 2
)

// prefixVariable is the environment variable of the managed prefix. The flag wins.
const prefixVariable = "CSI_MANAGED_NQN_PREFIX"

// Program is one of our programs.
type Program struct {
	Name string
	// About is what --help says first: a sentence or two.
	About string
	// MetricsAddress is the default of --metrics-address.
	MetricsAddress string
	// Flags declares the program's own flags.
	Flags func(*flag.FlagSet)
	// Required names the flags that must be given and not empty.
	Required []string
	// Run does the work until ctx ends. Its error ends the program with exit code 1, a UsageError with 2.
	Run func(ctx context.Context, env *Env) error
}

// Env is what every program has.
type Env struct {
	Prefix  safety.Prefix
	Version string
	Log     *slog.Logger
	Metrics *metrics.Metrics

	metricsAddress string
}

// UsageError is a wrong use of the program that only the program itself can see: exit code 2.
type UsageError struct{ Err error }

func (u *UsageError) Error() string { return u.Err.Error() }
func (u *UsageError) Unwrap() error { return u.Err }

// Main runs p with the process' arguments, environment and signals, and ends the process.
func Main(p Program) {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	go func() {
		<-ctx.Done()
		stop() // a second signal ends the program at once
	}()
	os.Exit(p.main(ctx, os.Args[1:], os.Getenv, os.Stdout, os.Stderr))
}

func (p Program) main(ctx context.Context, args []string, getenv func(string) string, out, errs io.Writer) int {
	fs := flag.NewFlagSet(p.Name, flag.ContinueOnError)
	fs.SetOutput(io.Discard) // the flag package would print the whole help below a one-line mistake
	common := declare(fs, p.MetricsAddress)
	if p.Flags != nil {
		p.Flags(fs)
	}
	err := fs.Parse(args)
	switch {
	case errors.Is(err, flag.ErrHelp):
		p.help(fs, out)
		return exitOK
	case err == nil && common.version:
		_, _ = fmt.Fprintf(out, "%s %s\n", p.Name, version()) // nobody is left to tell that stdout is closed
		return exitOK
	case err == nil:
		err = p.complete(fs)
	}
	if err == nil {
		env, envErr := common.env(getenv, errs)
		if envErr == nil {
			return p.run(ctx, env)
		}
		err = envErr
	}
	_, _ = fmt.Fprintf(errs, "%s: %v\nTry %s --help\n", p.Name, err, p.Name)
	return exitUsage
}

func (p Program) run(ctx context.Context, env *Env) int {
	err := p.Run(ctx, env)
	var usage *UsageError
	switch {
	case err == nil:
		return exitOK
	case errors.As(err, &usage):
		env.Log.Error("wrong use, see --help", "err", err)
		return exitUsage
	default:
		env.Log.Error("ended by an error", "err", err)
		return exitFailure
	}
}

func (p Program) help(fs *flag.FlagSet, out io.Writer) {
	_, _ = fmt.Fprintf(out, "%s\n\nUsage: %s [flags]\n\nFlags:\n", p.About, p.Name)
	fs.VisitAll(func(f *flag.Flag) {
		value, text := flag.UnquoteUsage(f)
		if f.DefValue != "" && f.DefValue != "false" {
			text += " (default " + f.DefValue + ")"
		}
		_, _ = fmt.Fprintf(out, "  --%s %s\n        %s\n", f.Name, value, text)
	})
}

// complete checks that nothing was left over and nothing left out.
func (p Program) complete(fs *flag.FlagSet) error {
	if fs.NArg() > 0 {
		return fmt.Errorf("unexpected argument %q", fs.Arg(0))
	}
	var missing []string
	for _, name := range p.Required {
		if f := fs.Lookup(name); f == nil || f.Value.String() == "" {
			missing = append(missing, "--"+name)
		}
	}
	if len(missing) > 0 {
		return fmt.Errorf("missing: %s", strings.Join(missing, ", "))
	}
	return nil
}

// flags are those that every program has.
type flags struct {
	metricsAddress, logFormat, logLevel, prefix string
	version                                     bool
}

func declare(fs *flag.FlagSet, metricsAddress string) *flags {
	f := &flags{}
	fs.StringVar(&f.metricsAddress, "metrics-address", metricsAddress,
		"`ADDRESS` of /metrics, /healthz and /readyz; empty: none")
	fs.StringVar(&f.logFormat, "log-format", "text", "`FORMAT` of the log on stderr: text or json")
	fs.StringVar(&f.logLevel, "log-level", "info", "least `LEVEL` that is logged: debug, info, warn or error")
	fs.StringVar(&f.prefix, "managed-nqn-prefix", "",
		"`PREFIX` that all NQNs of this cluster's volumes start with; instead of "+prefixVariable)
	fs.BoolVar(&f.version, "version", false, "print the version and end")
	return f
}

func (f *flags) env(getenv func(string) string, errs io.Writer) (*Env, error) {
	text := f.prefix
	if text == "" {
		text = getenv(prefixVariable)
	}
	prefix, errPrefix := safety.ParsePrefix(text)
	if errPrefix != nil {
		errPrefix = fmt.Errorf("%w (--managed-nqn-prefix or %s)", errPrefix, prefixVariable)
	}
	log, errLog := f.logger(errs)
	if err := errors.Join(errPrefix, errLog); err != nil {
		return nil, err
	}
	v := version()
	return &Env{Prefix: prefix, Version: v, Log: log, Metrics: metrics.New(v), metricsAddress: f.metricsAddress}, nil
}

func (f *flags) logger(errs io.Writer) (*slog.Logger, error) {
	var level slog.Level
	if err := level.UnmarshalText([]byte(f.logLevel)); err != nil {
		return nil, fmt.Errorf("--log-level: %w", err)
	}
	opts := &slog.HandlerOptions{Level: level}
	switch f.logFormat {
	case "text":
		return slog.New(slog.NewTextHandler(errs, opts)), nil
	case "json":
		return slog.New(slog.NewJSONHandler(errs, opts)), nil
	default:
		return nil, fmt.Errorf("--log-format %q: is neither text nor json", f.logFormat)
	}
}

// linked is the version that `make build` has the linker write here: what git describe says.
var linked string

// version is the one that was linked in, else what the Go tool chain found in version control.
func version() string {
	if linked != "" {
		return linked
	}
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		return info.Main.Version
	}
	return "(devel)"
}

// ServeMetrics gives the task of answering on the metrics address, where one is set. The address is taken at
// once, so that a wrong one ends the start and not the running program.
func (e *Env) ServeMetrics(ctx context.Context, checks ...metrics.Check) (Task, error) {
	if e.metricsAddress == "" {
		return func(ctx context.Context) error { <-ctx.Done(); return nil }, nil
	}
	var lc net.ListenConfig
	lis, err := lc.Listen(ctx, "tcp", e.metricsAddress)
	if err != nil {
		return nil, fmt.Errorf("--metrics-address: %w", err)
	}
	return func(ctx context.Context) error { return metrics.Serve(ctx, lis, e.Metrics.Handler(checks...)) }, nil
}

// Task runs until its context ends, and then ends without an error.
type Task func(ctx context.Context) error

// Together runs tasks until ctx ends or one of them does, ends the others, and gives the errors of all.
func Together(ctx context.Context, tasks ...Task) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	ended := make(chan error)
	for _, t := range tasks {
		go func() {
			err := t(ctx)
			cancel()
			ended <- err
		}()
	}
	var errs []error
	for range tasks {
		errs = append(errs, <-ended)
	}
	return errors.Join(errs...)
}
