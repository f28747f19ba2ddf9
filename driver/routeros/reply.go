package routeros

import (
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// reply is what one line printed.
type reply struct {
	done   bool   // the sentinel came: every statement ran
	stop   string // the guard that ended the line, "" for none
	passed bool   // the guards were passed
	text   string // what else the device said before the JSON: on failure its error
	added  string // the item number that /disk/add printed, "" for none
	body   string // the JSON, "" for none
}

// maxText is how much of the device's words an error carries.
const maxText = 400

// readReply takes the output of a script apart. The words are told by whole lines, so that a device that echoes the
// command line proves nothing by it.
func readReply(out, nonce string) reply {
	var r reply
	var text, body []string
	for line := range strings.SplitSeq(out, "\n") {
		switch line = strings.TrimSpace(line); {
		case line == "":
		case line == doneWord+nonce:
			r.done = true
		case line == passWord+nonce:
			r.passed = true
		case strings.HasPrefix(line, stopWord+nonce+" "):
			r.stop, _, _ = strings.Cut(line[len(stopWord+nonce)+1:], " ")
		case len(body) > 0 || line[0] == '[' || line[0] == '{':
			body = append(body, line)
		case isItemNumber(line):
			r.added = line
		default:
			text = append(text, line)
		}
	}
	r.body = strings.Join(body, " ")
	r.text = strings.Join(text, " ")
	if len(r.text) > maxText {
		r.text = r.text[:maxText] + "…"
	}
	return r
}

// isItemNumber tells whether s is an item number such as "*1F", which is what goes into later commands unquoted.
func isItemNumber(s string) bool {
	hex, ok := strings.CutPrefix(s, "*")
	if !ok {
		return false
	}
	_, err := strconv.ParseUint(hex, 16, 64)
	return err == nil
}

// row is one item as RouterOS's JSON has it. The type of a value differs between versions and forms of output.
type row map[string]any

// rows gives the items in the reply: a list menu prints an array, a menu without items one object. A control character
// inside a string, which JSON forbids and nobody promises that RouterOS escapes, is read as a blank.
func (r reply) rows() ([]row, error) {
	if r.body == "" {
		return nil, errors.New("no JSON in the answer")
	}
	d := json.NewDecoder(strings.NewReader(strings.Map(func(c rune) rune {
		if c < ' ' {
			return ' '
		}
		return c
	}, r.body)))
	d.UseNumber()
	var all []row
	var err error
	if r.body[0] == '{' {
		all = make([]row, 1)
		err = d.Decode(&all[0])
	} else {
		err = d.Decode(&all)
	}
	if err != nil {
		return nil, fmt.Errorf("JSON in the answer: %w", err)
	}
	return all, nil
}

// text gives a value as text, "" where it is absent.
func (r row) text(key string) string {
	switch v := r[key].(type) {
	case string:
		return v
	case json.Number:
		return v.String()
	case bool:
		return strconv.FormatBool(v)
	case []any:
		parts := make([]string, 0, len(v))
		for _, p := range v {
			parts = append(parts, fmt.Sprint(p))
		}
		return strings.Join(parts, ",")
	default:
		return ""
	}
}

// flag gives a boolean: true, "true" and "yes" are set, everything else, and an absent key, is not.
func (r row) flag(key string) bool {
	switch r.text(key) {
	case "true", "yes":
		return true
	default:
		return false
	}
}

// bytes gives a size in bytes and whether there is one.
func (r row) bytes(key string) (int64, bool) { return parseBytes(r.text(key)) }

// sizeUnits are RouterOS's: binary, whatever the letter is followed by.
var sizeUnits = map[string]int64{"": 1, "B": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40, "P": 1 << 50}

// parseBytes reads "123", "1 099 511 627 776", "123.000000" and, as the last resort because it is rounded, "50.0GiB".
func parseBytes(s string) (int64, bool) {
	s = strings.ReplaceAll(s, " ", "")
	if n, err := strconv.ParseInt(s, 10, 64); err == nil {
		return n, n >= 0
	}
	end := strings.LastIndexAny(s, "0123456789.") + 1
	unit, ok := sizeUnits[strings.TrimSuffix(strings.TrimSuffix(s[end:], "B"), "i")]
	f, err := strconv.ParseFloat(s[:end], 64)
	if err != nil || !ok || f < 0 || f*float64(unit) >= 1<<63 {
		return 0, false
	}
	return int64(f * float64(unit)), true
}
