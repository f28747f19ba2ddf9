package guest

import (
	"context"
	"errors"
	"reflect"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"srvlab.io/rds-csi/test/demo/report"
)

func TestParseKernelLine(t *testing.T) {
	t.Parallel()
	got, err := parseKernelLine("6,339,5140900,-;nvme nvme0: new ctrl: NQN \"x;y\", addr 127.0.0.1:4420\n SUBSYSTEM=nvme\n")
	want := kernelLine{At: 5.1409, Text: `nvme nvme0: new ctrl: NQN "x;y", addr 127.0.0.1:4420`}
	if err != nil || got != want {
		t.Errorf("got %+v, %v", got, err)
	}
	for _, bad := range []string{"", "no semicolon", "6,1,-;text", "6,1,later,-;text"} {
		if got, err := parseKernelLine(bad); err == nil {
			t.Errorf("%q was read as %+v", bad, got)
		}
	}
}

func TestPathOf(t *testing.T) {
	t.Parallel()
	for status, want := range map[string]struct {
		path   string
		active bool
	}{
		"0 1048576 multipath 2 0 0 0 1 1 A 0 1 0 259:3 A 0 ": {"259:3", true},
		"0 1048576 multipath 2 1 0 0 1 1 E 0 1 0 259:3 F 2 ": {"259:3", false},
		"0 1048576 multipath 2 1 0 0 0 0":                    {"", false},
		"":                                                   {"", false},
		"0 1048576 multipath 259:3":                          {"", false},
	} {
		if path, active := pathOf(status); path != want.path || active != want.active {
			t.Errorf("%q: got %q, %v", status, path, active)
		}
	}
}

func TestCompare(t *testing.T) {
	t.Parallel()
	before := inventory{"mounts": {"8:1 / at /", "8:2 / at /v"}, "mappings": nil}
	after := inventory{"mounts": {"8:1 / at /", "8:1 / at /"}, "mappings": {"rdscsi-pvc-x"}}
	want := report.Left{
		Checked: []string{"mappings", "mounts"},
		Extra:   []string{"mappings: rdscsi-pvc-x", "mounts: 8:1 / at /"},
		Missing: []string{"mounts: 8:2 / at /v"},
	}
	if got := compare(before, after); !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
	if got := compare(before, before); len(got.Extra)+len(got.Missing) > 0 {
		t.Errorf("nothing changed: got %+v", got)
	}
}

func TestParents(t *testing.T) {
	t.Parallel()
	got := slices.Collect(parents("/k/pods/1/mount", "/k"))
	if want := []string{"/k/pods/1/mount", "/k/pods/1", "/k/pods"}; !slices.Equal(got, want) {
		t.Errorf("got %q", got)
	}
}

// TestConcerns: lines that the story of the outage is told with, and one that only adds noise.
func TestConcerns(t *testing.T) {
	t.Parallel()
	for line, want := range map[string]bool{
		"nvme nvme1: Reconnecting in 2 seconds...":                      true,
		"nvmet: creating nvm controller 2 for subsystem x for NQN y.":   true,
		"device-mapper: multipath: 253:0: Failing path 259:3.":          true,
		"EXT4-fs (dm-0): mounted filesystem r/w with ordered data mode": true,
		"random: crng init done":                                        false,
	} {
		if got := concerns.MatchString(line); got != want {
			t.Errorf("%q: got %v", line, got)
		}
	}
}

func TestUntil(t *testing.T) {
	t.Parallel()
	half := errors.New("half of it is there")
	for name, tc := range map[string]struct {
		is    func(look int) (bool, error)
		want  []string // in the error; none: no error
		after time.Duration
	}{
		"at once": {func(int) (bool, error) { return true, nil }, nil, 0},
		"an error comes right": {
			func(look int) (bool, error) {
				if look < 3 {
					return false, half
				}
				return true, nil
			}, nil, 2 * pollTime,
		},
		"never":         {func(int) (bool, error) { return false, half }, []string{"wait for it: not within 5s", half.Error()}, 5 * time.Second},
		"a final error": {func(int) (bool, error) { return false, final{half} }, []string{"wait for it: " + half.Error()}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithTimeoutCause(t.Context(), 5*time.Second, errors.New("not within 5s"))
				defer cancel()
				begin, looks := time.Now(), 0
				err := until(ctx, "it", func() (bool, error) {
					looks++
					return tc.is(looks)
				})
				if took := time.Since(begin); took != tc.after {
					t.Errorf("took %s, want %s", took, tc.after)
				}
				if (err != nil) != (tc.want != nil) {
					t.Errorf("got %v", err)
				}
				for _, want := range tc.want {
					if err != nil && !strings.Contains(err.Error(), want) {
						t.Errorf("got %v, want %q in it", err, want)
					}
				}
			})
		})
	}
}
