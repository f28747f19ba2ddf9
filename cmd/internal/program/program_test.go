package program

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"srvlab.io/rds-csi/metrics"
)

const prefix = "nqn.2000-02.com.mikrotik:k8s-"

// try runs a program with one flag of its own, --colour, which is required.
func try(t *testing.T, environment map[string]string, run func(context.Context, *Env) error, args ...string) (code int, out, errs string) {
	t.Helper()
	var stdout, stderr bytes.Buffer
	p := Program{
		Name:           "painter",
		About:          "Paints.",
		MetricsAddress: "",
		Flags:          func(fs *flag.FlagSet) { fs.String("colour", "", "`COLOUR` of the paint") },
		Required:       []string{"colour"},
		Run:            run,
	}
	code = p.main(t.Context(), args, func(k string) string { return environment[k] }, &stdout, &stderr)
	return code, stdout.String(), stderr.String()
}

func TestExitCodes(t *testing.T) {
	withPrefix := map[string]string{"CSI_MANAGED_NQN_PREFIX": prefix}
	fails := func(err error) func(context.Context, *Env) error {
		return func(context.Context, *Env) error { return err }
	}
	tests := []struct {
		name        string
		environment map[string]string
		run         func(context.Context, *Env) error
		args        []string
		code        int
		says        string // on stdout for 0, else on stderr
	}{
		{"help", nil, nil, []string{"--help"}, 0, "Usage: painter [flags]"},
		{"help names the flags", nil, nil, []string{"-h"}, 0, "--colour COLOUR"},
		{"version", nil, nil, []string{"--version"}, 0, "painter "},
		{"unknown flag", withPrefix, nil, []string{"--size", "1"}, 2, "flag provided but not defined: -size"},
		{"missing flag", withPrefix, nil, nil, 2, "missing: --colour"},
		{"empty flag", withPrefix, nil, []string{"--colour="}, 2, "missing: --colour"},
		{"stray argument", withPrefix, nil, []string{"--colour=red", "blue"}, 2, `unexpected argument "blue"`},
		{"no prefix", nil, nil, []string{"--colour=red"}, 2, "managed NQN prefix \"\": is empty"},
		{"prefix of all arrays", nil, nil, []string{"--colour=red", "--managed-nqn-prefix=nqn.2000-02.com.mikrotik:"}, 2, "own every export"},
		{"bad log format", withPrefix, nil, []string{"--colour=red", "--log-format=xml"}, 2, `"xml": is neither text nor json`},
		{"bad log level", withPrefix, nil, []string{"--colour=red", "--log-level=loud"}, 2, "--log-level"},
		{"works", withPrefix, fails(nil), []string{"--colour=red"}, 0, ""},
		{"fails", withPrefix, fails(errors.New("brush lost")), []string{"--colour=red"}, 1, "brush lost"},
		{"used wrongly", withPrefix, fails(&UsageError{errors.New("no such colour")}), []string{"--colour=x"}, 2, "no such colour"},
		{"json", withPrefix, fails(errors.New("brush lost")), []string{"--colour=red", "--log-format=json"}, 1, `"err":"brush lost"`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			run := tt.run
			if run == nil {
				run = func(context.Context, *Env) error { t.Error("was run"); return nil }
			}
			code, out, errs := try(t, tt.environment, run, tt.args...)
			said := errs
			if tt.code == 0 {
				said = out
			}
			if code != tt.code || !strings.Contains(said, tt.says) {
				t.Errorf("exit code %d, want %d\nstdout: %s\nstderr: %s\nwant:   %s", code, tt.code, out, errs, tt.says)
			}
		})
	}
}

func TestFlagWinsOverEnvironment(t *testing.T) {
	environment := map[string]string{"CSI_MANAGED_NQN_PREFIX": "nqn.2000-02.com.mikrotik:env-"}
	for want, args := range map[string][]string{
		"nqn.2000-02.com.mikrotik:env-": {"--colour=red"},
		prefix:                          {"--colour=red", "--managed-nqn-prefix=" + prefix},
	} {
		code, _, errs := try(t, environment, func(_ context.Context, env *Env) error {
			if env.Prefix.String() != want {
				t.Errorf("prefix %q, want %q", env.Prefix, want)
			}
			return nil
		}, args...)
		if code != 0 {
			t.Errorf("exit code %d: %s", code, errs)
		}
	}
}

func TestServeMetrics(t *testing.T) {
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	taken := free.Addr().String()
	args := []string{"--colour=red", "--managed-nqn-prefix=" + prefix, "--metrics-address=" + taken}
	code, _, errs := try(t, nil, func(ctx context.Context, env *Env) error {
		_, err := env.ServeMetrics(ctx)
		return err
	}, args...)
	if code != 1 || !strings.Contains(errs, "--metrics-address") {
		t.Errorf("an address in use: exit code %d: %s", code, errs)
	}
	if err := free.Close(); err != nil {
		t.Fatal(err)
	}
	code, _, errs = try(t, nil, func(ctx context.Context, env *Env) error {
		task, err := env.ServeMetrics(ctx, metrics.Check{Name: "paint", Ready: func() error { return errors.New("is wet") }})
		if err != nil {
			return err
		}
		return Together(ctx, task, func(context.Context) error {
			resp, err := http.Get("http://" + taken + "/readyz")
			if err != nil {
				return err
			}
			body, err := io.ReadAll(resp.Body)
			if string(body) != "paint: not ready: is wet\n" {
				t.Errorf("readyz: %q", body)
			}
			return errors.Join(err, resp.Body.Close())
		})
	}, args...)
	if code != 0 {
		t.Errorf("exit code %d: %s", code, errs)
	}
}

func TestTogether(t *testing.T) {
	waits := func(ctx context.Context) error { <-ctx.Done(); return nil }
	fails := func(context.Context) error { return errors.New("one ended") }
	if err := Together(t.Context(), waits, fails, waits); err == nil || err.Error() != "one ended" {
		t.Errorf("got %v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if err := Together(ctx, waits, waits); err != nil {
		t.Errorf("got %v", err)
	}
}
