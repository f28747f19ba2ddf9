package routerostest

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
)

// Version is a RouterOS release, such as 7.24.4.
type Version [3]int

// The releases whose differences the box knows (facts/routeros.md, 1.6).
var (
	v713 = Version{7, 13}
	v715 = Version{7, 15}
	v717 = Version{7, 17}
	v718 = Version{7, 18}
	v719 = Version{7, 19}
	v721 = Version{7, 21}
	v723 = Version{7, 23}
	v724 = Version{7, 24}
)

// DefaultVersion is the release of the device that most captures come from.
var DefaultVersion = Version{7, 24, 4}

// ParseVersion reads "7.21" or "7.24.4".
func ParseVersion(s string) (Version, error) {
	var v Version
	parts := strings.Split(s, ".")
	if len(parts) < 2 || len(parts) > len(v) {
		return Version{}, fmt.Errorf("RouterOS version %q: is not like 7.21 or 7.24.4", s)
	}
	for i, p := range parts {
		n, err := strconv.Atoi(p)
		if err != nil || n < 0 {
			return Version{}, fmt.Errorf("RouterOS version %q: is not like 7.21 or 7.24.4", s)
		}
		v[i] = n
	}
	if v.before(v713) {
		return Version{}, fmt.Errorf("RouterOS version %q: the model knows 7.13 and later", s)
	}
	return v, nil
}

// String gives "7.24.4", or "7.21" where the last number is 0.
func (v Version) String() string {
	if v[2] == 0 {
		return fmt.Sprintf("%d.%d", v[0], v[1])
	}
	return fmt.Sprintf("%d.%d.%d", v[0], v[1], v[2])
}

func (v Version) before(o Version) bool { return slices.Compare(v[:], o[:]) < 0 }

// span is the releases that have something, from since on and before until; zero is unbounded.
type span struct{ since, until Version }

func (s span) holds(v Version) bool {
	return !v.before(s.since) && (s.until == Version{} || v.before(s.until))
}

// console is the command tree as one release, with or without rose-storage, shows it.
type console struct {
	version  Version
	rose     bool
	switches *Switches
}

// menu is a place in the tree, such as /disk/btrfs/subvolume.
type menu struct {
	span
	name     string
	subs     map[string]*menu
	commands map[string]*command
	table    *table // its items, nil for a menu without
	rose     bool   // comes with rose-storage
}

// command is what can be called in a menu, or globally with ":".
type command struct {
	span
	args     map[string]*argument
	order    []string // names of the arguments that may be given without name, in this order
	where    bool     // takes "where" and a condition
	find     bool     // the condition may stand alone
	declares bool     // its variable argument declares the variable
	policy   string   // what the user's group must hold
	do       func(*run, *args) (value, error)
	special  func(*run, *call) (value, error) // evaluates its arguments itself
}

// required names the mandatory arguments, those with a place first.
func (c *command) required() []string {
	var names []string
	for _, name := range slices.Sorted(maps.Keys(c.args)) {
		if c.args[name].required {
			names = append(names, name)
		}
	}
	place := func(name string) int { return cmp.Or(slices.Index(c.order, name)+1, len(c.order)+1) }
	slices.SortStableFunc(names, func(x, y string) int { return place(x) - place(y) })
	return names
}

// argument is one that a command takes.
type argument struct {
	span
	kind     kind
	required bool
	flag     bool // a word without value
	rose     bool
	unset    bool // known, but this model cannot act on it
}

// kind is how an argument's value is written in the line.
type kind int

const (
	plain    kind = iota
	code          // { statements }
	variable      // the name of a variable
)

func (c *console) global(name string) *command {
	cmd := globals[name]
	if cmd == nil || !cmd.holds(c.version) {
		return nil
	}
	return cmd
}

func (c *console) sub(m *menu, name string) *menu {
	sub := m.subs[name]
	if sub == nil || !sub.holds(c.version) || sub.rose && !c.rose {
		return nil
	}
	return sub
}

func (c *console) command(m *menu, name string) *command {
	cmd := m.commands[name]
	if cmd == nil || !cmd.holds(c.version) {
		return nil
	}
	return cmd
}

func (c *console) arg(cmd *command, name string) *argument {
	a := cmd.args[name]
	if a == nil || !a.holds(c.version) || a.rose && !c.rose {
		return nil
	}
	return a
}

// shows tells whether this release has a property.
func (c *console) shows(p *prop) bool { return p.holds(c.version) && (c.rose || !p.rose) }

