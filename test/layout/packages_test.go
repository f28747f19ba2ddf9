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

// topLevel lists what may stand in the root of the repository.
var topLevel = []string{
	".ci", ".editorconfig", ".gitattributes", ".gitignore", ".golangci.yml", ".readme",
	"CHANGELOG.md", "LICENSE", "Makefile", "README.md", "SECURITY.md", "go.mod", "go.sum",
	"cmd", "driver", "metrics", "runbooks", "safety", "test",
}

// onlyTopLevel: a folder listing explains the program, so it holds nothing else.
func onlyTopLevel(fsys fs.FS) ([]string, error) {
	entries, err := fs.ReadDir(fsys, ".")
	if err != nil {
		return nil, err
	}
	var wrong []string
	for _, e := range entries {
		if !slices.Contains(topLevel, e.Name()) && !slices.Contains(made, e.Name()) {
			wrong = append(wrong, e.Name()+": not in the root; put it where its users are, or add it to topLevel with a reason")
		}
	}
	return wrong, nil
}

func TestTopLevel(t *testing.T) {
	rule(onlyTopLevel).holds(t, map[string]string{"pkg/util/x.go": "package util", "go.mod": ""}, "pkg: not in the root")
}

// row is a package: which of our packages it may import, and what else it may do. Test files may also import anything
// below test/. Programs and logs are free there.
type row struct {
	imports []string
	logs    bool // may use log/slog: return or log, never both
	runs    bool // may run programs
}

// packages is the table of the design. It is read from top to bottom: nobody imports what stands below.
var packages = map[string]row{
	// The vocabulary, and the kernel's evidence.
	"safety":        {},
	"safety/kernel": {imports: []string{"safety"}},

	// The one that acts. Node and controller do not know each other, so that each links only its half.
	"driver":          {imports: []string{"safety"}, logs: true}, // the interceptor
	"driver/routeros": {imports: []string{"safety"}},
	"driver/nvme":     {imports: []string{"safety", "safety/kernel"}},
	"driver/mapper":   {imports: []string{"safety", "safety/kernel"}},
	"driver/controller": {
		imports: []string{"driver", "driver/routeros", "safety"},
		logs:    true, // the loop that watches the arrays has nobody to return to
	},
	"driver/node": {
		imports: []string{"driver", "driver/mapper", "driver/nvme", "safety", "safety/kernel"},
		logs:    true, // the repair loop has nobody to return to
		runs:    true, // mkfs, fsck, mount
	},

	// The one that counts.
	"metrics": {imports: []string{"safety"}},

	// The ones that wire.
	"cmd/internal/program": {imports: []string{"metrics", "safety"}, logs: true},
	"cmd/rds-csi-controller": {
		imports: []string{"cmd/internal/program", "driver", "driver/controller", "driver/routeros", "metrics", "safety"},
		logs:    true,
	},
	"cmd/rds-csi-node": {
		imports: []string{"cmd/internal/program", "driver", "driver/node", "metrics", "safety", "safety/kernel"},
		logs:    true,
	},
	"cmd/routeros-emulator": {imports: []string{"test/routerostest"}, logs: true},

	// The ones that doubt. The array's model first: it shares no code with the client that it is the test of.
	"test/routerostest/nvmet": {},
	"test/routerostest":       {imports: []string{"test/routerostest/nvmet"}},
	"test/kerneltest":         {imports: []string{"safety", "safety/kernel", "test/routerostest/nvmet"}},
	"test/bystander":          {imports: []string{"test/routerostest/nvmet"}},
	"test/stack":              {imports: []string{"safety"}},
	"test/vm/machine":         {},
	"test/vm":                 {imports: []string{"test/vm/machine"}},
	"test/sanity":             {imports: []string{"driver", "safety", "test/bystander", "test/stack"}},
	"test/bench":              {imports: []string{"safety", "test/stack", "test/vm/machine"}},
	"test/demo/record":        {},
	"test/demo/writer":        {imports: []string{"test/demo/record"}},
	"test/demo/report":        {imports: []string{"test/demo/record"}},
	"test/demo/timeline":      {imports: []string{"test/demo/record", "test/demo/report"}},
	"test/demo/guest": {imports: []string{
		"safety", "safety/kernel", "test/bystander", "test/demo/record", "test/demo/report", "test/demo/writer",
		"test/routerostest/nvmet", "test/stack",
	}},
	"test/demo": {imports: []string{
		"test/demo/guest", "test/demo/record", "test/demo/report", "test/demo/timeline", "test/demo/writer", "test/vm/machine",
	}},
	"test/layout": {imports: []string{"safety"}},
}

