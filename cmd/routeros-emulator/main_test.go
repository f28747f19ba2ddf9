package main

import (
	"bufio"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/json"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/knownhosts"
)

func TestExitCodes(t *testing.T) {
	keys := filepath.Join(t.TempDir(), "keys")
	authorize(t, keys)
	needed := []string{"--listen", "127.0.0.1:0", "--user", "csi", "--authorized-keys", keys}
	with := func(more ...string) []string { return append(append([]string{}, needed...), more...) }
	tests := []struct {
		name string
		args []string
		code int
		says string // on stdout for 0, else on stderr
	}{
		{"help", []string{"--help"}, 0, "--pool NAME=FS:SIZE"},
		{"help tells of faults", []string{"--help"}, 0, "partial:bytes=10"},
		{"help tells of switches", []string{"--help"}, 0, "grow-exported"},
		{"help tells of the control socket", []string{"--help"}, 0, "reboot [down=3s]"},
		{"version", []string{"--version"}, 0, "routeros-emulator "},
		{"version before a flag", []string{"--version", "--listen", "x"}, 0, "routeros-emulator "},
		{"nothing", nil, 2, "--listen, --user and --authorized-keys are needed"},
		{"unknown flag", with("--size", "1"), 2, "-size"},
		{"argument", with("raid10"), 2, `"raid10"`},
		{"RouterOS version", with("--version", "6.49"), 2, "6.49"},
		{"pool", with("--pool", "raid10=ext4:1G"), 2, "is not like raid10=btrfs:20G"},
		{"fault", with("--fault", "explode"), 2, `there is no kind "explode"`},
		{"switch", with("--switch", "shrink=maybe"), 2, "refused, done, ignored"},
		{"log format", with("--log-format", "xml"), 2, "neither text nor json"},
		{"back end", with("--backend", "iscsi"), 2, "neither memory nor nvmet"},
		{"nvmet without a portal", with("--backend", "nvmet", "--data", t.TempDir()), 2, "needs --portal"},
		{"data without nvmet", with("--data", "/nowhere"), 2, "belong to --backend nvmet"},
		{"no such keys", []string{"--listen", ":0", "--user", "csi", "--authorized-keys", "/does/not/exist"}, 1, "authorized keys"},
		{"no key in it", []string{"--listen", ":0", "--user", "csi", "--authorized-keys", "/dev/null"}, 1, "holds no key"},
		{"bad host key", with("--host-key", keys), 1, "host key"},
		{"bad address", with("--listen", "127.0.0.1:none"), 1, "none"},
		{"bad portal", with("--backend", "nvmet", "--portal", "here", "--data", t.TempDir()), 1, "--portal"},
		{"bad control socket", with("--control", "/does/not/exist/socket"), 1, "/does/not/exist/socket"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var stdout, stderr strings.Builder
			code := run(t.Context(), tt.args, &stdout, &stderr)
			said := stderr.String()
			if tt.code == 0 {
				said = stdout.String()
			}
			if code != tt.code || !strings.Contains(said, tt.says) {
				t.Errorf("exit code %d, want %d\nstdout: %s\nstderr: %s\nwant:   %s", code, tt.code, &stdout, &stderr, tt.says)
			}
		})
	}
}

// authorize writes an authorized_keys file and gives the key to log in with.
func authorize(t *testing.T, file string) ssh.Signer {
	t.Helper()
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	key, err := ssh.NewSignerFromKey(private)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, ssh.MarshalAuthorizedKey(key.PublicKey()), 0o600); err != nil {
		t.Fatal(err)
	}
	return key
}

// emulator is a running one.
type emulator struct {
	dir, address, pinned string
	key                  ssh.Signer
	stderr               <-chan string // line by line, closed at the end
	stop                 func() int    // SIGTERM, and the exit code
}

// launch starts an emulator and reads what it tells on stderr: where it listens, and how to pin it.
func launch(t *testing.T, dir string, more ...string) *emulator {
	t.Helper()
	keys := filepath.Join(dir, "keys")
	e := &emulator{dir: dir, key: authorize(t, keys)}
	ctx, cancel := context.WithCancel(t.Context())
	r, w := io.Pipe()
	code := make(chan int, 1)
	args := append([]string{
		"--listen", "127.0.0.1:0", "--user", "csi", "--authorized-keys", keys, "--host-key", filepath.Join(dir, "host"),
		"--control", filepath.Join(dir, "control"),
	}, more...)
	go func() {
		code <- run(ctx, args, io.Discard, w)
		w.Close()
	}()
	e.stop = func() int {
		cancel()
		return <-code
	}
	t.Cleanup(cancel)
	lines := make(chan string, 100)
	e.stderr = lines
	go func() {
		for in := bufio.NewScanner(r); in.Scan(); {
			lines <- in.Text()
		}
		close(lines)
	}()
	for e.pinned == "" {
		line, more := <-lines
		if !more {
			t.Fatalf("the emulator ends with exit code %d before it listens", <-code)
		}
		if _, a, found := strings.Cut(line, "address="); found {
			e.address = a
		}
		if p, found := strings.CutPrefix(line, "known_hosts "); found {
			e.pinned = p
		}
	}
	return e
}

