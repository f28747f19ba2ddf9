package machine

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// DiskDir is where the virtio disk is mounted in the guest, ext4. Exported files and kubelet's directory belong
// there: nvmet wants direct I/O and WRITE_ZEROES below it, and the root, an overlay on a tmpfs, has neither.
const DiskDir = "/var/lib/rds-csi-vm"

// setupTimeout bounds each program that sets the guest up.
const setupTimeout = 30 * time.Second

// guestMount is a mount of the guest.
type guestMount struct{ source, dir, kind, options string }

var guestMounts = []guestMount{
	{"devpts", "/dev/pts", "devpts", "gid=5,mode=620,ptmxmode=666"},
	{"tmpfs", "/dev/shm", "tmpfs", "mode=1777"},
	{"tmpfs", "/run", "tmpfs", "mode=755"},
	{"configfs", "/sys/kernel/config", "configfs", ""},
	{"debugfs", "/sys/kernel/debug", "debugfs", ""},
	{"cgroup2", "/sys/fs/cgroup", "cgroup2", ""},
}

// setUp makes a machine of what the init script left: file systems, control groups, network, disk, shares.
func setUp(config guestConfig) error {
	syscall.Umask(0o022)
	if err := syscall.Sethostname([]byte(config.Hostname)); err != nil {
		return fmt.Errorf("host name: %w", err)
	}
	for _, m := range guestMounts {
		if err := mount(m); err != nil {
			return err
		}
	}
	if err := os.MkdirAll(guestTemp, 0o777|os.ModeSticky); err != nil {
		return fmt.Errorf("temporary directory: %w", err)
	}
	for name, target := range map[string]string{
		"/dev/fd": "/proc/self/fd", "/dev/stdin": "/proc/self/fd/0",
		"/dev/stdout": "/proc/self/fd/1", "/dev/stderr": "/proc/self/fd/2",
	} {
		if err := os.Symlink(target, name); err != nil {
			return fmt.Errorf("device links: %w", err)
		}
	}
	// Everything is shared, as systemd makes it on a node: bind mounts of kubelet must reach its pods.
	if err := syscall.Mount("", "/", "", syscall.MS_REC|syscall.MS_SHARED, ""); err != nil {
		return fmt.Errorf("make / shared: %w", err)
	}
	return errors.Join(controlGroups("/sys/fs/cgroup"), modulesLink(config), links(config.Links),
		disk(config.DiskDir), shares(config.Shares))
}

// guestTemp is TMPDIR of every command. The host's /tmp stays visible below the overlay, because the programs that
// are run may lie there.
const guestTemp = "/run/tmp"

func mount(m guestMount) error {
	if err := os.MkdirAll(m.dir, 0o755); err != nil {
		return fmt.Errorf("mount point: %w", err)
	}
	if err := syscall.Mount(m.source, m.dir, m.kind, 0, m.options); err != nil {
		return fmt.Errorf("mount %s on %s: %w", m.source, m.dir, err)
	}
	return nil
}

// controlGroups moves the two processes that there are out of the root group and hands every controller down. A group
// with processes cannot have controlled children, and kubelet needs them.
func controlGroups(root string) error {
	group := filepath.Join(root, "init")
	if err := os.MkdirAll(group, 0o755); err != nil {
		return fmt.Errorf("control group: %w", err)
	}
	for _, pid := range []int{1, os.Getpid()} {
		if err := writeFile(filepath.Join(group, "cgroup.procs"), fmt.Sprint(pid)); err != nil {
			return err
		}
	}
	controllers, err := os.ReadFile(filepath.Join(root, "cgroup.controllers"))
	if err != nil {
		return fmt.Errorf("control group: %w", err)
	}
	for c := range strings.FieldsSeq(string(controllers)) {
		if err := writeFile(filepath.Join(root, "cgroup.subtree_control"), "+"+c); err != nil {
			return err
		}
	}
	return nil
}

// writeFile writes to a file that is there; the kernel's files are never created.
func writeFile(name, text string) error {
	f, err := os.OpenFile(name, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(text)
	return errors.Join(err, f.Close())
}

// modulesLink lets the kernel and modprobe load what the initramfs has not. A host that runs this very kernel has the
// directory already, with more in it.
func modulesLink(config guestConfig) error {
	link := filepath.Join("/lib/modules", config.Release)
	if _, err := os.Stat(filepath.Join(link, "modules.dep")); err == nil {
		return nil
	}
	if err := os.MkdirAll("/lib/modules", 0o755); err != nil {
		return fmt.Errorf("kernel modules: %w", err)
	}
	if err := os.Symlink(config.Modules, link); err != nil {
		return fmt.Errorf("kernel modules: %w", err)
	}
	return nil
}

func disk(dir string) error {
	return mount(guestMount{source: "/dev/vda", dir: dir, kind: "ext4"})
}

func shares(all []guestShare) error {
	for _, s := range all {
		// cache=none: the host reads what the guest writes while it still runs.
		m := guestMount{s.Tag, s.Dir, "9p", "trans=virtio,version=9p2000.L,msize=524288,cache=none"}
		if err := mount(m); err != nil {
			return err
		}
	}
	return nil
}

// links brings up lo and the interfaces asked for. busybox does it, which is there because the initramfs is made of
// it; iproute2 need not be installed on the host.
func links(all []guestLink) error {
	steps := [][]string{{"link", "set", "lo", "up"}}
	for _, l := range all {
		dev, err := interfaceWith(l.MAC)
		if err != nil {
			return err
		}
		steps = append(steps, []string{"addr", "add", l.Address, "dev", dev}, []string{"link", "set", dev, "up"})
		if l.Gateway != "" {
			steps = append(steps, []string{"route", "add", "default", "via", l.Gateway})
		}
	}
	for _, s := range steps {
		if _, err := output(context.Background(), setupTimeout, "/", "busybox", append([]string{"ip"}, s...)...); err != nil {
			return err
		}
	}
	return nil
}

func interfaceWith(mac string) (string, error) {
	files, err := filepath.Glob("/sys/class/net/*/address")
	if err != nil {
		return "", fmt.Errorf("network interfaces: %w", err)
	}
	for _, f := range files {
		text, err := os.ReadFile(f)
		if err == nil && strings.TrimSpace(string(text)) == mac {
			return filepath.Base(filepath.Dir(f)), nil
		}
	}
	return "", fmt.Errorf("no network interface has the address %s", mac)
}
