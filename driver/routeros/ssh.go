package routeros

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/crypto/ssh"
)

// runner runs one console line and gives what it printed. With an error it gives what had been printed by then.
// It exists so that the tests of rare answers need no SSH server.
type runner interface {
	Run(ctx context.Context, line string) (string, error)
}

// lostError is a transport failure: nothing is known of the command if sent is set, else it was never sent.
type lostError struct {
	sent bool
	err  error
}

func (e *lostError) Error() string { return e.err.Error() }
func (e *lostError) Unwrap() error { return e.err }

// errAllInUse: the caller's time was over before one of the connections was free. It says nothing about the array.
var errAllInUse = errors.New("all connections are in use")

const (
	// maxOutput bounds what one command may print: a thousand disks with all their counters are below 4 MiB.
	maxOutput = 32 << 20
	// aliveTimeout is how long an open connection may take to open a channel. That is one round trip, and the proof
	// that the connection is alive before a command is sent on it: a half-open one is found here, where retrying on a
	// new one is safe.
	aliveTimeout = 5 * time.Second
	// tcpKeepAlive notices a dead peer of an idle connection, without relying on an SSH request that RouterOS may
	// not answer.
	tcpKeepAlive = 15 * time.Second
	maxBackOff   = 5 * time.Second
)

// sshRunner runs commands over a few SSH connections, one command at a time on each: RouterOS is not known to take
// several at once, and has 20 sessions for everybody.
type sshRunner struct {
	config SSHConfig
	signer ssh.Signer
	slots  chan struct{} // one per connection that may exist
	alive  time.Duration // aliveTimeout

	mu      sync.Mutex
	idle    []*ssh.Client // the one used last at the end, so that few connections stay warm
	closed  bool
	backOff time.Duration // before the next dial; grows with each that failed
}

// newSSHRunner reads the key and the known_hosts file, and does not connect. The second result warns of what is
// unwise but works.
func newSSHRunner(c SSHConfig) (*sshRunner, []string, error) {
	signer, warnings, err := readKey(c.PrivateKeyFile)
	_, _, errKnown := hostKeys(c.KnownHostsFile, c.Address)
	if err := errors.Join(err, errKnown); err != nil {
		return nil, nil, err
	}
	return &sshRunner{
		config: c, signer: signer, slots: make(chan struct{}, c.Connections), alive: aliveTimeout,
	}, warnings, nil
}

// readKey reads the private key. A key that others can read is only warned about: a Kubernetes Secret is mounted with
// mode 0644 unless told otherwise, inside a pod that has one user.
func readKey(file string) (ssh.Signer, []string, error) {
	const field = "ssh.privateKeyFile: "
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, nil, fmt.Errorf(field+"%w", err)
	}
	signer, err := ssh.ParsePrivateKey(data)
	var locked *ssh.PassphraseMissingError
	switch {
	case errors.As(err, &locked):
		return nil, nil, fmt.Errorf(field+"%s: the key is protected by a passphrase, which nobody could type here; make "+
			"one without: ssh-keygen -t ed25519 -N '' -f FILE", file)
	case err != nil: // the parser's own words might quote the file
		return nil, nil, fmt.Errorf(field+"%s: is no private key in OpenSSH or PEM form; make one with: ssh-keygen -t "+
			"ed25519 -N '' -f FILE", file)
	}
	var warnings []string
	if info, err := os.Stat(file); err == nil && info.Mode().Perm()&0o007 != 0 {
		warnings = append(warnings, fmt.Sprintf(field+"%s can be read by everybody (mode %#o); 0600 or 0440 would do "+
			"(Secret: defaultMode)", file, info.Mode().Perm()))
	}
	switch t := signer.PublicKey().Type(); t {
	case ssh.KeyAlgoED25519, ssh.KeyAlgoRSA:
	default:
		warnings = append(warnings, fmt.Sprintf(field+"%s is an %s key; RouterOS imports Ed25519 and RSA keys", file, t))
	}
	return signer, warnings, nil
}

