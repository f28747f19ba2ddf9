package layout

import (
	"fmt"
	"go/ast"
	"go/token"
	"io/fs"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"srvlab.io/rds-csi/safety"
)

// vocabulary reads from package safety's source the constants of type Reason, by name, and the names that Reasons()
// returns.
func vocabulary(fsys fs.FS) (declared map[string]string, listed []string, err error) {
	list, err := sources(fsys)
	if err != nil {
		return nil, nil, err
	}
	declared = map[string]string{}
	for _, s := range list {
		if s.dir() != "safety" || s.test {
			continue
		}
		for _, d := range s.file.Decls {
			switch d := d.(type) {
			case *ast.GenDecl:
				if err := reasonConstants(s, d, declared); err != nil {
					return nil, nil, err
				}
			case *ast.FuncDecl:
				if d.Name.Name == "Reasons" {
					ast.Inspect(d.Body, func(n ast.Node) bool {
						if lit, ok := n.(*ast.CompositeLit); ok {
							for _, e := range lit.Elts {
								listed = append(listed, fmt.Sprint(e))
							}
						}
						return true
					})
				}
			}
		}
	}
	return declared, listed, nil
}

// reasonConstants adds the constants of type Reason that d declares.
func reasonConstants(s source, d *ast.GenDecl, into map[string]string) error {
	if d.Tok != token.CONST {
		return nil
	}
	for _, spec := range d.Specs {
		v, ok := spec.(*ast.ValueSpec)
		if !ok {
			continue
		}
		if t, ok := v.Type.(*ast.Ident); !ok || t.Name != "Reason" {
			continue
		}
		for i, name := range v.Names {
			lit, ok := v.Values[i].(*ast.BasicLit)
			if !ok {
				return fmt.Errorf("%s: the Reason %s is not written as a string", s.at(name), name.Name)
			}
			text, err := strconv.Unquote(lit.Value)
			if err != nil {
				return fmt.Errorf("%s: %w", s.at(name), err)
			}
			into[name.Name] = text
		}
	}
	return nil
}

// word is what a Reason may look like: it becomes a label, an annotation and a file name.
var word = regexp.MustCompile(`^[a-z]+(-[a-z]+)*$`)

// everyReasonIsListed: the constants and Reasons() are the same set, and each is one word.
func everyReasonIsListed(fsys fs.FS) ([]string, error) {
	declared, listed, err := vocabulary(fsys)
	if err != nil {
		return nil, err
	}
	var wrong []string
	texts := map[string]string{}
	for _, name := range sorted(declared) {
		text := declared[name]
		if !slices.Contains(listed, name) {
			wrong = append(wrong, fmt.Sprintf("safety.%s is not in safety.Reasons(), so that no test asks for its runbook", name))
		}
		if !word.MatchString(text) {
			wrong = append(wrong, fmt.Sprintf("safety.%s: %q is no word of a-z and hyphens", name, text))
		}
		if other, twice := texts[text]; twice {
			wrong = append(wrong, fmt.Sprintf("safety.%s and safety.%s are both %q", other, name, text))
		}
		texts[text] = name
	}
	for i, name := range listed {
		if slices.Index(listed, name) < i {
			wrong = append(wrong, fmt.Sprintf("safety.Reasons() lists %s twice", name))
		}
	}
	return wrong, nil
}

func TestEveryReasonIsListed(t *testing.T) {
	rule(everyReasonIsListed).holds(t, map[string]string{
		"safety/reason.go": `package safety
			type Reason string
			const (
				A Reason = "a"
				B Reason = "b"
				C Reason = "c_c"
				D Reason = "a"
				other string = "not-a-reason"
			)
			func Reasons() []Reason { return []Reason{A, C, D, A} }`,
	}, "safety.B is not in safety.Reasons()", `"c_c" is no word`, `safety.A and safety.D are both "a"`, "lists A twice")

	declared, _, err := vocabulary(repository)
	if err != nil {
		t.Fatal(err)
	}
	if len(declared) == 0 || len(declared) != len(safety.Reasons()) {
		t.Errorf("found %d constants in the source, safety.Reasons() gives %d: the rule reads something else", len(declared), len(safety.Reasons()))
	}
}

