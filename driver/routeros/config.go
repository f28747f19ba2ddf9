package routeros

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"time"

	"sigs.k8s.io/yaml"

	"srvlab.io/rds-csi/safety"
)

// Config is the file arrays.yaml: at least one array, each name once.
type Config struct {
	Arrays []ArrayConfig `json:"arrays"`
}

// ArrayConfig is one array. LoadConfig has checked it and filled in what was left out.
type ArrayConfig struct {
	Name      safety.ArrayName `json:"name"`
	SSH       SSHConfig        `json:"ssh"`
	NVMe      NVMeConfig       `json:"nvme"`
	Pool      string           `json:"pool"`      // the slot of the pool's disk
	Directory string           `json:"directory"` // where the files go, relative to the pool's mount point
}

// SSHConfig says how to reach and to recognise the array. The files' names are relative to arrays.yaml.
type SSHConfig struct {
	Address        string `json:"address"` // host:port; port 22 where none is given
	User           string `json:"user"`
	PrivateKeyFile string `json:"privateKeyFile"`
	KnownHostsFile string `json:"knownHostsFile"`
	// Algorithms offered, in order of preference. Empty: those that golang.org/x/crypto/ssh thinks secure, and of the
	// host key's those that known_hosts pins. An old RouterOS may need diffie-hellman-group-exchange-sha256.
	KeyExchanges      []string `json:"keyExchanges,omitempty"`
	Ciphers           []string `json:"ciphers,omitempty"`
	MACs              []string `json:"macs,omitempty"`
	HostKeyAlgorithms []string `json:"hostKeyAlgorithms,omitempty"`
	// Connections is how many connections are used at most, one command at a time on each. 0 is 2, of RouterOS's
	// default of 20 sessions.
	Connections    int      `json:"connections,omitempty"`
	DialTimeout    Duration `json:"dialTimeout,omitempty"`    // TCP connection and handshake together; 0 is 10s
	CommandTimeout Duration `json:"commandTimeout,omitempty"` // one command; 0 is 30s
}

// NVMeConfig says where nodes reach the array's exports.
type NVMeConfig struct {
	Address string `json:"address"` // an IP address: the kernel resolves no names
	Port    uint16 `json:"port,omitempty"`
	// AllowHost sets nvme-tcp-server-allow-host-name to the node's host NQN. nil is true. Off only where the
	// conformance run shows that the device does not honour the field; the generation in the NQN still fences then.
	AllowHost *bool `json:"allowHost,omitempty"`
}

// Duration is a time.Duration written as "10s".
type Duration time.Duration

// UnmarshalJSON reads "10s", "1m30s".
func (d *Duration) UnmarshalJSON(b []byte) error {
	var s string
	if err := json.Unmarshal(b, &s); err != nil {
		return errors.New(`must be a duration such as "10s"`)
	}
	v, err := time.ParseDuration(s)
	if err != nil || v <= 0 {
		return fmt.Errorf("is %q, must be a duration above zero such as \"10s\"", s)
	}
	*d = Duration(v)
	return nil
}

// LoadConfig reads arrays.yaml. It refuses what it does not understand, and names all mistakes of the file at once.
func LoadConfig(path string) (Config, error) {
	data, err := os.ReadFile(path) //nolint:gosec // the program's operator names the file
	if err != nil {
		return Config{}, fmt.Errorf("arrays file: %w", err)
	}
	c, err := parseConfig(data, filepath.Dir(path))
	if err != nil {
		return Config{}, fmt.Errorf("arrays file %s: %w", path, err)
	}
	return c, nil
}

// parseConfig reads the text of arrays.yaml; dir is where relative file names start.
func parseConfig(data []byte, dir string) (Config, error) {
	var file map[string]any
	if err := yaml.UnmarshalStrict(data, &file); err != nil {
		return Config{}, fmt.Errorf("is not YAML with one list \"arrays\": %w", err)
	}
	if err := knownKeys("", file, reflect.TypeFor[Config]()); err != nil {
		return Config{}, err
	}
	list, ok := file["arrays"].([]any)
	if !ok || len(list) == 0 {
		return Config{}, errors.New(`has no list "arrays" with at least one array: ` +
			"give each its name, ssh, nvme, pool and directory")
	}
	var c Config
	var all []error
	seen := map[safety.ArrayName]bool{}
	for i, item := range list {
		a, err := parseArray(item, dir)
		if err == nil && seen[a.Name] {
			err = errors.New("name: is used twice, each array needs its own")
		}
		if err != nil {
			all = append(all, fmt.Errorf("array %s: %w", arrayLabel(i, item), err))
		}
		seen[a.Name] = true
		c.Arrays = append(c.Arrays, a)
	}
	if err := errors.Join(all...); err != nil {
		return Config{}, err
	}
	return c, nil
}

// arrayLabel names an array in a message, by its number where it has no name.
func arrayLabel(i int, item any) string {
	if m, ok := item.(map[string]any); ok {
		if name, ok := m["name"].(string); ok && name != "" {
			return name
		}
	}
	return fmt.Sprintf("number %d", i+1)
}

func parseArray(item any, dir string) (ArrayConfig, error) {
	if err := knownKeys("", item, reflect.TypeFor[ArrayConfig]()); err != nil {
		return ArrayConfig{}, err
	}
	data, err := json.Marshal(item)
	if err != nil {
		return ArrayConfig{}, err
	}
	var a ArrayConfig
	if err := json.NewDecoder(bytes.NewReader(data)).Decode(&a); err != nil {
		var wrong *json.UnmarshalTypeError
		if errors.As(err, &wrong) {
			return a, fmt.Errorf("%s: is a %s, must be a %s", wrong.Field, wrong.Value, wrong.Type)
		}
		return a, err
	}
	a.SSH.PrivateKeyFile = beside(dir, a.SSH.PrivateKeyFile)
	a.SSH.KnownHostsFile = beside(dir, a.SSH.KnownHostsFile)
	return a, a.check()
}

