package routerostest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/knownhosts"
)

// serverVersion is how RouterOS' SSH server introduces itself.
const serverVersion = "SSH-2.0-ROSSSH"

// Server is the SSH server of a Box: exec channels, several on one connection, and a plain shell.
type Server struct {
	Box     *Box
	HostKey ssh.Signer
	// Config narrows the algorithms, as strong-crypto and old releases do. The zero value takes x/crypto's.
	Config ssh.Config
	// Inactivity ends a connection on which no line was sent for so long. 0: never.
	Inactivity time.Duration
	// Handshake is the time that a client has until it is logged in. 0: 30 s.
	Handshake time.Duration

	mu    sync.Mutex
	free  *sync.Cond // a session ended
	conns map[net.Conn]bool
	count int // sessions that count against the limit
	done  bool
	wg    sync.WaitGroup
}

// KnownHosts gives the known_hosts line that pins this server at an address.
func (s *Server) KnownHosts(addr string) string {
	return knownhosts.Line([]string{addr}, s.HostKey.PublicKey())
}

// Serve accepts connections until ctx ends or the listener fails, and gives nil for the first. It closes the listener
// and all connections, and returns when every one of them has ended. A Server serves once.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	s.mu.Lock()
	s.conns, s.free = map[net.Conn]bool{}, sync.NewCond(&s.mu)
	s.mu.Unlock()
	stop := s.Box.watch(s.drop)
	defer stop()
	end := context.AfterFunc(ctx, func() { l.Close() }) //nolint:errcheck // Accept tells
	defer end()
	var err error
	for {
		var c net.Conn
		if c, err = l.Accept(); err != nil {
			break
		}
		s.mu.Lock()
		s.conns[c] = true
		s.mu.Unlock()
		s.wg.Go(func() { s.serve(ctx, c) })
	}
	s.mu.Lock()
	s.done = true
	s.free.Broadcast()
	s.mu.Unlock()
	s.drop()
	s.wg.Wait()
	if ctx.Err() != nil {
		return nil
	}
	return fmt.Errorf("accept on %s: %w", l.Addr(), err)
}

// drop ends every connection at once, as a reboot does.
func (s *Server) drop() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.conns {
		c.Close() //nolint:errcheck // it is gone either way
	}
}

func (s *Server) forget(c net.Conn) {
	c.Close() //nolint:errcheck // it is gone either way
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.conns, c)
}

// take counts a session against the limit, waiting for a free one where the switch session-limit says so.
func (s *Server) take() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for !s.done && s.count >= s.Box.maxSessions() {
		if s.Box.switches.SessionLimit != Queued {
			return false
		}
		s.free.Wait()
	}
	s.count++
	return !s.done
}

func (s *Server) give() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.count--
	s.free.Broadcast()
}

func (b *Box) maxSessions() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.sessions
}

