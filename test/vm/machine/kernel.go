package machine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"time"
)

// bootModules are loaded from the initramfs: what the root needs, and what every test needs. modprobe's
// --show-depends adds what they need themselves.
var bootModules = []string{
	"virtio_pci", "virtio_blk", "virtio_net", "virtio_console", "9pnet_virtio", "9p", "overlay", "ext4", "loop",
	"configfs", "nvme-core", "nvme-fabrics", "nvme-tcp", "nvmet", "nvmet-tcp",
	"dm-mod", "dm-multipath", "dm-round-robin",
}

// moreModules are kept beside the kernel and loaded when something asks for them, as on a real node: by the kernel
// (mount -t xfs, ip link add type bridge) or with modprobe.
var moreModules = []string{
	"xfs", "btrfs", "vfat", "dm-queue-length", "dm-service-time", "dm-flakey", "dm-delay", "dm-snapshot", "bridge", "veth",
	"br_netfilter", "sch_netem", "sch_tbf", "nf_tables", "nft_chain_nat", "nft_compat", "nft_masq", "xt_MASQUERADE",
	"xt_comment", "xt_mark", "xt_conntrack", "xt_addrtype", "xt_multiport", "iptable_nat", "iptable_filter",
	"ip6table_nat", "ip6table_filter", "nvme-loop",
}

// Kernel is one kernel in the cache.
type Kernel struct {
	Series      string   `json:"series"`  // "6.12"
	Package     string   `json:"package"` // the Debian package
	Version     string   `json:"version"` // its version
	Release     string   `json:"release"` // what uname -r says
	Wanted      []string `json:"wanted"`  // the modules asked for when it was stored
	BootModules []string `json:"bootModules"`

	dir string
}

// Image is the file that QEMU boots.
func (k Kernel) Image() string { return filepath.Join(k.dir, "vmlinuz") }

// ModulesDir holds modules.dep and the modules below it.
func (k Kernel) ModulesDir() string { return filepath.Join(k.dir, "lib", "modules", k.Release) }

// kernelFile describes a stored kernel. It is written last, so a directory without it is not complete.
const kernelFile = "kernel.json"

// Times that the steps of fetching a kernel may take. They are generous: the first one is a download.
const (
	downloadTimeout = 10 * time.Minute
	unpackTimeout   = 5 * time.Minute
	programTimeout  = time.Minute
)

var seriesForm = regexp.MustCompile(`^[0-9]+\.[0-9]+$`)

// FetchKernel gives the kernel of a series ("6.1", "6.12") from the cache, and fills the cache from the machine's
// package archive when it is not there. Two processes may do so at once: one waits for the other.
func FetchKernel(ctx context.Context, series string, progress func(string)) (Kernel, error) {
	if !seriesForm.MatchString(series) {
		return Kernel{}, fmt.Errorf("kernel %q: want a series, as 6.12", series)
	}
	base, err := os.UserCacheDir()
	if err != nil {
		return Kernel{}, fmt.Errorf("kernel cache: %w", err)
	}
	cache := filepath.Join(base, "rds-csi", "kernels")
	if err := os.MkdirAll(cache, 0o755); err != nil {
		return Kernel{}, fmt.Errorf("kernel cache: %w", err)
	}
	if k, ok := cachedKernel(ctx, cache, series); ok {
		return k, nil
	}
	unlock, err := lock(ctx, filepath.Join(cache, "lock"))
	if err != nil {
		return Kernel{}, err
	}
	defer unlock()
	if k, ok := cachedKernel(ctx, cache, series); ok { // stored by whoever held the lock
		return k, nil
	}
	progress("fetching kernel " + series)
	k, err := storeKernel(ctx, cache, series)
	if err != nil {
		return Kernel{}, fmt.Errorf("fetch kernel %s: %w", series, err)
	}
	return k, nil
}

// lock waits for the cache. The kernel gives a lock back when its holder dies.
func lock(ctx context.Context, name string) (unlock func(), err error) {
	f, err := os.OpenFile(name, os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, fmt.Errorf("kernel cache lock: %w", err)
	}
	for {
		err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil {
			return func() { _ = f.Close() }, nil
		}
		if !errors.Is(err, syscall.EWOULDBLOCK) {
			_ = f.Close()
			return nil, fmt.Errorf("kernel cache lock: %w", err)
		}
		select {
		case <-ctx.Done():
			_ = f.Close()
			return nil, fmt.Errorf("kernel cache lock: %w", ctx.Err())
		case <-time.After(200 * time.Millisecond):
		}
	}
}