// may tells whether the package in dir may import the package in other.
func (r row) may(s source, other string) bool {
	if s.test && (other == s.dir() || strings.HasPrefix(other, "test/")) { // package x_test imports x
		return true
	}
	return slices.Contains(r.imports, other)
}

// onlyKnownPackages: every package is in the table, and the table holds no package that is not there.
func onlyKnownPackages(fsys fs.FS) ([]string, error) {
	list, err := sources(fsys)
	if err != nil {
		return nil, err
	}
	var wrong []string
	there := byPackage(list)
	for _, dir := range sorted(there) {
		if _, ok := packages[dir]; !ok {
			wrong = append(wrong, dir+": not in the table of packages; say there what it may import")
		}
	}
	for _, dir := range sorted(packages) {
		if _, ok := there[dir]; !ok {
			wrong = append(wrong, dir+": in the table of packages, but not there")
		}
	}
	return wrong, nil
}

func TestPackagesAreInTheTable(t *testing.T) {
	bad := map[string]string{"driver/helper/x.go": "package helper"}
	for dir := range packages {
		if dir != "metrics" {
			bad[dir+"/x.go"] = "package x"
		}
	}
	rule(onlyKnownPackages).holds(t, bad, "driver/helper: not in the table", "metrics: in the table of packages, but not there")
}

// meaningless are names that say where code was put, not what it is for.
var meaningless = regexp.MustCompile(`^(utils?|common|helpers?|managers?|types|pkg|misc|shared|base|lib)$`)

func TestTableNamesNouns(t *testing.T) {
	for dir := range packages {
		for part := range strings.SplitSeq(dir, "/") {
			if meaningless.MatchString(part) {
				t.Errorf("%s: %q says nothing about the problem; name the package by what it is", dir, part)
			}
		}
	}
	if !meaningless.MatchString("util") || meaningless.MatchString("nvme") {
		t.Error("the pattern does not bite")
	}
}

// importsPointOneWay: each import of ours is in the table.
func importsPointOneWay(fsys fs.FS) ([]string, error) {
	list, err := sources(fsys)
	if err != nil {
		return nil, err
	}
	var wrong []string
	for _, s := range list {
		for _, i := range s.imports() {
			other, ours := strings.CutPrefix(i, module+"/")
			if r, known := packages[s.dir()]; ours && known && !r.may(s, other) {
				wrong = append(wrong, fmt.Sprintf("%s: %s may not import %s; the table of packages says what it may", s.name, s.dir(), other))
			}
		}
	}
	return wrong, nil
}

func TestImportsPointOneWay(t *testing.T) {
	rule(importsPointOneWay).holds(t, map[string]string{
		"safety/nqn.go":           `package safety; import _ "srvlab.io/rds-csi/metrics"`,
		"safety/kernel/mount.go":  `package kernel; import _ "srvlab.io/rds-csi/safety"`,
		"driver/node/stage.go":    `package node; import _ "srvlab.io/rds-csi/driver/routeros"`,
		"driver/node/x_test.go":   `package node_test; import (_ "srvlab.io/rds-csi/driver/node"; _ "srvlab.io/rds-csi/test/routerostest/nvmet")`,
		"driver/nvme/x_test.go":   `package nvme; import _ "srvlab.io/rds-csi/driver/routeros"`,
		"metrics/rpc.go":          `package metrics; import _ "srvlab.io/rds-csi/driver"`,
		"driver/server.go":        `package driver; import _ "srvlab.io/rds-csi/metrics"`,
		"driver/routeros/disk.go": `package routeros; import _ "srvlab.io/rds-csi/test/routerostest"`,
	},
		"safety may not import metrics", "driver/node may not import driver/routeros", "driver/nvme may not import driver/routeros",
		"metrics may not import driver", "driver may not import metrics", "driver/routeros may not import test/routerostest")
}

