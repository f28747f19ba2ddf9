package routerostest

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"net"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
)

func newKey(t *testing.T) ssh.Signer {
	t.Helper()
	_, priv, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	key, err := ssh.NewSignerFromKey(priv)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// start serves a box on a loopback port until the test ends.
func start(t *testing.T, s *Server) (addr string) {
	t.Helper()
	if s.HostKey == nil {
		s.HostKey = newKey(t)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx, l) }()
	t.Cleanup(func() {
		cancel()
		select {
		case err := <-done:
			if err != nil {
				t.Error(err)
			}
		case <-time.After(10 * time.Second):
			t.Error("Serve does not end with its context")
		}
	})
	return l.Addr().String()
}

func dial(addr, user string, host ssh.PublicKey, auth ...ssh.AuthMethod) (*ssh.Client, error) {
	return ssh.Dial("tcp", addr, &ssh.ClientConfig{
		User: user, Auth: auth, HostKeyCallback: ssh.FixedHostKey(host), Timeout: 5 * time.Second,
	})
}

// password is what an operator logs in with before the first key is there.
func password(word string) ssh.AuthMethod {
	return ssh.Password(word) //nolint:forbidigo // the server's side of it is under test
}

func mustDial(t *testing.T, addr, user string, s *Server) *ssh.Client {
	t.Helper()
	c, err := dial(addr, user, s.HostKey.PublicKey(), password(""))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func execLine(c *ssh.Client, line string) (string, error) {
	s, err := c.NewSession()
	if err != nil {
		return "", err
	}
	defer s.Close()
	out, err := s.Output(line)
	return string(out), err
}

// TestServerExec is what facts/routeros.md, 3.1 says of an exec channel.
func TestServerExec(t *testing.T) {
	box := newBox(t, Options{})
	srv := &Server{Box: box}
	c := mustDial(t, start(t, srv), "admin+cet80w", srv)
	if v := string(c.ServerVersion()); v != "SSH-2.0-ROSSSH" {
		t.Errorf("server version %q, captured SSH-2.0-ROSSSH", v)
	}
	for line, want := range map[string]string{
		`:put "hello"`: "hello\r\n",
		`/disk/foo`:    "bad command name foo (line 1 column 7)\r\n", // exit status 0, text on stdout
		`:put [/disk/print count-only where slot="pool"]`: "1\r\n",
		``: "",
	} {
		if out, err := execLine(c, line); out != want || err != nil {
			t.Errorf("%s: %q, %v; want %q and exit status 0", line, out, err, want)
		}
	}
}

func TestServerChannels(t *testing.T) {
	box := newBox(t, Options{Latency: 50 * time.Millisecond})
	srv := &Server{Box: box}
	c := mustDial(t, start(t, srv), "admin", srv)
	results := make(chan string, 5)
	for range 5 {
		go func() {
			out, err := execLine(c, `:put "x"`)
			results <- out + errText(err)
		}()
	}
	for range 5 {
		if r := <-results; r != "x\r\n" {
			t.Errorf("one of several channels gave %q", r)
		}
	}
}

func errText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

func TestServerLogin(t *testing.T) {
	key, other := newKey(t), newKey(t)
	box := newBox(t, Options{
		Users: []User{
			{Name: "keyed", Password: "secret", Keys: []ssh.PublicKey{key.PublicKey()}},
			{Name: "worded", Password: "secret"},
			{Name: "nossh", Password: "secret", Group: "web"},
		},
		Groups: map[string][]string{"web": {"read", "web"}},
	})
	srv := &Server{Box: box}
	addr := start(t, srv)
	tests := []struct {
		name, user string
		auth       ssh.AuthMethod
		in         bool
	}{
		{"key", "keyed", ssh.PublicKeys(key), true},
		{"key and terminal suffix", "keyed+ct511w4098h", ssh.PublicKeys(key), true},
		{"another key", "keyed", ssh.PublicKeys(other), false},
		{"password of a user with a key", "keyed", password("secret"), false},
		{"password", "worded", password("secret"), true},
		{"wrong password", "worded", password("guess"), false},
		{"no such user", "nobody", password("secret"), false},
		{"no ssh policy", "nossh", password("secret"), false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c, err := dial(addr, tt.user, srv.HostKey.PublicKey(), tt.auth)
			if (err == nil) != tt.in {
				t.Fatalf("login: %v, want success %t", err, tt.in)
			}
			if err == nil {
				c.Close()
			}
		})
	}
	if _, err := dial(addr, "worded", other.PublicKey(), password("secret")); err == nil {
		t.Error("a client that pins another host key connects")
	}
	if line := srv.KnownHosts(addr); !strings.Contains(line, "ssh-ed25519 ") || !strings.HasPrefix(line, "[127.0.0.1]:") {
		t.Errorf("known_hosts line %q", line)
	}
}

