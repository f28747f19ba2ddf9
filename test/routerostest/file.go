package routerostest

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// fileTable lists the whole tree of all pools, which takes minutes on a large one (facts/routeros.md, 4).
var fileTable = &table{
	name:  "name",
	slow:  true,
	props: props("name:bare type:bare size:sized last-modified:bare"),
	brief: []string{"name", "type", "size", "last-modified"},
	rows: func(b *Box, _ selection) []*row {
		var list []*row
		for _, name := range slices.Sorted(maps.Keys(b.files)) {
			f := b.lookup(name)
			if f == nil {
				continue
			}
			r := &row{id: fileID(name), num: len(list), ref: f, vals: map[string]value{
				"name": name, "type": f.kind, "last-modified": f.modified.UTC().Format("2006-01-02 15:04:05"),
			}}
			if f.kind == regular {
				r.vals["type"], r.vals["size"] = fileType(name), f.size
			}
			list = append(list, r)
		}
		return list
	},
}

// fileType gives ".img file" for a name with an extension.
func fileType(name string) string {
	base := name[strings.LastIndexByte(name, '/')+1:]
	if i := strings.LastIndexByte(base, '.'); i >= 0 {
		return base[i:] + " file"
	}
	return "file"
}

func init() {
	addMenu("file", &menu{
		table: fileTable,
		commands: map[string]*command{
			"print": printCommand(),
			"find":  findCommand(),
			"get":   getCommand(),
			"add": {
				span: span{since: v715}, args: arguments("name* type contents"), policy: "write", do: locked(addFile),
			},
			"set": {
				args: arguments("numbers* name"), order: []string{"numbers"}, policy: "write", do: locked(setFile),
			},
			"remove": {
				args: arguments("numbers*"), order: []string{"numbers"}, policy: "write", do: locked(removeFile),
			},
			"copy": {
				span: span{since: v723}, args: arguments("number* name*"), order: []string{"number", "name"},
				policy: "write", do: locked(copyFile),
			},
		},
	})
}

func addFile(r *run, a *args) (value, error) {
	b, name := r.box, clean(a.str("name"))
	const place = "/file/add"
	if b.lookup(name) != nil {
		return nil, b.failure(place, "already exists")
	}
	var err error
	switch a.str("type") {
	case "directory":
		if err = b.ensureParent(place, name); err == nil {
			err = b.mkdir(place, name)
		}
	case "", "file":
		_, err = b.create(r, place, name, int64(len(a.str("contents"))))
	default:
		err = failf("input does not match any value of type")
	}
	if err != nil {
		return nil, err
	}
	return fileID(name), nil
}

// setFile renames, which takes no longer for a large file.
func setFile(r *run, a *args) (value, error) {
	rows, err := a.items(r)
	if err != nil || !a.has("name") {
		return nil, err
	}
	b, name := r.box, clean(a.str("name"))
	const place = "/file/set"
	for _, row := range rows {
		f := of[*file](row)
		from, _ := b.poolOf(f.path)
		to, _ := b.poolOf(name)
		switch {
		case f.path == name:
			continue
		case b.lookup(name) != nil:
			return nil, b.failure(place, "already exists")
		case f.kind == mounted || from != to || strings.HasPrefix(name, f.path+"/"):
			return nil, b.failure(place, "can not rename")
		case b.userOf(f) != nil:
			return nil, b.failure(place, "file is in use")
		}
		if err := b.ensureParent(place, name); err != nil {
			return nil, err
		}
		if err := b.opts.Backend.Rename(f.path, name); err != nil {
			return nil, b.failure(place, "%v", err)
		}
		b.renameTree(f, name)
	}
	return nil, nil // RouterOS' nothing
}

func (b *Box) renameTree(f *file, name string) {
	for _, g := range append(b.below(f.path), f) {
		delete(b.files, g.path)
		g.path = name + strings.TrimPrefix(g.path, f.path)
		b.files[g.path] = g
	}
}

func removeFile(r *run, a *args) (value, error) {
	rows, err := a.items(r)
	if err != nil {
		return nil, err
	}
	b := r.box
	const place = "/file/remove"
	for _, row := range rows {
		if err := b.removeTree(place, of[*file](row)); err != nil {
			return nil, err
		}
	}
	return nil, nil // RouterOS' nothing
}

// removeTree removes a file or a directory with all that is in it.
func (b *Box) removeTree(place string, f *file) error {
	if f.kind == mounted {
		return b.failure(place, "can not remove disk")
	}
	if b.inSnapshot(f.path) {
		if b.switches.RemoveInSnapshot == Silent {
			return nil
		}
		return b.failure(place, "read-only file system")
	}
	list := append(b.below(f.path), f)
	for _, g := range list {
		if b.userOf(g) != nil && b.switches.RemoveAttachedFile == Refused {
			return b.failure(place, "file is in use")
		}
	}
	for _, g := range list {
		if err := b.unlink(place, g); err != nil {
			return err
		}
	}
	b.forgetSubvolumes(f.path)
	return nil
}

// copyFile copies data, and takes its space.
func copyFile(r *run, a *args) (value, error) {
	b, name := r.box, clean(a.str("name"))
	const place = "/file/copy"
	rows, err := b.resolve(fileTable, a.vals["number"])
	if err != nil {
		return nil, err
	}
	if len(rows) != 1 || b.lookup(name) != nil {
		return nil, b.failure(place, "already exists")
	}
	src := of[*file](rows[0])
	if src.kind != regular {
		return nil, b.failure(place, "not a regular file")
	}
	f, err := b.create(r, place, name, src.size)
	if err != nil {
		return nil, err
	}
	f.guest = src.guest
	if err := b.opts.Backend.Copy(src.path, name); err != nil {
		return nil, b.failure(place, "%v", err)
	}
	return nil, nil // RouterOS' nothing
}

// SetSize sets a file's size behind the console's back, as an earlier installation or another program left it. It makes
// the file where it is missing.
func (b *Box) SetSize(path string, size int64) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	r := &run{box: b}
	name := clean(path)
	f := b.lookup(name)
	var err error
	if f == nil {
		_, err = b.create(r, "test", name, size)
	} else {
		err = b.resize(r, "test", f, size)
	}
	if err != nil {
		return fmt.Errorf("set the size of %s: %w", name, err)
	}
	return nil
}
