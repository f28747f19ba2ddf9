package routeros

import (
	"fmt"
	"net/url"
	"slices"
	"strings"

	"srvlab.io/rds-csi/safety"
)

// Mark is the mark of ownership in a disk's comment: who made the disk, and who holds it. It carries the NQN because
// RouterOS shows nvme-tcp-server-nqn only while the disk is exported. The zero value is no mark.
type Mark struct {
	NQN     safety.NQN // the last one used, "<prefix><uuid>.g<n>"; generation 0 is a volume that was never published
	Cluster string     // the cluster ID
	PV      string     // CSI's volume name
	Nodes   []string   // the CSI node IDs that the volume is published to, in order of arrival
	Mode    string     // the access mode of the publication, "" for none
}

const markStart = "rds-csi "

// String gives the mark as it stands in the comment:
// "rds-csi nqn=… cluster=… pv=… node=<n1>[,<n2>] [mode=…]".
func (m Mark) String() string {
	nodes := make([]string, 0, len(m.Nodes))
	for _, n := range m.Nodes {
		nodes = append(nodes, markEscape(n))
	}
	s := markStart + "nqn=" + markEscape(string(m.NQN)) + " cluster=" + markEscape(m.Cluster) +
		" pv=" + markEscape(m.PV) + " node=" + strings.Join(nodes, ",")
	if m.Mode != "" {
		s += " mode=" + markEscape(m.Mode)
	}
	return s
}

// ParseMark takes a comment apart. It accepts what String writes and nothing else, so that a comment typed by hand is
// never taken for ours.
func ParseMark(comment string) (Mark, error) {
	var m Mark
	rest, ok := strings.CutPrefix(comment, markStart)
	if !ok {
		return Mark{}, fmt.Errorf("comment %q: does not start with %q", comment, markStart)
	}
	for field := range strings.SplitSeq(rest, " ") {
		key, value, _ := strings.Cut(field, "=")
		if err := m.set(key, value); err != nil {
			return Mark{}, fmt.Errorf("comment %q: %w", comment, err)
		}
	}
	if m.String() != comment {
		return Mark{}, fmt.Errorf("comment %q: is not in the form that this driver writes", comment)
	}
	return m, nil
}

func (m *Mark) set(key, value string) error {
	if key == "node" {
		m.Nodes = nil
		if value == "" {
			return nil
		}
		for n := range strings.SplitSeq(value, ",") {
			s, err := url.PathUnescape(n)
			if err != nil {
				return fmt.Errorf("node: %w", err)
			}
			m.Nodes = append(m.Nodes, s)
		}
		return nil
	}
	s, err := url.PathUnescape(value)
	if err != nil {
		return fmt.Errorf("%s: %w", key, err)
	}
	switch key {
	case "nqn":
		m.NQN = safety.NQN(s)
	case "cluster":
		m.Cluster = s
	case "pv":
		m.PV = s
	case "mode":
		m.Mode = s
	default:
		return fmt.Errorf("unknown field %q", key)
	}
	return nil
}

// Generation gives the generation of the mark's NQN, if the NQN is one that p may own.
func (m Mark) Generation(p safety.Prefix) (safety.Generation, bool) {
	_, g, ok := p.Split(m.NQN)
	return g, ok
}

// Holds tells whether the volume is published to the node.
func (m Mark) Holds(node string) bool { return slices.Contains(m.Nodes, node) }

const upperHex = "0123456789ABCDEF"

// markEscape writes every byte outside [A-Za-z0-9._:/-] as %XX: what remains needs no quoting on any console, and
// blank, comma and "=" stay free to separate.
func markEscape(s string) string {
	var b strings.Builder
	for i := range len(s) {
		c := s[i]
		if isPlain(c) || c == ':' || c == '/' {
			b.WriteByte(c)
			continue
		}
		b.WriteByte('%')
		b.WriteByte(upperHex[c>>4])
		b.WriteByte(upperHex[c&15])
	}
	return b.String()
}

// isPlain tells whether RouterOS takes c unquoted everywhere, also behind "where".
func isPlain(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '.' || c == '_' || c == '-'
}