// The halves must stay apart in the table itself, whatever row somebody adds.
func TestTableKeepsTheHalvesApart(t *testing.T) {
	for _, wrong := range crossed(packages) {
		t.Error(wrong)
	}
	bad := map[string]row{
		"driver/node":      {imports: []string{"supervisor"}},
		"supervisor":       {imports: []string{"driver"}},
		"metrics":          {imports: []string{"driver"}},
		"driver/nvme":      {imports: []string{"metrics"}},
		"safety":           {imports: []string{"metrics"}},
		"safety/kernel":    {imports: []string{"driver/nvme"}},
		"driver/routeros":  {imports: []string{"test/routerostest"}},
		"cmd/rds-csi-node": {imports: []string{"metrics", "driver"}},
	}
	if got := crossed(bad); len(got) != len(bad)-1 { // all but the command, which wires
		t.Errorf("the bad table: %q", got)
	}
}

// crossed gives the rows of a table that break the arrows of the design, with the reason.
func crossed(table map[string]row) []string {
	under := func(dir, top string) bool { return dir == top || strings.HasPrefix(dir, top+"/") }
	arrows := []struct{ from, to, why string }{
		{"safety", "driver", "everybody imports safety, it imports nobody"},
		{"safety", "supervisor", "everybody imports safety, it imports nobody"},
		{"safety", "metrics", "everybody imports safety, it imports nobody"},
		{"driver", "supervisor", "each half runs, and is tested, with the other dead"},
		{"supervisor", "driver", "each half runs, and is tested, with the other dead"},
		{"driver", "metrics", "nothing but cmd wires"},
		{"metrics", "driver", "metrics import safety alone"},
		{"metrics", "supervisor", "metrics import safety alone"},
		{"safety", "test", "not in production"},
		{"driver", "test", "not in production"},
		{"metrics", "test", "not in production"},
	}
	var wrong []string
	for _, dir := range sorted(table) {
		for _, other := range table[dir].imports {
			for _, a := range arrows {
				if under(dir, a.from) && under(other, a.to) {
					wrong = append(wrong, fmt.Sprintf("the table lets %s import %s: %s", dir, other, a.why))
				}
			}
		}
	}
	return wrong
}

// pure lists what safety may import: nothing that reads, writes, waits, logs or knows the time of day. crypto/sha1
// is RFC 9562's hash of a version 5 UUID, and encoding/* turns bytes into names.
var pure = regexp.MustCompile(`^(cmp|errors|fmt|maps|regexp|slices|strconv|strings|time|crypto/sha1|encoding/[a-z0-9]+)$`)

// tools are imports that only some packages outside test/ may have.
var tools = []struct {
	imports *regexp.Regexp
	why     string
	may     func(dir string, r row) bool
}{
	{
		regexp.MustCompile(`^(os/exec|k8s\.io/utils/exec)$`), "only the data path runs programs",
		func(_ string, r row) bool { return r.runs },
	},
	{
		regexp.MustCompile(`^log/slog$`), "a library returns its errors; the interceptor and the loops log them",
		func(_ string, r row) bool { return r.logs },
	},
	{
		regexp.MustCompile(`^golang\.org/x/crypto/ssh`), "one package speaks to the array, so that no other can hold a key",
		func(dir string, _ row) bool { return dir == "driver/routeros" || dir == "cmd/routeros-emulator" },
	},
	{
		regexp.MustCompile(`^github\.com/prometheus/`), "components report through functions; metrics knows the library, and cmd wires",
		func(dir string, _ row) bool { return dir == "metrics" || strings.HasPrefix(dir, "cmd/") },
	},
	{
		regexp.MustCompile(`^(testing|testing/.*)$`), "not in production code: it registers flags and keeps dead code alive",
		func(string, row) bool { return false },
	},
	{
		regexp.MustCompile(`^k8s\.io/client-go`), "neither driver nor controller asks the API server",
		func(string, row) bool { return false },
	},
	{
		regexp.MustCompile(`^(log|k8s\.io/klog/v2)$`), "log/slog is the one logger",
		func(string, row) bool { return false },
	},
}

// onlyAllowedTools: production files import only what their package may use.
func onlyAllowedTools(fsys fs.FS) ([]string, error) {
	list, err := sources(fsys)
	if err != nil {
		return nil, err
	}
	var wrong []string
	for _, s := range list {
		if s.test || strings.HasPrefix(s.name, "test/") {
			continue
		}
		for _, i := range s.imports() {
			if s.dir() == "safety" && !pure.MatchString(i) && !strings.HasPrefix(i, module) {
				wrong = append(wrong, fmt.Sprintf("%s: safety may not import %s: it needs nothing but its arguments", s.name, i))
			}
			for _, tool := range tools {
				if tool.imports.MatchString(i) && !tool.may(s.dir(), packages[s.dir()]) {
					wrong = append(wrong, fmt.Sprintf("%s: %s may not import %s: %s", s.name, s.dir(), i, tool.why))
				}
			}
		}
	}
	return wrong, nil
}

