package routerostest

import (
	"fmt"
	"slices"
	"strings"
)

// Position is one way in which a device may behave where the facts leave a gap. "" is a switch's default.
type Position string

// The positions. Which switch has which, and what they mean there, is said in the table below and printed by
// SwitchHelp.
const (
	Absent       Position = "absent"
	Allowed      Position = "allowed"
	Answered     Position = "answered"
	AtOnce       Position = "at-once"
	BadParameter Position = "bad-parameter"
	Bare         Position = "bare"
	Booleans     Position = "booleans"
	ByVersion    Position = "by-version"
	Created      Position = "created"
	Dash         Position = "dash"
	Delayed      Position = "delayed"
	Done         Position = "done"
	Dropped      Position = "dropped"
	Enforced     Position = "enforced"
	EndOfCommand Position = "end-of-command"
	Ends         Position = "ends"
	Forgotten    Position = "forgotten"
	Generic      Position = "generic"
	Grown        Position = "grown"
	Guessed      Position = "guessed"
	Honoured     Position = "honoured"
	Ignored      Position = "ignored"
	Integer      Position = "integer"
	Kept         Position = "kept"
	Located      Position = "located"
	Null         Position = "null"
	Plain        Position = "plain"
	Present      Position = "present"
	Prompted     Position = "prompted"
	Queued       Position = "queued"
	Refused      Position = "refused"
	Silent       Position = "silent"
	Slash        Position = "slash"
	Statement    Position = "statement"
	Strings      Position = "strings"
	Suffixed     Position = "suffixed"
	Text         Position = "text"
	Thick        Position = "thick"
	Thin         Position = "thin"
	Truncated    Position = "truncated"
	Unannounced  Position = "unannounced"
	Unlimited    Position = "unlimited"
	Unlinked     Position = "unlinked"
	WholeLine    Position = "whole-line"
	YesNo        Position = "yes-no"
)

// Switches say how the box behaves where nobody has shown how the device does. The zero value is our best guess
// throughout. The number in brackets is that of the gap in facts/routeros.md, section 9; [INF] marks what the facts
// infer.
type Switches struct {
	ErrorTexts         Position // wording of failures [1]
	ErrorCommand       Position // what ":error x" prints on a line of its own [INF]
	UnknownArgument    Position // wording of the parse error (3.4 has both)
	ParseErrors        Position // what of a line with a parse error is executed [INF]
	EmptyFind          Position // set and remove with "[find]" that matches nothing (3.1 and TIK4NET differ)
	MissingArgument    Position // a mandatory argument left out [3.3]
	DuplicateSlot      Position // add with a slot that is taken [1, 5]
	SlotLength         Position // slots of more than 32 characters [1, 1.4]
	FileTwice          Position // a second disk on a file that is attached [1]
	ExistingLarger     Position // add on a file that is larger than file-size [2]
	ExistingSmaller    Position // add on a file that is smaller than file-size [2]
	Shrink             Position // set file-size to less [2]
	GrowExported       Position // set file-size to more while exported [2]
	ParentDirectory    Position // add below a directory that is not there [3]
	FileSize           Position // file-size in as-value and JSON [4]
	NoFilesystem       Position // fs of a disk without one, in as-value and JSON [4]
	FalseFlags         Position // flags that are not set, in as-value and JSON [4]
	TruthValues        Position // truth values in as-value and JSON [4, 2.2]
	Numbers            Position // other numbers in as-value and JSON [4]
	NoValue            Position // properties without value, in JSON [4, 2.3]
	FilePath           Position // how file-path is shown (1.4: accept both)
	RowVisible         Position // when the item is there after add [6]
	AllowHost          Position // whether allow-host-name keeps other hosts out [8]
	AllowHostChange    Position // what its change does to live connections [8]
	NQNWhileOff        Position // set of nvme-tcp-server-* while export=no [INF]
	InvalidNQN         Position // an NQN that does not start with "nqn." [1]
	RemoveExported     Position // remove of a disk that is exported [1]
	RemoveAttachedFile Position // /file/remove of a disk's file (section 4)
	RemoveInSnapshot   Position // /file/remove inside a read-only subvolume [11]
	SpaceReturn        Position // when removed files' space is free again [10]
	Accounting         Position // whether a file takes its whole size from the pool at once [INF]
	SessionLimit       Position // what happens to the session that is one too many [9]
	GlobalRequests     Position // SSH global requests such as keepalive@openssh.com [9]
	TargetModel        Position // model and serial that an initiator sees; only with exports that are real [7]
}

// choice is a switch with its positions, the default first, each with what it means.
type choice struct {
	name  string
	field func(*Switches) *Position
	at    [][2]string
}

