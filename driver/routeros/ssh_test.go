package routeros

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/pem"
	"errors"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/knownhosts"

	"srvlab.io/rds-csi/test/routerostest"
)

// relay is a network between the driver and the array that can go silent without closing anything, as a firewall that
// forgot a connection does.
type relay struct {
	to string

	mu    sync.Mutex
	conns []*link
}

// link is one connection through the relay.
type link struct {
	silent chan struct{}
	ends   [2]net.Conn
}

// through puts a relay in front of a server, and gives the address to dial.
func through(t *testing.T, to string) (*relay, string) {
	t.Helper()
	r := &relay{to: to}
	var lc net.ListenConfig
	l, err := lc.Listen(t.Context(), "tcp", "127.0.0.1:0")
	must(t, err)
	t.Cleanup(func() {
		l.Close()
		r.mu.Lock()
		defer r.mu.Unlock()
		for _, k := range r.conns {
			k.ends[0].Close()
			k.ends[1].Close()
		}
	})
	go func() {
		for {
			in, err := l.Accept()
			if err != nil {
				return
			}
			out, err := net.Dial("tcp", to)
			if err != nil {
				in.Close()
				continue
			}
			k := &link{silent: make(chan struct{}), ends: [2]net.Conn{in, out}}
			r.mu.Lock()
			r.conns = append(r.conns, k)
			r.mu.Unlock()
			go k.copy(in, out)
			go k.copy(out, in)
		}
	}()
	return r, l.Addr().String()
}

func (k *link) copy(dst, src net.Conn) {
	buf := make([]byte, 32<<10)
	for {
		n, err := src.Read(buf)
		select {
		case <-k.silent:
			return // both ends stay open, and nothing passes
		default:
		}
		if err != nil {
			dst.Close()
			return
		}
		if _, err := dst.Write(buf[:n]); err != nil {
			src.Close()
			return
		}
	}
}

// silence lets nothing pass any more on the connections that there are; new ones work.
func (r *relay) silence() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, k := range r.conns {
		select {
		case <-k.silent:
		default:
			close(k.silent)
		}
	}
}

func (r *relay) count() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.conns)
}

// relayed opens an array with a relay in between.
func relayed(t *testing.T, o routerostest.Options) (*bench, *relay) {
	t.Helper()
	b := open(t, o)
	r, addr := through(t, b.config.SSH.Address)
	b.pin(t, addr)
	return b, r
}

// pin opens the bench's array anew at another address of the same server.
func (b *bench) pin(t *testing.T, addr string) {
	t.Helper()
	must(t, os.WriteFile(b.config.SSH.KnownHostsFile, []byte(b.server.KnownHosts(addr)+"\n"), 0o600))
	b.config.SSH.Address = addr
	b.array = b.open(t, b.prefix)
	b.ssh.alive = time.Second
}

func TestUnknownHostKey(t *testing.T) {
	b := open(t, onPool(xfs))
	must(t, os.WriteFile(b.config.SSH.KnownHostsFile, nil, 0o600))
	_, err := b.array.Pool(t.Context())
	wantError(t, err, ErrUnreachable)
	if MaybeApplied(err) {
		t.Error("it says that something was sent")
	}
	fingerprint := ssh.FingerprintSHA256(b.server.HostKey.PublicKey())
	line := b.server.KnownHosts(b.config.SSH.Address)
	for _, w := range []string{"not known", fingerprint, b.config.SSH.KnownHostsFile, line} {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("%v\ndoes not say %q", err, w)
		}
	}
	// What the message says is what helps, without a restart.
	_, line, _ = strings.Cut(err.Error(), "adding this line to the file: ")
	must(t, os.WriteFile(b.config.SSH.KnownHostsFile, []byte(line+"\n"), 0o600))
	_, err = b.array.Pool(t.Context())
	must(t, err)
}

