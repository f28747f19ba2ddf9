package routerostest

import (
	"slices"
	"strconv"
	"strings"
	"time"
)

// resolve gives the rows that an item argument names: what [find] gave, an ID, a number, a name, or several of them.
func (b *Box) resolve(t *table, v value) ([]*row, error) {
	list, ok := v.(array)
	if !ok {
		list = array{{val: v}}
	}
	var found []*row
	for _, e := range list {
		one, err := b.resolveOne(t, text(e.val))
		if err != nil {
			return nil, err
		}
		found = append(found, one)
	}
	return found, nil
}

func (b *Box) resolveOne(t *table, s string) (*row, error) {
	if strings.HasPrefix(s, "*") && !isID(s) {
		return nil, failf("invalid internal item number")
	}
	byID := isID(s)
	named := func(id itemID, name string) bool {
		return byID && strings.EqualFold(string(id), s) || t.name != "" && name == s
	}
	for _, r := range t.rows(b, named) {
		if named(r.id, text(r.vals[t.name])) {
			return r, nil
		}
	}
	return nil, failf("no such item")
}

// items gives the rows that set, remove and their like act on. "[find]" without a match is no failure (captured),
// unless the switch empty-find says so.
func (a *args) items(r *run) ([]*row, error) {
	v := a.vals["numbers"]
	if list, ok := v.(array); v == nil || ok && len(list) == 0 {
		if r.box.switches.EmptyFind == Refused {
			return nil, failf("no such item")
		}
		return nil, nil
	}
	return r.box.resolve(a.menu.table, v)
}

// rows lists the items that the command's condition lets through.
func (a *args) rows(r *run) ([]*row, error) {
	wanted := selectBy(a.menu.table, a.where)
	r.box.mu.Lock()
	r.box.settle()
	rows := a.menu.table.rows(r.box, wanted)
	r.box.mu.Unlock()
	if a.menu.table.slow {
		if err := wait(r.ctx, r.box.opts.FilePrintDelay*time.Duration(len(rows))); err != nil {
			return nil, err
		}
	}
	slices.SortStableFunc(rows, byItem)
	if a.where == nil {
		return rows, nil
	}
	defer func(outer *row) { r.row = outer }(r.row)
	var found []*row
	for _, row := range rows {
		r.row = row
		v, err := a.where.eval(r)
		if err != nil {
			return nil, err
		}
		if yes, err := truth(v); err != nil {
			return nil, err
		} else if yes {
			found = append(found, row)
		}
	}
	return found, nil
}

// selectBy takes from a condition that an item's name or ID must be a certain one, where that can be told without
// looking at the items. A driver's line asks for one slot many times over; with a hundred disks the rows of all the
// others took most of its time.
func selectBy(t *table, where node) selection {
	cond, ok := where.(binary)
	if !ok {
		return nil
	}
	if cond.op == "&&" {
		if s := selectBy(t, cond.left); s != nil {
			return s
		}
		return selectBy(t, cond.right)
	}
	left, isProperty := cond.left.(property)
	right, isConstant := cond.right.(constant)
	if cond.op != "=" || !isProperty || !isConstant {
		return nil
	}
	want := right.val
	switch string(left) {
	case ".id":
		return func(id itemID, _ string) bool { return same(id, want) }
	case t.name:
		return func(_ itemID, name string) bool { return same(name, want) }
	}
	return nil
}

func findCommand() *command {
	return &command{find: true, policy: "read", do: func(r *run, a *args) (value, error) {
		rows, err := a.rows(r)
		list := make(array, 0, len(rows))
		for _, row := range rows {
			list = append(list, element{val: row.id})
		}
		if !a.inner {
			return nil, err
		}
		return list, err
	}}
}

func getCommand() *command {
	return &command{
		args: arguments("number* value-name"), order: []string{"number", "value-name"}, policy: "read", do: get,
	}
}

// getSingle is get of a menu that is one item.
func getSingle() *command {
	return &command{args: arguments("value-name"), order: []string{"value-name"}, policy: "read", do: get}
}

func get(r *run, a *args) (value, error) {
	b, t := r.box, a.menu.table
	b.mu.Lock()
	defer b.mu.Unlock()
	b.settle()
	var one *row
	if t.single {
		one = t.rows(b, nil)[0]
	} else {
		list, isList := a.vals["number"].(array)
		if isList && len(list) == 0 || a.vals["number"] == nil {
			return nil, failf("no such item")
		}
		if len(list) > 1 {
			return nil, failf("invalid internal item number")
		}
		rows, err := b.resolve(t, a.vals["number"])
		if err != nil {
			return nil, err
		}
		one = rows[0]
	}
	if !a.has("value-name") {
		return b.record(t, one, nil), nil
	}
	p := t.prop(a.str("value-name"))
	if p == nil || !b.console.shows(p) {
		return nil, failf("input does not match any value of value-name")
	}
	v, _ := b.scripted(p, one.vals[p.name])
	return v, nil
}

// record is an item as as-value gives it: ".id" and the properties that have a value, in alphabetical order. names, if
// not nil, selects.
func (b *Box) record(t *table, r *row, names []string) array {
	var list array
	for _, p := range t.props {
		if !b.console.shows(p) || names != nil && !slices.Contains(names, p.name) && p.name != ".id" {
			continue
		}
		v, present := r.vals[p.name]
		if p.name == ".id" {
			v, present = r.id, !t.single
		}
		if present {
			v, present = b.scripted(p, v)
		} else {
			present = b.switches.NoValue == Null
		}
		if present {
			list = append(list, element{p.name, v})
		}
	}
	slices.SortStableFunc(list, func(x, y element) int { return strings.Compare(x.key, y.key) })
	return list
}

// scripted gives a property's value as scripts, as-value and JSON see it, where the switches have their say. present
// is false when the key is left out.
func (b *Box) scripted(p *prop, v value) (_ value, present bool) {
	switch {
	case v == nil:
		return nil, false
	case p.form == sized && b.switches.FileSize == Absent && p.name == "file-size":
		return nil, false
	case p.form == sized && b.switches.FileSize == Text && p.name == "file-size":
		return shown(p, v, true), true
	case p.name == "fs" && v == "-" && b.switches.NoFilesystem == Absent:
		return nil, false
	case p.form == flagged && v == false && b.switches.FalseFlags == Absent:
		return nil, false
	}
	switch n := v.(type) {
	case bool:
		switch b.switches.TruthValues {
		case YesNo:
			return yesNo(n), true
		case Text:
			return strconv.FormatBool(n), true
		default:
		}
	case int64:
		if b.switches.Numbers == Strings {
			return strconv.FormatInt(n, 10), true
		}
	}
	return v, true
}