// Run sends one line and waits for its end. A connection that fails or overruns its time is closed, never used again.
func (r *sshRunner) Run(ctx context.Context, line string) (string, error) {
	select {
	case r.slots <- struct{}{}:
		defer func() { <-r.slots }()
	case <-ctx.Done():
		return "", &lostError{err: fmt.Errorf("%w: %w", errAllInUse, ctx.Err())}
	}
	client, session, err := r.session(ctx)
	if err != nil {
		return "", &lostError{err: err}
	}
	out, err := r.run(ctx, client, session, line)
	if err != nil {
		client.Close() //nolint:errcheck // it is given up; why is in err
		return out, &lostError{sent: true, err: err}
	}
	r.release(client)
	return out, nil
}

// run runs the line in the session. Ending the connection is the only way to end a command that hangs.
func (r *sshRunner) run(ctx context.Context, client *ssh.Client, session *ssh.Session, line string) (string, error) {
	ctx, cancel := withTimeout(ctx, time.Duration(r.config.CommandTimeout), "no answer")
	defer cancel()
	defer context.AfterFunc(ctx, func() { client.Close() })() //nolint:errcheck // see above

	out := &limitedBuffer{}
	session.Stdout, session.Stderr = out, out
	err := session.Run(line)
	var status *ssh.ExitError
	switch {
	case ctx.Err() != nil && err != nil:
		return out.String(), context.Cause(ctx)
	case err == nil, errors.As(err, &status):
		// RouterOS exits 0 whatever happened. Whether the command worked is told by what it printed.
		return out.String(), out.overflow()
	default:
		return out.String(), fmt.Errorf("answer lost: %w", err)
	}
}

// session gives a session on a connection that was alive a moment ago.
func (r *sshRunner) session(ctx context.Context) (*ssh.Client, *ssh.Session, error) {
	for {
		client := r.takeIdle()
		if client == nil {
			break
		}
		session, err := r.openSession(ctx, client)
		if err == nil {
			return client, session, nil
		}
		if ctx.Err() != nil {
			return nil, nil, err
		}
	}
	client, err := r.dial(ctx)
	if err != nil {
		return nil, nil, err
	}
	session, err := r.openSession(ctx, client)
	if err != nil {
		return nil, nil, fmt.Errorf("%w (RouterOS closes new sessions when its max-sessions are in use: "+
			"/ip/service/print)", err)
	}
	return client, session, nil
}

// openSession opens a channel, and closes the connection if that fails or takes too long.
func (r *sshRunner) openSession(ctx context.Context, client *ssh.Client) (*ssh.Session, error) {
	ctx, cancel := withTimeout(ctx, r.alive, "connection is dead, no channel")
	defer cancel()
	stop := context.AfterFunc(ctx, func() { client.Close() }) //nolint:errcheck // it is given up; why is in the cause
	session, err := client.NewSession()
	if !stop() && err == nil { // too late: the connection is being closed
		err = context.Cause(ctx)
	}
	if err == nil {
		return session, nil
	}
	client.Close() //nolint:errcheck // as above
	if ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	return nil, fmt.Errorf("open session: %w", err)
}

func (r *sshRunner) takeIdle() *ssh.Client {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := len(r.idle)
	if n == 0 {
		return nil
	}
	client := r.idle[n-1]
	r.idle = r.idle[:n-1]
	return client
}

func (r *sshRunner) release(client *ssh.Client) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		client.Close() //nolint:errcheck // nothing is sent any more
		return
	}
	r.idle = append(r.idle, client)
}

// Close ends the idle connections; one in use ends with its command.
func (r *sshRunner) Close() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.closed = true
	for _, c := range r.idle {
		c.Close() //nolint:errcheck // nothing is sent any more
	}
	r.idle = nil
	return nil
}

// dial connects, after the back-off that earlier failures have earned.
func (r *sshRunner) dial(ctx context.Context) (*ssh.Client, error) {
	if err := r.waitBackOff(ctx); err != nil {
		return nil, err
	}
	client, err := r.connect(ctx)
	r.mu.Lock()
	defer r.mu.Unlock()
	if err != nil {
		r.backOff = min(max(2*r.backOff, maxBackOff/16), maxBackOff)
		return nil, err
	}
	r.backOff = 0
	return client, nil
}

