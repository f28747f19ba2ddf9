package routerostest

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"
)

// TestGrammar runs single lines. Where facts/routeros.md, 3.3 and 3.4 have the text, it is theirs.
func TestGrammar(t *testing.T) {
	tests := []struct{ line, want string }{
		// statements
		{``, ""},
		{`;;; ;`, ""},
		{`# everything is a comment; :put 1`, ""},
		{`:put 1 # no comment inside of a statement`, "expected end of command (line 1 column 8)\n"},
		{`:put 1; # a comment; :put 2`, "1\n"},
		{`:put 1;:put 2`, "1\n2\n"},
		{`{ :put 1; { :put 2 } }; :put 3`, "1\n2\n3\n"},
		{`put 5`, "5\n"},
		{`/put 5`, "5\n"},

		// paths
		{`/disk/print count-only`, "2\n"},
		{`/disk print count-only`, "2\n"},
		{`disk print count-only`, "2\n"},
		{`/disk/btrfs/subvolume/print count-only`, "0\n"},
		{`/disk btrfs subvolume print count-only`, "0\n"},
		{`/disk; print count-only; /; /disk btrfs filesystem; print count-only`, "2\n0\n"},
		{`:put [/disk find slot=x]`, "*2\n"},
		{`:put [:len [/disk/find]]`, "2\n"},

		// strings
		{`:put "a\"b\\c\$d\_e"`, "a\"b\\c$d e\n"},
		{`:put "\41\5A|\t|\a\b\f\v"`, "AZ|\t|\a\b\f\v\n"},
		{`:put [:len "\E2\82\AC\n\r"]`, "5\n"},
		{`:local name "x"; :put "<$name> <$other>"`, "<x> <>\n"},
		{`:put "sum $(1+2) disks $[:len [/disk/find]]"`, "sum 3 disks 2\n"},
		{`:put "a\qb"`, "syntax error (line 1 column 8)\n"},
		{`:put "a\?b"`, "syntax error (line 1 column 8)\n"},
		{`:put "\4g"`, "syntax error (line 1 column 7)\n"},
		{`:put "\e2"`, "syntax error (line 1 column 7)\n"},
		{`:put "cost $"`, "syntax error (line 1 column 12)\n"},
		{`:put 'a'`, "syntax error (line 1 column 6)\n"},
		{`:put "a`, "expected closing quote (line 1 column 8)\n"},
		{"/disk/add \n type=file", "expected end of command (line 1 column 11)\n"}, // "multi-line via exec does not work"
		{"/disk/set x comment=\"a\nb\"", "syntax error (line 1 column 23)\n"},

		// values
		{`:put 007; :put yes; :put *1F; :put 1,2`, "7\ntrue\n*1F\n1,2\n"},
		{`:put {1;"two";k=3}`, "1;two;k=3\n"},
		{`:put { 1 ; "two" ; k=3 }; :put [:len { }]`, "1;two;k=3\n0\n"},
		{
			`:put [:typeof 1]; :put [:typeof yes]; :put [:typeof "1"]; :put [:typeof {1}]; :put [:typeof *1]; :put [:typeof [:put ""]]`,
			"num\nbool\nstr\narray\nid\n\nnothing\n",
		},
		{`:put [:tostr 12]; :put [:tonum "12"]; :put ([:tonum "12"]+1); :put [:tonum "x"]`, "12\n12\n13\n\n"},
		{`:put [:pick "abcdef" 1 3]; :put [:pick {1;2;3} 1]; :put [:pick "abc" 5]`, "bc\n2\n\n"},

		// expressions
		{`:put (1+2*3-4/2)`, "5\n"},
		{`:put ((1+2)*3 % 4)`, "1\n"},
		{`:put (-3 - -4)`, "1\n"},
		{`:put (1 < 2 && 2 >= 2 || false)`, "true\n"},
		{`:put (!true or 1 != 1 and true)`, "false\n"},
		{`:put ("a" < "b"); :put ("abc" ~ "^a.c\$")`, "true\ntrue\n"},
		{`:put ("n" . 1+2 . "x")`, "n3x\n"},
		{`:put (1 = "1"); :put ("x" = "X"); :put (true = "yes")`, "true\nfalse\ntrue\n"},
		{`:local a {x=1;y={7;8}}; :put ($a->"y"->1); :put ($a->"no"); :put ($a->9)`, "8\n\n\n"},
		{`:put (1/0)`, "division by zero\n"},
		{`:put ("x" < 1)`, "cannot compare if str is less than num\n"},
		{`:put ("a"+1)`, "cannot add str and num\n"},
		{`:put ("a" ~ "(")`, "invalid regular expression\n"},
		{`:put (foo)`, "syntax error (line 1 column 7)\n"},
		{`:put (1+)`, "syntax error (line 1 column 9)\n"},
		{`:put (-"x")`, "cannot negate str\n"},
		{`:put (2>1 and !(1>=2) or 1/0=1)`, "true\n"}, // the right side is not looked at
		{`:put ` + strings.Repeat("(", 101) + `1`, "syntax error (line 1 column 56)\n"},
		{`:put (1`, "expected closing parenthesis (line 1 column 8)\n"},

		// variables
		{`:local a 1; :set a 2; { :local a 3; :put $a }; :put $a`, "3\n2\n"},
		{`{ :local a 1; :set a 5 }; :put 1; :put $a`, "syntax error (line 1 column 40)\n"},
		{`:put $nobody`, "syntax error (line 1 column 6)\n"},
		{`:set nobody 1`, "syntax error (line 1 column 6)\n"},
		{`:foreach d in=[/disk/find] do={ :put [/disk/get $d slot] }`, "pool\nx\n"},

		{`:foreach w in="one" do={ :put $w }; :foreach w in=[:pick "a" 5] do={ :put $w }`, "one\n"},
		{`:foreach w in={1;2} do={ :put $w; :error "enough" }`, "1\nenough (:error; line 1)\n"},
		{
			`:put ({1;k=2} = {1;k=2}); :put ({1} = {2}); :put (1 = {1}); :put ("yes" = true); :put (true = 7)`,
			"true\nfalse\nfalse\ntrue\nfalse\n",
		},
		{`:local n [:pick "a" 5]; :put ($n = ""); :put ($n < 1); :put (!$n); :put [:typeof $n]`, "true\nfalse\ntrue\nnothing\n"},
		{`:put [:do { :put 1 }]`, "1\n\n"},

		// conditions and failures
		{`:if (1=1) do={ :put a } else={ :put b }; :if (1=2) do={ :put c } else={ :put d }`, "a\nd\n"},
		{`:if ([:len [/disk/find slot=nope]] = 0) do={}; :put ok`, "ok\n"},
		{`:if ("x") do={ :put a }`, "conditional not boolean\n"},
		{`:if ("yes") do={ :put a }; :if (7) do={ :put b }`, "a\nconditional not boolean\n"},
		{`:if (1=1) do=:put`, "syntax error (line 1 column 14)\n"},
		{`:put 1; :error "stop here"; :put 2`, "1\nstop here (:error; line 1)\n"},
		{`:do { :put 1; :error "x"; :put 2 } on-error={ :put caught }; :put after`, "1\ncaught\nafter\n"},
		{`:onerror e in={ /disk/remove nope } do={ :put "got <$e>" }; :put after`, "got <no such item>\nafter\n"},
		{`:do { /disk/foo } on-error={ :put caught }`, "bad command name foo (line 1 column 13)\n"},

		// parse errors execute nothing of the line
		{`:put 1; foo`, "bad command name foo (line 1 column 9)\n"},
		{`:put 1; /disk/set x bogus=1`, "expected end of command (line 1 column 21)\n"},
		{`:put 1; }`, "syntax error (line 1 column 9)\n"},
		{`:put 1; :if (1=1) do={ /foo }`, "bad command name foo (line 1 column 25)\n"},
		{`foo`, "bad command name foo (line 1 column 1)\n"},
		{`:foo`, "bad command name foo (line 1 column 2)\n"},
		{`/disk/`, ""},
		{`/disk/unmount x`, "bad command name unmount (line 1 column 7)\n"}, // there is none
		{`/disk/move x`, "bad command name move (line 1 column 7)\n"},
		{`/disk/set x comment= slot=y`, "syntax error (line 1 column 21)\n"}, // "key=" with nothing after it
		{`/disk/set x comment=a@b`, "syntax error (line 1 column 22)\n"},
		{`/disk/set x comment="a"b`, "syntax error (line 1 column 24)\n"},
		{`/disk/set x comment=a comment=b`, "syntax error (line 1 column 31)\n"},
		{`/disk/set x y`, "expected end of command (line 1 column 14)\n"},
		{`[/disk/find`, "syntax error (line 1 column 1)\n"},
		{`:put [/disk/find`, "expected closing bracket (line 1 column 17)\n"},
		{`{ :put 1`, "expected closing brace (line 1 column 9)\n"},
		{`:serialize to=json`, "syntax error (line 1 column 19)\n"},
		{`:`, "expected command name (line 1 column 2)\n"},

		{`/disk/print where slot=`, "syntax error (line 1 column 24)\n"},
		{`/disk/print where =x`, "syntax error (line 1 column 19)\n"},
		{`/disk/print where (slot=x`, "expected closing parenthesis (line 1 column 26)\n"},
		{`/disk/print where slot=x)`, "syntax error (line 1 column 25)\n"},

		// where
		{`/disk/print count-only where slot="x"`, "1\n"},
		{`/disk/print count-only where slot=x type=file`, "1\n"}, // nothing between comparisons is and
		{`/disk/print count-only where slot=x or slot=pool and type=file`, "1\n"},
		{`/disk/print count-only where (slot=x or slot=pool) and mounted`, "1\n"},
		{`/disk/print count-only where slot=x or slot=pool`, "2\n"},
		{`/disk/print count-only where mounted or slot=x`, "2\n"},
		{`/disk/print count-only where slot=x && slot=pool`, "0\n"},
		{`/disk/print count-only where !mounted`, "1\n"},
		{`/disk/print count-only where slot~"^p"`, "1\n"},
		{`/disk/print count-only where size>(1024*1024)`, "1\n"},
		{`/disk/print count-only where size=1048576 && slot!=pool`, "1\n"},
		{`/disk/print count-only where comment=""`, "2\n"},
		{`/disk/print count-only where .id=*2`, "1\n"},
		{`/disk/print count-only where file-path="/pool/x"`, "1\n"},
		{`/disk/print count-only where free>"x"`, "cannot compare if num is less than str\n"},
		{`/disk/print count-only where file-path=/pool/x`, "syntax error (line 1 column 40)\n"}, // "/" needs quotes
		{`/disk/print count-only where bogus=1`, "bad parameter bogus (line 1 column 30)\n"},
		{`:local want "x"; /disk/print count-only where slot=$want`, "1\n"},
		{`:local slot "x"; /disk/print count-only where slot=$slot`, "2\n"}, // the property hides the variable
		{`:put [/disk/find where slot=x]; :put [/disk/find]; :put [/disk/find slot=x && type=file]`, "*2\n*1;*2\n*2\n"},

		// items
		{`/disk/set x comment=a; /disk/set *2 comment=b; /disk/set [find slot=x] comment=c; :put [/disk/get x comment]`, "c\n"},
		{`/disk/comment x comment="new"; :put [/disk/get x comment]; /disk/unset x comment; :put [/disk/get x comment]`, "new\n\n"},
		{`/disk/set x comment=007; :put [/disk/get x comment]`, "007\n"},
		{`/disk/set [find slot=nope] comment=c; :put silent`, "silent\n"}, // captured
		{`/disk/remove [/disk/find slot=nope]; :put silent`, "silent\n"},
		{`/disk/get [find slot=nope] size`, "no such item\n"},
		{`/disk/get [find] size`, "invalid internal item number\n"},
		{`/disk/set nope comment=c`, "no such item\n"},
		{`/disk/set *99 comment=c`, "no such item\n"},
		{`/disk/set "*zz" comment=c`, "invalid internal item number\n"},
		{`:put [/disk/get x bogus]`, "input does not match any value of value-name\n"},
		{`/disk/set x mount-filesystem=maybe`, "input does not match any value of mount-filesystem\n"},
		{`/disk/set x nvme-tcp-server-port=99999`, "invalid value for argument nvme-tcp-server-port\n"},
		{`/disk/set x file-size=12Q`, "invalid value for argument file-size\n"},
		{`/disk/set x mount-point-template=""`, "invalid value for argument mount-point-template\n"},
		{`/disk/set x compress=yes`, "failure: compression only available for btrfs\n"},
		{`/disk/add type=floppy`, "input does not match any value of type\n"},
		{`/disk/add type=tmpfs`, "failure: the emulator knows type=tmpfs but does not model it\n"},
		{`/disk/eject x`, "can eject only hardware disks\n"},
		{`/disk/check x`, "could not unmount, stop using it first\n"},
		{`:put [/disk/add type=file file-path=pool/y file-size=1M slot=y]`, "*3\n"},
		{
			`/disk/add type=file file-path=pool/y/z file-size=1M; :put [/disk/get [find where slot!=x and slot!=pool] slot]`,
			"failure: no such file or directory\n",
		},
		{`/disk/add type=file file-path=pool/part1-swapfile file-size=1M; :put [/disk/get *3 slot]`, "file-pool-part1-swapfile\n"},
		{`/disk/add copy-from=x; :put 1`, "failure: file already in use\n"}, // the configuration is copied, not the data
		{`/disk/reset-counters x; /disk/enable x; /disk/disable x; :put [/disk/get x disabled]`, "true\n"},

		// /file and the rest
		{`:put [/file/get pool/x size]; :put [/file/get "pool/x" type]`, "1048576\nfile\n"},
		{`/file/get pool/nope size`, "no such item\n"},
		{`/file/add type=directory name=pool/d; /file/add type=directory name=pool/d`, "failure: already exists\n"},
		{
			`/file/add name=pool/t contents="12345"; :put [/file/get pool/t size]; /file/set pool/t name=pool/u; /file/remove pool/u; /file/remove pool/u`,
			"5\nno such item\n",
		},
		{`/file/copy pool/x name=pool/c; :put [/file/get pool/c size]`, "1048576\n"},
		{`:put [/system/resource/get version]; :put [/system/identity/get name]`, "7.24.4 (stable)\nMikroTik-RDS\n"},
		{`:put [/ip/service/get ssh max-sessions]; /ip/service/set ssh max-sessions=3; :put [/ip/service/get ssh max-sessions]`, "20\n3\n"},
		{`/ip/service/set ssh max-sessions=0`, "value of max-sessions out of range (1..1000)\n"},
		{`:put [/user/get admin group]; :put [/user/group/print count-only where policy~"write"]`, "full\n3\n"},
		{`:put [/system/package/print count-only where name="rose-storage" and !disabled and !available]`, "1\n"},
		{`:put [:typeof [/system/clock/get time]]`, "str\n"},
		{`:delay 1ms; :delay x`, "invalid value for argument delay-time\n"},
		{`:serialize to=xml 1`, "input does not match any value of to\n"},
		{`:serialize to=json options=bogus 1`, "input does not match any value of options\n"},
	}
	for _, tt := range tests {
		t.Run(tt.line, func(t *testing.T) {
			b := newBox(t, Options{})
			mustPrint(t, b, `/disk/add type=file file-path=pool/x file-size=1M slot=x`, "")
			mustPrint(t, b, tt.line, tt.want)
		})
	}
}

