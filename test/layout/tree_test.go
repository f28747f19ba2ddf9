package layout

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/fstest"
)

// module is the import path of the repository's root.
const module = "srvlab.io/rds-csi"

// repository is the tree that the rules are for. go test runs in test/layout.
var repository = os.DirFS("../..")

// made lists what the build or git leaves in a work tree and nobody wrote.
var made = []string{".git", "bin", "out"}

// A rule looks at a tree and gives one line for each thing that is wrong in it.
type rule func(fs.FS) ([]string, error)

// holds fails the test for whatever is wrong in the repository, and if the rule finds nothing wrong in bad, a tree
// that breaks it: a rule that cannot fail is no rule. Each of want must occur in what it says about bad.
func (r rule) holds(t *testing.T, bad map[string]string, want ...string) {
	t.Helper()
	wrong, err := r(repository)
	if err != nil {
		t.Fatal(err)
	}
	for _, w := range wrong {
		t.Error(w)
	}
	r.bites(t, bad, want...)
}

// bites fails the test unless the rule says each of want about the tree bad, and nothing else.
func (r rule) bites(t *testing.T, bad map[string]string, want ...string) {
	t.Helper()
	fsys := fstest.MapFS{}
	for name, text := range bad {
		if dir, ok := strings.CutSuffix(name, "/"); ok {
			fsys[dir] = &fstest.MapFile{Mode: fs.ModeDir | 0o755}
			continue
		}
		fsys[name] = &fstest.MapFile{Data: []byte(text), Mode: 0o644}
	}
	wrong, err := r(fsys)
	if err != nil {
		t.Fatalf("on the bad tree: %v", err)
	}
	for _, w := range want {
		i := slices.IndexFunc(wrong, func(line string) bool { return strings.Contains(line, w) })
		if i < 0 {
			t.Errorf("the bad tree: nothing says %q; said:\n\t%s", w, strings.Join(wrong, "\n\t"))
			continue
		}
		wrong = slices.Delete(wrong, i, i+1)
	}
	for _, w := range wrong {
		t.Errorf("the bad tree: not expected: %s", w)
	}
}

// source is one Go file.
type source struct {
	name string // slash-separated, from the root of the repository
	test bool   // its name ends in _test.go
	tags string // its //go:build line without "//go:build ", or ""
	file *ast.File
	fset *token.FileSet
}

// dir gives the package's directory.
func (s source) dir() string { return path.Dir(s.name) }

// imports gives the import paths of the file.
func (s source) imports() []string {
	var paths []string
	for _, i := range s.file.Imports {
		if p, err := strconv.Unquote(i.Path.Value); err == nil {
			paths = append(paths, p)
		}
	}
	return paths
}

// at gives "file:line" of a node.
func (s source) at(n ast.Node) string {
	return fmt.Sprintf("%s:%d", s.name, s.fset.Position(n.Pos()).Line)
}

// files gives the names of all files that somebody wrote, sorted.
func files(fsys fs.FS) ([]string, error) {
	var names []string
	err := fs.WalkDir(fsys, ".", func(name string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && slices.Contains(made, name):
			return fs.SkipDir
		case !d.IsDir():
			names = append(names, name)
		}
		return nil
	})
	return names, err
}

// sources parses all Go files outside testdata.
func sources(fsys fs.FS) ([]source, error) {
	names, err := files(fsys)
	if err != nil {
		return nil, err
	}
	var list []source
	for _, name := range names {
		if path.Ext(name) != ".go" || strings.Contains("/"+name, "/testdata/") {
			continue
		}
		text, err := fs.ReadFile(fsys, name)
		if err != nil {
			return nil, err
		}
		fset := token.NewFileSet()
		file, err := parser.ParseFile(fset, name, text, parser.ParseComments|parser.SkipObjectResolution)
		if err != nil {
			return nil, fmt.Errorf("parse %s: %w", name, err)
		}
		list = append(list, source{name, strings.HasSuffix(name, "_test.go"), buildLine(file), file, fset})
	}
	return list, nil
}

// buildLine gives the constraint of a file's //go:build line.
func buildLine(f *ast.File) string {
	for _, group := range f.Comments {
		for _, c := range group.List {
			if tags, ok := strings.CutPrefix(c.Text, "//go:build "); ok && c.Pos() < f.Package {
				return tags
			}
		}
	}
	return ""
}

// byPackage groups the files by directory.
func byPackage(list []source) map[string][]source {
	m := map[string][]source{}
	for _, s := range list {
		m[s.dir()] = append(m[s.dir()], s)
	}
	return m
}

// sorted gives the keys of a map in order, so that the rules speak in the same order every time.
func sorted[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
