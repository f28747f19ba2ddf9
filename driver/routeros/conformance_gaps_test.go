package routeros

import (
	"context"
	"errors"
	"strings"
	"time"

	"srvlab.io/rds-csi/safety"
)

// names is about slots and the words of errors (gaps 1 and 5).
func (s *suite) names(ctx context.Context) {
	slot := s.slot("one")
	s.rawAdd(ctx, slot, s.file("one"), 32*mebibyte)
	s.settle(ctx, slot)
	r := s.rawAdd(ctx, slot, s.file("two"), 32*mebibyte)
	position := ""
	if r.done {
		position = "suffixed"
		s.try(ctx, "/disk/remove "+r.added)
	}
	s.answer("duplicate-slot", "a slot that is taken is refused", position, "%s", r.text)
	position = ""
	switch {
	case strings.Contains(r.text, "action failed"):
		position = "generic"
	case strings.Contains(r.text, "(/disk"):
		position = "located"
	case !r.done && !strings.Contains(r.text, "failure:"):
		position = "bare"
	}
	s.answer("error-texts", `errors are "failure: …"`, position, "%s", r.text)

	r = s.rawAdd(ctx, s.slot("same"), s.file("one"), 32*mebibyte)
	position = ""
	if r.done {
		position = "allowed"
		s.settle(ctx, s.slot("same"))
	}
	s.answer("file-twice", "a file is attached to one disk only", position, "%s", r.text)

	long := s.slot(strings.Repeat("x", maxSlot+1-len(s.slot(""))))
	r = s.rawAdd(ctx, long, s.file("long"), 32*mebibyte)
	s.slots = append(s.slots, long[:maxSlot])
	position = ""
	if r.done {
		position = "unlimited"
		if s.sizeIn(ctx, long[:maxSlot]) >= 0 {
			position = "truncated"
		}
	}
	s.answer("slot-length", "a slot of 33 characters is refused", position, "%s", r.text)
}

// filesAndSpace is about files, directories and free space (gaps 3 and 10, and section 4).
func (s *suite) filesAndSpace(ctx context.Context) {
	directory := s.pool.MountPoint + "/" + s.array.config.Directory + "/" + s.tag + "-missing"
	s.files = append(s.files, directory)
	r := s.rawAdd(ctx, s.slot("deep"), directory+"/x.img", 32*mebibyte)
	s.files = append(s.files, directory) // again behind the file in it
	position := ""
	if r.done {
		position = "created"
	}
	s.answer("parent-directory", "add below a directory that is not there is refused", position, "%s", r.text)

	slot, file := s.slot("kept"), s.file("kept")
	s.rawAdd(ctx, slot, file, 32*mebibyte)
	s.settle(ctx, slot)
	r = s.try(ctx, "/disk/remove "+bySlot(slot), ":put [/file/get "+quote(file)+" size]")
	s.relied("removing a disk leaves its file", r.done, "size %s", r.text)
	before, err := s.array.Pool(ctx)
	must(s.t, err)
	began := time.Now()
	r = s.try(ctx, "/file/remove "+quote(file))
	took := time.Since(began)
	s.relied("/file/remove takes one exact name", r.done, "%s", r.text)
	r = s.try(ctx, ":local x [/file/get "+quote(file)+" size]")
	s.relied("a file that was removed is gone at once", !r.done, "%s", r.text)
	after, err := s.array.Pool(ctx)
	must(s.t, err)
	position = ""
	if after.FreeBytes <= before.FreeBytes && s.thick() {
		position = "delayed"
	}
	s.answer("space-return", "the space of a removed file is free at once", position, "%d more, remove took %s", after.FreeBytes-before.FreeBytes, took.Round(time.Millisecond))

	slot, file = s.slot("busy"), s.file("busy")
	s.rawAdd(ctx, slot, file, 32*mebibyte)
	s.settle(ctx, slot)
	r = s.try(ctx, "/file/remove "+quote(file))
	position = ""
	if !r.done {
		position = "refused"
	}
	s.answer("remove-attached-file", "the file of a disk can be removed below it", position, "%s", r.text)

	r = s.rawAdd(ctx, s.slot("huge"), s.file("huge"), s.pool.SizeBytes*2/mebibyte*mebibyte)
	s.drop(ctx, s.slot("huge"))
	s.relied("a file that is larger than the pool is refused", !r.done || !s.thick(), "%s", r.text)
}

// thick tells what was found out about accounting.
func (s *suite) thick() bool { return !strings.Contains(s.switches(), "accounting=thin") }

