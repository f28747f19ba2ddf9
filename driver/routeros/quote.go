package routeros

import (
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"strconv"
	"strings"
)

// maxLine is RouterOS's limit for one console line ("max line length 65535 exceeded!").
const maxLine = 65535

// quote gives s as a string of the RouterOS console. Only double quotes exist there, and `\`, `"` and `$` mean
// something inside them; every byte outside printable ASCII becomes \XX, so that no control character reaches the
// console and no encoding is guessed. It is the only way by which a value enters a command.
func quote(s string) string {
	var b strings.Builder
	b.Grow(len(s) + 2)
	b.WriteByte('"')
	for i := range len(s) {
		switch c := s[i]; {
		case c == '\\' || c == '"' || c == '$':
			b.WriteByte('\\')
			b.WriteByte(c)
		case c < ' ' || c > '~':
			b.WriteByte('\\')
			b.WriteByte(upperHex[c>>4])
			b.WriteByte(upperHex[c&15])
		default:
			b.WriteByte(c)
		}
	}
	b.WriteByte('"')
	return b.String()
}

func attribute(name, value string) string { return " " + name + "=" + quote(value) }

func number(n int64) string { return strconv.FormatInt(n, 10) }

// script is one console line under construction: statements joined by ";". RouterOS exits 0 whatever happens and
// writes errors to stdout, so a line proves its success by its last statement, which prints a word that nobody else
// can know; a failing statement ends the line before it.
type script struct {
	nonce      string
	statements []string
}

// Words that a script prints start with these and end in the script's nonce.
const (
	doneWord = "rds-csi-done-" // the whole line ran
	stopWord = "rds-csi-stop-" // a guard ended the line; a word behind it says which
	passWord = "rds-csi-pass-" // all guards passed, what changes something comes next
)

func newScript(statements ...string) *script {
	var b [12]byte
	rand.Read(b[:]) // never fails: since Go 1.24 the program ends instead
	return &script{nonce: hex.EncodeToString(b[:]), statements: statements}
}

func (s *script) add(statements ...string) { s.statements = append(s.statements, statements...) }

// stop gives the statement that ends the line and names the guard.
func (s *script) stop(word string) string {
	return ":error " + quote(stopWord+s.nonce+" "+word)
}

// stopIf adds a guard: the line ends here when the condition holds.
func (s *script) stopIf(condition, word string) {
	s.add(":if (" + condition + ") do={ " + s.stop(word) + " }")
}

// stopOnError adds a guard: the line ends here when the statement fails.
func (s *script) stopOnError(statement, word string) {
	s.add(":do { " + statement + " } on-error={ " + s.stop(word) + " }")
}

// pass marks the point behind the guards.
func (s *script) pass() { s.add(":put " + quote(passWord+s.nonce)) }

// line gives the finished line.
func (s *script) line() (string, error) {
	l := strings.Join(append(s.statements[:len(s.statements):len(s.statements)], ":put "+quote(doneWord+s.nonce)), "; ")
	if len(l) > maxLine {
		return "", fmt.Errorf("command line of %d bytes: RouterOS takes at most %d", len(l), maxLine)
	}
	return l, nil
}

// asJSON gives the statement that prints as JSON what a print command gives. Without json.no-string-conversion a
// string that looks like a number comes back as a float with six decimals.
func asJSON(command string) string {
	return ":put [:serialize to=json options=json.no-string-conversion [" + command + "]]"
}

// bySlot gives the expression for the item numbers of the disks in a slot: normally one, none when there is none.
func bySlot(slot string) string { return "[/disk/find where slot=" + quote(slot) + "]" }

// unchanged gives the expression for the item number of a disk while it has the comment that was read, none when it has
// another one. Other sessions' commands run between the statements of a line, so each command that changes a disk
// compares by itself; the guards before it only give the reason a name.
func unchanged(d Disk) string {
	return "[/disk/find where slot=" + quote(string(d.Slot)) + " and comment=" + quote(d.Comment) + "]"
}

func printSlot(slot string) string {
	return asJSON("/disk/print detail as-value where slot=" + quote(slot))
}