func TestChangedHostKey(t *testing.T) {
	b := open(t, onPool(xfs))
	other := newSigner(t, "").PublicKey()
	must(t, os.WriteFile(b.config.SSH.KnownHostsFile, []byte("# ours\n"+knownhosts.Line([]string{b.config.SSH.Address}, other)+"\n"), 0o600))
	_, err := b.array.Pool(t.Context())
	wantError(t, err, ErrUnreachable)
	for _, w := range []string{
		"has changed", "listening in between", "reset", "line 2", ssh.FingerprintSHA256(other),
		ssh.FingerprintSHA256(b.server.HostKey.PublicKey()), b.server.KnownHosts(b.config.SSH.Address),
	} {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("%v\ndoes not say %q", err, w)
		}
	}
}

// TestPinnedAlgorithms: the pinned type of key is the one that is asked for. With a preference of our own, an array
// that has two keys would show the other one and look changed.
func TestPinnedAlgorithms(t *testing.T) {
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	must(t, err)
	rsaSigner, err := ssh.NewSignerFromKey(rsaKey)
	must(t, err)
	const addr = "192.0.2.1:22"
	file := filepath.Join(t.TempDir(), "known_hosts")
	for _, tt := range []struct {
		name string
		keys []ssh.PublicKey
		want []string
	}{
		{"none", nil, nil},
		{"ed25519", []ssh.PublicKey{newSigner(t, "").PublicKey()}, []string{ssh.KeyAlgoED25519}},
		{"rsa", []ssh.PublicKey{rsaSigner.PublicKey()}, []string{ssh.KeyAlgoRSASHA256, ssh.KeyAlgoRSASHA512, ssh.KeyAlgoRSA}},
		{
			"both",
			[]ssh.PublicKey{newSigner(t, "").PublicKey(), rsaSigner.PublicKey()},
			[]string{ssh.KeyAlgoED25519, ssh.KeyAlgoRSASHA256, ssh.KeyAlgoRSASHA512, ssh.KeyAlgoRSA},
		},
	} {
		var text bytes.Buffer
		for _, k := range tt.keys {
			text.WriteString(knownhosts.Line([]string{addr}, k) + "\n")
		}
		must(t, os.WriteFile(file, text.Bytes(), 0o600))
		_, got, err := hostKeys(file, addr)
		slices.Sort(got)
		slices.Sort(tt.want)
		if err != nil || !slices.Equal(got, tt.want) {
			t.Errorf("%s: %v, %v, want %v", tt.name, got, err, tt.want)
		}
	}
}

func TestKeyFiles(t *testing.T) {
	b := open(t, onPool(xfs))
	dir := t.TempDir()
	_, private, err := ed25519.GenerateKey(rand.Reader)
	must(t, err)
	locked, err := ssh.MarshalPrivateKeyWithPassphrase(private, "", []byte("secret"))
	must(t, err)
	plain, err := ssh.MarshalPrivateKey(private, "")
	must(t, err)
	curve, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	ec, err := ssh.MarshalPrivateKey(curve, "")
	must(t, err)
	write := func(name string, data []byte, mode os.FileMode) string {
		file := filepath.Join(dir, name)
		must(t, os.WriteFile(file, data, 0o600))
		must(t, os.Chmod(file, mode))
		return file
	}
	const secret = "c2VjcmV0"
	for _, tt := range []struct {
		name, key, known string
		mistake, warning string
	}{
		{name: "fine", key: write("fine", pem.EncodeToMemory(plain), 0o600)},
		{name: "readable by the group", key: write("group", pem.EncodeToMemory(plain), 0o440)},
		{name: "readable by all", key: write("all", pem.EncodeToMemory(plain), 0o644), warning: "can be read by everybody"},
		{name: "ECDSA", key: write("ec", pem.EncodeToMemory(ec), 0o600), warning: "RouterOS imports Ed25519 and RSA keys"},
		{name: "with a passphrase", key: write("locked", pem.EncodeToMemory(locked), 0o600), mistake: "passphrase"},
		{name: "no key", key: write("text", []byte(secret), 0o600), mistake: "is no private key"},
		{name: "no file", key: filepath.Join(dir, "none"), mistake: "no such file"},
		{name: "no known_hosts", known: filepath.Join(dir, "none"), mistake: "ssh.knownHostsFile"},
		{name: "known_hosts of other form", known: write("junk", []byte("junk\n"), 0o600), mistake: "ssh.knownHostsFile"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := b.config
			if tt.key != "" {
				c.SSH.PrivateKeyFile = tt.key
			}
			if tt.known != "" {
				c.SSH.KnownHostsFile = tt.known
			}
			a, err := Open(c, Options{Prefix: b.prefix})
			if tt.mistake != "" {
				if err == nil || !strings.Contains(err.Error(), tt.mistake) || !strings.Contains(err.Error(), "rds1") {
					t.Errorf("got %v, want %q", err, tt.mistake)
				}
				if err != nil && strings.Contains(err.Error(), secret) {
					t.Errorf("%v carries the file's content", err)
				}
				return
			}
			must(t, err)
			if got := strings.Join(a.Warnings(), "\n"); !strings.Contains(got, tt.warning) || tt.warning == "" && got != "" {
				t.Errorf("warnings %q, want %q", got, tt.warning)
			}
		})
	}
}

