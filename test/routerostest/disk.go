package routerostest

import (
	"cmp"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"
)

const (
	maxSlot     = 32   // the longest slot (facts/routeros.md, 1.4)
	defaultPort = 4420 // nvme-tcp-server-port
)

// disk is an item of /disk: a pool's device, or a file.
type disk struct {
	id           int64
	typ          string
	slot         string
	comment      string
	disabled     bool
	pool         *Pool // of a pool's device
	filePath     string
	file         *file
	wantSize     int64 // file-size as given, -1 if it was not
	offset       int64
	mountFS      bool
	mountRO      bool
	compress     bool
	swap         bool
	template     string
	export       bool
	port         uint16
	nqn          string
	allowHost    string
	guestMounted bool
	visible      time.Time
}

// newDisk has the defaults of /disk/add.
func newDisk(typ string) *disk {
	return &disk{typ: typ, wantSize: -1, mountFS: true, port: defaultPort, template: "[slot]"}
}

func (d *disk) size() int64 {
	switch {
	case d.pool != nil:
		return d.pool.Size
	case d.file != nil:
		return max(0, d.file.size-d.offset)
	}
	return 0
}

// subsystem is the NQN that the disk is exported under. Before 7.21 it was the slot and nothing else.
func (d *disk) subsystem(v Version) string {
	switch {
	case v.before(v721):
		return d.slot
	case d.nqn == "":
		return "nqn.2000-02.com.mikrotik:" + d.slot
	}
	return d.nqn
}

const diskSettings = ` slot parent? mount-filesystem@7.17 mount-read-only@7.17 mount-point-template@7.17 compress@7.18
 comment disabled file-path@7.17 file-size@7.17 file-offset@7.17 swap@7.17
 nvme-tcp-export! nvme-tcp-server-port! nvme-tcp-server-nqn@7.21! nvme-tcp-server-allow-host-name!
 nvme-tcp-server-password?! nvme-tcp-address?! nvme-tcp-port?! nvme-tcp-nqn@7.21?! nvme-tcp-name@<7.21?!
 iscsi-export?! nfs-sharing? smb-sharing? media-sharing? tmpfs-max-size? raid-type? raid-device-count? raid-master?
 encryption-key? `

func init() {
	items := func(more string) map[string]*argument { return arguments("numbers* " + more) }
	addMenu("disk", &menu{
		table: diskTable,
		commands: map[string]*command{
			"print":  printCommand(),
			"find":   findCommand(),
			"get":    getCommand(),
			"add":    {args: arguments("type copy-from" + diskSettings), policy: "write", do: locked(addDisk)},
			"set":    {args: items("type?" + diskSettings), order: []string{"numbers"}, policy: "write", do: locked(setDisk)},
			"remove": {args: items(""), order: []string{"numbers"}, policy: "write", do: locked(removeDisk)},
			"comment": {
				args: items("comment*"), order: []string{"numbers", "comment"}, policy: "write", do: locked(setDisk),
			},
			"enable":  {args: items(""), order: []string{"numbers"}, policy: "write", do: locked(switchDisk(false))},
			"disable": {args: items(""), order: []string{"numbers"}, policy: "write", do: locked(switchDisk(true))},
			"unset": {
				args: items("value-name*"), order: []string{"numbers", "value-name"}, policy: "write",
				do: locked(unsetDisk),
			},
			"reset-counters": {args: items(""), order: []string{"numbers"}, policy: "write", do: locked(nothing)},
			"eject": {
				span: span{since: v719}, args: items(""), order: []string{"numbers"}, policy: "write",
				do: locked(refuse("can eject only hardware disks")),
			},
			"check": {
				span: span{since: v723}, args: items(""), order: []string{"numbers"}, policy: "write",
				do: locked(refuse("could not unmount, stop using it first")),
			},
			"format":       formatCommand(span{since: v719}),
			"format-drive": formatCommand(span{until: v719}),
		},
	})
}

// formatCommand asks before it does anything, so over SSH it hangs.
func formatCommand(s span) *command {
	return &command{
		span: s, args: arguments("numbers* file-system label mbr-partition-table"), order: []string{"numbers"},
		policy: "write", do: func(*run, *args) (value, error) {
			return nil, &prompt{"All data will be lost, are you sure? [y/N]:"}
		},
	}
}

// locked wraps what changes the box: one command at a time.
func locked(do func(*run, *args) (value, error)) func(*run, *args) (value, error) {
	return func(r *run, a *args) (value, error) {
		r.box.mu.Lock()
		defer r.box.mu.Unlock()
		r.box.settle()
		for name := range a.vals {
			if r.box.console.arg(a.cmd, name).unset {
				return nil, failf("failure: the emulator knows %s but does not model it", name)
			}
		}
		return do(r, a)
	}
}

