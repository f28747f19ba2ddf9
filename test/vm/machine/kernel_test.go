package machine

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestModuleOrder(t *testing.T) {
	const depends = `insmod /k/lib/modules/6.1/kernel/net/9p/9pnet.ko
insmod /k/lib/modules/6.1/kernel/fs/9p/9p.ko
builtin configfs
insmod /k/lib/modules/6.1/kernel/net/9p/9pnet.ko
insmod /k/lib/modules/6.1/kernel/drivers/nvme/host/nvme-core.ko.xz multipath=Y
`
	got, err := moduleOrder(depends, "/k/lib/modules/6.1")
	want := []string{"kernel/net/9p/9pnet.ko", "kernel/fs/9p/9p.ko", "kernel/drivers/nvme/host/nvme-core.ko.xz"}
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("got %q, %v; want %q", got, err, want)
	}
	for _, bad := range []string{"install /bin/true\n", "insmod /lib/modules/6.1/of-the-host.ko\n"} {
		if _, err := moduleOrder(bad, "/k/lib/modules/6.1"); err == nil {
			t.Errorf("%q: no error", bad)
		}
	}
}

// storedKernel makes a complete kernel in a cache.
func storedKernel(t *testing.T, cache, series, version string) Kernel {
	t.Helper()
	release := series + ".0-1-amd64"
	k := Kernel{
		Series: series, Package: "linux-image-" + release, Version: version, Release: release, Wanted: wantedModules(),
		BootModules: []string{"kernel/fs/9p/9p.ko"}, dir: filepath.Join(cache, "linux-image-"+release+"_"+version),
	}
	text, err := json.Marshal(k)
	if err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string]string{
		k.Image(): "image", filepath.Join(k.ModulesDir(), "modules.dep"): "x",
		filepath.Join(k.ModulesDir(), "kernel/fs/9p/9p.ko"): "module", filepath.Join(k.dir, kernelFile): string(text),
	} {
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return k
}

// TestCachedKernel: whatever is missing of a stored kernel, it is as if there were none, and it is fetched again.
func TestCachedKernel(t *testing.T) {
	tests := []struct {
		name  string
		spoil func(k Kernel) error
		want  string
	}{
		{"complete: the newest, as dpkg counts", func(Kernel) error { return nil }, "6.12.100-1"},
		{"no description: killed while it was stored", func(k Kernel) error {
			return os.Remove(filepath.Join(k.dir, kernelFile))
		}, "6.12.99-1"},
		{"torn description", func(k Kernel) error { return os.Truncate(filepath.Join(k.dir, kernelFile), 20) }, "6.12.99-1"},
		{"no image", func(k Kernel) error { return os.Remove(k.Image()) }, "6.12.99-1"},
		{"empty module: the disk was full", func(k Kernel) error {
			return os.Truncate(filepath.Join(k.ModulesDir(), k.BootModules[0]), 0)
		}, "6.12.99-1"},
		{"stored for other modules", func(k Kernel) error {
			k.Wanted = k.Wanted[1:]
			text, err := json.Marshal(k)
			return errors.Join(err, os.WriteFile(filepath.Join(k.dir, kernelFile), text, 0o644))
		}, "6.12.99-1"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			cache := t.TempDir()
			storedKernel(t, cache, "6.1", "6.1.999-1")
			storedKernel(t, cache, "6.12", "6.12.99-1")
			if err := tt.spoil(storedKernel(t, cache, "6.12", "6.12.100-1")); err != nil {
				t.Fatal(err)
			}
			k, ok := cachedKernel(t.Context(), cache, "6.12")
			if !ok || k.Version != tt.want {
				t.Errorf("got %q, want %q", k.Version, tt.want)
			}
		})
	}
	if k, ok := cachedKernel(t.Context(), t.TempDir(), "6.12"); ok {
		t.Errorf("an empty cache gives %v", k)
	}
}

func TestFetchKernelWantsASeries(t *testing.T) {
	for _, series := range []string{"", "6", "6.12.1", "6.*", "../6.1"} {
		_, err := FetchKernel(t.Context(), series, func(string) {})
		if err == nil || !strings.Contains(err.Error(), "series") {
			t.Errorf("%q: error %v", series, err)
		}
	}
}

func TestLock(t *testing.T) {
	name := filepath.Join(t.TempDir(), "lock")
	unlock, err := lock(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := lock(ctx, name); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a held lock: error %v", err)
	}
	unlock()
	unlock, err = lock(t.Context(), name)
	if err != nil {
		t.Fatalf("a free lock: %v", err)
	}
	unlock()
}

func TestRemoveTree(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "kernel")
	storedKernel(t, dir, "6.1", "1")
	if err := removeTree(dir); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("still there: %v", err)
	}
	if err := removeTree(dir); err != nil {
		t.Errorf("nothing to remove: %v", err)
	}
}

func TestMissingProgram(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	_, err := output(t.Context(), time.Second, "", "no-such-program")
	var missing *MissingProgramError
	if !errors.As(err, &missing) {
		t.Fatalf("error %v", err)
	}
	want := "depmod is not there: install the package kmod"
	if got := (&MissingProgramError{"depmod", packageOf["depmod"]}).Error(); got != want {
		t.Error(got)
	}
	for program, pkg := range packageOf {
		if pkg == "" {
			t.Errorf("%s: no package", program)
		}
	}
	if _, err := staticBusybox(); !errors.As(err, &missing) || missing.Package != "busybox-static" {
		t.Errorf("busybox: error %v", err)
	}
}
