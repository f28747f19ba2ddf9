package safety

import (
	"strings"
	"testing"
)

func TestNewHost(t *testing.T) {
	for _, test := range []struct{ name, cluster, node, err string }{
		{"a node", "c1", "worker-1", ""},
		{"a fully qualified name", "c1", "worker-1.example.org", ""},
		{"one letter", "c1", "a", ""},
		{"a cluster ID of free text", "Hauptstraße 7 / rack 3", "worker-1", ""},
		{"the longest", "c1", strings.Repeat("n", 180), ""},
		{"longer than CSINode takes with the mark", "c1", strings.Repeat("n", 181), "at most 180 bytes"},
		// With an empty one, two clusters with nodes of the same name would be one host to the array.
		{"no cluster ID", "", "worker-1", "the cluster ID is empty"},
		{"no node", "c1", "", `node name ""`},
		{"a slash, which ends the name in the node ID", "c1", "a/b", `node name "a/b"`},
		{"a comma, which ends the name in the disk's comment", "c1", "a,b", `node name "a,b"`},
		{"a blank", "c1", "a b", `node name "a b"`},
		{"capitals", "c1", "Worker-1", `node name "Worker-1"`},
		{"ends in a dot", "c1", "worker-1.", `node name "worker-1."`},
		{"starts with a hyphen", "c1", "-worker", `node name "-worker"`},
		{"a line end", "c1", "worker\n", `node name "worker\n"`},
	} {
		t.Run(test.name, func(t *testing.T) {
			h, err := NewHost(test.cluster, test.node)
			errorHas(t, err, test.err)
			if err != nil && h != (Host{}) {
				t.Errorf("a refused host is %+v", h)
			}
			if err == nil && h.Node != test.node {
				t.Errorf("the node is %q", h.Node)
			}
		})
	}
}

// TestHostIsGolden: a change would give every node a new host NQN, and the array would let none of them in.
// The values were made with Python's uuid.uuid5.
func TestHostIsGolden(t *testing.T) {
	h, err := NewHost("c1", "worker-1")
	if err != nil {
		t.Fatal(err)
	}
	if got, want := h.NQN(), NQN("nqn.2014-08.org.nvmexpress:uuid:2ff58360-9663-5a86-80be-ee6348cb3fc0"); got != want {
		t.Errorf("host NQN %s, want %s", got, want)
	}
	if got, want := h.ID(), "worker-1/2ff58360"; got != want {
		t.Errorf("node ID %s, want %s", got, want)
	}
	if _, err := ParseNQN(string(h.NQN())); err != nil {
		t.Error(err)
	}
}

// TestHostsDiffer: another node, another cluster, and the same letters split in another place are other hosts.
func TestHostsDiffer(t *testing.T) {
	seen := map[UUID]string{}
	for _, h := range [][2]string{{"c1", "worker-1"}, {"c1", "worker-2"}, {"c2", "worker-1"}, {"c1w", "orker-1"}, {"c1worker-1", "a"}} {
		host, err := NewHost(h[0], h[1])
		if err != nil {
			t.Fatal(err)
		}
		name := h[0] + " " + h[1]
		if other, twice := seen[host.UUID]; twice {
			t.Errorf("%s and %s are one host to the array", other, name)
		}
		seen[host.UUID] = name
	}
}

func TestParseNodeID(t *testing.T) {
	want, err := NewHost("c1", "worker-1")
	if err != nil {
		t.Fatal(err)
	}
	got, err := ParseNodeID("c1", want.ID())
	if err != nil || got != want {
		t.Errorf("ParseNodeID(%q) gives %+v, %v; want %+v", want.ID(), got, err, want)
	}
	for _, test := range []struct{ name, cluster, id, err string }{
		{"empty", "c1", "", "is not <node name>/"},
		{"a bare name", "c1", "worker-1", "is not <node name>/"},
		{"no digits", "c1", "worker-1/", "is --cluster-id the same"},
		{"another node's digits", "c1", "worker-2/" + want.ID()[len("worker-1/"):], "is --cluster-id the same"},
		{"another cluster's node", "c2", want.ID(), "is --cluster-id the same"},
		{"more behind it", "c1", want.ID() + "/x", "is --cluster-id the same"},
		{"no node name", "c1", "/00000000", `node name ""`},
		{"no cluster ID", "", want.ID(), "the cluster ID is empty"},
	} {
		t.Run(test.name, func(t *testing.T) {
			h, err := ParseNodeID(test.cluster, test.id)
			errorHas(t, err, test.err)
			if h != (Host{}) {
				t.Errorf("gives %+v, want no host", h)
			}
		})
	}
}

// FuzzParseNodeID: an accepted ID is the one writing of its host, and fits into CSINode.
func FuzzParseNodeID(f *testing.F) {
	f.Add("c1", "worker-1")
	f.Add("c1", "worker-1/00000000")
	f.Add("", "/")
	f.Add("c\x001", "a/b/c")
	f.Fuzz(func(t *testing.T, cluster, s string) {
		if h, err := ParseNodeID(cluster, s); err == nil && h.ID() != s || err != nil && h != (Host{}) {
			t.Fatalf("%q is %+v with the ID %q, %v", s, h, h.ID(), err)
		}
		h, err := NewHost(cluster, s)
		if err != nil {
			return
		}
		back, err := ParseNodeID(cluster, h.ID())
		if err != nil || back != h || len(h.ID()) > 192 {
			t.Fatalf("%+v has the ID %q, which is %+v, %v", h, h.ID(), back, err)
		}
	})
}