func TestOpenWithoutPrefix(t *testing.T) {
	b := open(t, onPool(xfs))
	if _, err := Open(b.config, Options{}); err == nil || !strings.Contains(err.Error(), "prefix") {
		t.Errorf("got %v", err)
	}
}

func TestWrongKey(t *testing.T) {
	b := open(t, onPool(xfs))
	newSigner(t, b.config.SSH.PrivateKeyFile)
	a := b.open(t, b.prefix)
	_, err := a.Pool(t.Context())
	wantError(t, err, ErrUnreachable)
	if !strings.Contains(err.Error(), `does not take the key of user "csi"`) || !strings.Contains(err.Error(), "/user/ssh-keys/print") {
		t.Errorf("%v does not say what to do", err)
	}
}

func TestAlgorithms(t *testing.T) {
	b := open(t, onPool(xfs))
	old := &routerostest.Server{Box: b.box, HostKey: b.server.HostKey}
	old.Config.KeyExchanges = []string{ssh.InsecureKeyExchangeDH1SHA1}
	old.Config.MACs = []string{ssh.HMACSHA1}
	old.Config.Ciphers = []string{ssh.CipherAES128CTR}
	b.pin(t, serve(t, old))
	_, err := b.array.Pool(t.Context())
	wantError(t, err, ErrUnreachable)
	if !strings.Contains(err.Error(), "name what the array offers in ssh.keyExchanges") {
		t.Errorf("%v does not say what to do", err)
	}
	b.config.SSH.KeyExchanges = old.Config.KeyExchanges
	b.config.SSH.MACs = []string{ssh.HMACSHA1}
	b.config.SSH.Ciphers = old.Config.Ciphers
	b.config.SSH.HostKeyAlgorithms = []string{ssh.KeyAlgoED25519}
	a := b.open(t, b.prefix)
	_, err = a.Pool(t.Context())
	must(t, err)
}

// TestHalfOpen: an idle connection on which nothing passes any more is noticed before a command is sent on it, and
// replaced; the caller sees nothing but a delay.
func TestHalfOpen(t *testing.T) {
	b, r := relayed(t, onPool(xfs))
	must(t, b.array.Check(t.Context()))
	r.silence()
	_, err := b.array.Create(t.Context(), CreateSpec{Slot: volume(b.prefix, "data"), SizeBytes: gib, PV: "data"})
	must(t, err)
	if r.count() != 2 {
		t.Errorf("%d connections, want the dead one and its replacement", r.count())
	}
}

// TestSilentCommand: the connection dies while a command runs. Whether it took effect is unknown, and said so.
func TestSilentCommand(t *testing.T) {
	b, r := relayed(t, onPool(xfs))
	must(t, b.array.Check(t.Context()))
	b.impatient()
	b.box.Inject(routerostest.Fault{Kind: routerostest.Latency, Delay: 100 * time.Millisecond})
	time.AfterFunc(50*time.Millisecond, r.silence)
	spec := CreateSpec{Slot: volume(b.prefix, "data"), SizeBytes: gib, PV: "data"}
	_, err := b.array.Create(t.Context(), spec)
	wantError(t, err, ErrUnreachable)
	if !MaybeApplied(err) || !strings.Contains(err.Error(), "no answer within 300ms") {
		t.Errorf("got %v", err)
	}
	if errors.Is(err, context.DeadlineExceeded) {
		t.Error("our own deadline looks like the caller's")
	}
	b.ssh.config.CommandTimeout = Duration(5 * time.Second)
	d, err := b.array.Create(t.Context(), spec)
	wantError(t, err, ErrExists)
	if d.SizeBytes != gib {
		t.Errorf("got %+v", d)
	}
}

