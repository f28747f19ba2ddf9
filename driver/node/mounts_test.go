package node

import (
	"testing"

	"srvlab.io/rds-csi/safety"
	"srvlab.io/rds-csi/safety/kernel"
)

func TestCarrier(t *testing.T) {
	all := []kernel.Mount{
		{ID: 1, Point: "/"},
		{ID: 2, Point: "/var"},
		{ID: 3, Point: "/var/lib/kubelet"},
		{ID: 4, Point: "/var/lib/kubelet/pods"},
		{ID: 5, Point: "/var/lib/kubelet/pods"},
		{ID: 6, Point: "/var/lib/kube"},
	}
	for path, want := range map[string]int{
		"/etc":                     1,
		"/variety":                 1,
		"/var/log":                 2,
		"/var/lib/kubelet/x":       3,
		"/var/lib/kubelet/pods/1":  5, // the upper one of the stack
		"/var/lib/kubelet/pods":    5,
		"/var/lib/kubelet/podsx/1": 3,
	} {
		if m, found := carrier(all, path); !found || m.ID != want {
			t.Errorf("%s is on mount %d, want %d", path, m.ID, want)
		}
	}
	if _, found := carrier(nil, "/x"); found {
		t.Error("a path on no mount at all has a carrier")
	}
}

func TestWritable(t *testing.T) {
	for _, c := range []struct {
		options string
		ro      bool
		want    bool
		reason  safety.Reason
	}{
		{"rw,stripe=4", false, true, ""},
		{"ro,stripe=4", true, true, safety.StaleMount},
		{"ro,stripe=4", true, false, ""},
		{"rw", false, false, safety.StaleMount},
		{"rw,emergency_ro", false, true, safety.StaleMount},
		{"rw,shutdown", false, true, safety.StaleMount},
	} {
		err := writable(kernel.Mount{SuperOptions: c.options, SuperReadOnly: c.ro}, c.want)
		if safety.ReasonOf(err) != c.reason {
			t.Errorf("%s wanted writable %t: %v, want %q", c.options, c.want, err, c.reason)
		}
	}
}

// A failed call says whether it has changed something: kubelet unstages only what it does not take for final.
func TestMark(t *testing.T) {
	plain := safety.Refuse(safety.NotBlank, errTooSmall)
	for _, c := range []struct {
		name    string
		in      error
		touched bool
		want    bool
	}{
		{"nothing was changed", plain, false, false},
		{"something was", safety.Refuse(safety.NotBlank, errTooSmall), true, true},
		{"without a reason", errTooSmall, true, true},
	} {
		err := mark(c.in, c.touched)
		r, is := err.(*safety.Refusal) //nolint:errorlint // the outermost is what the interceptor looks at
		if got := is && r.Touched; got != c.want {
			t.Errorf("%s: touched=%t, want %t (%v)", c.name, got, c.want, err)
		}
	}
	if mark(nil, true) != nil {
		t.Error("a call that went well is marked")
	}
}
