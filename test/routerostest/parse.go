package routerostest

import (
	"fmt"
	"strings"
)

// maxLine is the longest command line that the console takes.
const maxLine = 65535

// maxDepth bounds nesting, so that a line of brackets ends in an error and not in the program's stack.
const maxDepth = 100

// parseError is what the console says about a line that it does not understand. Nothing of such a line is executed.
type parseError struct {
	text string
	pos  int // byte offset, -1 where the console names none
}

func (e *parseError) Error() string {
	if e.pos < 0 {
		return e.text
	}
	return fmt.Sprintf("%s (line 1 column %d)", e.text, e.pos+1)
}

// parser turns a line into statements. It resolves every command, argument and property while it reads, because the
// console does: an unknown argument in the last statement keeps the first from being executed.
type parser struct {
	src     string
	pos     int
	depth   int
	console *console
	menu    *menu // what a command without leading "/" is looked up in
	scopes  []map[string]bool
	table   *table // of the condition being read, nil outside of one
}

// parseLine parses a whole line. With an error, the statements in front of the one that is wrong are given too.
func (c *console) parseLine(line string) ([]node, error) {
	if len(line) > maxLine {
		return nil, &parseError{fmt.Sprintf("max line length %d exceeded!", maxLine), -1}
	}
	p := &parser{src: line, console: c, menu: root, scopes: []map[string]bool{{}}}
	return p.statements(0)
}

func (p *parser) fail(format string, args ...any) error {
	return &parseError{fmt.Sprintf(format, args...), p.pos}
}

func (p *parser) peek() byte {
	if p.pos < len(p.src) {
		return p.src[p.pos]
	}
	return 0
}

func (p *parser) accept(s string) bool {
	if strings.HasPrefix(p.src[p.pos:], s) {
		p.pos += len(s)
		return true
	}
	return false
}

func (p *parser) blanks() {
	for p.peek() == ' ' || p.peek() == '\t' {
		p.pos++
	}
}

// word reads the longest run of bytes that ok accepts.
func (p *parser) word(ok func(byte) bool) string {
	start := p.pos
	for p.pos < len(p.src) && ok(p.src[p.pos]) {
		p.pos++
	}
	return p.src[start:p.pos]
}

func isAlnum(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9'
}

// The characters that need no quotes differ by place (facts/routeros.md, 3.3).
func isNameByte(c byte) bool     { return isAlnum(c) || c == '-' || c == '.' || c == '_' }
func isValueByte(c byte) bool    { return isAlnum(c) || strings.IndexByte("._:/*,-", c) >= 0 }
func isOperandByte(c byte) bool  { return isAlnum(c) || c == '.' || c == '_' || c == '-' }
func isVariableByte(c byte) bool { return isAlnum(c) }

// ends tells whether an argument or a value ends here.
func (p *parser) ends() bool {
	return p.pos >= len(p.src) || strings.IndexByte(" \t;]})", p.src[p.pos]) >= 0
}

// over tells whether a command ends here.
func (p *parser) over() bool {
	return p.pos >= len(p.src) || strings.IndexByte(";]}", p.src[p.pos]) >= 0
}

func (p *parser) enter() error {
	if p.depth++; p.depth > maxDepth {
		return p.fail("syntax error")
	}
	return nil
}

// statements reads up to closing (0: the end of the line), which it leaves. "#" starts a comment where a statement
// could start; it runs to the end of the line.
func (p *parser) statements(closing byte) ([]node, error) {
	if err := p.enter(); err != nil {
		return nil, err
	}
	defer func(m *menu) { p.depth--; p.menu = m }(p.menu)
	var list []node
	for {
		for p.blanks(); p.peek() == ';'; p.blanks() {
			p.pos++
		}
		if p.peek() == '#' {
			p.pos = len(p.src)
		}
		if p.pos >= len(p.src) {
			return list, p.closed(closing)
		}
		if closing != 0 && p.peek() == closing {
			return list, nil
		}
		n, err := p.statement()
		if err != nil {
			return list, err
		}
		if n != nil {
			list = append(list, n)
		}
		p.blanks()
		if c := p.peek(); c != ';' && c != closing && p.pos < len(p.src) {
			return list[:max(0, len(list)-1)], p.fail("syntax error")
		}
	}
}

// closed is the answer to the line's end: fine at the top, an error where a bracket is still open.
func (p *parser) closed(closing byte) error {
	switch closing {
	case 0:
		return nil
	case ']':
		return p.fail("expected closing bracket")
	default:
		return p.fail("expected closing brace")
	}
}

