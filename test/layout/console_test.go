package layout

import (
	"io/fs"
	"path"
	"regexp"
	"strings"
	"testing"

	"srvlab.io/rds-csi/test/routerostest"
)

// consoleBlock finds what a page tells people to type at the array's console.
var consoleBlock = regexp.MustCompile("(?ms)^( *)```routeros\n(.*?)^ *```")

// placeholders are the words in capitals that the pages use there.
var placeholders = strings.NewReplacer(
	"SLOT", "pvc-binsypkol5qhdautus24nv7i7e",
	"PREFIXUUID.gN", "nqn.2000-02.com.mikrotik:one-0a1b2c3d-4e5f-6071-8293-a4b5c6d7e8f9.g7",
	"NQN", "nqn.2000-02.com.mikrotik:one-0a1b2c3d-4e5f-6071-8293-a4b5c6d7e8f9.g7",
	"CLUSTER", "c1", "PV", "pvc-0a1b2c3d-4e5f-6071-8293-a4b5c6d7e8f9",
	"POOL", "raid10", "DIRECTORY", "csi", "FILE", "pvc-0a1b2c3d-4e5f-6071-8293-a4b5c6d7e8f9",
	"USER", "csi", "GROUP", "storage", "BYTES", "2147483648",
)

// complaint is how RouterOS says that it did not do what it was told; it never says so by its exit status.
var complaint = regexp.MustCompile(`(?i)bad command|expected |syntax error|no such|failure|invalid|does not match|not enough permissions|error`)

// typed gives the lines for the console in a page, placeholders filled in.
func typed(page string) []string {
	var lines []string
	for _, block := range consoleBlock.FindAllStringSubmatch(page, -1) {
		for line := range strings.Lines(block[2]) {
			if line = strings.TrimSpace(line); line != "" {
				lines = append(lines, placeholders.Replace(line))
			}
		}
	}
	return lines
}

// console gives a box with the volume, pool, user and group that the placeholders name.
func console(t *testing.T) *routerostest.Box {
	t.Helper()
	box, err := routerostest.NewBox(routerostest.Options{
		Pools:  []routerostest.Pool{{Slot: "raid10", Size: 64 << 30}},
		Users:  []routerostest.User{{Name: "csi", Group: "storage"}, {Name: "admin"}},
		Groups: map[string][]string{"storage": {"ssh", "read", "write"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := box.Close(); err != nil {
			t.Error(err)
		}
	})
	for _, line := range []string{
		`/file/add type=directory name="raid10/csi"`,
		`/disk/add type=file file-path="/raid10/csi/pvc-0a1b2c3d-4e5f-6071-8293-a4b5c6d7e8f9.img" file-size=1073741824 ` +
			`slot="pvc-binsypkol5qhdautus24nv7i7e" mount-filesystem=no nvme-tcp-export=no comment="rds-csi"`,
	} {
		if out := box.Exec("admin", line); complaint.MatchString(out) {
			t.Fatalf("%s: %s", line, out)
		}
	}
	return box
}

// TestConsoleLinesExist types every console line of the pages into the model of the array: at three in the morning a
// line that RouterOS does not know costs minutes, and trust.
func TestConsoleLinesExist(t *testing.T) {
	names, err := files(repository)
	if err != nil {
		t.Fatal(err)
	}
	count := 0
	for _, name := range names {
		if path.Ext(name) != ".md" {
			continue
		}
		text, err := fs.ReadFile(repository, name)
		if err != nil {
			t.Fatal(err)
		}
		box := console(t)
		for _, line := range typed(string(text)) {
			count++
			if out := box.Exec("admin", line); complaint.MatchString(out) {
				t.Errorf("%s: %s\n\tthe array says: %s", name, line, out)
			}
		}
	}
	if count < 20 {
		t.Errorf("found %d console lines in all pages; the pattern finds them no more", count)
	}
	bad := "Text\n\n  ```routeros\n  /disk/unmount raid10\n  /disk/print detail where slot=\"SLOT\"\n  ```\n"
	lines := typed(bad)
	if len(lines) != 2 || !complaint.MatchString(console(t).Exec("admin", lines[0])) || complaint.MatchString(console(t).Exec("admin", lines[1])) {
		t.Errorf("the bad page: %q", lines)
	}
}