func beside(dir, file string) string {
	if file == "" || filepath.IsAbs(file) {
		return file
	}
	return filepath.Join(dir, file)
}

// knownKeys refuses keys that t does not have, with the place and the known ones: a misspelt optional key would
// otherwise be a setting that silently does nothing.
func knownKeys(place string, value any, t reflect.Type) error {
	m, ok := value.(map[string]any)
	if !ok {
		if place == "" {
			return errors.New("must be a mapping of keys and values")
		}
		return fmt.Errorf("%s: must be a mapping of keys and values", place)
	}
	fields := map[string]reflect.Type{}
	for f := range t.Fields() {
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		fields[name] = f.Type
	}
	var all []error
	for _, key := range slices.Sorted(maps.Keys(m)) {
		at := strings.TrimPrefix(place+"."+key, ".")
		ft, ok := fields[key]
		switch {
		case !ok:
			known := strings.Join(slices.Sorted(maps.Keys(fields)), ", ")
			all = append(all, fmt.Errorf("%s: is no known key; known here: %s", at, known))
		case ft.Kind() == reflect.Struct:
			all = append(all, knownKeys(at, m[key], ft))
		}
	}
	return errors.Join(all...)
}

// Defaults of what arrays.yaml may leave out.
const (
	defaultConnections    = 2
	maxConnections        = 8
	defaultDialTimeout    = 10 * time.Second
	defaultCommandTimeout = 30 * time.Second
	defaultSSHPort        = "22"
	defaultNVMePort       = 4420
)

// maxSlot is the length of a slot that RouterOS takes.
const maxSlot = 32

// directoryForm is what needs no thought on any console: "csi", "k8s/volumes".
var directoryForm = regexp.MustCompile(`^[A-Za-z0-9_-][A-Za-z0-9._-]*(/[A-Za-z0-9_-][A-Za-z0-9._-]*)*$`)

// check fills in the defaults and names every mistake with its field and what to write.
func (a *ArrayConfig) check() error {
	_, err := safety.ParseArrayName(string(a.Name))
	all := []error{err, a.SSH.check(), a.NVMe.check()}
	if a.Pool == "" || len(a.Pool) > maxSlot {
		all = append(all, fmt.Errorf("pool: is %q, must be the slot of the pool's disk as /disk/print shows it (1 to %d "+
			"bytes)", a.Pool, maxSlot))
	}
	if !directoryForm.MatchString(a.Directory) {
		all = append(all, fmt.Errorf("directory: is %q, must be a directory relative to the pool's mount point such as "+
			"csi (letters, digits, \"-\", \"_\", \".\", \"/\")", a.Directory))
	}
	return errors.Join(all...)
}

func (s *SSHConfig) check() error {
	var all []error
	mistake := func(format string, values ...any) { all = append(all, fmt.Errorf(format, values...)) }
	if host, port, err := splitAddress(s.Address); err != nil {
		mistake("ssh.address: is %q, must be host:port such as 192.0.2.1:22", s.Address)
	} else {
		s.Address = net.JoinHostPort(host, port)
	}
	if s.User == "" || strings.ContainsFunc(s.User, func(c rune) bool { return c <= ' ' || c > '~' }) {
		mistake("ssh.user: is %q, must be the name of a RouterOS user with the policies ssh, read and write", s.User)
	}
	if s.PrivateKeyFile == "" {
		mistake("ssh.privateKeyFile: is missing, must name a file with the user's private key (Ed25519 or RSA, without " +
			"passphrase)")
	}
	if s.KnownHostsFile == "" {
		mistake("ssh.knownHostsFile: is missing, must name a known_hosts file that pins the array's host key (see " +
			"ssh-keyscan)")
	}
	if s.Connections == 0 {
		s.Connections = defaultConnections
	}
	if s.Connections < 1 || s.Connections > maxConnections {
		mistake("ssh.connections: is %d, must be 1 to %d", s.Connections, maxConnections)
	}
	if s.DialTimeout == 0 {
		s.DialTimeout = Duration(defaultDialTimeout)
	}
	if s.CommandTimeout == 0 {
		s.CommandTimeout = Duration(defaultCommandTimeout)
	}
	return errors.Join(append(all, s.checkAlgorithms())...)
}

// splitAddress takes "host", "host:port", "[v6]:port" and a bare IPv6 address.
func splitAddress(s string) (host, port string, err error) {
	if addr, err := netip.ParseAddr(strings.Trim(s, "[]")); err == nil {
		return addr.String(), defaultSSHPort, nil
	}
	if !strings.Contains(s, ":") {
		s += ":" + defaultSSHPort
	}
	if host, port, err = net.SplitHostPort(s); err != nil {
		return "", "", err
	}
	if host == "" || port == "" {
		return "", "", errors.New("host or port is empty")
	}
	return host, port, nil
}

func (n *NVMeConfig) check() error {
	if n.Port == 0 {
		n.Port = defaultNVMePort
	}
	if addr, err := netip.ParseAddr(n.Address); err != nil || addr.IsUnspecified() || addr.Zone() != "" {
		return fmt.Errorf("nvme.address: is %q, must be the IP address at which nodes reach the array's exports; the "+
			"kernel resolves no names", n.Address)
	}
	return nil
}
