package routerostest

import (
	"cmp"
	"slices"
	"strings"
)

// subvolumeTable has the properties that the manual lists (facts/routeros.md, 7).
var subvolumeTable = &table{
	name: "name",
	props: props(`fs name parent path uuid subvolume-id:bare top-level:bare creation-time:bare read-only:flag
 snapshot:flag default:flag dead:flag mounted:flag`),
	brief: []string{"fs", "name", "path"},
	flags: []flag{
		{"*", "default"}, {"S", "snapshot"}, {"r", "read-only"}, {"D", "dead"}, {"M", "mounted"},
	},
	rows: func(b *Box, _ selection) []*row {
		var list []*row
		for i, s := range b.subvols {
			if s.pool.Unmounted {
				continue
			}
			list = append(list, &row{id: idOf(s.id), num: i, ref: s, vals: map[string]value{
				"fs": s.pool.Label, "name": s.name, "path": "/" + s.path, "uuid": madeUpUUID("subvolume " + s.path),
				"subvolume-id": 256 + s.id, "top-level": int64(5), "read-only": s.readOnly, "snapshot": s.parent != "",
				"default": false, "dead": false, "mounted": false,
				"creation-time": s.created.UTC().Format("2006-01-02 15:04:05"),
			}})
			if s.parent != "" {
				list[len(list)-1].vals["parent"] = s.parent
			}
		}
		return list
	},
}

var filesystemTable = &table{
	name:  "label",
	props: props("label uuid devs:bare"),
	brief: []string{"label", "uuid", "devs"},
	rows: func(b *Box, _ selection) []*row {
		var list []*row
		for i, d := range b.disks {
			if d.pool != nil && d.pool.FS == "btrfs" {
				list = append(list, &row{id: idOf(d.id), num: i, ref: d, vals: map[string]value{
					"label": d.pool.Label, "uuid": madeUpUUID(d.slot), "devs": d.slot,
				}})
			}
		}
		return list
	},
}

func init() {
	addMenu("disk/btrfs/filesystem", &menu{
		span: span{since: v717}, table: filesystemTable,
		commands: map[string]*command{"print": printCommand(), "find": findCommand(), "get": getCommand()},
	})
	addMenu("disk/btrfs/subvolume", &menu{
		span: span{since: v718}, table: subvolumeTable,
		commands: map[string]*command{
			"print":  printCommand(),
			"find":   findCommand(),
			"get":    getCommand(),
			"add":    {args: arguments("fs* name* parent read-only"), policy: "write", do: locked(addSubvolume)},
			"remove": {args: arguments("numbers*"), order: []string{"numbers"}, policy: "write", do: locked(removeSubvolume)},
		},
	})
}

func addSubvolume(r *run, a *args) (value, error) {
	b := r.box
	const place = "/disk/btrfs/subvolume/add"
	i := slices.IndexFunc(b.disks, func(d *disk) bool {
		return d.pool != nil && d.pool.FS == "btrfs" && !d.pool.Unmounted && d.pool.Label == a.str("fs")
	})
	readOnly, ok := parseBool(cmp.Or(a.str("read-only"), "no"))
	switch {
	case i < 0:
		return nil, failf("input does not match any value of fs")
	case !ok:
		return nil, failf("input does not match any value of read-only")
	}
	s := &subvolume{pool: b.disks[i].pool, name: clean(a.str("name")), readOnly: readOnly, created: b.now()}
	s.path = b.disks[i].slot + "/" + s.name
	if b.lookup(s.path) != nil {
		return nil, b.failure(place, "File exists")
	}
	var parent *subvolume
	if s.parent = clean(a.str("parent")); s.parent != "" {
		if parent = b.subvolume(s.pool, s.parent); parent == nil {
			return nil, failf("input does not match any value of parent")
		}
	}
	if err := b.ensureParent(place, s.path); err != nil {
		return nil, err
	}
	if err := b.mkdir(place, s.path); err != nil {
		return nil, err
	}
	if parent != nil {
		if err := b.snapshot(place, parent, s); err != nil {
			return nil, err
		}
	}
	s.id = b.takeID()
	b.subvols = append(b.subvols, s)
	return idOf(s.id), nil
}

func (b *Box) subvolume(p *Pool, name string) *subvolume {
	i := slices.IndexFunc(b.subvols, func(s *subvolume) bool { return s.pool == p && s.name == name })
	if i < 0 {
		return nil
	}
	return b.subvols[i]
}

// snapshot fills a new subvolume with what its parent holds at this moment. The blocks are shared, so it takes no
// space; that what is written later does is not modelled.
func (b *Box) snapshot(place string, parent, s *subvolume) error {
	list := b.below(parent.path)
	slices.Reverse(list) // directories before what is in them
	for _, f := range list {
		name := s.path + strings.TrimPrefix(f.path, parent.path)
		if f.kind != regular {
			if err := b.mkdir(place, name); err != nil {
				return err
			}
			continue
		}
		if err := b.opts.Backend.Copy(f.path, name); err != nil {
			return b.failure(place, "%v", err)
		}
		b.files[name] = &file{
			path: name, kind: regular, size: f.size, pool: f.pool, modified: b.now(), guest: f.guest,
		}
	}
	return nil
}

func removeSubvolume(r *run, a *args) (value, error) {
	rows, err := a.items(r)
	if err != nil {
		return nil, err
	}
	b := r.box
	const place = "/disk/btrfs/subvolume/remove"
	for _, row := range rows {
		s := of[*subvolume](row)
		list := append(b.below(s.path), b.files[s.path])
		for _, f := range list {
			if b.userOf(f) != nil && b.switches.RemoveAttachedFile == Refused {
				return nil, b.failure(place, "device or resource busy")
			}
		}
		for _, f := range list {
			if err := b.unlink(place, f); err != nil {
				return nil, err
			}
		}
		b.forgetSubvolumes(s.path)
	}
	return nil, nil // RouterOS' nothing
}

// forgetSubvolumes drops the subvolumes at and below a path that is gone.
func (b *Box) forgetSubvolumes(path string) {
	b.subvols = slices.DeleteFunc(b.subvols, func(s *subvolume) bool {
		return s.path == path || strings.HasPrefix(s.path, path+"/")
	})
}
