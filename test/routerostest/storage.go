package routerostest

import (
	"crypto/sha1"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"iter"
	"path"
	"slices"
	"strings"
	"time"
)

// The kinds of entry in /file.
const (
	regular   = "file"
	directory = "directory"
	mounted   = "disk"
)

// file is an entry of /file. It outlives the disk that was made on it.
type file struct {
	path     string
	kind     string
	size     int64
	alloc    int64 // bytes that it takes from its pool
	pool     *Pool
	modified time.Time
	guest    string // file system that a probe finds in it
	unlinked bool   // its name is gone while a disk still uses it
}

// returned is space that is not free again before a certain time.
type returned struct {
	pool  *Pool
	bytes int64
	when  time.Time
}

// subvolume is one of a btrfs pool. Its directory is in Box.files too.
type subvolume struct {
	id       int64
	pool     *Pool
	name     string
	path     string
	parent   string
	readOnly bool
	created  time.Time
}

// flash is the device's own small storage, where a path leads that starts with no pool's mount point.
var flashSize int64 = 128 << 20

func (b *Box) addPool(p Pool) {
	setDefault(&p.FS, "xfs")
	setDefault(&p.Type, "raid")
	setDefault(&p.State, "clean")
	setDefault(&p.Label, p.Slot+"-fs")
	d := newDisk(p.Type)
	d.id, d.slot, d.pool = b.takeID(), p.Slot, &p
	b.disks = append(b.disks, d)
	b.files[p.Slot] = &file{path: p.Slot, kind: mounted, pool: &p, modified: b.now()}
}

// adopt takes over the files that a pool's back end has kept from an earlier run.
func (b *Box) adopt() error {
	for _, d := range b.disks {
		found, err := b.opts.Backend.Mount(d.slot)
		if err != nil {
			return err
		}
		for name, size := range found {
			f := &file{path: strings.TrimSuffix(name, "/"), kind: directory, pool: d.pool, modified: b.now()}
			if f.path == name {
				f.kind, f.size, f.alloc = regular, size, size
			}
			b.files[f.path] = f
		}
	}
	return nil
}

// poolOf gives the pool that a path lies on, nil for the device's own storage; ok is false when that pool is not
// mounted.
func (b *Box) poolOf(name string) (p *Pool, ok bool) {
	first, _, _ := strings.Cut(name, "/")
	for _, d := range b.disks {
		if d.pool != nil && d.slot == first {
			return d.pool, !d.pool.Unmounted
		}
	}
	return nil, true
}

// lookup gives the entry of a path, nil when there is none or its pool is not mounted.
func (b *Box) lookup(name string) *file {
	f := b.files[name]
	if f == nil || f.pool != nil && f.pool.Unmounted {
		return nil
	}
	return f
}

// free gives the bytes that are left on a pool, or on the device's own storage for nil.
func (b *Box) free(p *Pool) int64 {
	left := flashSize
	if p != nil {
		left = p.Size - p.Overhead
	}
	for f := range b.held() {
		if f.pool == p {
			left -= f.alloc
		}
	}
	for _, r := range b.later {
		if r.pool == p {
			left -= r.bytes
		}
	}
	return left
}

// held gives every file that takes space: those with a name, and those without that a disk still uses.
func (b *Box) held() iter.Seq[*file] {
	return func(yield func(*file) bool) {
		for _, f := range b.files {
			if !yield(f) {
				return
			}
		}
		for i, d := range b.disks {
			if d.file == nil || !d.file.unlinked {
				continue
			}
			first := slices.IndexFunc(b.disks, func(o *disk) bool { return o.file == d.file })
			if first == i && !yield(d.file) {
				return
			}
		}
	}
}

// settle lets space come back whose time is there.
func (b *Box) settle() {
	now := b.now()
	b.later = slices.DeleteFunc(b.later, func(r returned) bool { return !now.Before(r.when) })
}

// release is called when nothing holds a file any more. Its space is free with that, or later by the switch.
func (b *Box) release(f *file) {
	if b.switches.SpaceReturn == Delayed {
		b.later = append(b.later, returned{f.pool, f.alloc, b.now().Add(b.opts.SpaceDelay)})
	}
}

// ensureParent sees to it that the directory of a path is there, as the switch parent-directory says.
func (b *Box) ensureParent(place, name string) error {
	dir := path.Dir(name)
	if dir == "." {
		return nil
	}
	if f := b.lookup(dir); f != nil {
		if f.kind == regular {
			return b.failure(place, "not a directory")
		}
		return nil
	}
	_, ok := b.poolOf(name)
	if !ok || b.switches.ParentDirectory != Created {
		return b.failure(place, "no such file or directory")
	}
	if err := b.ensureParent(place, dir); err != nil {
		return err
	}
	return b.mkdir(place, dir)
}