// serve is one connection's life.
func (s *Server) serve(ctx context.Context, c net.Conn) {
	defer s.forget(c)
	if s.Box.down() {
		return
	}
	admitted := s.take()
	if admitted {
		defer s.give()
	} else if s.Box.switches.SessionLimit != Refused {
		return
	}
	handshake := s.Handshake
	setDefault(&handshake, 30*time.Second)
	if c.SetDeadline(time.Now().Add(handshake)) != nil {
		return
	}
	conn, channels, requests, err := ssh.NewServerConn(c, s.config(admitted))
	if err != nil || c.SetDeadline(time.Time{}) != nil {
		return
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	idle := s.idle(c)
	defer idle.Stop()
	go s.global(requests)
	var wg sync.WaitGroup
	defer wg.Wait()
	for open := range channels {
		if open.ChannelType() != "session" {
			open.Reject(ssh.UnknownChannelType, "") //nolint:errcheck // the client is gone then
			continue
		}
		ch, reqs, err := open.Accept()
		if err != nil {
			break
		}
		sess := &session{server: s, conn: c, channel: ch, idle: idle}
		sess.User, sess.Width = login(conn.User())
		wg.Go(func() { sess.serve(ctx, reqs) })
	}
	cancel()
}

// idle ends the connection after the time of inactivity. Reset starts it anew.
func (s *Server) idle(c net.Conn) *time.Timer {
	if s.Inactivity <= 0 {
		t := time.NewTimer(time.Hour)
		t.Stop()
		return t
	}
	return time.AfterFunc(s.Inactivity, func() { c.Close() }) //nolint:errcheck // it is gone either way
}

// global answers SSH global requests, or does not, as the switch says.
func (s *Server) global(requests <-chan *ssh.Request) {
	for r := range requests {
		if r.WantReply && s.Box.switches.GlobalRequests != Ignored {
			r.Reply(false, nil) //nolint:errcheck // the client is gone then
		}
	}
}

var width = regexp.MustCompile(`([0-9]+)w`)

// login takes "admin+cet80w" apart: what follows the "+" says how the terminal is, among it its width.
func login(user string) (name string, columns int) {
	name, suffix, _ := strings.Cut(user, "+")
	if m := width.FindStringSubmatch(suffix); m != nil {
		columns, _ = strconv.Atoi(m[1]) // too many digits leave the default
	}
	return name, columns
}

var errLogin = errors.New("login refused")

// config lets a user in who has the policy ssh, by key, or by password where no key is there.
func (s *Server) config(admitted bool) *ssh.ServerConfig {
	may := func(user string) *User {
		name, _ := login(user)
		u := s.Box.user(name)
		if u == nil || !admitted || !s.Box.permits(name, "ssh") {
			return nil
		}
		return u
	}
	cfg := &ssh.ServerConfig{
		Config:        s.Config,
		ServerVersion: serverVersion,
		PasswordCallback: func(m ssh.ConnMetadata, password []byte) (*ssh.Permissions, error) {
			if u := may(m.User()); u == nil || len(u.Keys) > 0 || u.Password != string(password) {
				return nil, errLogin
			}
			return nil, nil // x/crypto: nil permissions are none
		},
		PublicKeyCallback: func(m ssh.ConnMetadata, key ssh.PublicKey) (*ssh.Permissions, error) {
			if u := may(m.User()); u != nil {
				for _, k := range u.Keys {
					if bytes.Equal(k.Marshal(), key.Marshal()) {
						return nil, nil // x/crypto: nil permissions are none
					}
				}
			}
			return nil, errLogin
		},
	}
	cfg.AddHostKey(s.HostKey)
	return cfg
}

// session is one channel.
type session struct {
	Session
	server  *Server
	conn    net.Conn
	channel ssh.Channel
	idle    *time.Timer
}

// serve answers the channel's requests. When the client closes the channel, what it started is ended.
func (s *session) serve(ctx context.Context, requests <-chan *ssh.Request) {
	defer s.channel.Close() //nolint:errcheck // the client is gone then
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	started, terminal := false, false
	for r := range requests {
		ok, start := true, func() {}
		switch {
		case r.Type == "pty-req":
			terminal = true
			s.terminal(r.Payload)
		case r.Type == "exec" && !started:
			var line struct{ Line string }
			if ok = ssh.Unmarshal(r.Payload, &line) == nil; ok {
				start = func() { wg.Go(func() { s.exec(ctx, line.Line) }) }
			}
		case r.Type == "shell" && !started:
			start = func() { wg.Go(func() { s.shell(ctx, terminal) }) }
		case r.Type == "env", r.Type == "window-change":
		default:
			ok = false
		}
		started = started || r.Type == "exec" || r.Type == "shell"
		if r.WantReply {
			r.Reply(ok, nil) //nolint:errcheck // the client is gone then
		}
		start() // behind the reply: a quick line would else close the channel in front of it
	}
}

// terminal takes the width from a pty-req (RFC 4254, 6.2), unless the login name gave one.
func (s *session) terminal(payload []byte) {
	var pty struct {
		Term                string
		Columns, Rows, W, H uint32
		Modes               string
	}
	if ssh.Unmarshal(payload, &pty) == nil && s.Width == 0 && pty.Columns < 10000 {
		s.Width = int(pty.Columns)
	}
}

func (s *session) touch() {
	if s.server.Inactivity > 0 {
		s.idle.Reset(s.server.Inactivity)
	}
}

// exec runs one line and ends the channel with its exit status.
func (s *session) exec(ctx context.Context, line string) {
	s.touch()
	exit, err := s.server.Box.Run(ctx, s.Session, line, s.channel)
	if errors.Is(err, ErrDropped) || errors.Is(err, ErrDown) {
		s.conn.Close() //nolint:errcheck // that is the fault
		return
	}
	s.channel.SendRequest("exit-status", false, //nolint:errcheck // the client is gone then
		ssh.Marshal(struct{ Status uint32 }{uint32(exit)}))
	s.channel.Close() //nolint:errcheck // the client is gone then
}

// shell runs the lines that are typed. At a terminal it echoes; Ctrl-C drops the line, Ctrl-D and "/quit" end it.
func (s *session) shell(ctx context.Context, terminal bool) {
	defer s.channel.Close() //nolint:errcheck // the client is gone then
	prompt := "[" + s.User + "@" + s.server.Box.opts.Identity + "] > "
	s.say(prompt)
	var line []byte
	for in := make([]byte, 1); ; {
		if _, err := io.ReadFull(s.channel, in); err != nil {
			return
		}
		switch c := in[0]; c {
		case '\r', '\n':
			if terminal {
				s.say("\r\n")
			}
			if text := strings.TrimSpace(string(line)); text == "/quit" || text == "quit" {
				return
			} else if text != "" {
				s.touch()
				if _, err := s.server.Box.Run(ctx, s.Session, text, s.channel); err != nil {
					s.conn.Close() //nolint:errcheck // that is the fault
					return
				}
			}
			line = line[:0]
			s.say(prompt)
		case 3:
			line = line[:0]
			s.say("\r\n" + prompt)
		case 4:
			return
		case 8, 127:
			if len(line) > 0 {
				line = line[:len(line)-1]
				s.say("\b \b")
			}
		default:
			line = append(line, c)
			if terminal {
				s.say(string([]byte{c}))
			}
		}
	}
}

func (s *session) say(text string) {
	io.WriteString(s.channel, text) //nolint:errcheck // the client is gone then
}
