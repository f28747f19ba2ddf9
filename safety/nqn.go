package safety

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// MaxNQNLength is the longest NVMe Qualified Name in bytes (NVM Express Base Specification 2.0, 4.5: "the maximum
// length of the name is 223 bytes"). The kernel's buffer is 256 bytes, but NVMe/TCP targets refuse more than 223.
const MaxNQNLength = 223

// NQN is an NVMe Qualified Name as the kernel shows it in subsysnqn. The zero value names nothing.
type NQN string

// ParseNQN gives s as an NQN, or an error that says what is wrong with it: an NQN starts with "nqn.", has a ":"
// behind the naming authority, is at most MaxNQNLength bytes long, and holds no blank, comma, control or
// non-ASCII byte (a comma would end the value in the options written to /dev/nvme-fabrics).
func ParseNQN(s string) (NQN, error) {
	if err := checkNQN(s); err != nil {
		return "", fmt.Errorf("NQN %q: %w", s, err)
	}
	return NQN(s), nil
}

func checkNQN(s string) error {
	switch {
	case s == "":
		return errors.New("is empty")
	case !strings.HasPrefix(s, "nqn."):
		return errors.New(`does not start with "nqn."`)
	case !strings.Contains(s, ":"):
		return errors.New(`has no ":" behind the naming authority`)
	case len(s) > MaxNQNLength:
		return fmt.Errorf("is %d bytes long, more than %d", len(s), MaxNQNLength)
	}
	for i := range len(s) {
		if c := s[i]; c <= ' ' || c > '~' || c == ',' || c == '"' || c == '\\' {
			return fmt.Errorf("holds the byte %#02x at %d: only printable ASCII without blank, comma, quote and backslash", c, i)
		}
	}
	return nil
}

// exportLength is what Export adds to a prefix at most: a UUID, ".g" and a 64-bit number.
const exportLength = 36 + 2 + 20

// Prefix is the managed NQN prefix: the start of every NQN that this installation may touch, and its mark of
// ownership on an array shared with others. The zero value owns nothing, because strings.HasPrefix(x, "") is true
// and an unset variable once let an orphan cleaner disconnect a node's /var.
type Prefix struct{ s string }

// ParsePrefix gives s as a Prefix. It refuses an empty one, one that is no start of an NQN, one with nothing behind
// the ":" (every export of an array starts with "nqn.2000-02.com.mikrotik:", the boot disks of diskless nodes too),
// and one that leaves no room for a UUID and a generation below MaxNQNLength.
func ParsePrefix(s string) (Prefix, error) {
	if err := checkNQN(s); err != nil {
		return Prefix{}, fmt.Errorf("managed NQN prefix %q: %w; give the start that all volumes of this cluster share, such as nqn.2000-02.com.mikrotik:mycluster-", s, err)
	}
	if _, own, _ := strings.Cut(s, ":"); own == "" {
		return Prefix{}, fmt.Errorf("managed NQN prefix %q: nothing follows the \":\", so it would own every export of the array, the boot disks included; add what only this cluster's volumes start with, such as %smycluster-", s, s)
	}
	if len(s)+exportLength > MaxNQNLength {
		return Prefix{}, fmt.Errorf("managed NQN prefix %q: is %d bytes long, at most %d leave room for the volume", s, len(s), MaxNQNLength-exportLength)
	}
	return Prefix{s}, nil
}

// String gives the prefix as it was parsed, "" for the zero value.
func (p Prefix) String() string { return p.s }

// Owns tells whether n is a name that this prefix may own: it starts with the prefix and something follows.
func (p Prefix) Owns(n NQN) bool {
	return p.s != "" && len(n) > len(p.s) && strings.HasPrefix(string(n), p.s)
}

// Export gives the NQN under which generation g of volume v is exported: "<prefix><uuid>.g<n>".
// The zero Prefix gives the zero NQN.
func (p Prefix) Export(v UUID, g Generation) NQN {
	if p.s == "" {
		return ""
	}
	return NQN(p.s + v.String() + ".g" + strconv.FormatUint(uint64(g), 10))
}

// Split takes an NQN made by Export apart. It answers false for everything else, also for a name that starts with
// the prefix but was made by somebody else: such a name is owned by nobody here.
func (p Prefix) Split(n NQN) (UUID, Generation, bool) {
	if !p.Owns(n) {
		return UUID{}, 0, false
	}
	id, gen, found := strings.Cut(string(n)[len(p.s):], ".g")
	if !found {
		return UUID{}, 0, false
	}
	v, err := ParseUUID(id)
	if err != nil {
		return UUID{}, 0, false
	}
	g, err := strconv.ParseUint(gen, 10, 64)
	if err != nil || p.Export(v, Generation(g)) != n { // "+1" and "01" are not what Export writes
		return UUID{}, 0, false
	}
	return v, Generation(g), true
}

// Generation counts the publications of a volume to another node. It is part of the exported NQN, so a node that was
// left behind knocks at a name that no longer exists. 0 is a volume that was never published.
type Generation uint64
