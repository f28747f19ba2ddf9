package routeros

import (
	"reflect"
	"strings"
	"testing"

	"srvlab.io/rds-csi/safety"
)

const testNQN = "nqn.2000-02.com.mikrotik:test-0a1b2c3d-0000-4000-8000-000000000001.g7"

func TestMark(t *testing.T) {
	for _, tt := range []struct {
		name string
		mark Mark
		want string
	}{
		{"new", Mark{NQN: testNQN, Cluster: "c", PV: "pv"}, "rds-csi nqn=" + testNQN + " cluster=c pv=pv node="},
		{
			"held by two",
			Mark{NQN: testNQN, Cluster: "c", PV: "pv", Nodes: []string{"a/01234567", "b/89abcdef"}, Mode: "rwx"},
			"rds-csi nqn=" + testNQN + " cluster=c pv=pv node=a/01234567,b/89abcdef mode=rwx",
		},
		{
			"odd names",
			Mark{NQN: testNQN, Cluster: "my cluster", PV: "a=b,c%\"ü", Nodes: []string{"n,1"}},
			"rds-csi nqn=" + testNQN + " cluster=my%20cluster pv=a%3Db%2Cc%25%22%C3%BC node=n%2C1",
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := tt.mark.String(); got != tt.want {
				t.Errorf("\n got %s\nwant %s", got, tt.want)
			}
			if got, err := ParseMark(tt.want); err != nil || !reflect.DeepEqual(got, tt.mark) {
				t.Errorf("reads as %+v, %v", got, err)
			}
		})
	}
}

func TestParseMarkRefuses(t *testing.T) {
	good := Mark{NQN: testNQN, Cluster: "c", PV: "pv", Nodes: []string{"n"}}.String()
	for name, comment := range map[string]string{
		"empty":         "",
		"a human's":     "do not delete",
		"only the word": "rds-csi ",
		"other order":   "rds-csi cluster=c nqn=" + testNQN + " pv=pv node=",
		"cut off":       good[:len(good)-2],
		"blank behind":  good + " ",
		"unknown field": good + " color=red",
		"twice":         good + " pv=pv",
		"bad escape":    strings.Replace(good, "pv=pv", "pv=%zz", 1),
		"other escape":  strings.Replace(good, "pv=pv", "pv=%70v", 1),
		"other case":    strings.Replace(good, "rds-csi", "RDS-CSI", 1),
	} {
		if m, err := ParseMark(comment); err == nil {
			t.Errorf("%s: %q reads as %+v", name, comment, m)
		}
	}
}

func FuzzMark(f *testing.F) {
	f.Add("c", "pv", "n1", "n2", "rwx")
	f.Fuzz(func(t *testing.T, cluster, pv, n1, n2, mode string) {
		m := Mark{NQN: testNQN, Cluster: cluster, PV: pv, Nodes: []string{n1, n2}, Mode: mode}
		s := m.String()
		got, err := ParseMark(s)
		if err != nil || !reflect.DeepEqual(got, m) {
			t.Fatalf("%q reads as %+v, %v", s, got, err)
		}
	})
}

func TestMarkGeneration(t *testing.T) {
	p, err := safety.ParsePrefix("nqn.2000-02.com.mikrotik:test-")
	if err != nil {
		t.Fatal(err)
	}
	if g, ok := (Mark{NQN: testNQN}).Generation(p); g != 7 || !ok {
		t.Errorf("got %d, %t", g, ok)
	}
	other, err := safety.ParsePrefix("nqn.2000-02.com.mikrotik:other-")
	if err != nil {
		t.Fatal(err)
	}
	if _, ok := (Mark{NQN: testNQN}).Generation(other); ok {
		t.Error("another cluster's mark is ours")
	}
}
