package layout

import (
	"fmt"
	"go/ast"
	"io/fs"
	"path"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// skips lists the tests that may skip themselves, as "file function", with the reason. A skipped test looks green.
var skips = map[string]string{}

// skipMarker starts the reason of the one skip that the VM suite does not count as a failure: this kernel lacks
// something that the driver does without, too (test/vm, results.go).
const skipMarker = "kernel: "

// noSilentSkip: no test skips itself unless it is in the list above, and the list has no test that does not.
func noSilentSkip(fsys fs.FS) ([]string, error) {
	list, err := sources(fsys)
	if err != nil {
		return nil, err
	}
	var wrong []string
	used := map[string]bool{}
	for _, s := range list {
		if !slices.ContainsFunc(s.imports(), testLibrary) {
			continue
		}
		for _, d := range s.file.Decls {
			f, ok := d.(*ast.FuncDecl)
			if !ok {
				continue
			}
			for _, call := range skipCalls(f) {
				if s.tags == "kernel" && saysKernel(call) {
					continue
				}
				key := s.name + " " + f.Name.Name
				used[key] = true
				if _, allowed := skips[key]; !allowed {
					wrong = append(wrong, s.at(call)+": skips; fail instead, or put the test behind the tag kernel, or say in skips why it may")
				}
			}
		}
	}
	for _, key := range sorted(skips) {
		if !used[key] {
			wrong = append(wrong, key+": listed in skips, but does not skip")
		}
	}
	return wrong, nil
}

func testLibrary(p string) bool {
	return p == "testing" || strings.HasPrefix(p, "github.com/onsi/ginkgo")
}

// skipCalls finds the calls of Skip, Skipf and SkipNow, methods or dot-imported functions.
func skipCalls(f *ast.FuncDecl) []*ast.CallExpr {
	var calls []*ast.CallExpr
	ast.Inspect(f, func(n ast.Node) bool {
		if call, ok := n.(*ast.CallExpr); ok {
			var name string
			switch fun := call.Fun.(type) {
			case *ast.SelectorExpr:
				name = fun.Sel.Name
			case *ast.Ident:
				name = fun.Name
			}
			if slices.Contains([]string{"Skip", "Skipf", "SkipNow"}, name) {
				calls = append(calls, call)
			}
		}
		return true
	})
	return calls
}

// saysKernel tells whether the first argument is a literal that starts with skipMarker.
func saysKernel(call *ast.CallExpr) bool {
	if len(call.Args) == 0 {
		return false
	}
	lit, ok := call.Args[0].(*ast.BasicLit)
	return ok && strings.HasPrefix(lit.Value, `"`+skipMarker)
}

func TestNoSilentSkip(t *testing.T) {
	rule(noSilentSkip).holds(t, map[string]string{
		"safety/x_test.go":   "package safety\nimport \"testing\"\nfunc TestX(t *testing.T) {\n\tt.Skip(\"no kernel\")\n}",
		"driver/k_test.go":   "//go:build kernel\n\npackage driver\nimport \"testing\"\nfunc TestX(t *testing.T) {\n\tt.Skipf(\"kernel: %s\", 1)\n\tt.Skip(\"busy\")\n}",
		"driver/l_test.go":   "package driver\nimport \"testing\"\nfunc TestX(t *testing.T) {\n\tt.Skip(\"kernel: x\")\n}",
		"test/sanity/s.go":   "package sanity\nimport . \"github.com/onsi/ginkgo/v2\"\nfunc x() {\n\tSkip(\"later\")\n}",
		"driver/lex/scan.go": "package lex\ntype r struct{}\nfunc (r) Skip() {}\nfunc x() { r{}.Skip() }",
	}, "safety/x_test.go:4: skips", "driver/k_test.go:7: skips", "driver/l_test.go:4: skips", "test/sanity/s.go:4: skips")
}

// tags are the build constraints that may be used, with the one who sets them. A file behind any other tag is never
// compiled, and nobody notices.
var tags = map[string]string{
	"kernel": "make vet compiles it, make test-vm runs it in the VM",
	"lint":   "make lint runs it, because it needs golangci-lint",
	"vm":     "make test-vm runs it on the host, because it boots machines itself",
	"linux":  "every machine that this runs on",
}

// onlyKnownTags: every build constraint is one of tags, and what needs a kernel is a test where the go command looks:
// the VM suite runs the tests in files with the tag kernel, of all packages of all modules, and only those.
func onlyKnownTags(fsys fs.FS) ([]string, error) {
	list, err := sources(fsys)
	if err != nil {
		return nil, err
	}
	var wrong []string
	tests := map[string]bool{}
	for _, s := range list {
		if _, ok := tags[s.tags]; s.tags != "" && !ok {
			wrong = append(wrong, fmt.Sprintf("%s: nobody builds with the tag %q", s.name, s.tags))
		}
		switch {
		case s.tags == "kernel" && s.test:
			tests[s.dir()] = tests[s.dir()] || slices.ContainsFunc(s.file.Decls, isTest)
		case s.tags == "kernel" && !strings.HasPrefix(s.name, "test/"):
			wrong = append(wrong, s.name+": production code that no program is built with")
		}
		if strings.HasSuffix(s.name, "_kernel_test.go") && s.tags != "kernel" {
			wrong = append(wrong, s.name+": named for the kernel, but without //go:build kernel")
		}
	}
	for _, dir := range sorted(tests) {
		hidden := slices.ContainsFunc(strings.Split(dir, "/"), func(part string) bool { return strings.HasPrefix(part, "_") || strings.HasPrefix(part, ".") })
		if !tests[dir] || hidden {
			wrong = append(wrong, dir+": has test files with the tag kernel, but no test in them that the VM suite finds")
		}
	}
	return wrong, nil
}

func isTest(d ast.Decl) bool {
	f, ok := d.(*ast.FuncDecl)
	return ok && f.Recv == nil && strings.HasPrefix(f.Name.Name, "Test") && f.Name.Name != "TestMain"
}

func TestOnlyKnownTags(t *testing.T) {
	rule(onlyKnownTags).holds(t, map[string]string{
		"safety/a_test.go":             "//go:build integration\n\npackage safety",
		"safety/b_test.go":             "//go:build kernel\n\npackage safety\nfunc TestB() {}",
		"safety/c_test.go":             "//go:build kernel && amd64\n\npackage safety\nfunc TestC() {}",
		"driver/nvme/x_kernel_test.go": "package nvme\nfunc TestX() {}",
		"driver/mapper/x_test.go":      "//go:build kernel\n\npackage mapper\nfunc TestMain() {}",
		"driver/node/mount.go":         "//go:build kernel\n\npackage node",
		"test/kerneltest/rig.go":       "//go:build kernel\n\npackage kerneltest",
		"driver/_x/x_test.go":          "//go:build kernel\n\npackage x\nfunc TestX() {}",
	},
		`nobody builds with the tag "integration"`, `nobody builds with the tag "kernel && amd64"`, "x_kernel_test.go: named for the kernel",
		"driver/mapper: has test files with the tag kernel, but no test", "driver/_x: has test files with the tag kernel, but no test",
		"driver/node/mount.go: production code")
}

// chain is how make test reaches what runs in a VM.
var chain = map[string]*regexp.Regexp{
	"test runs test-vm":                    regexp.MustCompile(`(?m)^test: .*\n(?:\t.*\n)*\t.*\$\(MAKE\) .*\btest-vm\b`),
	"test-vm runs the tests with tag vm":   regexp.MustCompile(`(?m)^test-vm: .*\n(?:\t.*\n)*\t.*go test .*-tags vm .*\./test/vm/machine`),
	"test-vm runs all tests with kernel":   regexp.MustCompile(`(?m)^test-vm: .*\n(?:\t.*\n)*\t.*go run \./test/vm .*-suite\b`),
	"test-vm uses both kernels":            regexp.MustCompile(`(?m)^KERNELS +\?= 6\.1,6\.12$`),
	"check runs the layout and the linter": regexp.MustCompile(`(?m)^check: .*\blint\b.*\blayout\b`),
}

// makeReachesAll: the tests that need more than the go command are run by make test.
func makeReachesAll(fsys fs.FS) ([]string, error) {
	text, err := fs.ReadFile(fsys, "Makefile")
	if err != nil {
		return nil, err
	}
	var wrong []string
	for _, what := range sorted(chain) {
		if !chain[what].Match(text) {
			wrong = append(wrong, "Makefile: not so any more: "+what)
		}
	}
	return wrong, nil
}

func TestMakeReachesAll(t *testing.T) {
	rule(makeReachesAll).holds(t, map[string]string{
		"Makefile": "KERNELS  ?= 6.12\ntest: packages\n\t$(MAKE) test-unit\n\ntest-vm: packages\n\tgo run ./test/vm -tests ./driver/nvme\n\ncheck: tidy vet\n",
	}, "test runs test-vm", "tests with tag vm", "all tests with kernel", "both kernels", "layout and the linter")
}

// target is a rule of the Makefile: its name, and what help says about it.
type target struct{ name, help string }

var targetLine = regexp.MustCompile(`(?m)^([a-z][a-z0-9-]*):(?:[^=\n].*?)?(?:## (.*))?$`)

// targets gives the targets of a Makefile that a person may ask for.
func targets(makefile []byte) []target {
	var list []target
	for _, m := range targetLine.FindAllSubmatch(makefile, -1) {
		list = append(list, target{string(m[1]), string(m[2])})
	}
	return list
}

// helpListsEveryTarget: each named target says what it is for, and those of the issue are there.
func helpListsEveryTarget(fsys fs.FS) ([]string, error) {
	text, err := fs.ReadFile(fsys, "Makefile")
	if err != nil {
		return nil, err
	}
	var wrong []string
	list := targets(text)
	for _, target := range list {
		if target.help == "" {
			wrong = append(wrong, "Makefile: help does not list "+target.name+"; add \"## what it is for\"")
		}
	}
	for _, name := range []string{"help", "build", "check", "test", "demo", "vm-shell", "bench", "fuzz", "conformance", "clean"} {
		if !slices.ContainsFunc(list, func(t target) bool { return t.name == name }) {
			wrong = append(wrong, "Makefile: no target "+name)
		}
	}
	return wrong, nil
}

func TestHelpListsEveryTarget(t *testing.T) {
	rule(helpListsEveryTarget).holds(t, map[string]string{
		"Makefile": "VERSION := 1\nhelp: ## List\nbuild check test demo:\nsecret: build\n\techo\n" +
			"check: ## c\ntest: build ## t\ndemo: ## d\nvm-shell: ## v\nbench: ## b\nfuzz: ## f\nconformance:\nbuild: ## b\n",
	}, "help does not list secret", "help does not list conformance", "no target clean")
}

var (
	// inCode finds the code of a Markdown page: fenced blocks and `spans`.
	inCode = regexp.MustCompile("(?s)```.*?```|`[^`\n]+`")
	// makeCall finds what is asked of make there.
	makeCall = regexp.MustCompile(`\bmake ([a-z][a-z0-9-]*)`)
	// goCall finds the packages given to the go command, and our programs.
	goCall = regexp.MustCompile(`\bgo (?:run|test|build) (?:-[^ ]+ )*\./([a-z/-]+[a-z])|\bbin/([a-z][a-z-]*)`)
	// link finds a relative link or picture.
	link = regexp.MustCompile(`\]\(([^)#:]+)(?:#[^)]*)?\)|(?:src|href)="([^":#]+)"`)
)

// pagesTellTheTruth: commands and links in the Markdown pages lead to something that is there.
func pagesTellTheTruth(fsys fs.FS) ([]string, error) {
	makefile, err := fs.ReadFile(fsys, "Makefile")
	if err != nil {
		return nil, err
	}
	list := targets(makefile)
	names, err := files(fsys)
	if err != nil {
		return nil, err
	}
	var wrong []string
	for _, name := range names {
		if path.Ext(name) != ".md" {
			continue
		}
		text, err := fs.ReadFile(fsys, name)
		if err != nil {
			return nil, err
		}
		for _, code := range inCode.FindAllString(string(text), -1) {
			for _, m := range makeCall.FindAllStringSubmatch(code, -1) {
				if !slices.ContainsFunc(list, func(t target) bool { return t.name == m[1] }) {
					wrong = append(wrong, fmt.Sprintf("%s: make %s: no such target", name, m[1]))
				}
			}
			for _, m := range goCall.FindAllStringSubmatch(code, -1) {
				dir := m[1]
				if m[2] != "" {
					dir = "cmd/" + m[2]
				}
				if _, err := fs.Stat(fsys, dir); err != nil {
					wrong = append(wrong, fmt.Sprintf("%s: %s: no package %s", name, m[0], dir))
				}
			}
		}
		for _, m := range link.FindAllStringSubmatch(inCode.ReplaceAllString(string(text), ""), -1) {
			to := path.Join(path.Dir(name), m[1]+m[2])
			if _, err := fs.Stat(fsys, to); err != nil {
				wrong = append(wrong, fmt.Sprintf("%s: links %s, which is not there", name, to))
			}
		}
	}
	return wrong, nil
}

func TestPagesTellTheTruth(t *testing.T) {
	rule(pagesTellTheTruth).holds(t, map[string]string{
		"Makefile":        "test: ## t\n",
		"cmd/rds/main.go": "package main",
		"README.md": "Run `make test` or\n\n```\nmake deploy\ngo run ./test/vm -- id\nbin/rds --help\nbin/gone\n```\n\nand make sense.\n" +
			"[good](cmd/rds/main.go) [bad](docs/no.md) [far](https://example.org/x) <img src=\"docs/no.svg\">\n",
		"runbooks/x.md": "[up](../README.md#top) and [gone](../gone.md)",
	}, "make deploy: no such target", "no package test/vm", "no package cmd/gone", "links docs/no.md", "links docs/no.svg", "links gone.md")
}
