package stack

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/knownhosts"
)

// program writes a shell script into bin that stands for one of ours.
func program(t *testing.T, bin, name, text string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(bin, name), []byte("#!/bin/sh\n"+text), 0o755); err != nil {
		t.Fatal(err)
	}
}

func TestProgramStopsAndTellsHow(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct{ text, want string }{
		"cleanly": {"trap 'exit 0' TERM; echo up; while :; do sleep 0.05; done", ""},
		"with an error": {
			"trap 'echo the array is away >&2; exit 1' TERM; echo up; while :; do sleep 0.05; done",
			"exit status 1; its last lines:\nup\nthe array is away",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			program(t, dir, "driver", tc.text)
			p, err := start(t.Context(), dir, dir, "driver", nil)
			if err != nil {
				t.Fatal(err)
			}
			up := func(context.Context) error {
				if tail(p.Log, 1) != "up" { // its trap is set
					return errors.New("not yet")
				}
				return nil
			}
			if err := new(Stack).await(t.Context(), p, up); err != nil {
				t.Fatal(err)
			}
			if rss, err := p.RSS(); err != nil || rss < 100<<10 {
				t.Errorf("a shell has %d bytes of memory, %v", rss, err)
			}
			err = p.Stop()
			if tc.want == "" && err != nil || tc.want != "" && (err == nil || !strings.Contains(err.Error(), tc.want)) {
				t.Errorf("got %v, want %q", err, tc.want)
			}
			if _, err := p.RSS(); err == nil {
				t.Error("a program that has ended has memory")
			}
		})
	}
}

func TestAwaitNoticesAProgramThatEnds(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	program(t, dir, "driver", "echo wrong use >&2; exit 2")
	p, err := start(t.Context(), dir, dir, "driver", nil)
	if err != nil {
		t.Fatal(err)
	}
	never := func(context.Context) error { return errors.New("connection refused") }
	err = new(Stack).await(t.Context(), p, never)
	for _, want := range []string{"driver ended before it was ready", "exit status 2", "wrong use"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q in it", err, want)
		}
	}
}

func TestMakeKeys(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	const address = "127.0.0.1:2222"
	k, err := makeKeys(dir, address)
	if err != nil {
		t.Fatal(err)
	}
	pem, err := os.ReadFile(k.host)
	if err != nil {
		t.Fatal(err)
	}
	host, err := ssh.ParsePrivateKey(pem)
	if err != nil {
		t.Fatal(err)
	}
	check, err := knownhosts.New(filepath.Join(dir, knownHosts))
	if err != nil {
		t.Fatal(err)
	}
	remote := net.TCPAddrFromAddrPort(netip.MustParseAddrPort(address))
	if err := check(address, remote, host.PublicKey()); err != nil {
		t.Errorf("the host key is not pinned: %v", err)
	}
	pem, err = os.ReadFile(filepath.Join(dir, clientKey))
	if err != nil {
		t.Fatal(err)
	}
	client, err := ssh.ParsePrivateKey(pem)
	if err != nil {
		t.Fatal(err)
	}
	if err := check(address, remote, client.PublicKey()); err == nil {
		t.Error("the client's key passes for the host's")
	}
	allowed, err := os.ReadFile(k.authorized)
	if err != nil || string(allowed) != string(ssh.MarshalAuthorizedKey(client.PublicKey())) {
		t.Errorf("the array lets %q in, %v", allowed, err)
	}
}

func TestCommand(t *testing.T) {
	t.Parallel()
	s := New(Config{Dir: t.TempDir()})
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "unix", s.Control)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			line, _ := bufio.NewReader(conn).ReadString('\n')
			answer := "ok"
			if line != "reboot\n" {
				answer = fmt.Sprintf("error: no command %q", strings.TrimSpace(line))
			}
			_, _ = fmt.Fprintln(conn, answer)
			_ = conn.Close()
		}
	}()
	if err := s.Command(t.Context(), "reboot"); err != nil {
		t.Error(err)
	}
	if err := s.Command(t.Context(), "dance"); err == nil || !strings.Contains(err.Error(), `no command "dance"`) {
		t.Errorf("got %v", err)
	}
}
