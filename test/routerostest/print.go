package routerostest

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// defaultWidth is that of an exec channel without a terminal: the captures taken that way wrap at 80 columns.
const defaultWidth = 80

// margin is what print leaves free on the right: in every capture the lines end by width minus two.
const margin = 2

func printCommand() *command {
	return &command{
		args:  arguments("as-value+ brief+ count-only+ detail+ terse+ value-list+ show-ids+ without-paging+ proplist"),
		where: true, policy: "read", do: printItems,
	}
}

func printItems(r *run, a *args) (value, error) {
	rows, err := a.rows(r)
	if err != nil {
		return nil, err
	}
	b, t := r.box, a.menu.table
	b.mu.Lock()
	defer b.mu.Unlock()
	var names []string
	if a.has("proplist") {
		names = strings.FieldsFunc(a.str("proplist"), func(c rune) bool { return c == ',' || c == ';' })
	}
	p := &printer{box: b, table: t, width: r.session.Width, names: names, ids: a.flags["show-ids"]}
	setDefault(&p.width, defaultWidth)
	switch {
	case a.flags["count-only"]:
		if a.inner {
			return int64(len(rows)), nil
		}
		r.printf("%d\n", len(rows))
	case a.flags["as-value"]:
		return p.asValue(rows, a), nil
	case t.single:
		r.printf("%s", p.single(rows[0]))
	case a.flags["value-list"]:
		r.printf("%s", p.valueList(rows))
	case a.flags["terse"]:
		r.printf("%s", p.terse(rows))
	case a.flags["detail"]:
		r.printf("%s", p.detail(rows))
	default:
		r.printf("%s", p.brief(rows))
	}
	return nil, nil // RouterOS' nothing
}

// printer writes items in one of the terminal's forms.
type printer struct {
	box   *Box
	table *table
	width int
	names []string
	ids   bool
}

// asValue gives records to brackets around it and nothing to the console. Without "detail" only the columns of the
// brief form and the flags are in them.
func (p *printer) asValue(rows []*row, a *args) value {
	if !a.inner {
		return nil
	}
	names := p.names
	if names == nil && !a.flags["detail"] && p.table.brief != nil {
		names = slices.Clone(p.table.brief)
		for _, f := range p.table.flags {
			names = append(names, f.prop)
		}
	}
	if p.table.single {
		return p.box.record(p.table, rows[0], p.names)
	}
	list := make(array, 0, len(rows))
	for _, r := range rows {
		list = append(list, element{val: p.box.record(p.table, r, names)})
	}
	return list
}

func yesNo(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}

// sizeText gives bytes with one decimal as RouterOS does: 1924.1KiB, 50.0GiB, 1024.0GiB. The next unit begins at
// 10,000 of the last.
func sizeText(n int64) string {
	if n < 10000 {
		return strconv.FormatInt(n, 10)
	}
	f, units := float64(n), []string{"KiB", "MiB", "GiB", "TiB"}
	for i, u := range units {
		f /= 1024
		if f < 10000 || i == len(units)-1 {
			return strconv.FormatFloat(f, 'f', 1, 64) + u
		}
	}
	return ""
}

// thousands puts blanks between groups of three digits.
func thousands(n int64) string {
	s := strconv.FormatInt(n, 10)
	for i := len(s) - 3; i > 0 && s[i-1] != '-'; i -= 3 {
		s = s[:i] + " " + s[i:]
	}
	return s
}

// shown gives a value as the terminal writes it.
func shown(p *prop, v value, terse bool) string {
	switch p.form {
	case yesno:
		if b, ok := v.(bool); ok {
			return yesNo(b)
		}
	case spaced:
		if n, ok := v.(int64); ok && !terse {
			return thousands(n)
		}
	case sized:
		if n, ok := v.(int64); ok {
			return sizeText(n)
		}
	case quoted:
		if !terse {
			return quoteTerminal(text(v))
		}
	default:
	}
	if list, ok := v.(array); ok {
		parts := make([]string, len(list))
		for i, e := range list {
			parts[i] = text(e.val)
		}
		return strings.Join(parts, ",")
	}
	return text(v)
}

func quoteTerminal(s string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`, "\r", `\r`, "\t", `\t`).Replace(s) + `"`
}

// visible gives the properties that detail and terse write, with their values.
func (p *printer) visible(r *row, terse bool) []string {
	var list []string
	for _, pr := range p.table.props {
		v, ok := r.vals[pr.name]
		hide := pr.form == hidden || pr.form == flagged || p.names != nil && !slices.Contains(p.names, pr.name)
		if !ok || v == nil || hide || !p.box.console.shows(pr) {
			continue
		}
		list = append(list, pr.name+"="+shown(pr, v, terse))
	}
	return list
}

// flags gives those flags that at least one of the rows has: a column of letters each.
func (p *printer) flags(rows []*row) []flag {
	var list []flag
	for _, f := range p.table.flags {
		if pr := p.table.prop(f.prop); !p.box.console.shows(pr) {
			continue
		}
		if slices.ContainsFunc(rows, func(r *row) bool { return r.vals[f.prop] == true }) {
			list = append(list, f)
		}
	}
	return list
}

// legend is the line above the items. It is there even when no item is, then with every flag of the menu.
func (p *printer) legend(rows []*row) string {
	flags := p.flags(rows)
	if len(rows) == 0 {
		flags = p.flags(p.table.rows(p.box, nil))
	}
	if len(flags) == 0 {
		return ""
	}
	parts := make([]string, len(flags))
	for i, f := range flags {
		parts[i] = f.letter + " - " + strings.ToUpper(f.prop)
	}
	return "Flags: " + strings.Join(parts, "; ") + "\n"
}