func TestLongLine(t *testing.T) {
	b := newBox(t, Options{})
	mustPrint(t, b, `:put "`+strings.Repeat("x", maxLine)+`"`, "max line length 65535 exceeded!\n")
}

// TestPrompt: a missing mandatory argument makes the console ask, and nobody answers.
func TestPrompt(t *testing.T) {
	for line, prompt := range map[string]string{
		`:put 1; /disk/add slot=x; :put 2`:          "1\r\ntype: ",
		`/disk/set comment=x`:                       "numbers: ",
		`/file/add type=directory`:                  "name: ",
		`/disk/btrfs/subvolume/add name=x`:          "fs: ",
		`/disk/format pool file-system=xfs`:         "All data will be lost, are you sure? [y/N]:",
		`:do { /disk/add } on-error={ :put caught}`: "type: ", // no failure that could be caught
		`:serialize 1`:                              "to: ",
	} {
		b := newBox(t, Options{})
		if got := b.Exec("admin", line); got != prompt {
			t.Errorf("Exec(%s) = %q, want %q", line, got, prompt)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
		var out strings.Builder
		_, err := b.Run(ctx, Session{User: "admin"}, line, &out)
		cancel()
		if !errors.Is(err, context.DeadlineExceeded) || out.String() != prompt {
			t.Errorf("Run(%s) = %q, %v; want %q until the client gives up", line, out.String(), err, prompt)
		}
	}
	b := newBox(t, Options{PromptLimit: time.Millisecond})
	if _, err := b.Run(t.Context(), Session{User: "admin"}, `/disk/add`, &strings.Builder{}); !errors.Is(err, ErrHung) {
		t.Errorf("with a PromptLimit: %v, want %v", err, ErrHung)
	}
}

// TestPolicies: what a group does not hold is refused, and reading needs its policy too.
func TestPolicies(t *testing.T) {
	b := newBox(t, Options{
		Users:  []User{{Name: "admin"}, {Name: "reader", Group: "read"}, {Name: "visitor", Group: "door"}},
		Groups: map[string][]string{"door": {"ssh"}},
	})
	const refused = "not enough permissions (9)\r\n"
	tests := []struct{ user, line, want string }{
		{"reader", `:put [:len [/disk/find]]`, "1\r\n"},
		{"reader", `/disk/add type=file file-path=pool/x file-size=1M slot=x`, refused},
		{"reader", `/file/add type=directory name=pool/d`, refused},
		{"reader", `:do { /disk/remove pool } on-error={ :put caught }`, "caught\r\n"},
		{"visitor", `/disk/print`, refused},
		{"visitor", `:put 1`, "1\r\n"},
		{"nobody", `/disk/print`, refused},
		{"admin", `/disk/add type=file file-path=pool/x file-size=1M slot=x`, ""},
	}
	for _, tt := range tests {
		if got := b.Exec(tt.user, tt.line); got != tt.want {
			t.Errorf("%s: %s: %q, want %q", tt.user, tt.line, got, tt.want)
		}
	}
}

// FuzzExec: no line makes the console panic, and a line that cannot be parsed changes nothing and says one thing.
func FuzzExec(f *testing.F) {
	for _, seed := range []string{
		`:put [:serialize to=json options=json.no-string-conversion [/disk/print detail as-value where slot="x"]]`,
		`:if ([/disk/get [find slot="pool"] free] < 123) do={ :error "no space" } else={ :put "\"\$x\41" }`,
		`/disk/add type=file file-path="pool/y" file-size=1M slot="y" comment="a;b"; :put "OK-1"`,
		`:do { /disk/remove x } on-error={ :put 1 }; :onerror e in={ /file/remove pool/x } do={ :put $e }`,
		`:local a {1;k="v"}; :foreach i in=$a do={ :put ($i->0) }; /disk set x nvme-tcp-export=yes`,
		`/disk/print where (slot~"^p" or !mounted) and size>(1024*-1)`, `[[[[`, `(((`, `{{{{`, `"$[`, `\`, `$`, `#`, "\n",
		`/disk; print; /; set [find] comment=*`, strings.Repeat("(", 300), strings.Repeat("!", 300),
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, line string) {
		b := newBox(t, Options{})
		mustPrint(t, b, `/disk/add type=file file-path=pool/x file-size=1M slot=x`, "")
		before := b.String()
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		var out strings.Builder
		_, errRun := b.Run(ctx, Session{User: "admin"}, line, &out)
		_, err := b.console.parseLine(line)
		if err == nil {
			return
		}
		if errRun != nil || out.String() != err.Error()+"\r\n" {
			t.Errorf("a line with a parse error prints %q, %v; want %q", out.String(), errRun, err)
		}
		if after := b.String(); after != before {
			t.Errorf("a line with a parse error changed\n%sto\n%s", before, after)
		}
	})
}
