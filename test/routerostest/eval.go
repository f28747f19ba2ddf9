package routerostest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"regexp"
	"strconv"
)

// node is one piece of a parsed line.
type node interface {
	eval(*run) (value, error)
}

// run is one line being executed.
type run struct {
	ctx     context.Context
	box     *Box
	session Session
	out     *bytes.Buffer
	vars    []map[string]value
	row     *row // the item that a condition looks at
	full    bool // no-space strikes this line
}

// runError is a failure that the console reports and that ends the line, unless on-error or :onerror catches it.
type runError struct{ text string }

func (e *runError) Error() string { return e.text }

func failf(format string, args ...any) error { return &runError{fmt.Sprintf(format, args...)} }

// prompt is the console asking for something at the terminal: nobody answers, so the line hangs.
type prompt struct{ text string }

func (e *prompt) Error() string { return "the console waits at its prompt " + strconv.Quote(e.text) }

func (r *run) printf(format string, args ...any) { fmt.Fprintf(r.out, format, args...) }

// lookup gives a variable's value. In a condition a property of the same name comes first: the trap of
// facts/routeros.md, 3.3.
func (r *run) lookup(name string) value {
	if r.row != nil {
		if v, ok := r.row.vals[name]; ok {
			return v
		}
	}
	for i := len(r.vars) - 1; i >= 0; i-- {
		if v, ok := r.vars[i][name]; ok {
			return v
		}
	}
	return nil
}

func (r *run) declare(name string, v value) { r.vars[len(r.vars)-1][name] = v }

func (r *run) assign(name string, v value) {
	for i := len(r.vars) - 1; i >= 0; i-- {
		if _, ok := r.vars[i][name]; ok {
			r.vars[i][name] = v
			return
		}
	}
	r.declare(name, v)
}

// constant is a value that stands in the line. raw is how it was written, "" for a quoted string: an argument such as
// comment=007 keeps its zeros.
type constant struct {
	val value
	raw string
}

func (c constant) eval(*run) (value, error) { return c.val, nil }

// template is a quoted string with substitutions in it.
type template []node

func (t template) simple() node {
	if len(t) == 1 {
		return t[0]
	}
	return t
}

func (t template) eval(r *run) (value, error) {
	s := ""
	for _, n := range t {
		v, err := n.eval(r)
		if err != nil {
			return nil, err
		}
		s += text(v)
	}
	return s, nil
}

type reference string

func (n reference) eval(r *run) (value, error) { return r.lookup(string(n)), nil }

// property is an item's property in a condition.
type property string

func (n property) eval(r *run) (value, error) {
	if r.row == nil {
		return nil, nil // a nil value is RouterOS' nothing
	}
	if n == ".id" {
		return r.row.id, nil
	}
	return r.row.vals[string(n)], nil
}

// block is "{ … }": its variables end with it. Its value is that of its last statement.
type block []node

func (b block) eval(r *run) (value, error) {
	r.vars = append(r.vars, map[string]value{})
	defer func() { r.vars = r.vars[:len(r.vars)-1] }()
	return statements(b).eval(r)
}

// statements are executed one after another; the first failure ends them.
type statements []node

func (s statements) eval(r *run) (last value, err error) {
	for _, n := range s {
		if err := r.ctx.Err(); err != nil {
			return nil, err
		}
		if last, err = n.eval(r); err != nil {
			return nil, err
		}
	}
	return last, nil
}

// substitution is "[ … ]".
type substitution []node

func (s substitution) eval(r *run) (value, error) {
	defer func(row *row) { r.row = row }(r.row)
	r.row = nil
	var last value
	for _, n := range s {
		v, err := evalInner(r, n)
		if err != nil {
			return nil, err
		}
		last = v
	}
	return last, nil
}

// evalInner runs a command whose value is wanted: "print as-value" then gives its records instead of nothing.
func evalInner(r *run, n node) (value, error) {
	if c, ok := n.(*call); ok {
		return c.run(r, true)
	}
	return n.eval(r)
}

type keyed struct{ key, val node }

type arrayLiteral []keyed

func (a arrayLiteral) eval(r *run) (value, error) {
	var list array
	for _, k := range a {
		e := element{}
		if k.key != nil {
			key, err := k.key.eval(r)
			if err != nil {
				return nil, err
			}
			e.key = text(key)
		}
		var err error
		if e.val, err = k.val.eval(r); err != nil {
			return nil, err
		}
		list = append(list, e)
	}
	return list, nil
}

// index is "a->key".
type index struct{ of, key node }

func (n index) eval(r *run) (value, error) {
	of, err := n.of.eval(r)
	if err != nil {
		return nil, err
	}
	key, err := n.key.eval(r)
	if err != nil {
		return nil, err
	}
	list, _ := of.(array)
	if i, ok := key.(int64); ok {
		if i >= 0 && i < int64(len(list)) {
			return list[i].val, nil
		}
		return nil, nil // a nil value is RouterOS' nothing
	}
	for _, e := range list {
		if e.key == text(key) {
			return e.val, nil
		}
	}
	return nil, nil // a nil value is RouterOS' nothing
}