func TestToolsStayWhereTheyBelong(t *testing.T) {
	rule(onlyAllowedTools).holds(t, map[string]string{
		"safety/nqn.go":           `package safety; import (_ "os"; _ "strings"; _ "encoding/hex"; _ "math/rand/v2"; _ "context")`,
		"safety/nqn_test.go":      `package safety; import (_ "os"; _ "testing")`,
		"driver/nvme/connect.go":  `package nvme; import (_ "os"; _ "os/exec"; _ "log/slog")`,
		"driver/node/mkfs.go":     `package node; import (_ "os/exec"; _ "golang.org/x/crypto/ssh")`,
		"driver/server.go":        `package driver; import (_ "log/slog"; _ "testing"; _ "github.com/prometheus/client_golang/prometheus")`,
		"test/vm/main.go":         `package main; import (_ "os/exec"; _ "log")`,
		"cmd/rds-csi-node/api.go": `package main; import (_ "k8s.io/client-go/kubernetes"; _ "k8s.io/klog/v2"; _ "k8s.io/utils/exec")`,
	},
		"safety may not import os", "safety may not import math/rand/v2", "safety may not import context",
		"driver/nvme may not import os/exec", "driver/nvme may not import log/slog", "driver/node may not import golang.org/x/crypto/ssh",
		"driver may not import testing", "driver may not import github.com/prometheus", "cmd/rds-csi-node may not import k8s.io/client-go",
		"cmd/rds-csi-node may not import k8s.io/klog/v2", "cmd/rds-csi-node may not import k8s.io/utils/exec")
}

// libraries are the modules that the root module may require, with the reason: whoever installs the driver gets them.
// What only tests want has a go.mod of its own.
var libraries = map[string]string{
	"github.com/container-storage-interface/spec": "the interface",
	"github.com/moby/sys/mountinfo":               "parses mountinfo, and is strict where we ask it to be",
	"github.com/prometheus/client_golang":         "metrics",
	"github.com/sony/gobreaker/v2":                "the circuit breaker of an array; has no dependency itself",
	"golang.org/x/crypto":                         "SSH",
	"golang.org/x/sys":                            "system calls",
	"google.golang.org/grpc":                      "CSI's transport",
	"google.golang.org/protobuf":                  "CSI's messages",
	"sigs.k8s.io/yaml":                            "arrays.yaml",
}

// onlyKnownLibraries: packages of the root module import nothing but the standard library, each other, and libraries.
func onlyKnownLibraries(fsys fs.FS) ([]string, error) {
	list, err := sources(fsys)
	if err != nil {
		return nil, err
	}
	names, err := files(fsys)
	if err != nil {
		return nil, err
	}
	own := func(s source) bool { // in a module of its own
		return slices.ContainsFunc(names, func(name string) bool {
			return path.Base(name) == "go.mod" && name != "go.mod" && strings.HasPrefix(s.name, path.Dir(name)+"/")
		})
	}
	known := sorted(libraries)
	var wrong []string
	for _, s := range list {
		if own(s) {
			continue
		}
		for _, i := range s.imports() {
			first, _, _ := strings.Cut(i, "/")
			ours := i == module || strings.HasPrefix(i, module+"/")
			if strings.Contains(first, ".") && !ours && !slices.ContainsFunc(known, func(l string) bool { return i == l || strings.HasPrefix(i, l+"/") }) {
				wrong = append(wrong, fmt.Sprintf("%s: %s is a new dependency; give its reason in libraries, or move the test into a module of its own", s.name, i))
			}
		}
	}
	return wrong, nil
}

func TestOnlyKnownLibraries(t *testing.T) {
	rule(onlyKnownLibraries).holds(t, map[string]string{
		"driver/x.go":         `package driver; import (_ "fmt"; _ "golang.org/x/sys/unix"; _ "golang.org/x/sysinfo"; _ "srvlab.io/rds-csi/safety")`,
		"driver/x_test.go":    `package driver; import _ "github.com/stretchr/testify/assert"`,
		"test/sanity/go.mod":  "module srvlab.io/rds-csi/test/sanity",
		"test/sanity/x.go":    `package sanity; import _ "github.com/onsi/ginkgo/v2"`,
		"test/sanity2/y.go":   `package sanity2; import _ "github.com/onsi/gomega"`,
		"go.mod":              "module srvlab.io/rds-csi",
		"cmd/rds-csi/main.go": `package main; import _ "github.com/spf13/cobra"`,
	}, "golang.org/x/sysinfo", "testify", "gomega", "cobra")
}

