package nvmet

import (
	"fmt"
	"os"
)

// configfs is the kernel's.
type configfs struct{}

func (configfs) mkdir(path string) error { return os.Mkdir(path, 0o755) }

func (configfs) rmdir(path string) error { return os.Remove(path) }

func (configfs) symlink(target, path string) error { return os.Symlink(target, path) }

func (configfs) unlink(path string) error { return os.Remove(path) }

// write sets an attribute by one write, as configfs wants it, and never creates it: an attribute that this kernel does
// not have is an error that names it.
func (configfs) write(path, value string) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(value)
	if errClose := f.Close(); err == nil {
		err = errClose
	}
	if err != nil {
		return fmt.Errorf("set to %q: %w", value, err)
	}
	return nil
}
