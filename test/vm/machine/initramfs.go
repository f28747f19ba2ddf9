package machine

import (
	"bufio"
	"debug/elf"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
)

// initScript is the first program of the guest: modules, root, switch_root.
//
//go:embed init.sh
var initScript []byte

// archive writes a cpio archive in the "newc" form that the kernel unpacks (Documentation/driver-api/early-userspace/
// buffer-format.rst). It is 40 lines, and saves a program that not every host has.
type archive struct {
	w   *bufio.Writer
	ino int
	err error
}

const (
	modeDir    = 0o040755
	modeFile   = 0o100755
	modeDevice = 0o020600
)

func (a *archive) header(name string, mode, size, major, minor int) {
	a.ino++
	a.printf("070701%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X",
		a.ino, mode, 0, 0, 1, 0, size, 0, 0, major, minor, len(name)+1, 0)
	a.printf("%s\x00", name)
	a.pad(len("070701") + 13*8 + len(name) + 1)
}

func (a *archive) printf(format string, args ...any) {
	if a.err == nil {
		_, a.err = fmt.Fprintf(a.w, format, args...)
	}
}

// pad fills up to the next multiple of four after size bytes.
func (a *archive) pad(size int) {
	a.printf("%s", "\x00\x00\x00"[:(4-size%4)%4])
}

func (a *archive) dir(name string) { a.header(name, modeDir, 0, 0, 0) }

func (a *archive) file(name string, content []byte) {
	a.header(name, modeFile, len(content), 0, 0)
	a.printf("%s", content)
	a.pad(len(content))
}

func (a *archive) close() error {
	a.header("TRAILER!!!", 0, 0, 0, 0)
	if a.err != nil {
		return a.err
	}
	return a.w.Flush()
}

// writeInitramfs makes the file system that the kernel starts with. The guest program is named, not copied: the
// script starts it when the host's file system is the root.
func writeInitramfs(w io.Writer, k Kernel, guest string) error {
	busybox, err := staticBusybox()
	if err != nil {
		return err
	}
	a := &archive{w: bufio.NewWriter(w)}
	for _, d := range []string{"bin", "dev", "proc", "sys", "run", "modules", "host", "overlay", "root"} {
		a.dir(d)
	}
	a.header("dev/console", modeDevice, 0, 5, 1)
	a.file("bin/busybox", busybox)
	a.file("init", initScript)
	a.file("guest", []byte(guest+"\n"))
	for i, m := range k.BootModules {
		content, err := os.ReadFile(filepath.Join(k.ModulesDir(), m))
		if err != nil {
			return fmt.Errorf("kernel module for the initramfs: %w", err)
		}
		// The number keeps modprobe's order: the script loads them as the shell sorts them.
		a.file(fmt.Sprintf("modules/%03d-%s", i, filepath.Base(m)), content)
	}
	if err := a.close(); err != nil {
		return fmt.Errorf("write initramfs: %w", err)
	}
	return nil
}

// staticBusybox refuses a dynamically linked one: there is no loader in the initramfs, and the guest would end in
// "no working init found".
func staticBusybox() ([]byte, error) {
	path, err := exec.LookPath("busybox")
	if err != nil {
		return nil, &MissingProgramError{Program: "busybox", Package: "busybox-static"}
	}
	content, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read busybox: %w", err)
	}
	f, err := elf.Open(path)
	if err != nil {
		return nil, fmt.Errorf("busybox: %w", err)
	}
	defer func() { _ = f.Close() }()
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			return nil, errors.New(path + " is not static: install the package busybox-static")
		}
	}
	return content, nil
}
