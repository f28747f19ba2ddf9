package routeros

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"golang.org/x/crypto/ssh"
)

// checkAlgorithms refuses names that x/crypto/ssh does not have. It would take them silently, and the handshake would
// fail later with nothing but "no common algorithm".
func (s *SSHConfig) checkAlgorithms() error {
	good, weak := ssh.SupportedAlgorithms(), ssh.InsecureAlgorithms()
	return errors.Join(
		checkNames("ssh.keyExchanges", s.KeyExchanges, good.KeyExchanges, weak.KeyExchanges),
		checkNames("ssh.ciphers", s.Ciphers, good.Ciphers, weak.Ciphers),
		checkNames("ssh.macs", s.MACs, good.MACs, weak.MACs),
		checkNames("ssh.hostKeyAlgorithms", s.HostKeyAlgorithms, good.HostKeys, weak.HostKeys),
	)
}

func checkNames(field string, names, good, weak []string) error {
	known := slices.Concat(good, weak)
	var all []error
	for _, n := range names {
		if !slices.Contains(known, n) {
			all = append(all, fmt.Errorf("%s: %q is unknown; known: %s; weak, only where the array offers nothing else: %s",
				field, n, strings.Join(good, ", "), strings.Join(weak, ", ")))
		}
	}
	return errors.Join(all...)
}
