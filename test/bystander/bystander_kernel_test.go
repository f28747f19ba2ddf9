//go:build kernel

package bystander

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// TestKernelCheckNotices breaks the bystander in each way that a driver could and expects Check to see it.
func TestKernelCheckNotices(t *testing.T) {
	dir := os.Getenv("RDS_VM_DISK")
	for _, c := range []struct {
		name  string
		touch func(*testing.T, *Bystander)
		want  string // part of Check's complaint
	}{
		{name: "untouched", touch: func(*testing.T, *Bystander) {}},
		{name: "mounted a second time", want: "2 mounts", touch: func(t *testing.T, b *Bystander) {
			mustDo(t, unix.Mount(b.Mount, b.Mount, "", unix.MS_BIND, ""))
			t.Cleanup(func() { mustDo(t, unix.Unmount(b.Mount, 0)) })
		}},
		{name: "unmounted and mounted again", want: "was touched", touch: func(t *testing.T, b *Bystander) {
			device := "/dev/" + strings.Fields(b.before.Device)[0]
			keep := filepath.Join(dir, "keep") // a kernel may hand out the freed mount ID again: take it
			mustDo(t, unix.Unmount(b.Mount, 0))
			mustDo(t, os.Mkdir(keep, 0o755))
			mustDo(t, unix.Mount(keep, keep, "", unix.MS_BIND, ""))
			t.Cleanup(func() {
				mustDo(t, unix.Unmount(keep, 0))
				mustDo(t, os.Remove(keep))
			})
			mustDo(t, unix.Mount(device, b.Mount, "ext4", 0, ""))
		}},
		{name: "controller deleted", want: "was touched", touch: func(t *testing.T, b *Bystander) {
			sub, err := subsystem()
			mustDo(t, err)
			mustDo(t, os.WriteFile(filepath.Join(sub, b.before.Controller, "delete_controller"), []byte("1"), 0))
		}},
		{name: "file overwritten", want: "something else", touch: func(t *testing.T, b *Bystander) {
			mustDo(t, os.WriteFile(filepath.Join(b.Mount, "log"), []byte("gone"), 0o644))
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			b, err := Start(t.Context(), dir)
			mustDo(t, err)
			t.Cleanup(func() { mustDo(t, b.Close()) })
			c.touch(t, b)
			err = b.Check()
			if c.want == "" && err != nil {
				t.Errorf("complains: %v", err)
			}
			if c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
				t.Errorf("Check() = %v, want %q", err, c.want)
			}
		})
	}
}

func mustDo(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