// cachedKernel gives the newest complete kernel of the series.
func cachedKernel(ctx context.Context, cache, series string) (Kernel, bool) {
	names, err := filepath.Glob(filepath.Join(cache, "linux-image-"+series+".*"))
	if err != nil {
		return Kernel{}, false
	}
	var best Kernel
	for _, dir := range names {
		k, err := readKernel(dir)
		if err == nil && k.Series == series && (best.Version == "" || newer(ctx, k.Version, best.Version)) {
			best = k
		}
	}
	return best, best.Version != ""
}

// readKernel reads a stored kernel, and refuses one that is not complete or was stored for another list of modules.
func readKernel(dir string) (Kernel, error) {
	text, err := os.ReadFile(filepath.Join(dir, kernelFile))
	if err != nil {
		return Kernel{}, fmt.Errorf("stored kernel: %w", err)
	}
	k := Kernel{dir: dir}
	if err := json.Unmarshal(text, &k); err != nil {
		return Kernel{}, fmt.Errorf("stored kernel %s: %w", dir, err)
	}
	if !slices.Equal(k.Wanted, wantedModules()) {
		return Kernel{}, fmt.Errorf("stored kernel %s: other modules", dir)
	}
	files := []string{k.Image(), filepath.Join(k.ModulesDir(), "modules.dep")}
	for _, m := range k.BootModules {
		files = append(files, filepath.Join(k.ModulesDir(), m))
	}
	for _, f := range files {
		if st, err := os.Stat(f); err != nil || st.Size() == 0 {
			return Kernel{}, fmt.Errorf("stored kernel %s: %s is missing", dir, f)
		}
	}
	return k, nil
}

func wantedModules() []string { return append(slices.Clone(bootModules), moreModules...) }

// newer compares two Debian versions as dpkg does; their order is no lexical one ("~" sorts before nothing).
func newer(ctx context.Context, a, b string) bool {
	_, err := output(ctx, programTimeout, "", "dpkg", "--compare-versions", a, "gt", b)
	return err == nil
}

// storeKernel downloads and unpacks in a directory of its own and renames it into place when it is complete.
func storeKernel(ctx context.Context, cache, series string) (Kernel, error) {
	apt, err := newPrivateApt(cache)
	if err != nil {
		return Kernel{}, err
	}
	name, version, err := apt.newest(ctx, series)
	if err != nil {
		return Kernel{}, err
	}
	work := filepath.Join(cache, "work")
	if err := removeTree(work); err != nil { // of somebody who was killed while holding the lock, which now is ours
		return Kernel{}, err
	}
	if err := os.Mkdir(work, 0o755); err != nil {
		return Kernel{}, fmt.Errorf("kernel cache: %w", err)
	}
	defer func() { _ = removeTree(work) }()
	if err := apt.download(ctx, work, name, version); err != nil {
		return Kernel{}, err
	}
	k := Kernel{
		Series: series, Package: name, Version: version, Release: strings.TrimPrefix(name, "linux-image-"),
		Wanted: wantedModules(), dir: filepath.Join(work, "kernel"),
	}
	if err := k.build(ctx, work); err != nil {
		return Kernel{}, err
	}
	final := filepath.Join(cache, name+"_"+version)
	if err := removeTree(final); err != nil { // an incomplete one of the same version
		return Kernel{}, err
	}
	if err := os.Rename(k.dir, final); err != nil {
		return Kernel{}, fmt.Errorf("store kernel: %w", err)
	}
	return readKernel(final)
}

