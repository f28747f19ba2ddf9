package routerostest

import "strings"

// operators by how tightly they bind, loosest first. A longer one comes before its own beginning.
var operators = [][]string{
	{"||", "or"},
	{"&&", "and"},
	{"!=", "="},
	{"<=", ">=", "<", ">", "~"},
	{"."},
	{"+", "-"},
	{"*", "/", "%"},
}

// whereLevels is how far down a condition goes: arithmetic there needs parentheses.
const whereLevels = 4

// expression reads an expression in parentheses from the given level on.
func (p *parser) expression(level int) (node, error) {
	if level == len(operators) {
		return p.unary()
	}
	left, err := p.expression(level + 1)
	if err != nil {
		return nil, err
	}
	for {
		op := p.operator(level)
		if op == "" {
			return left, nil
		}
		right, err := p.expression(level + 1)
		if err != nil {
			return nil, err
		}
		left = binary{op, left, right}
	}
}

// operator takes the operator of this level that stands here, if one does. "and" and "or" need blanks around, and "-"
// before ">" is no minus.
func (p *parser) operator(level int) string {
	p.blanks()
	for _, op := range operators[level] {
		rest, found := strings.CutPrefix(p.src[p.pos:], op)
		if !found || op == "-" && strings.HasPrefix(rest, ">") {
			continue
		}
		if isAlnum(op[0]) && rest != "" && isNameByte(rest[0]) {
			continue
		}
		p.pos += len(op)
		switch op {
		case "or":
			return "||"
		case "and":
			return "&&"
		}
		return op
	}
	return ""
}

func (p *parser) unary() (node, error) {
	if err := p.enter(); err != nil {
		return nil, err
	}
	defer func() { p.depth-- }()
	p.blanks()
	for _, op := range []string{"!", "-"} {
		if p.accept(op) {
			n, err := p.unary()
			return unary{op, n}, err
		}
	}
	n, err := p.primary()
	if n == nil && err == nil {
		n, err = p.bare()
	}
	for err == nil {
		p.blanks()
		if !p.accept("->") {
			break
		}
		var key node
		if key, err = p.key(); err == nil {
			n = index{n, key}
		}
	}
	return n, err
}

// key reads what follows "->".
func (p *parser) key() (node, error) {
	n, err := p.primary()
	if n == nil && err == nil {
		w := p.word(isAlnum)
		if w == "" {
			return nil, p.fail("syntax error")
		}
		n = constant{val: literal(w), raw: w}
	}
	return n, err
}

// bare reads an operand without quotes: a number, a truth value, an item ID, or in a condition a property.
func (p *parser) bare() (node, error) {
	start := p.pos
	if p.accept("*") {
		w := "*" + p.word(isAlnum)
		return constant{val: literal(w), raw: w}, nil
	}
	w := p.word(func(c byte) bool { return isAlnum(c) || p.table != nil && isOperandByte(c) })
	if p.table != nil && p.table.prop(w) != nil && p.console.shows(p.table.prop(w)) {
		return property(w), nil
	}
	switch v := literal(w).(type) {
	case int64, bool:
		return constant{val: v, raw: w}, nil
	}
	p.pos = start
	return nil, p.fail("syntax error")
}

// condition reads what follows "where": comparisons joined by &&, ||, and, or, or by nothing, which means and. It runs
// to the command's end.
func (p *parser) condition(t *table) (node, error) {
	p.table = t
	p.blanks()
	if p.over() {
		return nil, nil // "find" and "print where" alone match every item
	}
	n, err := p.alternatives()
	if err != nil {
		return nil, err
	}
	if p.blanks(); !p.over() {
		return nil, p.fail("syntax error")
	}
	return n, nil
}

func (p *parser) alternatives() (node, error) {
	left, err := p.conjunction()
	for err == nil && p.operator(0) != "" {
		var right node
		if right, err = p.conjunction(); err == nil {
			left = binary{"||", left, right}
		}
	}
	return left, err
}

func (p *parser) conjunction() (node, error) {
	left, err := p.comparison()
	for err == nil {
		and := p.operator(1) != ""
		if !and && (p.over() || p.peek() == ')' || p.atOr()) {
			break
		}
		var right node
		if right, err = p.comparison(); err == nil {
			left = binary{"&&", left, right}
		}
	}
	return left, err
}

// atOr looks for an "or" without taking it.
func (p *parser) atOr() bool {
	defer func(pos int) { p.pos = pos }(p.pos)
	return p.operator(0) != ""
}

func (p *parser) comparison() (node, error) {
	if err := p.enter(); err != nil {
		return nil, err
	}
	defer func() { p.depth-- }()
	p.blanks()
	if p.accept("!") {
		n, err := p.comparison()
		return unary{"!", n}, err
	}
	left, err := p.subject()
	if err != nil {
		return nil, err
	}
	for level := 2; level < whereLevels; level++ {
		op := p.operator(level)
		if op == "" {
			continue
		}
		right, err := p.object()
		return binary{op, left, right}, err
	}
	return left, nil
}

// subject reads the left side of a comparison: a property, or anything in brackets.
func (p *parser) subject() (node, error) {
	if p.peek() == '(' {
		p.pos++
		n, err := p.alternatives()
		if err != nil {
			return nil, err
		}
		if p.blanks(); !p.accept(")") {
			return nil, p.fail("expected closing parenthesis")
		}
		return n, nil
	}
	if n, err := p.primary(); n != nil || err != nil {
		return n, err
	}
	start := p.pos
	w := p.word(isOperandByte)
	if pr := p.table.prop(w); pr != nil && p.console.shows(pr) {
		return property(w), nil
	}
	p.pos = start
	if w == "" {
		return nil, p.fail("syntax error")
	}
	return nil, p.fail("bad parameter %s", w)
}

// object reads the right side: a value, where a bare word is itself and not a property.
func (p *parser) object() (node, error) {
	p.blanks()
	if n, err := p.primary(); n != nil || err != nil {
		return n, err
	}
	start := p.pos
	w := p.word(func(c byte) bool { return isOperandByte(c) || c == '*' && p.pos == start })
	if w == "" {
		return nil, p.fail("syntax error")
	}
	return constant{val: literal(w), raw: w}, nil
}
