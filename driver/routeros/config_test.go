package routeros

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"
)

const goodArrays = `
arrays:
- name: rds1
  ssh: {address: 192.0.2.1, user: csi, privateKeyFile: id, knownHostsFile: /etc/known_hosts}
  nvme: {address: 192.0.2.9}
  pool: storage-pool
  directory: csi
`

func TestLoadConfig(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "arrays.yaml")
	text := goodArrays + `
- name: rds2
  ssh:
    address: "[2001:db8::1]:2222"
    user: csi
    privateKeyFile: id
    knownHostsFile: known_hosts
    keyExchanges: [diffie-hellman-group-exchange-sha256]
    connections: 4
    dialTimeout: 3s
    commandTimeout: 1m
  nvme: {address: "2001:db8::9", port: 4421, allowHost: false}
  pool: raid10
  directory: k8s/volumes
`
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	got, err := LoadConfig(file)
	if err != nil {
		t.Fatal(err)
	}
	no := false
	want := Config{Arrays: []ArrayConfig{{
		Name: "rds1", Pool: "storage-pool", Directory: "csi", NVMe: NVMeConfig{Address: "192.0.2.9", Port: 4420},
		SSH: SSHConfig{
			Address: "192.0.2.1:22", User: "csi", PrivateKeyFile: filepath.Join(dir, "id"), KnownHostsFile: "/etc/known_hosts",
			Connections: 2, DialTimeout: Duration(10 * time.Second), CommandTimeout: Duration(30 * time.Second),
		},
	}, {
		Name: "rds2", Pool: "raid10", Directory: "k8s/volumes",
		NVMe: NVMeConfig{Address: "2001:db8::9", Port: 4421, AllowHost: &no},
		SSH: SSHConfig{
			Address: "[2001:db8::1]:2222", User: "csi",
			PrivateKeyFile: filepath.Join(dir, "id"), KnownHostsFile: filepath.Join(dir, "known_hosts"),
			KeyExchanges: []string{"diffie-hellman-group-exchange-sha256"},
			Connections:  4, DialTimeout: Duration(3 * time.Second), CommandTimeout: Duration(time.Minute),
		},
	}}}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("\n got %+v\nwant %+v", got, want)
	}
	if _, err := LoadConfig(filepath.Join(dir, "none")); err == nil || !strings.Contains(err.Error(), "none") {
		t.Errorf("a missing file: %v", err)
	}
}

// Each mistake must name the array, the field and what to write.
func TestConfigMistakes(t *testing.T) {
	for _, tt := range []struct {
		name, old, new string
		want           []string
	}{
		{"unknown key", "pool:", "pol:", []string{"array rds1", "pol:", "known here: directory, name, nvme, pool, ssh"}},
		{"unknown key below", "user:", "usr:", []string{"array rds1", "ssh.usr:", "privateKeyFile"}},
		{"unknown key at the top", "arrays:", "array:", []string{"array:", "known here: arrays"}},
		{"key twice", "pool: storage-pool", "pool: a\n  pool: b", []string{`"pool" already set`}},
		{"bad array name", "name: rds1", "name: RDS_1", []string{"array RDS_1", "a-z, 0-9"}},
		{"no array name", "name: rds1", "name: ''", []string{"array number 1", "a-z, 0-9"}},
		{"no address", "address: 192.0.2.1, ", "", []string{"array rds1", "ssh.address", "host:port"}},
		{"bad address", "address: 192.0.2.1,", "address: 'a:b:c',", []string{"ssh.address", "a:b:c"}},
		{"no user", "user: csi, ", "", []string{"ssh.user", "policies ssh, read and write"}},
		{"blank in user", "user: csi", "user: c si", []string{"ssh.user"}},
		{"no key", "privateKeyFile: id, ", "", []string{"ssh.privateKeyFile", "Ed25519"}},
		{"no known hosts", ", knownHostsFile: /etc/known_hosts", "", []string{"ssh.knownHostsFile", "ssh-keyscan"}},
		{"too many connections", "user: csi", "user: csi, connections: 9", []string{"ssh.connections", "1 to 8"}},
		{"bad time", "user: csi", "user: csi, dialTimeout: soon", []string{`"soon"`, `"10s"`}},
		{"time without unit", "user: csi", "user: csi, commandTimeout: 10", []string{"duration", `"10s"`}},
		{"time zero", "user: csi", "user: csi, commandTimeout: 0s", []string{"above zero"}},
		{"unknown cipher", "user: csi", "user: csi, ciphers: [rot13]", []string{"ssh.ciphers", "rot13", "aes256-ctr", "weak", "3des-cbc"}},
		{"unknown kex", "user: csi", "user: csi, keyExchanges: [x]", []string{"ssh.keyExchanges", "diffie-hellman-group-exchange-sha256"}},
		{"unknown MAC", "user: csi", "user: csi, macs: [x]", []string{"ssh.macs", "hmac-sha2-256"}},
		{"unknown host key", "user: csi", "user: csi, hostKeyAlgorithms: [x]", []string{"ssh.hostKeyAlgorithms", "ssh-ed25519"}},
		{"portal by name", "192.0.2.9", "rds1.example", []string{"nvme.address", "IP address", "no names"}},
		{"portal with zone", "192.0.2.9", "'fe80::1%eth0'", []string{"nvme.address"}},
		{"portal 0.0.0.0", "192.0.2.9", "0.0.0.0", []string{"nvme.address"}},
		{"port too large", "address: 192.0.2.9", "address: 192.0.2.9, port: 70000", []string{"array rds1", "nvme.port"}},
		{"port is text", "address: 192.0.2.9", "address: 192.0.2.9, port: nvme", []string{"nvme.port", "must be a uint16"}},
		{"no pool", "pool: storage-pool", "pool: ''", []string{"array rds1", "pool:", "/disk/print"}},
		{"no directory", "directory: csi", "directory: ''", []string{"directory:", "such as csi"}},
		{"directory is absolute", "directory: csi", "directory: /csi", []string{"directory:", "relative"}},
		{"directory climbs", "directory: csi", "directory: csi/../etc", []string{"directory:"}},
		{"ssh is text", "ssh: {address: 192.0.2.1, user: csi, privateKeyFile: id, knownHostsFile: /etc/known_hosts}", "ssh: x", []string{"array rds1", "ssh: must be a mapping"}},
		{"name twice", "arrays:\n", "arrays:" + strings.TrimPrefix(goodArrays, "\narrays:"), []string{"array rds1", "used twice"}},
		{"no list", goodArrays, "arrays: []", []string{"at least one array"}},
		{"not YAML", goodArrays, "\t", []string{"YAML"}},
		{"empty", goodArrays, "", []string{"at least one array"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			text := strings.Replace(goodArrays, tt.old, tt.new, 1)
			if text == goodArrays {
				t.Fatal("the case changes nothing")
			}
			c, err := parseConfig([]byte(text), "/")
			if err == nil {
				t.Fatalf("taken as %+v", c)
			}
			for _, w := range tt.want {
				if !strings.Contains(err.Error(), w) {
					t.Errorf("%v\ndoes not name %q", err, w)
				}
			}
		})
	}
}

func TestConfigNamesAllMistakes(t *testing.T) {
	text := strings.NewReplacer("user: csi, ", "", "192.0.2.9", "x", "directory: csi", "directory: ''").Replace(goodArrays)
	_, err := parseConfig([]byte(text), "/")
	for _, w := range []string{"ssh.user", "nvme.address", "directory"} {
		if err == nil || !strings.Contains(err.Error(), w) {
			t.Errorf("%v does not name %s", err, w)
		}
	}
}