// build fills k.dir from the package in work: the image, the modules that are wanted with all they depend on,
// uncompressed (a guest that unpacks them itself needs a second for each), and their index.
func (k *Kernel) build(ctx context.Context, work string) error {
	debs, err := filepath.Glob(filepath.Join(work, "*.deb"))
	if err != nil || len(debs) != 1 {
		return fmt.Errorf("downloaded packages %q: want one", debs)
	}
	full := filepath.Join(work, "full")
	if _, err := output(ctx, unpackTimeout, work, "dpkg", "-x", debs[0], full); err != nil {
		return err
	}
	if _, err := output(ctx, unpackTimeout, work, "depmod", "-b", full, k.Release); err != nil {
		return err
	}
	if err := os.MkdirAll(k.ModulesDir(), 0o755); err != nil {
		return fmt.Errorf("store kernel: %w", err)
	}
	fullModules := filepath.Join(full, "lib", "modules", k.Release)
	for _, index := range []string{"modules.order", "modules.builtin", "modules.builtin.modinfo"} {
		if err := os.Rename(filepath.Join(fullModules, index), filepath.Join(k.ModulesDir(), index)); err != nil {
			return fmt.Errorf("store kernel: %w", err)
		}
	}
	if err := os.Rename(filepath.Join(full, "boot", "vmlinuz-"+k.Release), k.Image()); err != nil {
		return fmt.Errorf("store kernel: %w", err)
	}
	if err := k.copyModules(ctx, work, full); err != nil {
		return err
	}
	if _, err := output(ctx, unpackTimeout, work, "depmod", "-b", k.dir, k.Release); err != nil {
		return err
	}
	text, err := json.MarshalIndent(k, "", "  ")
	if err != nil {
		return fmt.Errorf("store kernel: %w", err)
	}
	if err := os.WriteFile(filepath.Join(k.dir, kernelFile), text, 0o644); err != nil {
		return fmt.Errorf("store kernel: %w", err)
	}
	return nil
}

func (k *Kernel) copyModules(ctx context.Context, work, full string) error {
	order := func(modules []string) ([]string, error) {
		var depends strings.Builder
		for _, m := range modules {
			// An empty configuration directory: the host's aliases and blacklists are about its own hardware.
			out, err := output(ctx, programTimeout, work, "modprobe", "-C", "/dev/null", "-d", full, "-S", k.Release,
				"--show-depends", m)
			if err != nil {
				if slices.Contains(bootModules, m) {
					return nil, err
				}
				continue // not every kernel has every module that is only there for who asks
			}
			depends.WriteString(out)
		}
		return moduleOrder(depends.String(), filepath.Join(full, "lib", "modules", k.Release))
	}
	all, err := order(wantedModules())
	if err != nil {
		return err
	}
	boot, err := order(bootModules)
	if err != nil {
		return err
	}
	for _, m := range all {
		if err := storeModule(ctx, filepath.Join(full, "lib", "modules", k.Release, m),
			filepath.Join(k.ModulesDir(), uncompressed(m))); err != nil {
			return err
		}
	}
	for _, m := range boot {
		k.BootModules = append(k.BootModules, uncompressed(m))
	}
	return nil
}

func uncompressed(module string) string { return strings.TrimSuffix(module, ".xz") }

func storeModule(ctx context.Context, from, to string) error {
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		return fmt.Errorf("store kernel module: %w", err)
	}
	if strings.HasSuffix(from, ".xz") {
		if _, err := output(ctx, programTimeout, "", "xz", "-d", from); err != nil {
			return err
		}
		from = uncompressed(from)
	}
	if err := os.Rename(from, to); err != nil {
		return fmt.Errorf("store kernel module: %w", err)
	}
	return nil
}

// moduleOrder reads what modprobe --show-depends printed for several modules, one after another: "insmod PATH
// [options]" in the order of loading, or "builtin NAME". Each module is kept where it is named first, relative to dir.
func moduleOrder(depends, dir string) ([]string, error) {
	var order []string
	for line := range strings.Lines(depends) {
		words := strings.Fields(line)
		switch {
		case len(words) == 0 || words[0] == "builtin":
		case words[0] == "insmod" && len(words) > 1:
			m, err := filepath.Rel(dir, words[1])
			if err != nil || strings.HasPrefix(m, "..") {
				return nil, fmt.Errorf("module %s is not below %s", words[1], dir)
			}
			if !slices.Contains(order, m) {
				order = append(order, m)
			}
		default:
			return nil, fmt.Errorf("modprobe said %q", strings.TrimSpace(line))
		}
	}
	return order, nil
}

// removeTree removes a directory of the cache and what is in it. It takes files and directories one by one with
// os.Remove, because a mount point in there would be a mistake that must not be followed.
func removeTree(dir string) error {
	var paths []string
	err := filepath.WalkDir(dir, func(path string, _ os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		paths = append(paths, path)
		return nil
	})
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	for _, p := range slices.Backward(paths) {
		err = errors.Join(err, os.Remove(p))
	}
	if err != nil {
		return fmt.Errorf("remove %s: %w", dir, err)
	}
	return nil
}