// headings are the sections that each runbook has, in this order.
var headings = []string{
	"Meaning", "Impact", "Diagnosis", "Mitigation", "What the software is already doing", "What never to do", "How to know that it is over",
}

// dangerous commands have bricked nodes or destroyed volumes. A runbook may name them to forbid them, nowhere else:
// at three in the morning people copy what stands in a grey box.
var dangerous = regexp.MustCompile(
	`disconnect-all|nvme disconnect|umount (-l|-f|--lazy|--force)|mkfs[.a-z0-9]* [-/$]|wipefs|rm -rf|kill -9|` +
		`/disk/(format|reset|remove)|/file/remove|blkdiscard|xfs_repair -L|e2fsck -y|dd if=|dmsetup (remove|load|message)`,
)

// everyReasonHasItsRunbook: one page for each Reason, no page without one, each with all sections.
func everyReasonHasItsRunbook(fsys fs.FS) ([]string, error) {
	declared, _, err := vocabulary(fsys)
	if err != nil {
		return nil, err
	}
	names, err := files(fsys)
	if err != nil {
		return nil, err
	}
	missing := map[string]bool{}
	for _, text := range declared {
		missing["runbooks/"+text+".md"] = true
	}
	var wrong []string
	for _, name := range names {
		if path.Dir(name) != "runbooks" || name == "runbooks/README.md" {
			continue
		}
		if !missing[name] {
			wrong = append(wrong, name+": no Reason of that name")
			continue
		}
		delete(missing, name)
		text, err := fs.ReadFile(fsys, name)
		if err != nil {
			return nil, err
		}
		for _, w := range sections(strings.TrimSuffix(path.Base(name), ".md"), string(text)) {
			wrong = append(wrong, name+": "+w)
		}
	}
	for _, name := range sorted(missing) {
		wrong = append(wrong, name+": missing; an operator is sent there by the error")
	}
	return wrong, nil
}

// sections says what is wrong with the form of the runbook for reason.
func sections(reason, text string) []string {
	var wrong []string
	parts := strings.Split("\n"+text, "\n## ")
	if !strings.HasPrefix(parts[0], "\n# "+reason+"\n") {
		wrong = append(wrong, "does not start with \"# "+reason+"\"")
	}
	var got []string
	for _, part := range parts[1:] {
		heading, body, _ := strings.Cut(part, "\n")
		got = append(got, heading)
		if strings.TrimSpace(body) == "" {
			wrong = append(wrong, "nothing below "+heading)
		}
		if found := dangerous.FindString(body); found != "" && heading != "What never to do" {
			wrong = append(wrong, fmt.Sprintf("%q stands below %s", found, heading))
		}
	}
	if !slices.Equal(got, headings) {
		wrong = append(wrong, fmt.Sprintf("has the sections %q, want %q", got, headings))
	}
	return wrong
}

func TestEveryReasonHasItsRunbook(t *testing.T) {
	page := func(reason, never, rest string) string {
		text := "# " + reason + "\n\nOne line.\n"
		for _, h := range headings {
			body := "Text.\n" + rest
			if h == "What never to do" {
				body = never
			}
			text += "\n## " + h + "\n\n" + body
		}
		return text
	}
	rule(everyReasonHasItsRunbook).holds(t, map[string]string{
		"safety/reason.go": `package safety
			type Reason string
			const (
				A Reason = "a"
				B Reason = "b"
				C Reason = "c"
				D Reason = "d"
				E Reason = "e"
			)
			func Reasons() []Reason { return []Reason{A, B, C, D, E} }`,
		"runbooks/README.md": "# Runbooks",
		"runbooks/a.md":      page("a", "nvme disconnect-all\n", ""),
		"runbooks/b.md":      page("a", "No.\n", ""),
		"runbooks/c.md":      strings.Replace(page("c", "No.\n", ""), "## Impact", "## Effect", 1),
		"runbooks/d.md":      page("d", "\n", "") + "\n    umount -l /mnt\n",
		"runbooks/x.md":      page("x", "No.\n", ""),
	},
		`b.md: does not start with "# b"`, `c.md: has the sections`, "d.md: nothing below What never to do",
		`d.md: "umount -l" stands below How to know`, "e.md: missing", "x.md: no Reason of that name")
}

