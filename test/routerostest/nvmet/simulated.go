package nvmet

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// Simulated gives a Target on a plain directory that behaves as the kernel's configfs does as far as order goes: it
// fills new directories with their attributes, and refuses what the kernel refuses (an attribute of an enabled
// namespace, a host beside attr_allow_any_host, a directory that is linked or has children). Nothing is exported.
// log, if not nil, is told each operation in turn.
func Simulated(dir string, log func(op string)) (*Target, error) {
	for _, d := range []string{"subsystems", "ports", "hosts"} {
		if err := os.Mkdir(filepath.Join(dir, d), 0o755); err != nil && !os.IsExist(err) {
			return nil, err
		}
	}
	if log == nil {
		log = func(string) {}
	}
	return &Target{Root: dir, files: simulated{dir, log}}, nil
}

type simulated struct {
	root string
	log  func(op string)
}

// defaults are the attributes (with their values) and directories that the kernel puts into a new directory.
func defaults(rel []string) (attrs map[string]string, dirs []string) {
	switch {
	case rel[0] == "subsystems" && len(rel) == 2:
		attrs = map[string]string{"attr_allow_any_host": "0", "attr_model": "Linux", "attr_serial": "0123456789abcdef"}
		return attrs, []string{"namespaces", "allowed_hosts"}
	case rel[0] == "subsystems":
		return map[string]string{
			"device_path": "", "device_uuid": "", "enable": "0", "buffered_io": "0", "revalidate_size": "",
		}, nil
	case rel[0] == "ports":
		return map[string]string{"addr_trtype": "", "addr_adrfam": "", "addr_traddr": "", "addr_trsvcid": ""},
			[]string{"subsystems"}
	}
	return nil, nil
}

func (s simulated) rel(path string) []string {
	return strings.Split(strings.TrimPrefix(strings.TrimPrefix(path, s.root), "/"), "/")
}

func (s simulated) tell(op, path, more string) {
	s.log(strings.TrimSpace(op + " " + strings.Join(s.rel(path), "/") + " " + more))
}

func (s simulated) mkdir(path string) error {
	if err := os.Mkdir(path, 0o755); err != nil {
		return err
	}
	s.tell("mkdir", path, "")
	attrs, dirs := defaults(s.rel(path))
	for name, value := range attrs {
		if err := os.WriteFile(filepath.Join(path, name), []byte(value), 0o600); err != nil {
			return err
		}
	}
	for _, d := range dirs {
		if err := os.Mkdir(filepath.Join(path, d), 0o755); err != nil {
			return err
		}
	}
	return nil
}

func (s simulated) rmdir(path string) error {
	attrs, dirs := defaults(s.rel(path))
	for _, d := range dirs {
		if entries, err := os.ReadDir(filepath.Join(path, d)); err != nil || len(entries) > 0 {
			return &os.PathError{Op: "rmdir", Path: path, Err: syscall.ENOTEMPTY}
		}
	}
	if s.linked(path) {
		return &os.PathError{Op: "rmdir", Path: path, Err: syscall.EBUSY}
	}
	for _, d := range dirs {
		if err := os.Remove(filepath.Join(path, d)); err != nil {
			return err
		}
	}
	for name := range attrs {
		if err := os.Remove(filepath.Join(path, name)); err != nil {
			return err
		}
	}
	s.tell("rmdir", path, "")
	return os.Remove(path)
}

// linked tells whether a symbolic link in the tree leads to path.
func (s simulated) linked(path string) bool {
	for _, pattern := range []string{"ports/*/subsystems/*", "subsystems/*/allowed_hosts/*"} {
		links, err := filepath.Glob(filepath.Join(s.root, pattern))
		if err != nil {
			return true
		}
		for _, l := range links {
			if target, err := os.Readlink(l); err == nil && target == path {
				return true
			}
		}
	}
	return false
}

func (s simulated) write(path, value string) error {
	name := filepath.Base(path)
	refuse := func(why error) error {
		return fmt.Errorf("set to %q: %w", value, &os.PathError{Op: "write", Path: path, Err: why})
	}
	if strings.HasPrefix(name, "device_") && s.value(filepath.Dir(path), "enable") == "1" {
		return refuse(syscall.EBUSY)
	}
	if name == "attr_allow_any_host" && value == "1" {
		if hosts, err := os.ReadDir(filepath.Join(filepath.Dir(path), "allowed_hosts")); err != nil || len(hosts) > 0 {
			return refuse(syscall.EINVAL)
		}
	}
	if name == "enable" && value == "1" {
		if _, err := os.Stat(s.value(filepath.Dir(path), "device_path")); err != nil {
			return refuse(syscall.ENOENT)
		}
	}
	if _, err := os.Stat(path); err != nil {
		return err
	}
	if err := os.WriteFile(path, []byte(value), 0o600); err != nil {
		return err
	}
	s.tell("write", path, strconv.Quote(value))
	return nil
}

func (s simulated) value(dir, name string) string {
	b, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		return ""
	}
	return string(b)
}

func (s simulated) symlink(target, path string) error {
	sub := filepath.Dir(filepath.Dir(path))
	if filepath.Base(filepath.Dir(path)) == "allowed_hosts" && s.value(sub, "attr_allow_any_host") == "1" {
		return &os.LinkError{Op: "symlink", Old: target, New: path, Err: syscall.EINVAL}
	}
	s.tell("link", path, "")
	return os.Symlink(target, path)
}

func (s simulated) unlink(path string) error {
	s.tell("unlink", path, "")
	return os.Remove(path)
}