func (b *Box) mkdir(place, name string) error {
	p, ok := b.poolOf(name)
	if !ok {
		return b.failure(place, "no such file or directory")
	}
	if err := b.opts.Backend.Mkdir(name); err != nil {
		return b.failure(place, "%v", err)
	}
	b.files[name] = &file{path: name, kind: directory, pool: p, modified: b.now()}
	return nil
}

// create makes a regular file of the given size, thick unless the switch accounting says otherwise.
func (b *Box) create(r *run, place, name string, size int64) (*file, error) {
	if err := b.ensureParent(place, name); err != nil {
		return nil, err
	}
	if b.inSnapshot(name) {
		return nil, b.failure(place, "read-only file system")
	}
	p, _ := b.poolOf(name)
	f := &file{path: name, kind: regular, size: size, pool: p, modified: b.now()}
	if b.switches.Accounting != Thin {
		f.alloc = size
	}
	if r.full || f.alloc > b.free(p) {
		return nil, b.failure(place, "not enough space")
	}
	if err := b.opts.Backend.Create(name, size, f.alloc > 0); err != nil {
		return nil, b.failure(place, "%v", err)
	}
	b.files[name] = f
	return f, nil
}

// resize changes a file's size and account.
func (b *Box) resize(r *run, place string, f *file, size int64) error {
	more := size - f.size
	if b.switches.Accounting == Thin {
		more = min(0, max(more, -f.alloc))
	}
	if more > 0 && (r.full || more > b.free(f.pool)) {
		return b.failure(place, "not enough space")
	}
	if err := b.opts.Backend.Resize(f.path, size, more > 0); err != nil {
		return b.failure(place, "%v", err)
	}
	f.size, f.alloc, f.modified = size, max(0, f.alloc+more), b.now()
	return nil
}

// unlink takes a file's name away. Its space stays taken while a disk uses it.
func (b *Box) unlink(place string, f *file) error {
	if err := b.opts.Backend.Remove(f.path); err != nil {
		return b.failure(place, "%v", err)
	}
	delete(b.files, f.path)
	if b.userOf(f) != nil {
		f.unlinked = true
		return nil
	}
	b.release(f)
	return nil
}

// userOf gives a disk that is attached to a file, nil if none is.
func (b *Box) userOf(f *file) *disk {
	for _, d := range b.disks {
		if d.file == f {
			return d
		}
	}
	return nil
}

// below gives the entries under a directory, deepest first.
func (b *Box) below(dir string) []*file {
	var list []*file
	for name, f := range b.files {
		if strings.HasPrefix(name, dir+"/") {
			list = append(list, f)
		}
	}
	slices.SortFunc(list, func(x, y *file) int { return strings.Compare(y.path, x.path) })
	return list
}

// entries counts what lies on a pool, its mount point left out.
func (b *Box) entries(p *Pool) int64 {
	n := int64(-1)
	for _, f := range b.files {
		if f.pool == p {
			n++
		}
	}
	return n
}

// inSnapshot tells whether a path lies in a read-only subvolume.
func (b *Box) inSnapshot(name string) bool {
	return slices.ContainsFunc(b.subvols, func(s *subvolume) bool {
		return s.readOnly && strings.HasPrefix(name, s.path+"/")
	})
}

// clean gives a path as /file names it: no slash at either end.
func clean(name string) string { return strings.Trim(path.Clean("/"+name), "/") }

// fileID makes the ID of a file as current releases show it: "**" and 32 characters, blanks among them.
func fileID(name string) itemID {
	sum := sha1.Sum([]byte(name))
	s := base64.StdEncoding.EncodeToString(append(sum[:], sum[:4]...))
	return itemID("**" + strings.NewReplacer("+", " ", "/", " ").Replace(s))
}

// madeUpUUID gives the same UUID for the same text, in the form of a file system's.
func madeUpUUID(of string) string {
	sum := sha1.Sum([]byte(of))
	h := hex.EncodeToString(sum[:16])
	return h[:8] + "-" + h[8:12] + "-" + h[12:16] + "-" + h[16:20] + "-" + h[20:]
}

// ParsePool reads "NAME=FS:SIZE", such as raid10=btrfs:20G.
func ParsePool(s string) (Pool, error) {
	name, rest, _ := strings.Cut(s, "=")
	fs, size, _ := strings.Cut(rest, ":")
	n, ok := parseSize(size)
	if name == "" || strings.Contains(name, "/") || fs != "xfs" && fs != "btrfs" || !ok || n == 0 {
		return Pool{}, fmt.Errorf("pool %q: is not like raid10=btrfs:20G", s)
	}
	return Pool{Slot: name, FS: fs, Size: n}, nil
}