var choices = []choice{
	{"error-texts", func(s *Switches) *Position { return &s.ErrorTexts }, [][2]string{
		{"guessed", `"failure: …" with the likeliest text`},
		{"bare", "the same text without \"failure: \""},
		{"located", `with the place behind it: "failure: … (/disk/add; line 1)"`},
		{"generic", `"action failed (6)", whatever it was`},
	}},
	{"error-command", func(s *Switches) *Position { return &s.ErrorCommand }, [][2]string{
		{"located", `:error "x" prints x (:error; line 1)`},
		{"plain", `:error "x" prints x`},
	}},
	{"unknown-argument", func(s *Switches) *Position { return &s.UnknownArgument }, [][2]string{
		{"end-of-command", "expected end of command"},
		{"bad-parameter", "bad parameter X"},
	}},
	{"parse-errors", func(s *Switches) *Position { return &s.ParseErrors }, [][2]string{
		{"whole-line", "nothing of the line is executed"},
		{"statement", "the statements in front of the wrong one are executed"},
	}},
	{"empty-find", func(s *Switches) *Position { return &s.EmptyFind }, [][2]string{
		{"silent", "succeeds and does nothing"},
		{"refused", "no such item"},
	}},
	{"missing-argument", func(s *Switches) *Position { return &s.MissingArgument }, [][2]string{
		{"prompted", "the console asks for it, and the line hangs"},
		{"refused", "missing value(s) of argument(s) X"},
	}},
	{"duplicate-slot", func(s *Switches) *Position { return &s.DuplicateSlot }, [][2]string{
		{"refused", "already have device with such name"},
		{"suffixed", "the disk gets the slot with a number behind it"},
	}},
	{"slot-length", func(s *Switches) *Position { return &s.SlotLength }, [][2]string{
		{"by-version", "refused from 7.24 on, taken before"},
		{"enforced", "refused by every version"},
		{"truncated", "cut to 32 characters without a word"},
		{"unlimited", "taken by every version"},
	}},
	{"file-twice", func(s *Switches) *Position { return &s.FileTwice }, [][2]string{
		{"refused", "file already in use"},
		{"allowed", "two disks on one file"},
	}},
	{"existing-larger", func(s *Switches) *Position { return &s.ExistingLarger }, [][2]string{
		{"kept", "the disk has the file's size"},
		{"truncated", "the file is cut, its end is lost"},
		{"refused", "file already exists"},
	}},
	{"existing-smaller", func(s *Switches) *Position { return &s.ExistingSmaller }, [][2]string{
		{"grown", "the file grows to file-size"},
		{"kept", "the disk has the file's size"},
		{"refused", "file already exists"},
	}},
	{"shrink", func(s *Switches) *Position { return &s.Shrink }, [][2]string{
		{"refused", "can not shrink file"},
		{"done", "the file is cut, its end is lost"},
		{"ignored", "nothing changes, no error"},
	}},
	{"grow-exported", func(s *Switches) *Position { return &s.GrowExported }, [][2]string{
		{"done", "initiators are told of the new size"},
		{"unannounced", "initiators see it after the next export"},
		{"refused", "device is busy"},
	}},
	{"parent-directory", func(s *Switches) *Position { return &s.ParentDirectory }, [][2]string{
		{"refused", "no such file or directory"},
		{"created", "missing directories are made"},
	}},
	{"file-size", func(s *Switches) *Position { return &s.FileSize }, [][2]string{
		{"integer", "1099511627776"},
		{"text", `"1024.0GiB"`},
		{"absent", "no such key"},
	}},
	{"no-filesystem", func(s *Switches) *Position { return &s.NoFilesystem }, [][2]string{
		{"dash", `fs is "-"`},
		{"absent", "no such key"},
	}},
	{"false-flags", func(s *Switches) *Position { return &s.FalseFlags }, [][2]string{
		{"present", "mounted is false"},
		{"absent", "no such key"},
	}},
	{"truth-values", func(s *Switches) *Position { return &s.TruthValues }, [][2]string{
		{"booleans", "true and false"},
		{"yes-no", `"yes" and "no"`},
		{"text", `"true" and "false"`},
	}},
	{"numbers", func(s *Switches) *Position { return &s.Numbers }, [][2]string{
		{"integer", "4420"},
		{"strings", `"4420"`},
	}},
	{"no-value", func(s *Switches) *Position { return &s.NoValue }, [][2]string{
		{"absent", "no such key"},
		{"null", "the key with null"},
	}},
	{"file-path", func(s *Switches) *Position { return &s.FilePath }, [][2]string{
		{"slash", "/pool/x.img"},
		{"plain", "pool/x.img"},
	}},
	{"row-visible", func(s *Switches) *Position { return &s.RowVisible }, [][2]string{
		{"at-once", "as soon as add is done"},
		{"delayed", "after Options.RowDelay; until then print and find leave it out"},
	}},
	{"allow-host", func(s *Switches) *Position { return &s.AllowHost }, [][2]string{
		{"honoured", "other hosts are refused"},
		{"ignored", "every host may connect"},
	}},
	{"allow-host-change", func(s *Switches) *Position { return &s.AllowHostChange }, [][2]string{
		{"kept", "live connections stay"},
		{"ends", "live connections end"},
	}},
	{"nqn-while-off", func(s *Switches) *Position { return &s.NQNWhileOff }, [][2]string{
		{"kept", "it counts from the next export on"},
		{"refused", "nvme-tcp-export is not enabled"},
		{"forgotten", "no error, and the next export has the default"},
	}},
	{"invalid-nqn", func(s *Switches) *Position { return &s.InvalidNQN }, [][2]string{
		{"allowed", "any text is taken"},
		{"refused", "invalid nqn"},
	}},
	{"remove-exported", func(s *Switches) *Position { return &s.RemoveExported }, [][2]string{
		{"done", "the export ends and the disk goes"},
		{"refused", "device is in use"},
	}},
	{"remove-attached-file", func(s *Switches) *Position { return &s.RemoveAttachedFile }, [][2]string{
		{"unlinked", "the name goes, the space when the disk goes too"},
		{"refused", "file is in use"},
	}},
	{"remove-in-snapshot", func(s *Switches) *Position { return &s.RemoveInSnapshot }, [][2]string{
		{"refused", "read-only file system"},
		{"silent", "no error, and the file stays"},
	}},
	{"space-return", func(s *Switches) *Position { return &s.SpaceReturn }, [][2]string{
		{"at-once", "with the file"},
		{"delayed", "after Options.SpaceDelay"},
	}},
	{"accounting", func(s *Switches) *Position { return &s.Accounting }, [][2]string{
		{"thick", "a file takes its size from free when it is made"},
		{"thin", "a new file takes nothing"},
	}},
	{"session-limit", func(s *Switches) *Position { return &s.SessionLimit }, [][2]string{
		{"dropped", "the connection is closed before a login"},
		{"refused", "the login is refused"},
		{"queued", "the login waits until another session ends"},
	}},
	{"global-requests", func(s *Switches) *Position { return &s.GlobalRequests }, [][2]string{
		{"answered", "unknown ones are refused"},
		{"ignored", "no answer ever comes"},
	}},
	{"target-model", func(s *Switches) *Position { return &s.TargetModel }, [][2]string{
		{"plain", "the kernel's own: Linux and a random serial"},
		{"text", "model ROSE and the slot as serial"},
	}},
}