// subvolumes is about btrfs, where the pool is one (gap 11).
func (s *suite) subvolumes(ctx context.Context) {
	const made, frozen = "a subvolume is made, found and removed by its name", "/file/remove inside a read-only subvolume is refused"
	if s.pool.FS != btrfs {
		s.unknown(made, false, "the pool is %s", s.pool.FS)
		s.unknown(frozen, false, "the pool is %s", s.pool.FS)
		return
	}
	name := s.array.config.Directory + "/" + s.tag
	own, snapshot := layout{subvolume: name, label: s.pool.Label}, layout{subvolume: name + "-snapshot", label: s.pool.Label}
	add := func(l layout, more string) string {
		return "/disk/btrfs/subvolume/add" + attribute("name", l.subvolume) + attribute("fs", l.label) + more
	}
	remove := func(l layout) string { return "/disk/btrfs/subvolume/remove " + l.bySubvolume() }

	there := s.try(ctx, add(own, ""), ":put [:len "+own.bySubvolume()+"]")
	seen := s.try(ctx, ":put [/file/get "+quote(s.pool.MountPoint+"/"+own.subvolume)+" type]")
	s.relied("a subvolume is a directory of /file", seen.done, "%s", seen.text)

	slot := s.slot("sub")
	s.rawAdd(ctx, slot, s.pool.MountPoint+"/"+own.subvolume+"/x.img", 32*mebibyte)
	s.settle(ctx, slot)
	s.drop(ctx, slot)
	copied := quote(s.pool.MountPoint + "/" + snapshot.subvolume + "/x.img")
	r := s.try(ctx, add(snapshot, attribute("parent", own.subvolume)+" read-only=yes"), ":put [/file/get "+copied+" size]")
	if r.done {
		r = s.try(ctx, "/file/remove "+copied)
		position := ""
		if r.done {
			position = "silent"
		}
		s.answer("remove-in-snapshot", frozen, position, "%s", r.text)
	} else {
		s.unknown(frozen, false, "no snapshot: %s", r.text)
	}
	s.try(ctx, remove(snapshot))
	gone := s.try(ctx, remove(own), ":put [:len "+own.bySubvolume()+"]")
	s.relied(made, there.text == "1" && gone.done && gone.text == "0", "%s, with a file in it then %s", there.text, gone.text)
}

// exports is about what can be seen of an export over SSH.
func (s *suite) exports(ctx context.Context) {
	d := s.volume(ctx, "exports", 32*mebibyte)
	nqn := s.array.prefix.Export(d.Slot.UUID(), 1)
	d, err := s.array.Publish(ctx, d, ExportSpec{NQN: nqn, AllowHost: hostA, Nodes: []string{"a"}})
	s.relied("NQN, host, port and export are set together and shown", err == nil, "%s, host %s, port %d, %v", d.NQN, d.AllowHost, d.Port, err)
	must(s.t, err)
	d, err = s.array.Reopen(ctx, d, "", []string{"a", "b"})
	s.relied("the host changes while the export stays", err == nil && d.AllowHost == "", "%v", err)
	must(s.t, err)
	item := bySlot(string(d.Slot))
	r := s.try(ctx, "/disk/remove "+item)
	position := ""
	if !r.done {
		position = "refused"
	}
	s.answer("remove-exported", "a disk that is exported can be removed", position, "%s", r.text)

	d = s.volume(ctx, "off", 32*mebibyte)
	item = bySlot(string(d.Slot))
	r = s.try(ctx, "/disk/set "+item+attribute("nvme-tcp-server-nqn", string(s.array.prefix.Export(d.Slot.UUID(), 7))))
	position = ""
	if !r.done {
		position = "refused"
	}
	on := s.try(ctx, "/disk/set "+item+" nvme-tcp-export=yes", printSlot(string(d.Slot)))
	shown := ""
	if rows, err := on.rows(); err == nil && len(rows) == 1 {
		shown = rows[0].text("nvme-tcp-server-nqn")
	}
	if r.done && !strings.HasSuffix(shown, ".g7") {
		position = "forgotten"
	}
	s.answer("nqn-while-off", "an NQN set while the export is off counts from the next export on", position, "%s; then exported as %s", r.text, shown)
	r = s.try(ctx, "/disk/set "+item+attribute("nvme-tcp-server-nqn", "conformance-no-nqn"))
	position = ""
	if !r.done {
		position = "refused"
	}
	s.answer("invalid-nqn", "any text is taken for an NQN", position, "%s", r.text)
}

