package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"srvlab.io/rds-csi/test/vm/machine"
)

// TestSuite runs real tests of all the bad kinds, on this host instead of in a machine.
func TestSuite(t *testing.T) {
	packages, err := findPackages(t.Context(), []string{"testdata/suite/..."})
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]struct {
		counts counts
		output []string // lines, as regular expressions
	}{
		// Three tests and one of two subtests; the test without the tag does not run.
		"good": {counts{3, 0, 1}, []string{`no line end`, `--- SKIP: TestA/sub .*`, `ok  \tsuite.test/good\t.*`}},
		"fails": {counts{1, 2, 0}, []string{
			`--- FAIL: TestFails .*`, ` *--- FAIL: TestFails/sub .*`, `FAIL\tsuite.test/fails\t.* \(exit code 1\)`,
		}},
		"panics": {counts{1, 2, 0}, []string{
			`panic: boom`, `--- FAIL: TestPanics \(ended without a result\)`, `--- FAIL: TestZNeverStarts \(did not run\)`,
		}},
		"exits": {counts{0, 1, 0}, []string{`--- FAIL: TestFails .*`, `FAIL\tsuite.test/exits\t.* \(exit code 0\)`}},
		"skips": {counts{0, 3, 1}, []string{
			`--- FAIL: TestLazy \(skipped, and the reason "needs root" .*`, `--- FAIL: TestSays .*"flaky".*`,
		}},
		"hangs": {counts{0, 1, 0}, []string{
			`panic: test timed out after 2s`, `--- FAIL: TestHangs \(ended without a result\)`,
		}},
		"silent": {counts{0, 1, 0}, []string{`--- FAIL: TestNeverRuns \(did not run\)`}},
	}
	if len(packages) != len(want) {
		t.Errorf("found %d packages, want %d", len(packages), len(want))
	}
	bin := t.TempDir()
	if err := compile(t.Context(), packages, bin); err != nil {
		t.Fatal(err)
	}
	for _, pkg := range packages {
		name := filepath.Base(pkg.dir)
		t.Run(name, func(t *testing.T) {
			var out bytes.Buffer
			s := settings{timeout: time.Minute}
			if name == "hangs" {
				s.timeout = 2 * time.Second
			}
			got := runPackage(t.Context(), s, &hostPlace{disk: bin}, pkg, &out)
			if got != want[name].counts {
				t.Errorf("got %v, want %v", got, want[name].counts)
			}
			for _, line := range want[name].output {
				if !regexp.MustCompile(`(?m)^` + line + `$`).Match(out.Bytes()) {
					t.Errorf("no line %s", line)
				}
			}
			if bytes.IndexByte(out.Bytes(), marker) >= 0 {
				t.Error("a marker is left in the output")
			}
			if t.Failed() {
				t.Log(out.String())
			}
		})
	}
}

// watchedPlace records what is asked of a place, and runs every test binary as if it had the exit code 1 or 0.
type watchedPlace struct {
	hostPlace
	asked []string
}

func (w *watchedPlace) run(_ context.Context, c machine.Command) (int, error) {
	name := filepath.Base(c.Args[0])
	w.asked = append(w.asked, name)
	if name == "bad" {
		return 1, nil
	}
	_, err := io.WriteString(c.Stdout, "\x16=== RUN   TestA\n\x16--- PASS: TestA (0.00s)\n")
	return 0, err
}

func (w *watchedPlace) spoiled() { w.asked = append(w.asked, "new place") }