func nothing(*run, *args) (value, error) { return nil, nil } // RouterOS' nothing

func refuse(text string) func(*run, *args) (value, error) {
	return func(r *run, a *args) (value, error) {
		if rows, err := a.items(r); err != nil || len(rows) == 0 {
			return nil, err
		}
		return nil, failf("%s", text)
	}
}

// diskSetters turn the text of an argument into a property.
var diskSetters = map[string]func(*disk, string) error{
	"slot":                 func(d *disk, s string) error { d.slot = s; return nil },
	"comment":              func(d *disk, s string) error { d.comment = s; return nil },
	"disabled":             boolSetter("disabled", func(d *disk) *bool { return &d.disabled }),
	"mount-filesystem":     boolSetter("mount-filesystem", func(d *disk) *bool { return &d.mountFS }),
	"mount-read-only":      boolSetter("mount-read-only", func(d *disk) *bool { return &d.mountRO }),
	"compress":             boolSetter("compress", func(d *disk) *bool { return &d.compress }),
	"swap":                 boolSetter("swap", func(d *disk) *bool { return &d.swap }),
	"mount-point-template": func(d *disk, s string) error { d.template = s; return nil },
	"file-path":            func(d *disk, s string) error { d.filePath = clean(s); return nil },
	"file-size":            sizeSetter("file-size", func(d *disk) *int64 { return &d.wantSize }),
	"file-offset":          sizeSetter("file-offset", func(d *disk) *int64 { return &d.offset }),
	"nvme-tcp-export":      boolSetter("nvme-tcp-export", func(d *disk) *bool { return &d.export }),
	"nvme-tcp-server-port": func(d *disk, s string) error {
		n, err := strconv.ParseUint(s, 10, 16)
		if err != nil || n == 0 {
			return failf("invalid value for argument nvme-tcp-server-port")
		}
		d.port = uint16(n)
		return nil
	},
	"nvme-tcp-server-nqn":             func(d *disk, s string) error { d.nqn = s; return nil },
	"nvme-tcp-server-allow-host-name": func(d *disk, s string) error { d.allowHost = s; return nil },
}

func boolSetter(name string, field func(*disk) *bool) func(*disk, string) error {
	return func(d *disk, s string) error {
		v, ok := parseBool(s)
		if !ok {
			return failf("input does not match any value of %s", name)
		}
		*field(d) = v
		return nil
	}
}

func sizeSetter(name string, field func(*disk) *int64) func(*disk, string) error {
	return func(d *disk, s string) error {
		n, ok := parseSize(s)
		if !ok {
			return failf("invalid value for argument %s", name)
		}
		*field(d) = n
		return nil
	}
}

// parseSize reads bytes with a binary suffix: 1073741824, 10G, 1T.
func parseSize(s string) (int64, bool) {
	shift := 0
	if s != "" {
		if i := strings.IndexByte("KMGT", s[len(s)-1]); i >= 0 {
			shift, s = 10*(i+1), s[:len(s)-1]
		}
	}
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil || n < 0 || n > (1<<62)>>shift {
		return 0, false
	}
	return n << shift, true
}

// apply sets the given arguments on d.
func (a *args) apply(d *disk) error {
	for _, name := range slices.Sorted(maps.Keys(a.vals)) {
		if set := diskSetters[name]; set != nil {
			if err := set(d, a.str(name)); err != nil {
				return err
			}
		}
	}
	return nil
}

const placeAdd, placeSet, placeRemove = "/disk/add", "/disk/set", "/disk/remove"

func addDisk(r *run, a *args) (value, error) {
	b := r.box
	d := newDisk("")
	if err := b.template(a, d); err != nil {
		return nil, err
	}
	if err := a.apply(d); err != nil {
		return nil, err
	}
	if d.slot == "" {
		d.slot = b.freeSlot("file-" + strings.ReplaceAll(d.filePath, "/", "-"))
	}
	if err := b.admit(placeAdd, d, nil); err != nil {
		return nil, err
	}
	d.id = b.takeID()
	if err := b.attach(r, d); err != nil {
		return nil, err
	}
	d.visible = b.now()
	if b.switches.RowVisible == Delayed {
		d.visible = d.visible.Add(b.opts.RowDelay)
	}
	b.disks = append(b.disks, d)
	if err := b.changeExport(placeAdd, &disk{}, d); err != nil {
		b.disks = b.disks[:len(b.disks)-1]
		return nil, err
	}
	b.probe(d)
	return idOf(d.id), nil
}

