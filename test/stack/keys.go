package stack

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/knownhosts"
)

// user is the account on the array.
const user = "csi"

// Files in the stack's folder.
const (
	clientKey  = "id_ed25519"
	hostKey    = "host_ed25519"
	authorized = "authorized_keys"
	knownHosts = "known_hosts"
)

// keys is what an operator makes once: a key pair for the driver, and the array's host key pinned.
type keys struct {
	host, authorized string // files for the emulator
	client           *ssh.ClientConfig
}

func makeKeys(dir, address string) (keys, error) {
	host, err := makeKey(filepath.Join(dir, hostKey))
	if err != nil {
		return keys{}, err
	}
	client, err := makeKey(filepath.Join(dir, clientKey))
	if err != nil {
		return keys{}, err
	}
	pinned := knownhosts.Line([]string{knownhosts.Normalize(address)}, host.PublicKey()) + "\n"
	if err := os.WriteFile(filepath.Join(dir, knownHosts), []byte(pinned), 0o600); err != nil {
		return keys{}, err
	}
	allowed := ssh.MarshalAuthorizedKey(client.PublicKey())
	if err := os.WriteFile(filepath.Join(dir, authorized), allowed, 0o600); err != nil {
		return keys{}, err
	}
	return keys{
		host:       filepath.Join(dir, hostKey),
		authorized: filepath.Join(dir, authorized),
		client: &ssh.ClientConfig{
			User:              user,
			Auth:              []ssh.AuthMethod{ssh.PublicKeys(client)},
			HostKeyCallback:   ssh.FixedHostKey(host.PublicKey()),
			HostKeyAlgorithms: []string{ssh.KeyAlgoED25519},
			Timeout:           10 * time.Second,
		},
	}, nil
}

func makeKey(file string) (ssh.Signer, error) {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make key %s: %w", file, err)
	}
	block, err := ssh.MarshalPrivateKey(key, "made for one run of a test")
	if err != nil {
		return nil, fmt.Errorf("make key %s: %w", file, err)
	}
	if err := os.WriteFile(file, pem.EncodeToMemory(block), 0o600); err != nil {
		return nil, err
	}
	return ssh.NewSignerFromKey(key)
}

// Console runs one line on the array over a connection of its own, as an operator would, and gives what the array
// printed.
func (s *Stack) Console(ctx context.Context, line string) (string, error) {
	c, err := s.Dial(ctx)
	if err != nil {
		return "", err
	}
	defer func() { _ = c.Close() }()
	return Run(ctx, c, line)
}

// Dial opens an SSH connection to the array.
func (s *Stack) Dial(ctx context.Context) (*ssh.Client, error) {
	address := s.config.Array.SSH.String()
	tcp, err := (&net.Dialer{}).DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { _ = tcp.Close() })
	defer stop()
	conn, channels, requests, err := ssh.NewClientConn(tcp, address, s.console)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("ssh to %s: %w", address, err), tcp.Close())
	}
	return ssh.NewClient(conn, channels, requests), nil
}

// Run runs one line over an open connection. RouterOS exits with 0 whatever happened: the caller judges the text.
func Run(ctx context.Context, c *ssh.Client, line string) (string, error) {
	session, err := c.NewSession()
	if err != nil {
		return "", fmt.Errorf("open SSH session: %w", err)
	}
	defer func() { _ = session.Close() }()
	stop := context.AfterFunc(ctx, func() { _ = session.Close() })
	defer stop()
	var out bytes.Buffer
	session.Stdout = &out
	if err := session.Run(line); err != nil {
		return out.String(), fmt.Errorf("run %q on the array: %w", line, err)
	}
	return strings.ReplaceAll(out.String(), "\r\n", "\n"), nil
}