type unary struct {
	op string
	of node
}

func (n unary) eval(r *run) (value, error) {
	v, err := n.of.eval(r)
	if err != nil {
		return nil, err
	}
	if n.op == "!" {
		b, err := truth(v)
		return !b, err
	}
	i, ok := number(v)
	if !ok {
		return nil, failf("cannot negate %s", typeName(v))
	}
	return -i, nil
}

type binary struct {
	op          string
	left, right node
}

func (n binary) eval(r *run) (value, error) {
	left, err := n.left.eval(r)
	if err != nil {
		return nil, err
	}
	if n.op == "&&" || n.op == "||" {
		return n.logical(r, left)
	}
	right, err := n.right.eval(r)
	if err != nil {
		return nil, err
	}
	switch n.op {
	case "=":
		return same(left, right), nil
	case "!=":
		return !same(left, right), nil
	case ".":
		return text(left) + text(right), nil
	case "~":
		return match(left, right)
	case "<", ">", "<=", ">=":
		return order(n.op, left, right)
	}
	return arithmetic(n.op, left, right)
}

// logical evaluates the right side only when the left one does not decide.
func (n binary) logical(r *run, left value) (value, error) {
	b, err := truth(left)
	if err != nil || b == (n.op == "||") {
		return b, err
	}
	right, err := n.right.eval(r)
	if err != nil {
		return nil, err
	}
	return truth(right)
}

func match(left, right value) (value, error) {
	re, err := regexp.Compile(text(right))
	if err != nil {
		return nil, failf("invalid regular expression")
	}
	return re.MatchString(text(left)), nil
}

// order compares numbers as numbers and strings as strings. Nothing is smaller and larger than nothing.
func order(op string, left, right value) (value, error) {
	if left == nil || right == nil {
		return false, nil
	}
	cmp := 0
	a, okA := number(left)
	b, okB := number(right)
	switch {
	case okA && okB:
		cmp = compare(a, b)
	case okA != okB:
		return nil, failf("cannot compare if %s is less than %s", typeName(left), typeName(right))
	default:
		cmp = compare(text(left), text(right))
	}
	switch op {
	case "<":
		return cmp < 0, nil
	case ">":
		return cmp > 0, nil
	case "<=":
		return cmp <= 0, nil
	}
	return cmp >= 0, nil
}

func compare[T int64 | string](a, b T) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

var verbs = map[string]string{"+": "add", "-": "subtract", "*": "multiply", "/": "divide", "%": "divide"}

func arithmetic(op string, left, right value) (value, error) {
	a, okA := number(left)
	b, okB := number(right)
	switch {
	case !okA || !okB:
		return nil, failf("cannot %s %s and %s", verbs[op], typeName(left), typeName(right))
	case op == "+":
		return a + b, nil
	case op == "-":
		return a - b, nil
	case op == "*":
		return a * b, nil
	case b == 0:
		return nil, failf("division by zero")
	case op == "/":
		return a / b, nil
	}
	return a % b, nil
}

// call is a command with its arguments.
type call struct {
	menu  *menu // nil for a global command
	cmd   *command
	named map[string]node
	flags map[string]bool
	where node
}

func (c *call) eval(r *run) (value, error) { return c.run(r, false) }

// run executes the command; inner says that it stands in brackets, where its value is wanted.
func (c *call) run(r *run, inner bool) (value, error) {
	if c.cmd.special != nil {
		return c.cmd.special(r, c)
	}
	a := &args{call: c, inner: inner, vals: map[string]value{}}
	for name, n := range c.named {
		v, err := c.argument(r, n)
		if err != nil {
			return nil, err
		}
		a.vals[name] = v
	}
	if c.menu != nil {
		if err := c.missing(r); err != nil {
			return nil, err
		}
		if c.cmd.policy != "" && !r.box.permits(r.session.User, c.cmd.policy) {
			return nil, failf("not enough permissions (9)")
		}
	}
	return c.cmd.do(r, a)
}

// argument evaluates an argument. Menu commands see a bare word as it was written.
func (c *call) argument(r *run, n node) (value, error) {
	if k, ok := n.(constant); ok && k.raw != "" && c.menu != nil && !isID(k.raw) {
		return k.raw, nil
	}
	if s, ok := n.(substitution); ok {
		return s.eval(r)
	}
	return n.eval(r)
}

// missing prompts for the first mandatory argument that was left out.
func (c *call) missing(r *run) error {
	for _, name := range c.cmd.required() {
		if r.box.console.arg(c.cmd, name) != nil && c.named[name] == nil {
			return r.box.missing(name)
		}
	}
	return nil
}

// args are a command's arguments, evaluated.
type args struct {
	*call
	inner bool
	vals  map[string]value
}

func (a *args) has(name string) bool { _, ok := a.vals[name]; return ok }

func (a *args) str(name string) string { return text(a.vals[name]) }

// isRunError tells whether on-error catches err: a failure of the console, not the end of the session.
func isRunError(err error) bool {
	var e *runError
	return errors.As(err, &e)
}