// template takes the type, and with copy-from every other property, before the arguments are applied. The copy points
// to the very same file (facts/routeros.md, 1.5).
func (b *Box) template(a *args, d *disk) error {
	typ := a.str("type")
	if a.has("copy-from") {
		rows, err := b.resolve(diskTable, a.vals["copy-from"])
		if err != nil || len(rows) != 1 {
			return failf("no such item")
		}
		src := of[*disk](rows[0])
		*d = *src
		d.slot, d.file, d.export, d.guestMounted = "", nil, false, false
		typ = cmp.Or(typ, d.typ)
	}
	if typ == "" {
		return b.missing("type")
	}
	known := []string{"raid", "nvme-tcp", "iscsi", "nfs", "smb", "partition", "tmpfs", "ramdisk", "crypted"}
	if !b.console.version.before(v717) {
		known = append(known, "sshfs", "file")
	}
	switch {
	case !slices.Contains(known, typ):
		return failf("input does not match any value of type")
	case typ != "file":
		return failf("failure: the emulator knows type=%s but does not model it", typ)
	}
	d.typ = typ
	return nil
}

// admit checks what a disk is to become. old is nil for a new one.
func (b *Box) admit(place string, d, old *disk) error {
	if len(d.slot) > maxSlot && (old == nil || old.slot != d.slot) {
		switch {
		case b.switches.SlotLength == Truncated:
			d.slot = d.slot[:maxSlot]
		case b.switches.SlotLength == Enforced,
			b.switches.SlotLength == ByVersion && !b.console.version.before(v724):
			return b.failure(place, "slot name too long")
		}
	}
	for _, o := range b.disks {
		if o == old || o.slot != d.slot {
			continue
		}
		if b.switches.DuplicateSlot != Suffixed || old != nil {
			return b.failure(place, "already have device with such name")
		}
		d.slot = b.freeSlot(d.slot)
	}
	switch {
	case d.template == "":
		return failf("invalid value for argument mount-point-template")
	case d.compress && (d.pool == nil || d.pool.FS != "btrfs"):
		return b.failure(place, "compression only available for btrfs")
	case d.pool != nil && (d.export || old != nil && old.slot != d.slot):
		return failf("failure: the emulator does not model exporting or renaming a pool")
	case len(d.nqn) > 223,
		b.switches.InvalidNQN == Refused && d.nqn != "" && !strings.HasPrefix(d.nqn, "nqn."):
		return b.failure(place, "invalid nqn")
	}
	return nil
}

// freeSlot gives a slot that nobody has: the wanted one, or with a number behind it.
func (b *Box) freeSlot(want string) string {
	slot := want[:min(len(want), maxSlot)]
	for i := 1; slices.ContainsFunc(b.disks, func(d *disk) bool { return d.slot == slot }); i++ {
		n := strconv.Itoa(i)
		slot = want[:min(len(want), maxSlot-len(n))] + n
	}
	return slot
}

// attach opens the file of a new disk, making it where it is missing.
func (b *Box) attach(r *run, d *disk) error {
	if d.filePath == "" {
		return b.failure(placeAdd, "file-path not set")
	}
	f := b.lookup(d.filePath)
	switch {
	case f == nil && d.wantSize < 0:
		return b.failure(placeAdd, "file-size not set")
	case f == nil:
		var err error
		d.file, err = b.create(r, placeAdd, d.filePath, d.wantSize)
		return err
	case f.kind != regular:
		return b.failure(placeAdd, "not a regular file")
	case b.userOf(f) != nil && b.switches.FileTwice != Allowed:
		return b.failure(placeAdd, "file already in use")
	}
	d.file = f
	return b.fit(r, d, f)
}

// fit is add on a file that is there already.
func (b *Box) fit(r *run, d *disk, f *file) error {
	how, resize := Kept, Position("")
	switch {
	case d.wantSize < 0 || d.wantSize == f.size:
	case f.size > d.wantSize:
		how, resize = b.switches.ExistingLarger, Truncated
	default:
		how, resize = b.switches.ExistingSmaller, Grown
	}
	switch how {
	case Refused:
		return b.failure(placeAdd, "file already exists")
	case resize:
		return b.resize(r, placeAdd, f, d.wantSize)
	default:
		return nil
	}
}