func letters(r *row, flags []flag) string {
	s := ""
	for _, f := range flags {
		if r.vals[f.prop] == true {
			s += f.letter
		} else {
			s += " "
		}
	}
	return s
}

func (p *printer) number(r *row) string {
	if p.ids {
		return string(r.id)
	}
	return strconv.Itoa(r.num)
}

// detail writes each item as name=value, wrapped at the terminal's width and continued in the column of the first.
func (p *printer) detail(rows []*row) string {
	var b strings.Builder
	b.WriteString(p.legend(rows))
	flags := p.flags(rows)
	for i, r := range rows {
		if i > 0 {
			b.WriteString(" \n")
		}
		head := fmt.Sprintf("%2s ", p.number(r))
		if len(flags) > 0 {
			head += letters(r, flags) + " "
		}
		if c := text(r.vals["comment"]); c != "" {
			head += ";;; " + c + "\n" + strings.Repeat(" ", len(head))
		}
		b.WriteString(wrap(head, p.visible(r, false), p.width))
	}
	return b.String()
}

// wrap puts parts behind head, and goes on in the same column of the next line where the width is used up. A part
// that is too long for a line of its own is broken in the middle, as seen on the device.
func wrap(head string, parts []string, width int) string {
	indent := len(head) - strings.LastIndexByte(head, '\n') - 1
	limit := max(width-margin, indent+20)
	var b strings.Builder
	b.WriteString(head)
	column, fresh := indent, true
	newline := func() {
		b.WriteString("\n" + strings.Repeat(" ", indent))
		column, fresh = indent, true
	}
	for _, part := range parts {
		if !fresh && column+1+len(part) > limit {
			newline()
		} else if !fresh {
			b.WriteByte(' ')
			column++
		}
		for column+len(part) > limit {
			b.WriteString(part[:limit-column])
			part = part[limit-column:]
			newline()
		}
		b.WriteString(part)
		column, fresh = column+len(part), false
	}
	b.WriteByte('\n')
	return b.String()
}

// terse writes one line an item, without quotes and thousands separators.
func (p *printer) terse(rows []*row) string {
	var b strings.Builder
	flags := p.flags(rows)
	for _, r := range rows {
		b.WriteString(p.number(r) + " ")
		if len(flags) > 0 {
			b.WriteString(letters(r, flags) + " ")
		}
		list := p.visible(r, true)
		if c := text(r.vals["comment"]); c != "" {
			list = append([]string{"comment=" + c}, list...)
		}
		b.WriteString(strings.Join(list, " ") + "\n")
	}
	return b.String()
}

// valueList writes one property a line, with a column for each item.
func (p *printer) valueList(rows []*row) string {
	var cells [][]string
	for _, pr := range p.table.props {
		line, used := []string{pr.name + ":"}, false
		for _, r := range rows {
			v, ok := r.vals[pr.name]
			used = used || ok
			line = append(line, shown(pr, v, true))
		}
		if used && pr.form != hidden && pr.form != flagged && p.box.console.shows(pr) {
			cells = append(cells, line)
		}
	}
	right := make([]bool, len(rows)+1)
	right[0] = true
	return columns(cells, right)
}

// single writes a menu that is one item: "name: value", the names flush right.
func (p *printer) single(r *row) string {
	var cells [][]string
	for _, pr := range p.table.props {
		if v, ok := r.vals[pr.name]; ok && pr.form != hidden && p.box.console.shows(pr) {
			cells = append(cells, []string{pr.name + ":", shown(pr, v, true)})
		}
	}
	return columns(cells, []bool{true, false})
}

// brief writes a table of the columns that have a value at all.
func (p *printer) brief(rows []*row) string {
	flags, head := p.flags(rows), []string{"#"}
	right := []bool{false}
	var used []*prop
	for _, name := range p.table.brief {
		pr := p.table.prop(name)
		has := func(r *row) bool { return text(r.vals[name]) != "" }
		if pr == nil || !slices.ContainsFunc(rows, has) {
			continue
		}
		used = append(used, pr)
		head = append(head, strings.ToUpper(name))
		right = append(right, pr.form == spaced || pr.form == sized)
	}
	cells := [][]string{head}
	for _, r := range rows {
		first := p.number(r)
		if len(flags) > 0 {
			first += " " + letters(r, flags)
		}
		line := []string{first}
		for _, pr := range used {
			line = append(line, strings.Trim(shown(pr, r.vals[pr.name], false), `"`))
		}
		cells = append(cells, line)
	}
	if len(rows) == 0 {
		return p.legend(rows)
	}
	cols := "Columns: " + strings.Join(head[1:], ", ") + "\n"
	return p.legend(rows) + cols + columns(cells, right)
}

// columns aligns cells; the first two columns are one blank apart, all others two.
func columns(cells [][]string, right []bool) string {
	widths := make([]int, len(right))
	for _, line := range cells {
		for i, c := range line {
			widths[i] = max(widths[i], utf8.RuneCountInString(c))
		}
	}
	var b strings.Builder
	for _, line := range cells {
		s := ""
		for i, c := range line {
			pad := strings.Repeat(" ", widths[i]-utf8.RuneCountInString(c))
			if i > 0 {
				s += strings.Repeat(" ", min(i, 2))
			}
			if right[i] {
				s += pad + c
			} else {
				s += c + pad
			}
		}
		b.WriteString(strings.TrimRight(s, " ") + "\n")
	}
	return b.String()
}
