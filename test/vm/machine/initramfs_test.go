package machine

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// unpack reads an archive as the kernel does, strictly: every header at a multiple of four.
func unpack(t *testing.T, archive []byte) (names []string, content map[string]string) {
	t.Helper()
	content = map[string]string{}
	for at := 0; ; {
		if at%4 != 0 || string(archive[at:at+6]) != "070701" {
			t.Fatalf("no header at %d", at)
		}
		var field [13]int
		for i := range field {
			if _, err := fmt.Sscanf(string(archive[at+6+8*i:at+14+8*i]), "%08X", &field[i]); err != nil {
				t.Fatal(err)
			}
		}
		name := string(archive[at+110 : at+110+field[11]-1])
		if name == "TRAILER!!!" {
			return names, content
		}
		names = append(names, name)
		data := (at + 110 + field[11] + 3) &^ 3
		content[name] = string(archive[data : data+field[6]])
		at = (data + field[6] + 3) &^ 3
	}
}

func TestInitramfs(t *testing.T) {
	k := storedKernel(t, t.TempDir(), "6.1", "1")
	k.BootModules = []string{"kernel/fs/9p/9p.ko", "kernel/a.ko"}
	if err := os.WriteFile(filepath.Join(k.ModulesDir(), "kernel/a.ko"), []byte("odd"), 0o644); err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if err := writeInitramfs(&b, k, "/tmp/with space/guest"); err != nil {
		t.Fatal(err)
	}
	names, content := unpack(t, b.Bytes())
	for name, want := range map[string]string{
		"init": string(initScript), "guest": "/tmp/with space/guest\n",
		"modules/000-9p.ko": "module", "modules/001-a.ko": "odd",
	} {
		if content[name] != want {
			t.Errorf("%s: %q", name, content[name])
		}
	}
	seen := map[string]bool{".": true}
	for _, name := range names {
		if !seen[filepath.Dir(name)] {
			t.Errorf("%s comes before its directory", name)
		}
		seen[name] = true
	}
	if !strings.HasPrefix(content["bin/busybox"], "\x7fELF") {
		t.Error("no busybox")
	}

	k.BootModules = append(k.BootModules, "kernel/gone.ko")
	if err := writeInitramfs(io.Discard, k, "/guest"); err == nil {
		t.Error("a missing module: no error")
	}
}

// TestArchiveWriteErrors: a full disk must not make a truncated initramfs that panics somewhere.
func TestArchiveWriteErrors(t *testing.T) {
	a := &archive{w: bufio.NewWriterSize(brokenWriter{}, 16)}
	a.file("f", make([]byte, 100))
	if err := a.close(); err == nil {
		t.Error("no error")
	}
}

type brokenWriter struct{}

func (brokenWriter) Write([]byte) (int, error) { return 0, io.ErrShortWrite }

func TestInitScript(t *testing.T) {
	if out, err := exec.Command("sh", "-n", "init.sh").CombinedOutput(); err != nil {
		t.Errorf("%v: %s", err, out)
	}
}
