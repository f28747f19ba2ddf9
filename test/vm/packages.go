package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"go/ast"
	"go/build/constraint"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// kernelTag is the build tag of tests that need a real kernel. They fail without one, so nothing else builds them.
const kernelTag = "kernel"

// testPackage is a package with such tests.
type testPackage struct {
	dir   string
	path  string   // import path
	tests []string // top-level tests in files that only the kernel tag selects
	bin   string   // the compiled tests
}

// modulePatterns gives a pattern for each module of the repository; the heavy tests have modules of their own.
func modulePatterns(root string) ([]string, error) {
	var patterns []string
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name := d.Name()
		if d.IsDir() && path != root && (name == "out" || name == "testdata" || strings.HasPrefix(name, ".")) {
			return fs.SkipDir
		}
		if name == "go.mod" {
			patterns = append(patterns, filepath.Dir(path)+"/...")
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("modules of the repository: %w", err)
	}
	return patterns, nil
}

// findPackages gives the packages with kernel tests that the patterns name, as directories or with a final "/...".
func findPackages(ctx context.Context, patterns []string) ([]*testPackage, error) {
	var all []*testPackage
	for _, pattern := range patterns {
		// The go command runs in the directory of the pattern, because that may be in another module.
		dir, below := strings.CutSuffix(pattern, "...")
		what := "."
		if below {
			what = "./..."
		}
		const form = "{{.Dir}}\t{{.ImportPath}}\t{{range .TestGoFiles}}{{.}} {{end}}{{range .XTestGoFiles}}{{.}} {{end}}"
		list, err := goCommand(ctx, dir, "list", "-tags", kernelTag, "-f", form, what)
		if err != nil {
			return nil, fmt.Errorf("packages %s: %w", pattern, err)
		}
		found := 0
		for line := range strings.Lines(list) {
			columns := strings.Split(strings.TrimSpace(line), "\t")
			if len(columns) != 3 {
				continue // no test files
			}
			tests, err := kernelTests(columns[0], strings.Fields(columns[2]))
			if err != nil {
				return nil, err
			}
			if len(tests) > 0 {
				all = append(all, &testPackage{dir: columns[0], path: columns[1], tests: tests})
				found++
			}
		}
		if found == 0 && !below {
			return nil, fmt.Errorf("%s has no tests with the build tag %s", pattern, kernelTag)
		}
	}
	if len(all) == 0 {
		return nil, fmt.Errorf("no package of %q has tests with the build tag %s", patterns, kernelTag)
	}
	return all, nil
}

// kernelTests gives the tests of those files that exist only with the kernel tag. The others have run on the host.
func kernelTests(dir string, files []string) ([]string, error) {
	var tests []string
	for _, name := range files {
		f, err := parser.ParseFile(token.NewFileSet(), filepath.Join(dir, name), nil,
			parser.ParseComments|parser.SkipObjectResolution)
		if err != nil {
			return nil, fmt.Errorf("tests of %s: %w", dir, err)
		}
		if !needsKernel(f) {
			continue
		}
		for _, d := range f.Decls {
			if fn, ok := d.(*ast.FuncDecl); ok && isTest(fn) {
				tests = append(tests, fn.Name.Name)
			}
		}
	}
	slices.Sort(tests)
	return tests, nil
}

// needsKernel tells whether a file's build constraint names the kernel tag in a way that leaves the file out without
// it.
func needsKernel(f *ast.File) bool {
	for _, group := range f.Comments {
		if group.Pos() > f.Package {
			break
		}
		for _, c := range group.List {
			expr, err := constraint.Parse(c.Text)
			if err != nil || !constraint.IsGoBuild(c.Text) {
				continue
			}
			with := func(kernel bool) bool {
				return expr.Eval(func(tag string) bool { return tag != kernelTag || kernel })
			}
			return with(true) && !with(false)
		}
	}
	return false
}

// isTest is the go command's own rule: TestXxx where Xxx does not start with a lower-case letter.
func isTest(fn *ast.FuncDecl) bool {
	rest, ok := strings.CutPrefix(fn.Name.Name, "Test")
	if !ok || fn.Recv != nil || fn.Name.Name == "TestMain" {
		return false
	}
	first, _ := utf8.DecodeRuneInString(rest)
	return rest == "" || !unicode.IsLower(first)
}

// compile builds the tests of each package, on the host: the guest would need ten times as long.
func compile(ctx context.Context, packages []*testPackage, dir string) error {
	for i, p := range packages {
		p.bin = filepath.Join(dir, fmt.Sprintf("%d-%s.test", i, filepath.Base(p.dir)))
		if _, err := goCommand(ctx, p.dir, "test", "-c", "-tags", kernelTag, "-o", p.bin, "."); err != nil {
			return fmt.Errorf("compile the tests of %s: %w", p.path, err)
		}
	}
	return nil
}

// compileTimeout bounds one go command: a cold cache and a slow machine.
const compileTimeout = 10 * time.Minute

func goCommand(ctx context.Context, dir string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, compileTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "LC_ALL=C")
	cmd.WaitDelay = time.Second
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return "", errors.Join(fmt.Errorf("go %s: %w", strings.Join(args, " "), err), errors.New(stderr.String()))
	}
	return stdout.String(), nil
}
