//go:build lint

package layout

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"sigs.k8s.io/yaml"
)

// stubs are the libraries that the tree of violations imports: as little of each as it uses, so that the test needs no
// network and nothing in go.mod.
var stubs = map[string]map[string]string{
	"github.com/pkg/errors":               {"errors.go": "package errors"},
	"github.com/prometheus/client_golang": {"prometheus/p.go": "package prometheus\ntype Collector any\nfunc MustRegister(...Collector) {}"},
	"golang.org/x/crypto":                 {"ssh/ssh.go": "package ssh\nfunc InsecureIgnoreHostKey() int { return 0 }"},
	"golang.org/x/sys":                    {"unix/unix.go": "package unix\nconst MNT_DETACH = 2"},
	"google.golang.org/grpc":              {"codes/codes.go": "package codes\ntype Code uint32\nconst (OK Code = 0; Internal Code = 13)"},
	"k8s.io/client-go":                    {"kubernetes/k.go": "package kubernetes"},
	"k8s.io/klog/v2":                      {"klog.go": "package klog"},
	"k8s.io/mount-utils":                  {"mount.go": "package mount"},
	"k8s.io/utils":                        {"exec/exec.go": "package exec"},
}

// violations copies the tree of violations, the repository's configuration and the stubs to a directory and gives it.
func violations(t *testing.T) string {
	t.Helper()
	root := t.TempDir()
	put := func(name, text string) {
		t.Helper()
		name = filepath.Join(root, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(name), 0o755), os.WriteFile(name, []byte(text), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.CopyFS(root, os.DirFS("testdata/lint")); err != nil {
		t.Fatal(err)
	}
	config, err := os.ReadFile("../../.golangci.yml")
	if err != nil {
		t.Fatal(err)
	}
	put(".golangci.yml", string(config))
	gomod := "module " + module + "\n\ngo 1.26.0\n"
	for _, name := range sorted(stubs) {
		version := "v0.0.0"
		if strings.HasSuffix(name, "/v2") {
			version = "v2.0.0"
		}
		dir := "stub/" + strings.ReplaceAll(name, "/", "-")
		gomod += fmt.Sprintf("require %s %s\nreplace %s => ./%s\n", name, version, name, dir)
		put(dir+"/go.mod", "module "+name+"\n\ngo 1.26.0\n")
		for file, text := range stubs[name] {
			put(dir+"/"+file, text)
		}
	}
	put("go.mod", gomod)
	return root
}

// finding is a line of golangci-lint's report.
type finding struct {
	FromLinter, Text string
	Pos              struct {
		Filename string
		Line     int
	}
}

// lint runs golangci-lint in root and gives what it finds, by "file:line".
func lint(t *testing.T, root string) map[string][]string {
	t.Helper()
	program := os.Getenv("RDS_TEST_GOLANGCI")
	if program == "" {
		t.Fatal("RDS_TEST_GOLANGCI names no golangci-lint; run this with make lint")
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	report := filepath.Join(root, "report.json")
	cmd := exec.CommandContext(ctx, program, "run", "--output.json.path", report, "--issues-exit-code", "0", "./...")
	cmd.Dir = root
	cmd.Env = append(os.Environ(), "GOFLAGS=-mod=mod", "GOWORK=off")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", cmd, err, out)
	}
	text, err := os.ReadFile(report)
	if err != nil {
		t.Fatal(err)
	}
	var all struct{ Issues []finding }
	if err := json.Unmarshal(text, &all); err != nil {
		t.Fatalf("%s: %v", report, err)
	}
	found := map[string][]string{}
	for _, f := range all.Issues {
		at := fmt.Sprintf("%s:%d", filepath.ToSlash(f.Pos.Filename), f.Pos.Line)
		found[at] = append(found[at], f.FromLinter+": "+f.Text)
	}
	return found
}

var (
	wantComment = regexp.MustCompile(`want(?:@([+-]\d+))?((?: "[^"]*")+)`)
	quoted      = regexp.MustCompile(`"([^"]*)"`)
)

// wanted reads the want comments of the Go files in root.
func wanted(t *testing.T, root string) map[string][]string {
	t.Helper()
	want := map[string][]string{}
	names, err := files(os.DirFS(root))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		if filepath.Ext(name) != ".go" {
			continue
		}
		text, err := os.ReadFile(filepath.Join(root, name))
		if err != nil {
			t.Fatal(err)
		}
		for i, line := range strings.Split(string(text), "\n") {
			m := wantComment.FindStringSubmatch(line)
			if m == nil {
				continue
			}
			offset, _ := strconv.Atoi(m[1]) // "" is 0
			at := fmt.Sprintf("%s:%d", name, i+1+offset)
			for _, q := range quoted.FindAllStringSubmatch(m[2], -1) {
				want[at] = append(want[at], q[1])
			}
		}
	}
	return want
}

// matches tells whether a finding "linter: text" is the one that a want "linter: part of the text" asks for.
func matches(found, want string) bool {
	linter, part, _ := strings.Cut(want, ": ")
	rest, ok := strings.CutPrefix(found, linter+": ")
	return ok && strings.Contains(rest, part)
}

// TestLintBites holds the findings in the tree of violations against its want comments, and the configuration against
// both: a linter or message that no violation calls forth is a rule that nobody has seen to work.
func TestLintBites(t *testing.T) {
	root := violations(t)
	found, want := lint(t, root), wanted(t, root)
	var said []string
	for at, texts := range want {
		for _, w := range texts {
			i := slices.IndexFunc(found[at], func(f string) bool { return matches(f, w) })
			if i < 0 {
				t.Errorf("%s: no finding %q any more; found %q", at, w, found[at])
				continue
			}
			said = append(said, found[at][i])
			found[at] = slices.Delete(found[at], i, i+1)
		}
	}
	for _, at := range slices.Sorted(maps.Keys(found)) {
		for _, f := range found[at] {
			t.Errorf("%s: not expected: %s", at, f)
		}
	}
	for _, rule := range configured(t) {
		if !slices.ContainsFunc(said, func(s string) bool { return matches(s, rule) }) {
			t.Errorf(".golangci.yml: no violation in testdata/lint calls forth %q", rule)
		}
	}
}

// configured gives the linters, formatters and messages of .golangci.yml as wants.
func configured(t *testing.T) []string {
	t.Helper()
	text, err := os.ReadFile("../../.golangci.yml")
	if err != nil {
		t.Fatal(err)
	}
	var config struct {
		Linters struct {
			Enable   []string
			Settings struct {
				Forbidigo struct{ Forbid []struct{ Msg string } }
				Depguard  struct {
					Rules map[string]struct{ Deny []struct{ Desc string } }
				}
			}
		}
		Formatters struct{ Enable []string }
	}
	if err := yaml.Unmarshal(text, &config); err != nil {
		t.Fatal(err)
	}
	var rules []string
	for _, linter := range slices.Concat(config.Linters.Enable, config.Formatters.Enable) {
		rules = append(rules, linter+": ")
	}
	for _, f := range config.Linters.Settings.Forbidigo.Forbid {
		rules = append(rules, "forbidigo: "+f.Msg)
	}
	for name, r := range config.Linters.Settings.Depguard.Rules {
		if len(r.Deny) == 0 {
			rules = append(rules, "depguard: "+name)
		}
		for _, d := range r.Deny {
			rules = append(rules, "depguard: "+d.Desc)
		}
	}
	return rules
}