// exec runs a line as a client that pins the host key by the line that the emulator printed.
func (e *emulator) exec(t *testing.T, line string) string {
	t.Helper()
	file := filepath.Join(e.dir, "known_hosts")
	if err := os.WriteFile(file, []byte(e.pinned+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	pin, err := knownhosts.New(file)
	if err != nil {
		t.Fatal(err)
	}
	c, err := ssh.Dial("tcp", e.address, &ssh.ClientConfig{
		User: "csi", Auth: []ssh.AuthMethod{ssh.PublicKeys(e.key)}, HostKeyCallback: pin, Timeout: 10 * time.Second,
	})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	s, err := c.NewSession()
	if err != nil {
		t.Fatal(err)
	}
	out, err := s.Output(line)
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}

// control sends one command and gives the answer's last line.
func (e *emulator) control(t *testing.T, command string) string {
	t.Helper()
	c, err := net.Dial("unix", filepath.Join(e.dir, "control"))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Write([]byte(command + "\n")); err != nil {
		t.Fatal(err)
	}
	in := bufio.NewScanner(c)
	for in.Scan() {
		if line := in.Text(); line == "ok" || strings.HasPrefix(line, "error: ") {
			return line
		}
	}
	t.Fatalf("no answer to %s: %v", command, in.Err())
	return ""
}

func TestServe(t *testing.T) {
	e := launch(t, t.TempDir(), "--version", "7.20", "--pool", "raid10=btrfs:20G", "--pool", "cold=xfs:1T",
		"--switch", "file-path=plain,shrink=ignored", "--fault", "exit:code=0", "--latency", "1ms")
	if out := e.exec(t, `:put [/system/resource/get version]`); out != "7.20 (stable)\r\n" {
		t.Errorf("version: %q", out)
	}
	if out := e.exec(t, `:put [/disk/print as-value proplist=slot,fs,size]`); out !=
		".id=*1;fs=btrfs;size=21474836480;slot=raid10;.id=*2;fs=xfs;size=1099511627776;slot=cold\r\n" {
		t.Errorf("pools: %q", out)
	}
	if out := e.exec(t, `/disk/add type=file file-path=raid10/x file-size=1M slot=x; :put [/disk/get x file-path]`); out != "raid10/x\r\n" {
		t.Errorf("switch: %q", out)
	}
	for command, want := range map[string]string{"phase": "ok", "fault hang": "ok", "make coffee": `error: there is no command "make"`} {
		if got := e.control(t, command); got != want {
			t.Errorf("control %s: %s", command, got)
		}
	}
	if code := e.stop(); code != 0 {
		t.Errorf("exit code %d after SIGTERM", code)
	}
	if _, err := net.Dial("tcp", e.address); err == nil {
		t.Error("it still listens")
	}
}

// TestRestart: the host key stays the same, and a socket that a killed emulator left behind is no obstacle.
func TestRestart(t *testing.T) {
	dir := t.TempDir()
	first := launch(t, dir)
	second := make(chan int, 1)
	go func() { // while the first one answers, nobody takes its socket
		second <- run(t.Context(), []string{
			"--listen", "127.0.0.1:0", "--user", "csi", "--authorized-keys", filepath.Join(dir, "keys"),
			"--control", filepath.Join(dir, "control"),
		}, io.Discard, io.Discard)
	}()
	if code := <-second; code != 1 {
		t.Errorf("a second emulator on one control socket ends with %d", code)
	}
	if code := first.stop(); code != 0 {
		t.Errorf("exit code %d", code)
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(dir, "control"), Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false) // as a killed process leaves it
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	again := launch(t, dir)
	if a, b := strings.Fields(first.pinned), strings.Fields(again.pinned); len(a) != 3 || len(b) != 3 || a[2] != b[2] {
		t.Errorf("the host key was %q, is %q", first.pinned, again.pinned)
	}
	if got := again.control(t, "phase"); got != "ok" {
		t.Errorf("control socket: %s", got)
	}
	if code := again.stop(); code != 0 {
		t.Errorf("exit code %d", code)
	}
}

// TestLog: JSON where asked for, and each line with --trace.
func TestLog(t *testing.T) {
	e := launch(t, t.TempDir(), "--trace")
	e.exec(t, `:put "hello"`)
	if line := <-e.stderr; !strings.Contains(line, "user=csi") || !strings.Contains(line, "hello") {
		t.Errorf("trace: %s", line)
	}
	if code := e.stop(); code != 0 {
		t.Errorf("exit code %d", code)
	}

	var stderr strings.Builder
	run(t.Context(), []string{
		"--listen", ":0", "--user", "csi", "--authorized-keys", "/does/not/exist", "--log-format", "json",
	}, io.Discard, &stderr)
	var entry map[string]any
	if err := json.Unmarshal([]byte(stderr.String()), &entry); err != nil || entry["level"] != "ERROR" {
		t.Errorf("%q: %v", stderr.String(), err)
	}
}

func TestParsePortal(t *testing.T) {
	for in, want := range map[string]string{
		"127.0.0.1": "127.0.0.1:4420", "127.0.0.1:4421": "127.0.0.1:4421", "::1": "[::1]:4420", "[::1]:1": "[::1]:1",
		"": "", "here": "", "127.0.0.1:x": "",
	} {
		got, err := parsePortal(in)
		if (err == nil) != (want != "") || err == nil && got.String() != want {
			t.Errorf("parsePortal(%q) = %s, %v, want %q", in, got, err, want)
		}
	}
}
