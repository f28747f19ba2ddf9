package machine

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestKernelSources(t *testing.T) {
	tests := []struct {
		name, host string
		files      map[string]string
		want       string
	}{
		{
			name: "deb822", host: "bookworm",
			files: map[string]string{"sources.list.d/debian.sources": `
Types: deb deb-src
# A comment within a stanza.
URIs: http://mirror.test/debian
Suites: bookworm bookworm-updates
Components: main contrib
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

Types: deb
URIs: http://mirror.test/debian-security
Suites: bookworm-security
Components: main
`},
			want: `
Types: deb
URIs: http://mirror.test/debian
Suites: bookworm bookworm-backports bookworm-updates
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

Types: deb
URIs: http://mirror.test/debian-security
Suites: bookworm-security
Components: main
`,
		},
		{
			name: "one line each, with options", host: "bookworm",
			files: map[string]string{"sources.list": `
# deb http://commented.test/debian bookworm main
deb [signed-by=/k.gpg arch=amd64,arm64 check-valid-until=no] http://snapshot.test/20250520T000000Z bookworm main # why
deb-src http://mirror.test/debian bookworm main
deb	http://mirror.test/debian bookworm-backports main
`},
			want: `
Types: deb
URIs: http://snapshot.test/20250520T000000Z
Suites: bookworm bookworm-backports
Components: main
Architectures: amd64 arm64
Check-Valid-Until: no
Signed-By: /k.gpg

Types: deb
URIs: http://mirror.test/debian
Suites: bookworm-backports
Components: main
`,
		},
		{
			name: "a newer Debian, with an embedded key", host: "trixie",
			files: map[string]string{"sources.list.d/d.sources": `
Types: deb
URIs: http://mirror.test/debian
Suites: trixie trixie-updates trixie-backports trixie-backports-sloppy
Components: main non-free-firmware
Signed-By:
 -----BEGIN PGP PUBLIC KEY BLOCK-----
 .
 abcdef
`},
			want: `
Types: deb
URIs: http://mirror.test/debian
Suites: bookworm bookworm-backports bookworm-updates
Components: main
Signed-By: 
 -----BEGIN PGP PUBLIC KEY BLOCK-----
 .
 abcdef
`,
		},
		{
			name: "what is not Debian's own main archive stays out", host: "bookworm",
			files: map[string]string{
				"sources.list": "deb http://vendor.test/apt stable main\ndeb http://db.test/apt bookworm-pgdg main\n" +
					"deb http://mirror.test/debian bookworm contrib\n",
				"sources.list.d/no.sources":    "Types: deb\nEnabled: no\nURIs: http://x\nSuites: bookworm\nComponents: main\n",
				"sources.list.d/src.sources":   "Types: deb-src\nURIs: http://src.test\nSuites: bookworm\nComponents: main\n",
				"sources.list.d/old.list.save": "deb http://saved.test/debian bookworm main\n",
			},
		},
		{name: "no sources at all", host: "bookworm"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			etc := t.TempDir()
			if err := os.Mkdir(filepath.Join(etc, "sources.list.d"), 0o755); err != nil {
				t.Fatal(err)
			}
			for name, text := range tt.files {
				if err := os.WriteFile(filepath.Join(etc, name), []byte(text), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			all, err := readSources(etc)
			if err != nil {
				t.Fatal(err)
			}
			var stanzas []string
			for _, s := range kernelSources(all, tt.host) {
				stanzas = append(stanzas, s.String())
			}
			if got, want := strings.Join(stanzas, "\n"), strings.TrimPrefix(tt.want, "\n"); got != want {
				t.Errorf("got:\n%s\nwant:\n%s", got, want)
			}
		})
	}
}

func TestBrokenSourcesAreErrors(t *testing.T) {
	for name, text := range map[string]string{
		"a.list":    "deb [signed-by=/k.gpg http://mirror.test/debian bookworm main\n",
		"b.list":    "deb http://mirror.test/debian\n",
		"c.sources": " continues nothing\n",
		"d.sources": "Types deb\n",
	} {
		etc := t.TempDir()
		if err := os.Mkdir(filepath.Join(etc, "sources.list.d"), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(etc, "sources.list.d", name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		if _, err := readSources(etc); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: error %v", name, err)
		}
	}
}

func TestImageNames(t *testing.T) {
	const list = `linux-image-6.1.0-47-amd64 - Linux 6.1 for 64-bit PCs (signed)
linux-image-6.1.0-47-cloud-amd64 - Linux 6.1 for x86-64 cloud (signed)
linux-image-6.1.0-47-rt-amd64 - Linux 6.1 for 64-bit PCs, PREEMPT_RT (signed)
linux-image-6.1.0-47-amd64-dbg - Debug symbols for linux-image-6.1.0-47-amd64
linux-image-6.12.90+deb12.1-amd64 - Linux 6.12 for 64-bit PCs (signed)
linux-image-6.12.90+deb12.1-cloud-amd64 - Linux 6.12 for x86-64 cloud (signed)
linux-image-6.12.117+deb12-amd64 - Linux 6.12 for 64-bit PCs (signed)
linux-image-6.12.117+deb12-amd64-unsigned - Linux 6.12 for 64-bit PCs
`
	for series, want := range map[string]string{
		"6.1":  "linux-image-6.1.0-47-amd64",
		"6.12": "linux-image-6.12.90+deb12.1-amd64 linux-image-6.12.117+deb12-amd64",
		"6.9":  "",
	} {
		if got := strings.Join(imageNames(list, series), " "); got != want {
			t.Errorf("%s: got %q, want %q", series, got, want)
		}
	}
}
