package main

import (
	"bytes"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"
)

// skipMarker starts the message of the one kind of skip that is no failure: this kernel does not have something that
// the driver does without, too. A test that skips for any other reason has not tested anything, and nobody notices.
const skipMarker = "kernel: "

// counts are those of one package on one kernel, or of a whole run. Subtests count, as they do for go test.
type counts struct{ passed, failed, skipped int }

func (c *counts) add(o counts) {
	c.passed += o.passed
	c.failed += o.failed
	c.skipped += o.skipped
}

func (c counts) String() string {
	return fmt.Sprintf("%d passed, %d failed, %d skipped", c.passed, c.failed, c.skipped)
}

// good tells whether a run may be called green. One in which nothing passed tested nothing.
func (c counts) good() bool { return c.failed == 0 && c.passed > 0 }

// results reads what a test binary prints under -test.v=test2json, and hands on plain `go test -v` output. Only lines
// behind the marker byte count: a program under test can print "--- PASS" as often as it likes.
type results struct {
	out     io.Writer
	counts  counts
	line    []byte            // an incomplete line
	current string            // the test that prints
	running map[string]bool   // started, without a result
	seen    map[string]bool   // started
	said    map[string]string // the last log line of a test, without its place
}

func newResults(out io.Writer) *results {
	return &results{out: out, running: map[string]bool{}, seen: map[string]bool{}, said: map[string]string{}}
}

// marker is what the testing package prints before its own lines (cmd/test2json).
const marker = 0x16

func (r *results) Write(b []byte) (int, error) {
	r.line = append(r.line, b...)
	for {
		end := bytes.IndexByte(r.line, '\n')
		if end < 0 {
			return len(b), nil
		}
		text := string(r.line[:end])
		r.line = r.line[end+1:]
		if err := r.read(text); err != nil {
			return 0, err
		}
	}
}

// read takes one line. The marker may stand in its middle, when a test has printed something without a line end.
func (r *results) read(text string) error {
	before, own, marked := strings.Cut(text, string(rune(marker)))
	if !marked {
		r.note(text)
		return r.print(text)
	}
	if before != "" {
		if err := r.print(before); err != nil {
			return err
		}
	}
	if strings.TrimSpace(own) == "=== NAME" {
		r.current = "" // between two tests
		return nil
	}
	return r.print(r.event(own))
}

func (r *results) print(text string) error {
	_, err := fmt.Fprintln(r.out, text)
	return err
}

var (
	startLine  = regexp.MustCompile(`^=== (RUN|PAUSE|CONT|NAME) +(.*)$`)
	resultLine = regexp.MustCompile(`^ *--- (PASS|FAIL|SKIP): (.+) (\([0-9.]+s\))$`)
	logLine    = regexp.MustCompile(`^ +[^ :]+\.go:[0-9]+: (.*)$`)
)

// note remembers what a test said last: for a skipped one, that is why.
func (r *results) note(text string) {
	if m := logLine.FindStringSubmatch(text); m != nil {
		r.said[r.current] = m[1]
	}
}

// event takes a line of the testing package and gives the one to print.
func (r *results) event(text string) string {
	if m := startLine.FindStringSubmatch(text); m != nil {
		r.current = m[2]
		if m[1] == "RUN" {
			r.running[m[2]], r.seen[m[2]] = true, true
		}
		return text
	}
	m := resultLine.FindStringSubmatch(text)
	if m == nil {
		return text
	}
	name := m[2]
	delete(r.running, name)
	switch m[1] {
	case "PASS":
		r.counts.passed++
	case "FAIL":
		r.counts.failed++
	case "SKIP":
		if !strings.HasPrefix(r.said[name], skipMarker) {
			return r.fail(name, fmt.Sprintf("skipped, and the reason %q does not start with %q", r.said[name], skipMarker))
		}
		r.counts.skipped++
	}
	return text
}

// fail counts a failure that the test binary has not reported, and words it as the testing package would.
func (r *results) fail(name, why string) string {
	r.counts.failed++
	return fmt.Sprintf("--- FAIL: %s (%s)", name, why)
}

// finish takes the end of the test binary, and which tests it had to run. What has no result has failed.
func (r *results) finish(tests []string, code int, runErr error) counts {
	if len(r.line) > 0 {
		_ = r.read(string(r.line))
		r.line = nil
	}
	for _, name := range sortedKeys(r.running) {
		_ = r.print(r.fail(name, "ended without a result"))
	}
	for _, name := range tests {
		if !r.seen[name] {
			_ = r.print(r.fail(name, "did not run"))
		}
	}
	if r.counts.failed == 0 && (code != 0 || runErr != nil || r.counts.passed+r.counts.skipped == 0) {
		r.counts.failed++ // the package itself; the caller says so
	}
	return r.counts
}

func sortedKeys(m map[string]bool) []string {
	var keys []string
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}