// TestFailureDoesNotSpread: after a failed package the next one gets a clean place, after a good one it does not.
func TestFailureDoesNotSpread(t *testing.T) {
	w := &watchedPlace{}
	packages := []*testPackage{{bin: "good1"}, {bin: "bad"}, {bin: "good2"}, {bin: "good3"}}
	got := runPackages(t.Context(), settings{}, w, packages, nil, &bytes.Buffer{})
	if got != (counts{3, 1, 0}) {
		t.Errorf("counts %v", got)
	}
	if asked := strings.Join(w.asked, ", "); asked != "good1, bad, new place, good2, good3" {
		t.Error(asked)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	w = &watchedPlace{}
	if runPackages(ctx, settings{}, w, packages, nil, &bytes.Buffer{}); len(w.asked) > 0 {
		t.Errorf("after an interrupt: %q", w.asked)
	}
}

// TestResults: what a guest that dies in mid-line leaves.
func TestResults(t *testing.T) {
	const start = "\x16=== RUN   TestA\nso far\x16--- PASS: TestA (0.00s)\n\x16=== NAME  \n\x16=== RUN   TestB\nlast wo"
	var out bytes.Buffer
	r := newResults(&out)
	for i := range len(start) { // byte by byte, as a slow line may bring it
		if _, err := r.Write([]byte(start[i : i+1])); err != nil {
			t.Fatal(err)
		}
	}
	if got := r.finish([]string{"TestA", "TestB", "TestC"}, 0, errors.New("gone")); got != (counts{1, 2, 0}) {
		t.Errorf("counts %v", got)
	}
	want := "=== RUN   TestA\nso far\n--- PASS: TestA (0.00s)\n=== RUN   TestB\nlast wo\n" +
		"--- FAIL: TestB (ended without a result)\n--- FAIL: TestC (did not run)\n"
	if out.String() != want {
		t.Errorf("got %q, want %q", out.String(), want)
	}

	const pass = "\x16=== RUN   TestA\n\x16--- PASS: TestA (0.00s)\n"
	for name, tt := range map[string]struct {
		text string
		code int
		err  error
		want counts
	}{
		"exit code without a failed test": {pass, 2, nil, counts{1, 1, 0}},
		"error without a failed test":     {pass, 0, errors.New("x"), counts{1, 1, 0}},
		"nothing at all":                  {"", 0, nil, counts{0, 1, 0}},
	} {
		r := newResults(&bytes.Buffer{})
		_, _ = r.Write([]byte(tt.text))
		if got := r.finish(nil, tt.code, tt.err); got != tt.want {
			t.Errorf("%s: got %v, want %v", name, got, tt.want)
		}
	}
	for c, good := range map[counts]bool{{1, 0, 0}: true, {1, 0, 5}: true, {0, 0, 5}: false, {}: false, {9, 1, 0}: false} {
		if c.good() != good {
			t.Errorf("%v: good is %v", c, c.good())
		}
	}
}

func TestNoPlaceIsAFailure(t *testing.T) {
	var out bytes.Buffer
	got := runPackages(t.Context(), settings{}, &hostPlace{}, nil, errors.New("no machine"), &out)
	if got.good() || got.failed != 1 || !strings.Contains(out.String(), "no machine\nFAIL\t") {
		t.Errorf("counts %v, output %q", got, out.String())
	}
}

func TestFindPackages(t *testing.T) {
	packages, err := findPackages(t.Context(), []string{"testdata/suite/good", "machine"})
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(packages[0].tests, " "); got != "TestA TestPlace" {
		t.Errorf("tests of good: %q", got)
	}
	if got := packages[1]; got.path != "srvlab.io/rds-csi/test/vm/machine" || !filepath.IsAbs(got.dir) {
		t.Errorf("package of another module: %+v", got)
	}
	for _, pattern := range []string{".", "testdata", "no/such/directory"} {
		if p, err := findPackages(t.Context(), []string{pattern}); err == nil {
			t.Errorf("%s: found %d packages and no error", pattern, len(p))
		}
	}
}

func TestModulePatterns(t *testing.T) {
	root, err := repository()
	if err != nil {
		t.Fatal(err)
	}
	patterns, err := modulePatterns(root)
	if err != nil {
		t.Fatal(err)
	}
	all := strings.Join(patterns, " ")
	if !strings.HasPrefix(all, root+"/...") || !strings.Contains(all, root+"/test/sanity/...") ||
		strings.Contains(all, "testdata") {
		t.Errorf("%q", patterns)
	}
}

func TestMissingNamesTheRemedy(t *testing.T) {
	root := t.TempDir()
	for _, n := range needed[1:] {
		if err := os.MkdirAll(root+n.file, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	err := missing(root)
	if err == nil || err.Error() != "/dev/nvme-fabrics is missing: modprobe nvme-tcp" {
		t.Errorf("error %v", err)
	}
	if err := os.MkdirAll(root+needed[0].file, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := missing(root); err != nil {
		t.Errorf("all is there: %v", err)
	}
}

func TestWrongUse(t *testing.T) {
	for _, args := range [][]string{
		{"--no-such-flag"},
		{"--suite", "--shell"},
		{"--suite", "--", "true"},
		{"--shell", "true"},
		{"--kernels", "6.1,6.12", "true"},
		{"--kernels=6.1,6.12"},
		{"--timeout", "soon", "true"},
	} {
		if code, err := run(args); code != exitUsage || err == nil {
			t.Errorf("%q: exit code %d, error %v", args, code, err)
		}
	}
}

func TestPrefixWriter(t *testing.T) {
	var out bytes.Buffer
	fmt.Fprint(&prefixWriter{w: &out, prefix: "6.1 | ", mu: &sync.Mutex{}}, "a\nb\n")
	if out.String() != "6.1 | a\n6.1 | b\n" {
		t.Errorf("%q", out.String())
	}
}