// TestServerPTY: print detail wraps at the terminal's width, which a pty-req or the login name gives.
func TestServerPTY(t *testing.T) {
	box := newBox(t, Options{})
	srv := &Server{Box: box}
	addr := start(t, srv)
	longest := func(user string, columns int) int {
		s, err := mustDial(t, addr, user, srv).NewSession()
		if err != nil {
			t.Fatal(err)
		}
		if columns > 0 {
			if err := s.RequestPty("dumb", 25, columns, nil); err != nil {
				t.Fatal(err)
			}
		}
		out, err := s.Output("/disk/print detail")
		if err != nil {
			t.Fatal(err)
		}
		n := 0
		for _, l := range strings.Split(string(out), "\r\n") {
			n = max(n, len(l))
		}
		return n
	}
	for _, tt := range []struct {
		user          string
		columns       int
		least, atMost int
	}{
		{"admin", 0, 60, 78},
		{"admin", 120, 90, 118},
		{"admin+cet200w", 0, 150, 198},
	} {
		if n := longest(tt.user, tt.columns); n < tt.least || n > tt.atMost {
			t.Errorf("user %s, terminal of %d: longest line %d, want %d to %d", tt.user, tt.columns, n, tt.least, tt.atMost)
		}
	}
}

func TestServerShell(t *testing.T) {
	box := newBox(t, Options{})
	srv := &Server{Box: box}
	s, err := mustDial(t, start(t, srv), "admin", srv).NewSession()
	if err != nil {
		t.Fatal(err)
	}
	s.Stdin = strings.NewReader(":put \"one\"\nfoo\n/quit\n")
	var out strings.Builder
	s.Stdout = &out
	if err := s.Shell(); err != nil {
		t.Fatal(err)
	}
	if err := s.Wait(); err != nil && !errors.As(err, new(*ssh.ExitMissingError)) {
		t.Fatal(err)
	}
	const prompt = "[admin@MikroTik-RDS] > "
	want := prompt + "one\r\n" + prompt + "bad command name foo (line 1 column 1)\r\n" + prompt
	if out.String() != want {
		t.Errorf("shell gave %q, want %q", out.String(), want)
	}
}

// TestServerTerminal: at a terminal the shell echoes, takes characters back, and drops a line at Ctrl-C.
func TestServerTerminal(t *testing.T) {
	box := newBox(t, Options{})
	srv := &Server{Box: box}
	s, err := mustDial(t, start(t, srv), "admin", srv).NewSession()
	if err != nil {
		t.Fatal(err)
	}
	if err := s.RequestPty("vt102", 25, 80, nil); err != nil {
		t.Fatal(err)
	}
	s.Stdin = strings.NewReader(":put 13\x7f2\rfoo\x03\x04")
	var out strings.Builder
	s.Stdout = &out
	if err := s.Shell(); err != nil {
		t.Fatal(err)
	}
	if err := s.Wait(); err != nil && !errors.As(err, new(*ssh.ExitMissingError)) {
		t.Fatal(err)
	}
	const prompt = "[admin@MikroTik-RDS] > "
	if want := prompt + ":put 13\b \b2\r\n12\r\n" + prompt + "foo\r\n" + prompt; out.String() != want {
		t.Errorf("shell gave %q, want %q", out.String(), want)
	}
}

// TestServerSessionLimit runs through the switch session-limit: what happens to one session too many.
func TestServerSessionLimit(t *testing.T) {
	for _, pos := range []Position{Dropped, Refused, Queued} {
		t.Run(string(pos), func(t *testing.T) {
			box := newBox(t, Options{MaxSessions: 1, Switches: Switches{SessionLimit: pos}})
			srv := &Server{Box: box}
			addr := start(t, srv)
			first := mustDial(t, addr, "admin", srv)
			second := make(chan error, 1)
			go func() {
				c, err := dial(addr, "admin", srv.HostKey.PublicKey(), password(""))
				if err == nil {
					c.Close()
				}
				second <- err
			}()
			select {
			case err := <-second:
				refused := err != nil && strings.Contains(err.Error(), "unable to authenticate")
				if pos == Queued || err == nil || refused != (pos == Refused) {
					t.Errorf("second session: %v", err)
				}
				first.Close()
			case <-time.After(300 * time.Millisecond):
				if pos != Queued {
					t.Error("the second session waits")
				}
				first.Close()
				if err := <-second; err != nil {
					t.Errorf("the second session after the first: %v", err)
				}
			}
		})
	}
}

