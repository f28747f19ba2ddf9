package routerostest

import (
	"bufio"
	"context"
	"errors"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestParseFault(t *testing.T) {
	f, err := ParseFault("drop-after:nth=3,times=-1,match=/disk/add .*slot=\"a,b\"")
	if err != nil || f.Kind != DropAfter || f.Nth != 3 || f.Times != -1 || f.Match.String() != `/disk/add .*slot="a,b"` {
		t.Errorf("%+v, %v", f, err)
	}
	f, err = ParseFault("reboot:down=3s,listener-first=5s")
	if err != nil || f.Down != 3*time.Second || f.ListenerFirst != 5*time.Second {
		t.Errorf("%+v, %v", f, err)
	}
	for _, bad := range []string{"", "explode", "hang:nth=x", "hang:color=red", "latency:delay=5", "drop-after:match=("} {
		if f, err := ParseFault(bad); err == nil {
			t.Errorf("ParseFault(%q) = %+v", bad, f)
		}
	}
	for _, kind := range []FaultKind{Latency, DropBefore, DropAfter, Partial, Hang, OutOfSpace, ExitStatus, RebootFault} {
		if _, err := ParseFault(string(kind)); err != nil || !strings.Contains(FaultHelp, "\n  "+string(kind)) {
			t.Errorf("fault %s: %v; --help must tell of it", kind, err)
		}
	}
}

// TestFaultsCount: nth and times count the lines that match, and no others.
func TestFaultsCount(t *testing.T) {
	b := newBox(t, Options{})
	for _, spec := range []string{"drop-before:nth=2,times=2,match=a", "drop-before:match=z"} {
		f, err := ParseFault(spec)
		if err != nil {
			t.Fatal(err)
		}
		b.Inject(f)
	}
	b.Inject(Fault{Kind: DropBefore, Nth: 9, Times: -1})
	got := ""
	for _, line := range []string{"a1", "b1", "a2", "a3", "a4", "b2", "z1", "z2", "x", "y"} {
		if b.Exec("admin", `:put "`+line+`"`) != "" {
			got += line + " "
		}
	}
	if want := "a1 b1 a4 b2 z2 "; got != want {
		t.Errorf("lines that ran: %s, want %s", got, want)
	}
	b.ClearFaults()
	mustPrint(t, b, `:put 1`, "1\n")
}

// TestFaultsRun: what Run tells of each fault; on Exec they leave what would have arrived.
func TestFaultsRun(t *testing.T) {
	const line = `/disk/add type=file file-path=pool/x file-size=8M slot=x; :put done`
	tests := []struct {
		fault   string
		out     string
		exit    int
		err     error
		effects bool
	}{
		{"drop-before", "", 0, ErrDropped, false},
		{"drop-after", "", 0, ErrDropped, true},
		{"partial:bytes=3", "don", 0, ErrDropped, true},
		{"hang", "", 0, ErrHung, false},
		{"no-space", "failure: not enough space\r\n", 0, nil, false},
		{"exit:code=1", "done\r\n", 1, nil, true},
		{"latency:delay=1ms", "done\r\n", 0, nil, true},
		{"reboot:down=1h", "done\r\n", 0, ErrDropped, true},
	}
	for _, tt := range tests {
		t.Run(tt.fault, func(t *testing.T) {
			f, err := ParseFault(tt.fault)
			if err != nil {
				t.Fatal(err)
			}
			b := newBox(t, Options{PromptLimit: time.Millisecond})
			b.Inject(f)
			var out strings.Builder
			exit, err := b.Run(t.Context(), Session{User: "admin"}, line, &out)
			if out.String() != tt.out || exit != tt.exit || !errors.Is(err, tt.err) {
				t.Errorf("%q, exit %d, %v; want %q, exit %d, %v", out.String(), exit, err, tt.out, tt.exit, tt.err)
			}
			if has := strings.Contains(b.String(), "disk x "); has != tt.effects {
				t.Errorf("the disk is there: %t, want %t", has, tt.effects)
			}
			b = newBox(t, Options{})
			b.Inject(f)
			if got := b.Exec("admin", line); got != tt.out {
				t.Errorf("Exec gives %q, want %q", got, tt.out)
			}
		})
	}
}

// TestControl speaks to a control socket as a script does.
func TestControl(t *testing.T) {
	b := newBox(t, Options{})
	mustPrint(t, b, addX, "")
	l, err := net.Listen("unix", filepath.Join(t.TempDir(), "c"))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- ServeControl(ctx, l, b) }()
	c, err := net.Dial("unix", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	in := bufio.NewReader(c)
	ask := func(line string) string {
		t.Helper()
		if _, err := c.Write([]byte(line + "\n")); err != nil {
			t.Fatal(err)
		}
		var answer strings.Builder
		for {
			s, err := in.ReadString('\n')
			if err != nil {
				t.Fatal(err)
			}
			answer.WriteString(s)
			if s == "ok\n" || strings.HasPrefix(s, "error: ") {
				return answer.String()
			}
		}
	}
	for _, step := range []struct{ ask, want string }{
		{"phase", "up\nok\n"},
		{`run admin :put "hello"`, "hello\nok\n"},
		{`run admin /disk/add`, "type: \nok\n"},
		{"state", b.String() + "ok\n"},
		{"fault drop-before", "ok\n"},
		{`run admin :put 1`, "ok\n"},
		{"fault hang", "ok\n"},
		{"clear", "ok\n"},
		{`run admin :put 1`, "1\nok\n"},
		{"guest pool/x ext4", "ok\n"},
		{`run admin :put [/disk/get x fs]`, "ext4\nok\n"},
		{"guest pool/x none", "ok\n"},
		{`run admin :put [/disk/get x fs]`, "-\nok\n"},
		{"pool pool unmounted degraded, sync:none", "ok\n"},
		{`run admin :put [/disk/get pool state]`, "degraded, sync:none\nok\n"},
		{"pool pool mounted", "ok\n"},
		{"pool pool", "error: pool NAME mounted|unmounted [STATE]: got \"pool\"\n"},
		{"pool none mounted", "error: pool \"none\": there is none\n"},
		{"fault bogus", "error: fault \"bogus\": there is no kind \"bogus\"\n"},
		{"reboot fast=1s", "error: fault \"reboot:down=3s,fast=1s\": there is no key \"fast\"\n"},
		{"make coffee", "error: there is no command \"make\"\n"},
		{"reboot down=1h listener-first=5s", "ok\n"},
		{"phase", "down\nok\n"},
		{"reboot down=0s", "ok\n"},
	} {
		if got := ask(step.ask); got != step.want {
			t.Errorf("%s:\n%s--- want:\n%s", step.ask, got, step.want)
		}
	}
	waitFor(t, "the box", func() bool { return ask("phase") == "up\nok\n" })
	cancel()
	if err := <-done; err != nil {
		t.Errorf("ServeControl: %v", err)
	}
}