func setDisk(r *run, a *args) (value, error) {
	rows, err := a.items(r)
	if err != nil {
		return nil, err
	}
	for _, row := range rows {
		if err := r.box.change(r, a, of[*disk](row)); err != nil {
			return nil, err
		}
	}
	return nil, nil // RouterOS' nothing
}

// change sets properties of one disk: all of the arguments or, with an error, none but a new size, which is made before
// the export is looked at.
func (b *Box) change(r *run, a *args, d *disk) error {
	next := *d
	next.wantSize = -1
	if err := a.apply(&next); err != nil {
		return err
	}
	if next.filePath != d.filePath || next.offset != d.offset {
		return failf("failure: the emulator does not model another file for a disk")
	}
	if err := b.admit(placeSet, &next, d); err != nil {
		return err
	}
	server := next.nqn != d.nqn || next.allowHost != d.allowHost || next.port != d.port
	if server && !next.export {
		switch b.switches.NQNWhileOff {
		case Refused:
			return b.failure(placeSet, "nvme-tcp-export is not enabled")
		case Forgotten:
			next.nqn, next.allowHost, next.port = "", "", defaultPort
		default:
		}
	}
	if next.wantSize >= 0 {
		if err := b.setSize(r, d, next.wantSize); err != nil {
			return err
		}
	}
	if err := b.changeExport(placeSet, d, &next); err != nil {
		return err
	}
	was := d.export
	*d = next
	if was != d.export || a.has("mount-filesystem") {
		b.probe(d)
	}
	return nil
}

// setSize grows or shrinks the file of a disk.
func (b *Box) setSize(r *run, d *disk, size int64) error {
	f := d.file
	if f == nil {
		return b.failure(placeSet, "not a file")
	}
	switch {
	case size == f.size:
		return nil
	case size < f.size && b.switches.Shrink == Ignored:
		return nil
	case size < f.size && b.switches.Shrink == Refused:
		return b.failure(placeSet, "can not shrink file")
	case size > f.size && d.export && b.switches.GrowExported == Refused:
		return b.failure(placeSet, "device is busy")
	}
	if err := b.resize(r, placeSet, f, size); err != nil {
		return err
	}
	if e := b.exports[d.subsystem(b.console.version)]; d.export && e != nil && b.switches.GrowExported == Done {
		e.size = size
		if b.phase == phaseUp {
			if err := b.opts.Backend.Announce(e.NQN); err != nil {
				return b.failure(placeSet, "%v", err)
			}
		}
	}
	return nil
}

func removeDisk(r *run, a *args) (value, error) {
	rows, err := a.items(r)
	if err != nil {
		return nil, err
	}
	b := r.box
	for _, row := range rows {
		d := of[*disk](row)
		switch {
		case d.pool != nil && !d.pool.Unmounted:
			return nil, b.failure(placeRemove, "device is in use")
		case d.export && b.switches.RemoveExported == Refused:
			return nil, b.failure(placeRemove, "device is in use")
		}
		if err := b.changeExport(placeRemove, d, &disk{}); err != nil {
			return nil, err
		}
		b.disks = slices.DeleteFunc(b.disks, func(o *disk) bool { return o == d })
		if f := d.file; f != nil && f.unlinked && b.userOf(f) == nil {
			b.release(f)
		}
	}
	return nil, nil // RouterOS' nothing
}

func switchDisk(disabled bool) func(*run, *args) (value, error) {
	return func(r *run, a *args) (value, error) {
		a.vals["disabled"] = strconv.FormatBool(disabled)
		return setDisk(r, a)
	}
}

func unsetDisk(r *run, a *args) (value, error) {
	name := a.str("value-name")
	if name != "comment" && name != "nvme-tcp-server-allow-host-name" && name != "nvme-tcp-server-nqn" {
		return nil, failf("input does not match any value of value-name")
	}
	delete(a.vals, "value-name")
	a.vals[name] = ""
	return setDisk(r, a)
}

// probe looks for a file system in a disk's file when it is attached and whenever its export ends, and mounts what it
// finds unless mount-filesystem=no: the array then writes to a file system that a node has mounted as well.
func (b *Box) probe(d *disk) {
	if d.file == nil {
		return
	}
	if found := b.opts.Backend.Probe(d.file.path); found != "" {
		d.file.guest = found
	}
	d.guestMounted = d.mountFS && !d.export && !d.disabled && d.file.guest != ""
}

// SetGuest says which file system a probe is to find in a file ("" for none), as if a node had formatted the volume.
func (b *Box) SetGuest(path, fs string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if f := b.files[clean(path)]; f != nil {
		f.guest = fs
	}
}