// refusal: the sentence of a production package says what it refuses to do.
var refusal = regexp.MustCompile(`\b(refuses?|never|nothing|nobody|neither|no|not|none|only|alone)\b`)

// onePackageSentence: each package says in exactly one file what it does and what it refuses to do.
func onePackageSentence(fsys fs.FS) ([]string, error) {
	list, err := sources(fsys)
	if err != nil {
		return nil, err
	}
	var wrong []string
	there := byPackage(list)
	for _, dir := range sorted(there) {
		var in []string
		for _, s := range there[dir] {
			if s.test || s.file.Doc == nil {
				continue
			}
			in = append(in, path.Base(s.name))
			text := strings.Join(strings.Fields(s.file.Doc.Text()), " ")
			start := "Package " + s.file.Name.Name + " "
			if s.file.Name.Name == "main" {
				start = "Command " + path.Base(dir) + " "
			}
			if !strings.HasPrefix(text, start) {
				wrong = append(wrong, fmt.Sprintf("%s: the package sentence does not start with %q", s.name, start))
			}
			if !refusal.MatchString(text) {
				wrong = append(wrong, s.name+": the package sentence does not say what the package refuses to do")
			}
		}
		switch len(in) {
		case 0:
			wrong = append(wrong, dir+": no file has the package sentence")
		case 1:
		default:
			wrong = append(wrong, fmt.Sprintf("%s: more than one file has a package sentence: %s", dir, strings.Join(in, ", ")))
		}
	}
	return wrong, nil
}

func TestOnePackageSentence(t *testing.T) {
	rule(onePackageSentence).holds(t, map[string]string{
		"safety/doc.go":    "// Package safety decides; it refuses to act.\npackage safety",
		"safety/nqn.go":    "// Package safety has names and nothing else.\npackage safety",
		"metrics/rpc.go":   "package metrics",
		"driver/server.go": "// Package driver serves.\npackage driver",
		"cmd/x/main.go":    "// Package main is never a name.\npackage main",
		"cmd/y/main.go":    "// Command y runs, and nothing else.\npackage main",
	},
		"safety: more than one file", "metrics: no file has the package sentence", "driver/server.go: the package sentence does not say",
		`cmd/x/main.go: the package sentence does not start with "Command x "`)
}

// nothingEmpty: no directory without a file, no package without a declaration or a test.
func nothingEmpty(fsys fs.FS) ([]string, error) {
	var wrong []string
	list, err := sources(fsys)
	if err != nil {
		return nil, err
	}
	there := byPackage(list)
	for _, dir := range sorted(there) {
		if !slices.ContainsFunc(there[dir], func(s source) bool { return slices.ContainsFunc(s.file.Decls, declares) }) {
			wrong = append(wrong, dir+": a package that declares nothing")
		}
	}
	err = fs.WalkDir(fsys, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || !d.IsDir() {
			return err
		}
		if slices.Contains(made, name) {
			return fs.SkipDir
		}
		entries, err := fs.ReadDir(fsys, name)
		if len(entries) == 0 && err == nil {
			wrong = append(wrong, name+": an empty directory")
		}
		return err
	})
	return wrong, err
}

// declares tells whether a declaration is more than an import.
func declares(d ast.Decl) bool {
	gen, ok := d.(*ast.GenDecl)
	return !ok || slices.ContainsFunc(gen.Specs, func(s ast.Spec) bool { _, isImport := s.(*ast.ImportSpec); return !isImport })
}

func TestNothingIsEmpty(t *testing.T) {
	rule(nothingEmpty).holds(t, map[string]string{
		"supervisor/doc.go": "// Package supervisor comes later.\npackage supervisor\nimport _ \"fmt\"",
		"deploy/helm/":      "",
		"safety/x_test.go":  "package safety\nfunc TestX() {}",
		"bin/":              "",
	}, "supervisor: a package that declares nothing", "deploy/helm: an empty directory")
}
