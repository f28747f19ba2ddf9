package routeros

import (
	"crypto/ed25519"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/knownhosts"
)

// hostKeys reads the known_hosts file. It gives the check of the array's host key and the algorithms of the keys that
// are pinned for the address, none where nothing is: asking for another type than the pinned one would make an
// honest array look like a changed one.
func hostKeys(file, address string) (ssh.HostKeyCallback, []string, error) {
	known, err := knownhosts.New(file)
	if err != nil {
		return nil, nil, fmt.Errorf("ssh.knownHostsFile: %w", err)
	}
	check := func(host string, remote net.Addr, key ssh.PublicKey) error {
		return explainHostKey(known(host, remote, key), file, address, key)
	}
	return check, pinnedAlgorithms(known, address), nil
}

// pinnedAlgorithms asks for the keys of an address by offering one that nobody has: knownhosts has no other way.
func pinnedAlgorithms(known ssh.HostKeyCallback, address string) []string {
	nobody, err := ssh.NewPublicKey(ed25519.PublicKey(make([]byte, ed25519.PublicKeySize)))
	if err != nil {
		return nil
	}
	var mismatch *knownhosts.KeyError
	if !errors.As(known(address, &net.TCPAddr{IP: net.IPv4zero}, nobody), &mismatch) {
		return nil
	}
	var algorithms []string
	for _, want := range mismatch.Want {
		// One RSA key signs with several algorithms, SHA-2 first (RFC 8332).
		names := []string{want.Key.Type()}
		if names[0] == ssh.KeyAlgoRSA {
			names = []string{ssh.KeyAlgoRSASHA256, ssh.KeyAlgoRSASHA512, ssh.KeyAlgoRSA}
		}
		for _, n := range names {
			if !slices.Contains(algorithms, n) {
				algorithms = append(algorithms, n)
			}
		}
	}
	return algorithms
}

// explainHostKey turns the refusal of a host key into what its reader has to do.
func explainHostKey(err error, file, address string, key ssh.PublicKey) error {
	if err == nil {
		return nil
	}
	shown := key.Type() + " " + ssh.FingerprintSHA256(key)
	line := knownhosts.Line([]string{address}, key)
	var mismatch *knownhosts.KeyError
	if !errors.As(err, &mismatch) {
		return fmt.Errorf("host key %s: %w", shown, err)
	}
	if len(mismatch.Want) == 0 {
		return fmt.Errorf("the array's host key is not known: %s has none for %s, and the array showed %s; compare that "+
			"with the array's own key and, only if it is the same, pin it by adding this line to the file: %s",
			file, address, shown, line)
	}
	pinned := make([]string, 0, len(mismatch.Want))
	for _, w := range mismatch.Want {
		pinned = append(pinned, fmt.Sprintf("%s %s (line %d)", w.Key.Type(), ssh.FingerprintSHA256(w.Key), w.Line))
	}
	return fmt.Errorf("the array's host key has changed: %s pins %s for %s, and the array showed %s; somebody may be "+
		"listening in between, or the array was reset or replaced; only if you know that it was, put this line in place "+
		"of the old one: %s",
		file, strings.Join(pinned, ", "), address, shown, line)
}