// indexRow is a row of the runbooks' index: reason, page, sentence and gRPC code.
var indexRow = regexp.MustCompile(`(?m)^\| \[([a-z-]+)\]\(([a-z-]+)\.md\) \| (.+) \| ([A-Z_]+) \|$`)

// indexTellsTheCodes: the index has each Reason once, links its page, and tells the gRPC code that driver answers.
func indexTellsTheCodes(fsys fs.FS) ([]string, error) {
	text, err := fs.ReadFile(fsys, "runbooks/README.md")
	if err != nil {
		return nil, err
	}
	declared, _, err := vocabulary(fsys)
	if err != nil {
		return nil, err
	}
	codes, err := answered(fsys)
	if err != nil {
		return nil, err
	}
	var wrong []string
	rows := map[string]string{}
	for _, row := range indexRow.FindAllStringSubmatch(string(text), -1) {
		if _, twice := rows[row[1]]; twice || row[1] != row[2] {
			wrong = append(wrong, fmt.Sprintf("runbooks/README.md: the row of %s is there twice, or links another page", row[1]))
		}
		rows[row[1]] = row[4]
	}
	for _, name := range sorted(declared) {
		reason := declared[name]
		if rows[reason] != codes[name] {
			wrong = append(wrong, fmt.Sprintf("runbooks/README.md: %s has the code %q, driver answers %q", reason, rows[reason], codes[name]))
		}
		delete(rows, reason)
	}
	for _, reason := range sorted(rows) {
		wrong = append(wrong, "runbooks/README.md: no Reason "+reason)
	}
	return wrong, nil
}

// answered reads from package driver's source the table of Reasons and gRPC codes, as they are written in CSI.
func answered(fsys fs.FS) (map[string]string, error) {
	list, err := sources(fsys)
	if err != nil {
		return nil, err
	}
	codes := map[string]string{}
	for _, s := range list {
		if s.dir() != "driver" || s.test {
			continue
		}
		ast.Inspect(s.file, func(n ast.Node) bool {
			kv, ok := n.(*ast.KeyValueExpr)
			if !ok {
				return true
			}
			key, isKey := kv.Key.(*ast.SelectorExpr)
			value, isValue := kv.Value.(*ast.SelectorExpr)
			if isKey && isValue && fmt.Sprint(key.X) == "safety" && fmt.Sprint(value.X) == "codes" {
				codes[key.Sel.Name] = shout(value.Sel.Name)
			}
			return true
		})
	}
	return codes, nil
}

// capital finds where a word of a Go name starts.
var capital = regexp.MustCompile(`([a-z])([A-Z])`)

// shout gives FailedPrecondition as FAILED_PRECONDITION.
func shout(name string) string { return strings.ToUpper(capital.ReplaceAllString(name, "${1}_${2}")) }

func TestIndexTellsTheCodes(t *testing.T) {
	rule(indexTellsTheCodes).holds(t, map[string]string{
		"safety/reason.go": `package safety
			type Reason string
			const (
				A Reason = "a"
				B Reason = "b"
				C Reason = "c"
			)`,
		"driver/errors.go": `package driver
			var reasonCodes = map[safety.Reason]codes.Code{safety.A: codes.FailedPrecondition, safety.B: codes.Aborted, safety.C: codes.Aborted}`,
		"runbooks/README.md": "| [a](a.md) | x | FAILED_PRECONDITION |\n| [b](b.md) | x | INTERNAL |\n| [b](a.md) | x | INTERNAL |\n| [z](z.md) | x | INTERNAL |\n",
	}, "the row of b is there twice", `b has the code "INTERNAL", driver answers "ABORTED"`, `c has the code "", driver answers "ABORTED"`, "no Reason z")
}