// unknownArgument is the text for an argument that a command does not have.
func (c *console) unknownArgument(name string) string {
	if c.switches.UnknownArgument == BadParameter && name != "" {
		return "bad parameter " + name
	}
	return "expected end of command"
}

// root is "/". The menus register themselves here.
var root = &menu{subs: map[string]*menu{}}

// addMenu registers a menu under its path. A menu above it that is not there yet is as old as the first one below.
func addMenu(path string, m *menu) {
	parent := root
	names := strings.Split(path, "/")
	for _, name := range names[:len(names)-1] {
		if parent.subs[name] == nil {
			parent.subs[name] = &menu{span: m.span, name: name, subs: map[string]*menu{}}
		}
		parent = parent.subs[name]
	}
	m.name = names[len(names)-1]
	if m.subs == nil {
		m.subs = map[string]*menu{}
	}
	if old := parent.subs[m.name]; old != nil {
		m.subs = old.subs
	}
	parent.subs[m.name] = m
}

// row is an item as the console sees it at this moment. vals holds only what has a value.
type row struct {
	id   itemID
	num  int
	vals map[string]value
	ref  any // the model's own object
}

// of gives the model's object behind a row.
func of[T any](r *row) T {
	obj, _ := r.ref.(T)
	return obj
}

// table is a menu's items and what they are made of.
type table struct {
	single bool   // one item without number, as /system/resource
	name   string // the property by whose value an item can be addressed
	props  []*prop
	brief  []string // columns of the brief form; those without any value are left out
	flags  []flag
	rows   func(*Box, selection) []*row
	slow   bool // listing it takes long (/file)
}

// selection tells from its ID and name whether an item is worth its row; nil takes all. A table may ignore it: what it
// gives too much is left out later.
type selection func(id itemID, name string) bool

func (s selection) leaves(id itemID, name string) bool { return s != nil && !s(id, name) }

// flag is a letter in front of an item. Its property is a truth value that is no "name=" in the terminal's forms.
type flag struct{ letter, prop string }

// prop is a property of the items of a table, in the order of "print detail".
type prop struct {
	span
	name string
	form form
	rose bool
}

// form is how a property's value is written at the terminal.
type form int

const (
	quoted  form = iota // "string"
	bare                // enum, path, time, number without separators
	yesno               // truth value
	spaced              // number with blanks between thousands
	sized               // bytes as 1024.0GiB
	flagged             // truth value, shown as a letter
	hidden              // only by get and as-value
)

func (t *table) prop(name string) *prop {
	if t == nil {
		return nil
	}
	i := slices.IndexFunc(t.props, func(p *prop) bool { return p.name == name })
	if i < 0 {
		return nil
	}
	return t.props[i]
}

// props reads "name name:form name:form@since" into the properties of a table.
func props(spec string) []*prop {
	forms := map[string]form{
		"": quoted, "bare": bare, "yesno": yesno, "spaced": spaced, "sized": sized, "flag": flagged, "hidden": hidden,
	}
	list := []*prop{{name: ".id", form: hidden}}
	for _, s := range strings.Fields(spec) {
		s, rose := strings.CutSuffix(s, "!")
		s, since, _ := strings.Cut(s, "@")
		name, f, _ := strings.Cut(s, ":")
		p := &prop{name: name, form: forms[f], rose: rose}
		if since != "" {
			v, err := ParseVersion(since)
			if err != nil {
				panic(err) // a literal of this package
			}
			p.since = v
		}
		list = append(list, p)
	}
	return list
}

// arguments reads "name name* name@7.21!" into a command's arguments: "*" is required, "!" comes with rose-storage,
// "?" is known but not modelled, "-" is a word without value.
func arguments(spec string) map[string]*argument {
	m := map[string]*argument{}
	for _, s := range strings.Fields(spec) {
		a := &argument{}
		for {
			last := s[len(s)-1]
			switch last {
			case '*':
				a.required = true
			case '!':
				a.rose = true
			case '?':
				a.unset = true
			case '+':
				a.flag = true
			case '{':
				a.kind = code
			case '$':
				a.kind = variable
			default:
				last = 0
			}
			if last == 0 {
				break
			}
			s = s[:len(s)-1]
		}
		name, versions, _ := strings.Cut(s, "@")
		since, until, _ := strings.Cut(versions, "<")
		for text, to := range map[string]*Version{since: &a.since, until: &a.until} {
			if text == "" {
				continue
			}
			v, err := ParseVersion(text)
			if err != nil {
				panic(err) // a literal of this package
			}
			*to = v
		}
		m[name] = a
	}
	return m
}

// byItem orders rows as "print" does.
func byItem(a, b *row) int { return cmp.Compare(a.num, b.num) }
