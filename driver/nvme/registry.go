package nvme

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// The ownership registry of nvme-cli 3 (libnvme/REGISTRY.md): /run/nvme/registry/<controller>/owner holds the name of
// who manages the controller; none there means nobody does. With our mark an operator's "nvme disconnect-all" leaves
// our connections alone, and with another's mark we leave a controller alone, whatever its NQN.

const defaultRegistry = "/run/nvme/registry"

// owner is our mark.
const owner = "rds.csi.srvlab.io"

func (h Host) registry() string {
	if h.Registry == "" {
		return defaultRegistry
	}
	return h.Registry
}

// owner gives the name of who manages the controller, "" for nobody. An unreadable mark is an error.
func (h Host) owner(controller string) (string, error) {
	data, err := os.ReadFile(filepath.Join(h.registry(), controller, "owner"))
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("ownership registry: %w", err)
	}
	return strings.TrimSpace(string(data)), nil
}

// mark makes the controller that the kernel has just created ours. A mark that stands there belongs to an earlier
// controller of the same number, because udev did not clean up. The file is replaced whole: libnvme reads it at any
// time.
func (h Host) mark(instance int) error {
	dir := filepath.Join(h.registry(), "nvme"+strconv.Itoa(instance))
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("ownership registry: %w", err)
	}
	file, err := os.CreateTemp(dir, ".owner-*")
	if err != nil {
		return fmt.Errorf("ownership registry: %w", err)
	}
	_, errWrite := file.WriteString(owner + "\n")
	err = errors.Join(errWrite, file.Chmod(0o644), file.Close())
	if err == nil {
		err = os.Rename(file.Name(), filepath.Join(dir, "owner"))
	}
	if err != nil {
		return fmt.Errorf("ownership registry: %w", errors.Join(err, os.Remove(file.Name())))
	}
	return nil
}

// unmark takes our mark from a controller that is gone; another's stays. The directory goes with it if it is empty.
func (h Host) unmark(controller string) error {
	name, err := h.owner(controller)
	if err != nil || name != owner {
		return err
	}
	dir := filepath.Join(h.registry(), controller)
	if err := os.Remove(filepath.Join(dir, "owner")); err != nil {
		return fmt.Errorf("ownership registry: %w", err)
	}
	_ = os.Remove(dir) // other attributes of other programs may be in it
	return nil
}