// TestArrayRestart: every idle connection is gone, and the next call does not notice.
func TestArrayRestart(t *testing.T) {
	b := open(t, onPool(xfs))
	must(t, b.array.Check(t.Context()))
	must(t, b.box.Reboot(time.Millisecond, 0))
	for b.box.Phase() != "up" {
		time.Sleep(time.Millisecond)
	}
	_, err := b.array.Pool(t.Context())
	must(t, err)
}

// TestConnections: no more connections than configured, one command at a time on each, and no more than are needed.
func TestConnections(t *testing.T) {
	b, r := relayed(t, onPool(xfs))
	for range 3 {
		_, err := b.array.Pool(t.Context())
		must(t, err)
	}
	if r.count() != 1 {
		t.Errorf("%d connections for one command after another", r.count())
	}
	const latency = 50 * time.Millisecond
	b.box.Inject(routerostest.Fault{Kind: routerostest.Latency, Delay: latency, Times: -1})
	start := time.Now()
	var wg sync.WaitGroup
	for range 6 {
		wg.Go(func() {
			if _, err := b.array.Pool(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if r.count() != 2 {
		t.Errorf("%d connections, want 2", r.count())
	}
	if d := time.Since(start); d < 3*latency {
		t.Errorf("six commands of %s over two connections took %s: more than one at a time", latency, d)
	}
}

func TestSessionLimit(t *testing.T) {
	for _, s := range []routerostest.Position{routerostest.Dropped, routerostest.Refused} {
		t.Run(string(s), func(t *testing.T) {
			o := onPool(xfs)
			o.MaxSessions = 1
			o.Switches.SessionLimit = s
			b := open(t, o)
			must(t, b.array.Check(t.Context())) // has the one session
			other := b.open(t, b.prefix)
			_, err := other.Pool(t.Context())
			wantError(t, err, ErrUnreachable)
			if s == routerostest.Dropped && !strings.Contains(err.Error(), "max-sessions") {
				t.Errorf("%v does not name the limit", err)
			}
			must(t, b.array.Close())
			for range 100 { // the array notices a moment later
				if _, err = other.Pool(t.Context()); err == nil {
					break
				}
				time.Sleep(10 * time.Millisecond)
			}
			must(t, err)
		})
	}
}

// TestCallerGivesUp: the caller's deadline ends the wait at once, and is told as the caller's.
func TestCallerGivesUp(t *testing.T) {
	b := open(t, onPool(xfs))
	must(t, b.array.Check(t.Context()))
	b.box.Inject(routerostest.Fault{Kind: routerostest.Hang})
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	start := time.Now()
	_, err := b.array.Pool(ctx)
	wantError(t, err, ErrUnreachable)
	if !errors.Is(err, context.DeadlineExceeded) || time.Since(start) > 2*time.Second {
		t.Errorf("after %s: %v", time.Since(start), err)
	}
}

func TestBackOff(t *testing.T) {
	b := open(t, onPool(xfs))
	b.pin(t, "127.0.0.1:1")
	var seen []time.Duration
	for range 3 {
		_, err := b.array.Pool(t.Context())
		wantError(t, err, ErrUnreachable)
		seen = append(seen, b.ssh.backOff)
	}
	if !slices.IsSorted(seen) || seen[0] == seen[2] || seen[2] > maxBackOff {
		t.Errorf("pauses %v do not grow up to %s", seen, maxBackOff)
	}
}

func TestOutputLimit(t *testing.T) {
	var b limitedBuffer
	chunk := bytes.Repeat([]byte("x"), 1<<20)
	for range maxOutput/len(chunk) + 2 {
		if n, err := b.Write(chunk); n != len(chunk) || err != nil {
			t.Fatal(n, err)
		}
	}
	if b.overflow() == nil || len(b.String()) != maxOutput {
		t.Errorf("took %d bytes, %v", len(b.String()), b.overflow())
	}
}
