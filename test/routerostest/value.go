package routerostest

import (
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// value is what a console expression gives: nil (nothing), bool, int64, string, itemID or array.
type value any

// itemID is RouterOS' internal number of an item: "*1F" for most, "**…" for files of current releases.
type itemID string

// array is a list, a list of key=value pairs, or both; a record of "print as-value" is an array with keys only.
type array []element

type element struct {
	key string // "" for a plain element
	val value
}

// text gives v as :put and :tostr write it. Arrays are flattened with ";" and nothing is quoted or escaped, so that
// it cannot be taken apart again (facts/routeros.md, 2.2).
func text(v value) string {
	switch v := v.(type) {
	case nil:
		return ""
	case string:
		return v
	case itemID:
		return string(v)
	case array:
		parts := make([]string, len(v))
		for i, e := range v {
			parts[i] = text(e.val)
			if e.key != "" {
				parts[i] = e.key + "=" + parts[i]
			}
		}
		return strings.Join(parts, ";")
	default:
		return fmt.Sprint(v)
	}
}

// typeName gives what :typeof says.
func typeName(v value) string {
	switch v.(type) {
	case nil:
		return "nothing"
	case bool:
		return "bool"
	case int64:
		return "num"
	case itemID:
		return "id"
	case array:
		return "array"
	default:
		return "str"
	}
}

// literal gives the value of an unquoted word: a number, a truth value, an item ID, or itself.
func literal(s string) value {
	if n, err := strconv.ParseInt(s, 10, 64); err == nil {
		return n
	}
	if b, ok := parseBool(s); ok {
		return b
	}
	if isID(s) {
		return itemID(s)
	}
	return s
}

func parseBool(s string) (val, ok bool) {
	switch s {
	case "yes", "true":
		return true, true
	case "no", "false":
		return false, true
	}
	return false, false
}

// idOf writes an internal number.
func idOf(n int64) itemID { return itemID("*" + strings.ToUpper(strconv.FormatInt(n, 16))) }

var shortID = regexp.MustCompile(`^\*[0-9A-Fa-f]+$`)

func isID(s string) bool { return shortID.MatchString(s) || strings.HasPrefix(s, "**") }

// truth is a value as a condition; RouterOS refuses conditions that are neither bool nor nothing.
func truth(v value) (bool, error) {
	switch v := v.(type) {
	case nil:
		return false, nil
	case bool:
		return v, nil
	case string:
		if b, ok := parseBool(v); ok {
			return b, nil
		}
	}
	return false, failf("conditional not boolean")
}

// same compares for "=". Nothing and the empty string are equal (where comment="", facts/routeros.md 2.2); a string
// equals a number or truth value when it is written like it.
func same(a, b value) bool {
	if x, ok := a.(array); ok {
		y, ok := b.(array)
		return ok && slices.EqualFunc(x, y, func(p, q element) bool { return p.key == q.key && same(p.val, q.val) })
	}
	if _, ok := b.(array); ok {
		return false
	}
	if x, ok := a.(bool); ok {
		if y, ok := parseBool(text(b)); ok {
			return x == y
		}
	}
	if _, ok := b.(bool); ok {
		if _, ok := a.(bool); !ok {
			return same(b, a)
		}
	}
	return text(a) == text(b)
}

// number gives v as an integer, as the operand of an arithmetic or ordering operator.
func number(v value) (int64, bool) {
	switch v := v.(type) {
	case int64:
		return v, true
	case string:
		n, err := strconv.ParseInt(v, 10, 64)
		return n, err == nil
	}
	return 0, false
}

// numericText is a string that :serialize takes for a number unless told not to.
var numericText = regexp.MustCompile(`^[+-]?[0-9]+(\.[0-9]+)?$`)

// serializeJSON writes v as :serialize to=json does: keys in alphabetical order, an array with keys as an object, and
// strings that look numeric as a float of six decimals unless keepStrings (json.no-string-conversion, from 7.17).
func serializeJSON(b *strings.Builder, v value, keepStrings bool) {
	switch v := v.(type) {
	case nil:
		b.WriteString("null")
	case bool, int64:
		b.WriteString(text(v))
	case array:
		serializeArray(b, v, keepStrings)
	default:
		s := text(v)
		if _, isString := v.(string); isString && !keepStrings && numericText.MatchString(s) {
			if f, err := strconv.ParseFloat(s, 64); err == nil {
				b.WriteString(strconv.FormatFloat(f, 'f', 6, 64))
				return
			}
		}
		b.WriteString(quoteJSON(s))
	}
}

func serializeArray(b *strings.Builder, a array, keepStrings bool) {
	object := len(a) > 0 && !slices.ContainsFunc(a, func(e element) bool { return e.key == "" })
	open, end := byte('['), byte(']')
	if object {
		open, end = '{', '}'
		a = slices.Clone(a)
		slices.SortStableFunc(a, func(x, y element) int { return strings.Compare(x.key, y.key) })
	}
	b.WriteByte(open)
	for i, e := range a {
		if i > 0 {
			b.WriteByte(',')
		}
		if object {
			b.WriteString(quoteJSON(e.key) + ":")
		}
		serializeJSON(b, e.val, keepStrings)
	}
	b.WriteByte(end)
}

// quoteJSON leaves bytes that are no UTF-8 as they are: RouterOS knows no character sets.
func quoteJSON(s string) string {
	var b strings.Builder
	b.WriteByte('"')
	for i := range len(s) {
		switch c := s[i]; {
		case c == '"' || c == '\\':
			b.WriteByte('\\')
			b.WriteByte(c)
		case c < ' ':
			enc, err := json.Marshal(string(rune(c))) // the short forms \n, \t and so on, else \u00XX
			if err == nil {
				b.Write(enc[1 : len(enc)-1])
			}
		default:
			b.WriteByte(c)
		}
	}
	b.WriteByte('"')
	return b.String()
}