func (p *parser) statement() (node, error) {
	if p.peek() == '{' {
		return p.block()
	}
	if p.accept(":") {
		return p.global()
	}
	m := p.menu
	if p.accept("/") {
		m = root
	}
	return p.path(m)
}

// block reads "{ statements }" in a scope of its own.
func (p *parser) block() (node, error) {
	p.pos++
	p.scopes = append(p.scopes, map[string]bool{})
	list, err := p.statements('}')
	p.scopes = p.scopes[:len(p.scopes)-1]
	if err != nil {
		return nil, err
	}
	p.pos++
	return block(list), nil
}

func (p *parser) global() (node, error) {
	start := p.pos
	name := p.word(isAlnum)
	cmd := p.console.global(name)
	if cmd == nil {
		return nil, p.badCommand(start, name)
	}
	return p.arguments(nil, cmd)
}

func (p *parser) badCommand(start int, name string) error {
	p.pos = start
	if name == "" {
		if p.pos >= len(p.src) {
			return p.fail("expected command name")
		}
		return p.fail("syntax error")
	}
	return p.fail("bad command name %s", name)
}

// path reads "/disk/add", "/disk add" or "disk/btrfs subvolume print". A path that ends at a menu makes that menu the
// place where the following statements of the block look for their commands.
func (p *parser) path(m *menu) (node, error) {
	if p.over() && m == root {
		p.menu = root
		return nil, nil // "/" alone is a statement without effect
	}
	for {
		start := p.pos
		name := p.word(isNameByte)
		if sub := p.console.sub(m, name); sub != nil {
			m = sub
			if !p.accept("/") {
				p.blanks()
			}
			if p.over() {
				p.menu = m
				return nil, nil // a menu alone only changes what follows
			}
			continue
		}
		if cmd := p.console.command(m, name); cmd != nil {
			return p.arguments(m, cmd)
		}
		if cmd := p.console.global(name); cmd != nil && m == root {
			return p.arguments(nil, cmd)
		}
		return nil, p.badCommand(start, name)
	}
}

// arguments reads what follows a command's name. Inside of them, "[find …]" looks in the command's own menu.
func (p *parser) arguments(m *menu, cmd *command) (node, error) {
	defer func(outer *menu, t *table) { p.menu, p.table = outer, t }(p.menu, p.table)
	call := &call{menu: m, cmd: cmd, named: map[string]node{}, flags: map[string]bool{}}
	if !p.ends() {
		return nil, p.fail("syntax error")
	}
	for {
		p.blanks()
		if p.over() {
			return call, p.complete(call)
		}
		done, err := p.argument(call)
		if err != nil {
			return nil, err
		}
		if done {
			return call, p.complete(call)
		}
	}
}

// argument reads one argument; done says that it was a condition, which takes all the rest.
func (p *parser) argument(c *call) (done bool, err error) {
	start := p.pos
	name := p.word(isNameByte)
	arg := p.console.arg(c.cmd, name)
	switch {
	case p.peek() == '=' && name != "" && !c.cmd.find:
		p.pos++
		if arg == nil {
			p.pos = start
			return false, p.fail("%s", p.console.unknownArgument(name))
		}
		return false, p.namedArgument(c, name, arg)
	case arg != nil && arg.flag && p.ends():
		c.flags[name] = true
		return false, nil
	case (c.cmd.where || c.cmd.find) && name == "where" && p.ends():
		c.where, err = p.condition(c.menu.table)
		return true, err
	case c.cmd.find:
		p.pos = start
		c.where, err = p.condition(c.menu.table)
		return true, err
	}
	p.pos = start
	return false, p.positional(c)
}

func (p *parser) namedArgument(c *call, name string, arg *argument) (err error) {
	if c.named[name] != nil {
		return p.fail("syntax error")
	}
	c.named[name], err = p.value(c, arg)
	return err
}

// positional reads the next argument given without its name.
func (p *parser) positional(c *call) error {
	for _, name := range c.cmd.order {
		if c.named[name] != nil {
			continue
		}
		arg := p.console.arg(c.cmd, name)
		if arg.kind == variable {
			return p.variableName(c, name)
		}
		var err error
		c.named[name], err = p.value(c, arg)
		return err
	}
	return p.fail("%s", p.console.unknownArgument(p.word(isNameByte)))
}