func (r *sshRunner) waitBackOff(ctx context.Context) error {
	r.mu.Lock()
	d := r.backOff
	r.mu.Unlock()
	if d == 0 {
		return nil
	}
	return sleep(ctx, d)
}

func (r *sshRunner) connect(ctx context.Context) (*ssh.Client, error) {
	ctx, cancel := withTimeout(ctx, time.Duration(r.config.DialTimeout), "no SSH connection")
	defer cancel()
	config, err := r.clientConfig()
	if err != nil {
		return nil, err
	}
	dialer := net.Dialer{KeepAlive: tcpKeepAlive}
	conn, err := dialer.DialContext(ctx, "tcp", r.config.Address)
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { conn.Close() }) //nolint:errcheck // ends the handshake
	c, channels, requests, err := ssh.NewClientConn(conn, r.config.Address, config)
	if !stop() && err == nil {
		c.Close() //nolint:errcheck // too late, it is being closed
		err = context.Cause(ctx)
	}
	if err != nil {
		conn.Close() //nolint:errcheck // it is given up; why is in err
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return nil, explainHandshake(err, r.config)
	}
	return ssh.NewClient(c, channels, requests), nil
}

// clientConfig reads known_hosts anew, so that pinning a key needs no restart.
func (r *sshRunner) clientConfig() (*ssh.ClientConfig, error) {
	check, pinned, err := hostKeys(r.config.KnownHostsFile, r.config.Address)
	if err != nil {
		return nil, err
	}
	if len(r.config.HostKeyAlgorithms) > 0 {
		pinned = r.config.HostKeyAlgorithms
	}
	return &ssh.ClientConfig{
		Config: ssh.Config{
			KeyExchanges: r.config.KeyExchanges,
			Ciphers:      r.config.Ciphers,
			MACs:         r.config.MACs,
		},
		User:              r.config.User,
		Auth:              []ssh.AuthMethod{ssh.PublicKeys(r.signer)},
		HostKeyCallback:   check,
		HostKeyAlgorithms: pinned,
	}, nil
}

// explainHandshake adds what to do to the handshake errors that only a human can mend. It goes by x/crypto/ssh's words,
// but only to add a hint.
func explainHandshake(err error, c SSHConfig) error {
	switch text := err.Error(); {
	case errors.Is(err, io.EOF), errors.Is(err, syscall.ECONNRESET):
		return fmt.Errorf("%w; the array closed the connection before the login, as it does when its max-sessions are in "+
			"use: /ip/service/print", err)
	case strings.Contains(text, "unable to authenticate"):
		return fmt.Errorf("%w; the array does not take the key of user %q: /user/ssh-keys/print shows which keys it has, "+
			"and the user's group needs the policy ssh", err, c.User)
	case strings.Contains(text, "no common algorithm"):
		return fmt.Errorf("%w; name what the array offers in ssh.keyExchanges, ciphers, macs or hostKeyAlgorithms", err)
	default:
		return err
	}
}

// withTimeout bounds ctx; the cause then says what did not come in time.
func withTimeout(ctx context.Context, d time.Duration, what string) (context.Context, context.CancelFunc) {
	return context.WithTimeoutCause(ctx, d, fmt.Errorf("%s within %s", what, d))
}

// sleep waits, or gives the context's error.
func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// limitedBuffer takes what a command prints, up to maxOutput. The session writes stdout and stderr from two
// goroutines.
type limitedBuffer struct {
	mu   sync.Mutex
	buf  bytes.Buffer
	over bool
}

func (b *limitedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if room := maxOutput - b.buf.Len(); len(p) > room {
		b.over = true
		b.buf.Write(p[:room])
		return len(p), nil
	}
	return b.buf.Write(p)
}

func (b *limitedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

func (b *limitedBuffer) overflow() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.over {
		return fmt.Errorf("the answer is longer than %d bytes", maxOutput)
	}
	return nil
}
