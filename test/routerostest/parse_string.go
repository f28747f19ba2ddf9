package routerostest

import "strings"

// escapes of a quoted string (facts/routeros.md, 3.3); two upper-case hexadecimal digits are the other form.
var escapes = map[byte]string{
	'"': `"`, '\\': `\`, 'n': "\n", 'r': "\r", 't': "\t", '$': "$", '_': " ", 'a': "\a", 'b': "\b", 'f': "\f", 'v': "\v",
}

// str reads a quoted string. "$name" in it is substituted, silently by nothing when there is no such variable, and
// "$[…]" and "$(…)" are executed: what is not escaped runs.
func (p *parser) str() (node, error) {
	p.pos++
	var parts template
	var b strings.Builder
	for {
		c := p.peek()
		switch {
		case p.pos >= len(p.src):
			return nil, p.fail("expected closing quote")
		case c == '"':
			p.pos++
			return append(parts, constant{val: b.String()}).simple(), nil
		case c == '\\':
			s, err := p.escape()
			if err != nil {
				return nil, err
			}
			b.WriteString(s)
		case c == '$':
			parts = append(parts, constant{val: b.String()})
			b.Reset()
			n, err := p.interpolation()
			if err != nil {
				return nil, err
			}
			parts = append(parts, n)
		case c < ' ' && c != '\t' || c == 0x7f:
			return nil, p.fail("syntax error") // a line ends at a line feed, inside of quotes too
		default:
			b.WriteByte(c)
			p.pos++
		}
	}
}

func (p *parser) escape() (string, error) {
	rest := p.src[p.pos+1:]
	if len(rest) >= 2 && isUpperHex(rest[0]) && isUpperHex(rest[1]) {
		p.pos += 3
		return string([]byte{unhex(rest[0])<<4 | unhex(rest[1])}), nil
	}
	if rest != "" {
		if s, ok := escapes[rest[0]]; ok {
			p.pos += 2
			return s, nil
		}
	}
	return "", p.fail("syntax error")
}

func isUpperHex(c byte) bool { return c >= '0' && c <= '9' || c >= 'A' && c <= 'F' }

func unhex(c byte) byte {
	if c >= 'A' {
		return c - 'A' + 10
	}
	return c - '0'
}

func (p *parser) interpolation() (node, error) {
	start := p.pos
	p.pos++
	switch p.peek() {
	case '[':
		return p.substitution()
	case '(':
		return p.parentheses()
	}
	name := p.word(isVariableByte)
	if name == "" {
		p.pos = start
		return nil, p.fail("syntax error")
	}
	return reference(name), nil
}