// variableName reads the name in ":local name", ":set name" and so on; all but :set declare it.
func (p *parser) variableName(c *call, arg string) error {
	start := p.pos
	name := p.word(isVariableByte)
	if name == "" || !p.ends() {
		return p.fail("syntax error")
	}
	if c.cmd.declares {
		p.scopes[len(p.scopes)-1][name] = true
	} else if !p.declared(name) {
		p.pos = start
		return p.fail("syntax error")
	}
	c.named[arg] = constant{val: name, raw: name}
	return nil
}

func (p *parser) declared(name string) bool {
	for _, s := range p.scopes {
		if s[name] {
			return true
		}
	}
	return false
}

// complete checks that a global command has what it cannot do without. In menus a missing argument makes the console
// prompt, when the command is executed.
func (p *parser) complete(c *call) error {
	if c.menu != nil {
		return nil
	}
	for _, name := range c.cmd.required() {
		if c.named[name] == nil {
			return p.fail("syntax error")
		}
	}
	return nil
}

// value reads an argument's value. It must end where an argument may end.
func (p *parser) value(c *call, arg *argument) (node, error) {
	outer := p.menu
	if c.menu != nil {
		p.menu = c.menu
	}
	var n node
	var err error
	switch {
	case arg.kind == code && p.peek() == '{':
		p.menu = outer
		n, err = p.block()
	case arg.kind == code:
		err = p.fail("syntax error")
	default:
		n, err = p.operand()
	}
	p.menu = outer
	if err == nil && !p.ends() {
		err = p.fail("syntax error")
	}
	return n, err
}

// operand reads one value outside of an expression.
func (p *parser) operand() (node, error) {
	if n, err := p.primary(); n != nil || err != nil {
		return n, err
	}
	w := p.word(isValueByte)
	if w == "" {
		return nil, p.fail("syntax error")
	}
	return constant{val: literal(w), raw: w}, nil
}

// primary reads what starts with a character of its own: "string", $variable, [command], (expression), {array}.
// It gives nil for everything else.
func (p *parser) primary() (node, error) {
	switch p.peek() {
	case '"':
		return p.str()
	case '$':
		return p.variable()
	case '[':
		return p.substitution()
	case '(':
		return p.parentheses()
	case '{':
		return p.arrayLiteral()
	}
	return nil, nil // documented: nothing of the kind here
}

// variable reads "$name". The console compiles a line before it runs it, so a name that was never declared is an error
// of the line and not of the moment.
func (p *parser) variable() (node, error) {
	start := p.pos
	p.pos++
	name := p.word(isVariableByte)
	property := p.table != nil && p.table.prop(name) != nil
	if name == "" || !p.declared(name) && !property {
		p.pos = start
		return nil, p.fail("syntax error")
	}
	return reference(name), nil
}

// substitution reads "[command]".
func (p *parser) substitution() (node, error) {
	defer func(t *table) { p.table = t }(p.table)
	p.table = nil
	p.pos++
	list, err := p.statements(']')
	if err != nil {
		return nil, err
	}
	p.pos++
	return substitution(list), nil
}

func (p *parser) parentheses() (node, error) {
	if err := p.enter(); err != nil {
		return nil, err
	}
	defer func(t *table) { p.depth--; p.table = t }(p.table)
	p.pos++
	n, err := p.expression(0)
	if err != nil {
		return nil, err
	}
	if p.blanks(); !p.accept(")") {
		return nil, p.fail("expected closing parenthesis")
	}
	return n, nil
}

// arrayLiteral reads "{1;"a";key=value}".
func (p *parser) arrayLiteral() (node, error) {
	if err := p.enter(); err != nil {
		return nil, err
	}
	defer func() { p.depth-- }()
	var list arrayLiteral
	for p.pos++; ; p.pos++ {
		p.blanks()
		if p.accept("}") {
			return list, nil
		}
		e, err := p.arrayElement()
		if err != nil {
			return nil, err
		}
		list = append(list, e)
		if p.blanks(); p.accept("}") {
			return list, nil
		}
		if p.peek() != ';' {
			return nil, p.fail("expected closing brace")
		}
	}
}

func (p *parser) arrayElement() (e keyed, err error) {
	start := p.pos
	switch {
	case p.peek() == '"':
		if e.key, err = p.str(); err != nil {
			return e, err
		}
	default:
		e.key = constant{val: p.word(isNameByte)}
	}
	if !p.accept("=") {
		p.pos, e.key = start, nil
	}
	e.val, err = p.operand()
	return e, err
}
