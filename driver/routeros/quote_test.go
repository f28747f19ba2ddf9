package routeros

import (
	"encoding/hex"
	"fmt"
	"strings"
	"testing"

	"srvlab.io/rds-csi/test/routerostest"
)

// unquote reads a string of the RouterOS console by the grammar in facts/routeros.md, 3.3, written from that page and
// not from quote: only double quotes, the listed escapes, \XX with two upper-case digits, "$" substitutes, anything
// else behind a backslash is a syntax error. It gives what follows the closing quote.
func unquote(s string) (value, rest string, err error) {
	if !strings.HasPrefix(s, `"`) {
		return "", "", fmt.Errorf("no opening quote")
	}
	var b strings.Builder
	single := map[byte]byte{
		'"': '"', '\\': '\\', '$': '$', 'n': '\n', 'r': '\r', 't': '\t', '_': ' ', 'a': '\a', 'b': '\b', 'f': '\f', 'v': '\v',
	}
	for i := 1; i < len(s); i++ {
		switch c := s[i]; c {
		case '"':
			return b.String(), s[i+1:], nil
		case '$':
			return "", "", fmt.Errorf("substitution at %d", i)
		case '\\':
			if i+1 == len(s) {
				return "", "", fmt.Errorf("nothing behind the backslash")
			}
			if v, ok := single[s[i+1]]; ok {
				b.WriteByte(v)
				i++
				continue
			}
			if i+2 >= len(s) || strings.ToUpper(s[i+1:i+3]) != s[i+1:i+3] {
				return "", "", fmt.Errorf("unknown escape at %d", i)
			}
			v, err := hex.DecodeString(s[i+1 : i+3])
			if err != nil {
				return "", "", fmt.Errorf("unknown escape at %d", i)
			}
			b.Write(v)
			i += 2
		default:
			b.WriteByte(c)
		}
	}
	return "", "", fmt.Errorf("no closing quote")
}

func TestQuote(t *testing.T) {
	for _, tt := range []struct{ name, in, want string }{
		{"empty", ``, `""`},
		{"plain", `pvc-1`, `"pvc-1"`},
		{"quote", `a"b`, `"a\"b"`},
		{"backslash", `a\b`, `"a\\b"`},
		{"backslash before a quote", `a\"b`, `"a\\\"b"`},
		{"variable", `$name`, `"\$name"`},
		{"statement", `x"; /system/reset-configuration; "`, `"x\"; /system/reset-configuration; \""`},
		{"substitution", `[/system/reboot]`, `"[/system/reboot]"`},
		{"line break", "a\r\nb", `"a\0D\0Ab"`},
		{"NUL and DEL", "\x00\x7f", `"\00\7F"`},
		{"not ASCII", "ü", `"\C3\BC"`},
		{"not UTF-8", "\xff", `"\FF"`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := quote(tt.in); got != tt.want {
				t.Errorf("quote(%q)\n got %s\nwant %s", tt.in, got, tt.want)
			}
		})
	}
}

// FuzzQuote: whatever goes in stays between its quotes and comes out as it went in.
func FuzzQuote(f *testing.F) {
	for _, s := range []string{"", `"`, `\`, `\\"`, "$x", "a\nb", "\x00\xff", `" ; :put "`, "ü", "{}[]();#"} {
		f.Add(s)
	}
	box, err := routerostest.NewBox(routerostest.Options{})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, s string) {
		const behind = " tail"
		q := quote(s)
		value, rest, err := unquote(q + behind)
		if err != nil || value != s || rest != behind {
			t.Fatalf("quote(%q) = %s reads as %q, %q, %v", s, q, value, rest, err)
		}
		// The emulator's parser was written by somebody else from the same page.
		if out := box.Exec("admin", ":put [:len "+q+"]"); out != number(int64(len(s)))+"\r\n" {
			t.Fatalf("the console reads %s as %q characters, not %d", q, out, len(s))
		}
		if out := box.Exec("admin", ":put "+q); !strings.ContainsAny(s, "\r\n") && out != s+"\r\n" {
			t.Fatalf("the console reads %s as %q", q, out)
		}
		for i := range len(q) {
			if q[i] < ' ' || q[i] > '~' {
				t.Fatalf("quote(%q) = %q has the byte %#02x", s, q, q[i])
			}
		}
	})
}

func TestScript(t *testing.T) {
	s := newScript()
	s.stopIf("1 = 2", "never")
	s.add("/disk/print")
	line, err := s.line()
	want := `:if (1 = 2) do={ :error "rds-csi-stop-` + s.nonce + ` never" }; /disk/print; :put "rds-csi-done-` + s.nonce + `"`
	if err != nil || line != want {
		t.Errorf("got %s, %v\nwant %s", line, err, want)
	}
	if again, _ := s.line(); again != line {
		t.Errorf("the second time: %s", again)
	}
	if newScript().nonce == s.nonce {
		t.Error("two scripts with one nonce")
	}
	s.add(strings.Repeat("x", maxLine))
	if _, err := s.line(); err == nil {
		t.Error("a line that RouterOS would cut is not refused")
	}
}