// fence is about what an initiator meets at the portal. It decides whether publish is a fence.
func (s *suite) fence(ctx context.Context) {
	d := s.volume(ctx, "fence", 32*mebibyte)
	first, second := s.array.prefix.Export(d.Slot.UUID(), 1), s.array.prefix.Export(d.Slot.UUID(), 2)
	d, err := s.array.Publish(ctx, d, ExportSpec{NQN: first, AllowHost: hostA, Nodes: []string{"a"}})
	must(s.t, err)
	const hostLock, change = "only the allowed host may connect", "changing the allowed host leaves live connections alone"
	const generation, live = "an old generation's NQN is refused", "a new generation ends live connections"
	const exportOff, model = "the end of the export ends live connections", "model and serial are the kernel's own"
	a, err := connect(ctx, s.portal, first, hostA)
	if err != nil {
		var refused statusError
		if errors.As(err, &refused) {
			s.relied("the allowed host may connect", false, "%v", err)
		}
		for _, what := range []string{"the allowed host may connect", hostLock, change, generation, live, exportOff, model} {
			s.unknown(what, true, "portal %s: %v", s.portal, err)
		}
		return
	}
	defer a.close()
	s.relied("the allowed host may connect", true, "connected")
	s.host(ctx, first, hostLock)
	id, err := a.identify(ctx)
	position := ""
	if id.model != "Linux" {
		position = "text"
	}
	s.answer("target-model", model, position, "model %q, serial %q, firmware %q, %d namespaces, %d commands, %v",
		id.model, id.serial, id.firmware, id.namespaces, id.maxCommands, err)

	d, err = s.array.Reopen(ctx, d, hostB, []string{"a", "b"})
	must(s.t, err)
	position = ""
	if !s.stays(ctx, a) {
		position = "ends"
	}
	s.answer("allow-host-change", change, position, "still answers: %t", position == "")

	b, err := connect(ctx, s.portal, first, hostB)
	if err != nil {
		s.relied("the host that was let in may connect", false, "%v", err)
	} else {
		defer b.close()
	}
	d, err = s.array.Publish(ctx, d, ExportSpec{NQN: second, AllowHost: hostB, Nodes: []string{"b"}})
	must(s.t, err)
	s.relied(live, b == nil || !s.stays(ctx, b), "the old connection is gone")
	old, err := connect(ctx, s.portal, first, hostB)
	s.relied(generation, err != nil, "%v", err)
	if err == nil {
		old.close()
	}
	last, err := connect(ctx, s.portal, second, hostB)
	s.relied("the new generation's NQN is there", err == nil, "%v", err)
	_, errOff := s.array.Unpublish(ctx, d, nil)
	must(s.t, errOff)
	if err == nil {
		defer last.close()
		s.relied(exportOff, !s.stays(ctx, last), "the connection is gone")
	}
}

// host tries to connect as another host.
func (s *suite) host(ctx context.Context, nqn safety.NQN, assumption string) {
	wrong, err := connect(ctx, s.portal, nqn, hostB)
	var refused statusError
	switch {
	case err == nil:
		wrong.close()
		s.answer("allow-host", assumption, "ignored", "another host is let in; set allowHost: false in arrays.yaml")
	case errors.As(err, &refused):
		s.answer("allow-host", assumption, "", "another host is %v", err)
	default:
		s.unknown(assumption, true, "%v", err)
	}
}

// stays tells whether a connection still answers a moment later: an end takes its time.
func (s *suite) stays(ctx context.Context, i *initiator) bool {
	for range 10 {
		if !i.alive() || sleep(ctx, 100*time.Millisecond) != nil {
			return false
		}
	}
	return true
}

// endings is about delete.
func (s *suite) endings(ctx context.Context) {
	d := s.volume(ctx, "endings", 32*mebibyte)
	err := s.array.Delete(ctx, d.Slot)
	_, gone := s.array.Disk(ctx, d.Slot)
	s.relied("delete removes disk and file", err == nil && errors.Is(gone, ErrNotFound), "%v", err)
	s.relied("a second delete finds nothing to do", s.array.Delete(ctx, d.Slot) == nil, "")
}

// untried is what would do harm on a device that others use.
func (s *suite) untried(context.Context) {
	s.unknown("the session beyond max-sessions is dropped", false, "not tried: it would lock others out")
	s.unknown("a missing argument is asked for", false, "not tried: the line would hang")
}
