package routerostest

import (
	"strconv"
	"strings"
	"time"
)

// globals are the commands written with ":". It is filled by init because :do and its like lead back to the parser.
var globals map[string]*command

func init() {
	globals = map[string]*command{
		"put":    {args: arguments("message*"), order: []string{"message"}, do: put},
		"error":  {args: arguments("message*"), order: []string{"message"}, do: raise},
		"len":    {args: arguments("value*"), order: []string{"value"}, do: length},
		"tostr":  {args: arguments("value*"), order: []string{"value"}, do: toString},
		"tonum":  {args: arguments("value*"), order: []string{"value"}, do: toNumber},
		"typeof": {args: arguments("value*"), order: []string{"value"}, do: typeOf},
		"pick":   {args: arguments("value* begin* end"), order: []string{"value", "begin", "end"}, do: pick},
		"delay":  {args: arguments("delay-time*"), order: []string{"delay-time"}, do: delay},
		"serialize": {
			span: span{since: v713}, args: arguments("value* to options@7.16 order@7.16 delimiter@7.16"),
			order: []string{"value"}, do: serialize,
		},
		"local": {
			args: arguments("name*$ value"), order: []string{"name", "value"}, declares: true, special: local,
		},
		"global": {
			args: arguments("name*$ value"), order: []string{"name", "value"}, declares: true, special: local,
		},
		"set": {args: arguments("name*$ value"), order: []string{"name", "value"}, special: set},
		"if": {
			args: arguments("condition* do{ else{"), order: []string{"condition", "do"}, special: branch,
		},
		"do": {args: arguments("command*{ on-error{"), order: []string{"command"}, special: do},
		"onerror": {
			span: span{since: v713}, args: arguments("name*$ in*{ do*{"), order: []string{"name", "in", "do"},
			declares: true, special: onError,
		},
		"foreach": {
			args: arguments("name*$ in* do*{"), order: []string{"name", "in", "do"}, declares: true, special: forEach,
		},
	}
}

func put(r *run, a *args) (value, error) {
	r.printf("%s\n", a.str("message"))
	return nil, nil // a nil value is RouterOS' nothing
}

// raise ends the line with the given text. In a script file the console adds where it happened.
func raise(r *run, a *args) (value, error) {
	if r.box.switches.ErrorCommand == Located {
		return nil, failf("%s (:error; line 1)", a.str("message"))
	}
	return nil, failf("%s", a.str("message"))
}

func length(_ *run, a *args) (value, error) {
	if list, ok := a.vals["value"].(array); ok {
		return int64(len(list)), nil
	}
	return int64(len(a.str("value"))), nil
}

func toString(_ *run, a *args) (value, error) { return a.str("value"), nil }

func toNumber(_ *run, a *args) (value, error) {
	n, ok := number(a.vals["value"])
	if !ok {
		return nil, nil // a nil value is RouterOS' nothing
	}
	return n, nil
}

func typeOf(_ *run, a *args) (value, error) { return typeName(a.vals["value"]), nil }

func pick(_ *run, a *args) (value, error) {
	list, isArray := a.vals["value"].(array)
	s := a.str("value")
	size := int64(len(s))
	if isArray {
		size = int64(len(list))
	}
	begin, ok := number(a.vals["begin"])
	end := begin + 1
	if ok && a.has("end") {
		end, ok = number(a.vals["end"])
	}
	if !ok {
		return nil, failf("invalid value for argument begin")
	}
	begin, end = min(max(begin, 0), size), min(end, size)
	switch {
	case begin >= end:
		return nil, nil // a nil value is RouterOS' nothing
	case isArray:
		return list[begin:end], nil
	}
	return s[begin:end], nil
}

// delay waits for "2", "500ms" or "2s".
func delay(r *run, a *args) (value, error) {
	s := a.str("delay-time")
	if _, err := strconv.Atoi(s); err == nil {
		s += "s"
	}
	d, err := time.ParseDuration(s)
	if err != nil {
		return nil, failf("invalid value for argument delay-time")
	}
	return nil, wait(r.ctx, d)
}

func serialize(r *run, a *args) (value, error) {
	keep := false
	for _, o := range strings.FieldsFunc(a.str("options"), func(c rune) bool { return c == ',' || c == ';' }) {
		if o != "json.no-string-conversion" || r.box.console.version.before(v717) {
			return nil, failf("input does not match any value of options")
		}
		keep = true
	}
	switch a.str("to") {
	case "json":
		var b strings.Builder
		serializeJSON(&b, a.vals["value"], keep)
		return b.String(), nil
	case "":
		return nil, r.box.missing("to")
	}
	return nil, failf("input does not match any value of to")
}

// local also serves :global: nothing outlives the line in this model.
func local(r *run, c *call) (value, error) {
	v, err := c.optional(r, "value")
	if err == nil {
		r.declare(c.name(), v)
	}
	return nil, err
}

func set(r *run, c *call) (value, error) {
	v, err := c.optional(r, "value")
	if err == nil {
		r.assign(c.name(), v)
	}
	return nil, err
}

func branch(r *run, c *call) (value, error) {
	v, err := c.optional(r, "condition")
	if err != nil {
		return nil, err
	}
	yes, err := truth(v)
	if err != nil {
		return nil, err
	}
	if yes {
		return c.optional(r, "do")
	}
	return c.optional(r, "else")
}

func do(r *run, c *call) (value, error) {
	v, err := c.optional(r, "command")
	if err != nil && isRunError(err) && c.named["on-error"] != nil {
		return c.optional(r, "on-error")
	}
	return v, err
}

func onError(r *run, c *call) (value, error) {
	v, err := c.optional(r, "in")
	if err == nil || !isRunError(err) {
		return v, err
	}
	r.declare(c.name(), err.Error())
	return c.optional(r, "do")
}

func forEach(r *run, c *call) (value, error) {
	v, err := c.optional(r, "in")
	if err != nil {
		return nil, err
	}
	list, ok := v.(array)
	if !ok && v != nil {
		list = array{{val: v}}
	}
	for _, e := range list {
		r.declare(c.name(), e.val)
		if _, err := c.optional(r, "do"); err != nil {
			return nil, err
		}
	}
	return nil, nil // a nil value is RouterOS' nothing
}

// optional evaluates an argument, nothing where it was not given.
func (c *call) optional(r *run, name string) (value, error) {
	n := c.named[name]
	if n == nil {
		return nil, nil // a nil value is RouterOS' nothing
	}
	return n.eval(r)
}

func (c *call) name() string {
	k, _ := c.named["name"].(constant)
	return k.raw
}