// fill puts the default where nothing is set, so that the code compares with names only.
func (s Switches) fill() Switches {
	for _, c := range choices {
		if f := c.field(&s); *f == "" {
			*f = Position(c.at[0][0])
		}
	}
	return s
}

// String lists the switches that are not at their default, as ParseSwitches reads them.
func (s Switches) String() string {
	var list []string
	for _, c := range choices {
		if p := *c.field(&s); p != "" && string(p) != c.at[0][0] {
			list = append(list, c.name+"="+string(p))
		}
	}
	return strings.Join(list, ",")
}

// ParseSwitches reads "shrink=ignored,fs-none=absent".
func ParseSwitches(text string) (Switches, error) {
	var s Switches
	for _, part := range strings.Split(text, ",") {
		if part == "" {
			continue
		}
		name, pos, _ := strings.Cut(part, "=")
		i := slices.IndexFunc(choices, func(c choice) bool { return c.name == name })
		if i < 0 {
			return Switches{}, fmt.Errorf("switch %q: there is no such switch", name)
		}
		if err := choices[i].set(&s, pos); err != nil {
			return Switches{}, err
		}
	}
	return s, nil
}

func (c choice) set(s *Switches, pos string) error {
	var known []string
	for _, at := range c.at {
		if known = append(known, at[0]); at[0] == pos {
			*c.field(s) = Position(pos)
			return nil
		}
	}
	return fmt.Errorf("switch %s: has no position %q, only %s", c.name, pos, strings.Join(known, ", "))
}

// check refuses a position that the switch does not have.
func (s Switches) check() error {
	for _, c := range choices {
		if p := *c.field(&s); p != "" {
			if err := c.set(&s, string(p)); err != nil {
				return err
			}
		}
	}
	return nil
}

// AllSwitchPositions gives one value for each position that is no default, all others being at theirs: what the
// driver's tests run through. String names the position.
func AllSwitchPositions() []Switches {
	var list []Switches
	for _, c := range choices {
		for _, at := range c.at[1:] {
			var s Switches
			*c.field(&s) = Position(at[0])
			list = append(list, s)
		}
	}
	return list
}

// SwitchHelp describes each switch and its positions, for a program's --help.
func SwitchHelp() string {
	var b strings.Builder
	for _, c := range choices {
		fmt.Fprintf(&b, "%s\n", c.name)
		for i, at := range c.at {
			mark := " "
			if i == 0 {
				mark = "*"
			}
			fmt.Fprintf(&b, "  %s %-14s %s\n", mark, at[0], at[1])
		}
	}
	return b.String()
}
