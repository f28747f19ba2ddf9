package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"srvlab.io/rds-csi/test/vm/machine"
)

// place is where tests run: a machine, or this host.
type place interface {
	// prepare is called while the tests compile.
	prepare(ctx context.Context) error
	run(ctx context.Context, c machine.Command) (int, error)
	// spoiled says that tests have failed: they may have left exports, connections and mounts, and with those in the
	// way the next package would fail for no fault of its own.
	spoiled()
	// end gives everything back; the log of a run that was not good is kept.
	end(good bool) error
}

// runSuite runs all kernel tests of the packages, kernel after kernel, and gives an error unless all is well.
func runSuite(ctx context.Context, s settings) error {
	root, err := repository()
	if err != nil {
		return err
	}
	patterns := s.tests
	if len(patterns) == 0 {
		if patterns, err = modulePatterns(root); err != nil {
			return err
		}
	}
	packages, err := findPackages(ctx, patterns)
	if err != nil {
		return err
	}
	out := filepath.Join(root, "out", "vm")
	if err := os.MkdirAll(out, 0o755); err != nil {
		return err
	}
	dir, err := os.MkdirTemp(out, "tests-")
	if err != nil {
		return err
	}
	defer removeFiles(dir)

	suite := &suite{settings: s, root: root, packages: packages, compiled: make(chan struct{})}
	go func() {
		defer close(suite.compiled)
		suite.compileErr = compile(ctx, packages, dir)
	}()
	total := suite.runKernels(ctx)
	<-suite.compiled // the directory goes now
	if err := errors.Join(suite.compileErr, ctx.Err()); err != nil {
		return err
	}
	fmt.Println(total)
	if !total.good() {
		return errTestsFailed
	}
	return nil
}

var errTestsFailed = errors.New("not all tests passed")

// suite is one run of the command.
type suite struct {
	settings
	root     string
	packages []*testPackage

	compiled   chan struct{} // closed when the packages are compiled
	compileErr error         // to be read afterwards
	printing   sync.Mutex    // guards the standard output between kernels
}

// runKernels runs everything on each kernel: one after the other, or at once, which gets more out of two processors
// but makes every measured time worth less.
func (s *suite) runKernels(ctx context.Context) counts {
	all := make([]counts, len(s.kernels))
	var running sync.WaitGroup
	for i, kernel := range s.kernels {
		running.Go(func() { all[i] = s.runKernel(ctx, kernel) })
		if !s.parallel {
			running.Wait()
		}
	}
	running.Wait()
	var total counts
	for _, c := range all {
		total.add(c)
	}
	return total
}

func (s *suite) runKernel(ctx context.Context, kernel string) counts {
	var p place = &vmPlace{settings: s.settings, kernel: kernel, root: s.root}
	if s.onHost {
		p = &hostPlace{}
	}
	out := io.Writer(os.Stdout)
	if len(s.kernels) > 1 {
		out = &prefixWriter{w: os.Stdout, prefix: kernel + " | ", mu: &s.printing}
	}
	err := p.prepare(ctx)
	<-s.compiled
	if s.compileErr != nil {
		_ = p.end(true)
		return counts{}
	}
	c := runPackages(ctx, s.settings, p, s.packages, err, out)
	if err := p.end(c.good() || ctx.Err() != nil); err != nil {
		c.failed++
		fmt.Fprintf(out, "%v\nFAIL\tkernel %s\n", err, kernel)
	}
	return c
}

// runPackages runs all packages in a place. A place that is not there is one failure, and not one a test: nobody has
// seen the tests fail.
func runPackages(
	ctx context.Context, s settings, p place, packages []*testPackage, bootErr error, out io.Writer,
) counts {
	if bootErr != nil {
		fmt.Fprintf(out, "%v\nFAIL\tno place to run the tests\n", bootErr)
		return counts{failed: 1}
	}
	var all counts
	for _, pkg := range packages {
		if ctx.Err() != nil {
			break
		}
		c := runPackage(ctx, s, p, pkg, out)
		if c.failed > 0 {
			p.spoiled()
		}
		all.add(c)
	}
	return all
}

// reportGrace is what a test binary has between its own time limit, at which it says where every goroutine stands,
// and ours.
const reportGrace = 20 * time.Second

func runPackage(ctx context.Context, s settings, p place, pkg *testPackage, out io.Writer) counts {
	r := newResults(out)
	start := time.Now()
	runCtx, cancel := context.WithTimeout(ctx, s.timeout+reportGrace)
	defer cancel()
	code, err := p.run(runCtx, machine.Command{
		Args: []string{
			pkg.bin, "-test.v=test2json", "-test.paniconexit0", "-test.timeout=" + s.timeout.String(),
			"-test.run=^(" + strings.Join(pkg.tests, "|") + ")$",
		},
		Env: testEnviron(), Dir: pkg.dir, Stdout: r, Stderr: r,
	})
	c := r.finish(pkg.tests, code, err)
	took := fmt.Sprintf("%.1fs", time.Since(start).Seconds())
	switch {
	case err != nil:
		fmt.Fprintf(out, "%v\nFAIL\t%s\t%s\n", err, pkg.path, took)
	case c.failed > 0:
		fmt.Fprintf(out, "FAIL\t%s\t%s (exit code %d)\n", pkg.path, took, code)
	default:
		fmt.Fprintf(out, "ok  \t%s\t%s\n", pkg.path, took)
	}
	return c
}

// testEnviron hands on what is meant for the tests and nothing else, so that they run the same for everybody.
func testEnviron() []string {
	var kept []string
	for _, e := range os.Environ() {
		if strings.HasPrefix(e, "RDS_TEST_") {
			kept = append(kept, e)
		}
	}
	return kept
}

// vmPlace runs tests in a machine. When a package has failed, the next one gets a new machine.
type vmPlace struct {
	settings settings
	kernel   string
	root     string
	guest    *guest
}

func (v *vmPlace) prepare(ctx context.Context) (err error) {
	start := time.Now()
	v.guest, err = boot(ctx, v.settings, v.kernel, v.root)
	if err == nil {
		fmt.Fprintf(os.Stderr, "vm: kernel %s is up after %.1fs\n", v.guest.Release(), time.Since(start).Seconds())
	}
	return err
}

func (v *vmPlace) run(ctx context.Context, c machine.Command) (int, error) {
	if v.guest == nil {
		if err := v.prepare(ctx); err != nil {
			return 0, err
		}
	}
	return v.guest.Run(ctx, c)
}

func (v *vmPlace) spoiled() {
	if v.guest != nil {
		_ = v.guest.close(false)
		v.guest = nil
	}
}

func (v *vmPlace) end(good bool) error {
	if v.guest == nil {
		return nil
	}
	return v.guest.close(good)
}

// prefixWriter puts the kernel before each line.
type prefixWriter struct {
	w      io.Writer
	prefix string
	mu     *sync.Mutex // guards w
}

// Write is given whole lines by results.
func (p *prefixWriter) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for line := range strings.Lines(string(b)) {
		if _, err := io.WriteString(p.w, p.prefix+line); err != nil {
			return 0, err
		}
	}
	return len(b), nil
}

// removeFiles removes a directory of compiled tests.
func removeFiles(dir string) {
	files, _ := filepath.Glob(filepath.Join(dir, "*"))
	for _, f := range append(files, dir) {
		_ = os.Remove(f)
	}
}