func TestServerGlobalRequests(t *testing.T) {
	for _, pos := range []Position{Answered, Ignored} {
		box := newBox(t, Options{Switches: Switches{GlobalRequests: pos}})
		srv := &Server{Box: box}
		c := mustDial(t, start(t, srv), "admin", srv)
		done := make(chan error, 1)
		go func() {
			_, _, err := c.SendRequest("keepalive@openssh.com", true, nil)
			done <- err
		}()
		select {
		case err := <-done:
			if pos == Ignored || err != nil {
				t.Errorf("%s: %v", pos, err)
			}
		case <-time.After(200 * time.Millisecond):
			if pos == Answered {
				t.Error("no answer to a keepalive")
			}
		}
	}
}

// TestServerFaults: what a client sees of each fault, and whether the line took effect.
func TestServerFaults(t *testing.T) {
	const add = `/disk/add type=file file-path=pool/x file-size=1M slot=x; :put "done"`
	tests := []struct {
		fault   string
		out     string
		lost    bool // no exit status arrives
		effects bool
	}{
		{"drop-before:match=/disk/add", "", true, false},
		{"drop-after:match=/disk/add", "", true, true},
		{"partial:bytes=2,match=/disk/add", "do", true, true},
		{"reboot:down=1h,match=/disk/add", "done\r\n", true, true},
		{"latency:delay=20ms", "done\r\n", false, true},
		{"no-space", "failure: not enough space\r\n", false, false},
		{"hang", "", true, false},
	}
	for _, tt := range tests {
		t.Run(tt.fault, func(t *testing.T) {
			f, err := ParseFault(tt.fault)
			if err != nil {
				t.Fatal(err)
			}
			box := newBox(t, Options{})
			srv := &Server{Box: box}
			c := mustDial(t, start(t, srv), "admin", srv)
			box.Inject(f)
			if f.Kind == Hang {
				time.AfterFunc(200*time.Millisecond, func() { c.Close() })
			}
			out, err := execLine(c, add)
			if out != tt.out || (err != nil) != tt.lost {
				t.Errorf("%q, %v; want %q, connection lost %t", out, err, tt.out, tt.lost)
			}
			if has := strings.Contains(box.String(), "disk x "); has != tt.effects {
				t.Errorf("the disk is there: %t, want %t", has, tt.effects)
			}
		})
	}
}

func TestServerExitStatus(t *testing.T) {
	box := newBox(t, Options{})
	srv := &Server{Box: box}
	c := mustDial(t, start(t, srv), "admin", srv)
	box.Inject(Fault{Kind: ExitStatus, Exit: 3})
	var status *ssh.ExitError
	if _, err := execLine(c, `:put 1`); !errors.As(err, &status) || status.ExitStatus() != 3 {
		t.Errorf("%v, want exit status 3", err)
	}
}

// TestServerReboot: connections end, new ones are refused until the time is over.
func TestServerReboot(t *testing.T) {
	box := newBox(t, Options{})
	srv := &Server{Box: box}
	addr := start(t, srv)
	c := mustDial(t, addr, "admin", srv)
	if err := box.Reboot(300*time.Millisecond, 0); err != nil {
		t.Fatal(err)
	}
	if err := c.Wait(); err == nil {
		t.Error("the connection outlives the reboot")
	}
	if _, err := dial(addr, "admin", srv.HostKey.PublicKey(), password("")); err == nil {
		t.Error("SSH answers during the reboot")
	}
	waitFor(t, "SSH to come back", func() bool {
		c, err := dial(addr, "admin", srv.HostKey.PublicKey(), password(""))
		if err == nil {
			c.Close()
		}
		return err == nil
	})
}

func TestServerInactivity(t *testing.T) {
	box := newBox(t, Options{})
	srv := &Server{Box: box, Inactivity: 200 * time.Millisecond}
	c := mustDial(t, start(t, srv), "admin", srv)
	if _, err := execLine(c, `:put 1`); err != nil {
		t.Fatal(err)
	}
	time.AfterFunc(10*time.Second, func() { _ = c.Close() })
	begin := time.Now()
	if err := c.Wait(); err == nil || time.Since(begin) > 5*time.Second {
		t.Errorf("an idle connection is not ended: %v", err)
	}
}

func waitFor(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for range 200 {
		if ok() {
			return
		}
		time.Sleep(25 * time.Millisecond)
	}
	t.Fatalf("waited in vain for %s", what)
}
