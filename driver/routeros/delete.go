package routeros

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"srvlab.io/rds-csi/safety"
)

// Delete ends the export, removes the disk, and removes the file by its exact name, because RouterOS keeps the file
// when its disk is removed. It is done when nothing of the volume is there any more, so a second call succeeds. A disk
// that is not ours, or whose file another disk uses, is ErrForeign, and nothing is touched.
func (a *Array) Delete(ctx context.Context, slot safety.Slot) error {
	op := "delete disk " + string(slot)
	if _, _, err := safety.ParseSlot(string(slot)); err != nil {
		return a.misuse(op, err)
	}
	pool, err := a.place(ctx)
	if err != nil {
		return err
	}
	c, rows, err := a.look(ctx, op, asJSON("/disk/print detail as-value"))
	if err != nil {
		return err
	}
	l := a.layout(pool, slot)
	d, err := a.only(c, inSlot(rows, slot), slot)
	found := err == nil
	if found {
		l, err = a.layoutOf(pool, d)
		if err != nil {
			return c.fail(ErrForeign, err)
		}
	} else if !errors.Is(err, ErrNotFound) {
		return err
	}
	if len(d.Mark.Nodes) > 0 {
		return c.fail(ErrConflict, fmt.Errorf("the volume is published to %s", strings.Join(d.Mark.Nodes, ", ")))
	}
	if err := unshared(rows, slot, l); err != nil {
		return c.fail(ErrForeign, err)
	}
	if found {
		return a.deleteDisk(ctx, op, d, l)
	}
	return a.removeFile(ctx, op, bySlot(string(slot)), l)
}

func inSlot(rows []row, slot safety.Slot) []row {
	var own []row
	for _, r := range rows {
		if r.text("slot") == string(slot) {
			own = append(own, r)
		}
	}
	return own
}

// unshared refuses a file that a disk in another slot uses: copy-from makes such disks.
func unshared(rows []row, slot safety.Slot, l layout) error {
	for _, r := range rows {
		if other := r.text("slot"); other != string(slot) && r.path() == l.file {
			return fmt.Errorf("its file %s is also that of the disk %q; remove that disk first", l.file, other)
		}
	}
	return nil
}

// layoutOf gives the place of a disk's file as its row tells it: the directory in arrays.yaml may be another one by
// now. The file must have the name that this driver gives it, because it is going to be removed.
func (a *Array) layoutOf(pool Pool, d Disk) (layout, error) {
	stem := "/" + d.Slot.FileStem()
	if parent, ok := strings.CutSuffix(d.Path, stem+fileEnd); ok && parent != "" {
		return layout{directory: parent, file: d.Path}, nil
	}
	if parent, ok := strings.CutSuffix(d.Path, stem+subvolumeFile); ok && parent != "" {
		name, _ := strings.CutPrefix(parent+stem, pool.MountPoint+"/")
		return layout{directory: parent, file: d.Path, subvolume: name, label: pool.Label}, nil
	}
	return layout{}, fmt.Errorf("its file is %q, which is no name that this driver gives", d.Path)
}

// deleteDisk sends the line that deletes, again where the device says that the disk or the file is still in use: the
// end of an export takes its time.
func (a *Array) deleteDisk(ctx context.Context, op string, d Disk, l layout) error {
	item := bySlot(string(d.Slot))
	s := newScript()
	s.stopIf("[:len "+item+"] = 0", stopGone)
	s.stopIf("[/disk/get "+item+" comment] != "+quote(d.Comment), stopChanged)
	s.seeDirectory(l)
	s.pass()
	s.add("/disk/set "+unchanged(d)+" nvme-tcp-export=no", "/disk/remove "+unchanged(d))
	s.stopIf("[:len "+item+"] > 0", stopExists)
	s.removeFile(l)

	c, err := a.persist(ctx, op, s)
	switch {
	case err != nil:
		return err
	case c.reply.done:
		return nil
	case c.reply.stop == stopChanged:
		return c.fail(ErrConflict, nil)
	case c.reply.stop == stopNoDirectory:
		return a.noDirectory(c, l)
	}
	// The disk went, by this line or somebody else's, and the file did not.
	_, err = a.Disk(ctx, d.Slot)
	switch {
	case errors.Is(err, ErrNotFound):
		return a.removeFile(ctx, op, item, l)
	case err != nil:
		return afterSending(err)
	}
	return a.diagnose(ctx, c, errors.New("the disk could not be removed"))
}

// removeFile removes a file that no disk uses. users is the expression for the disks that would.
func (a *Array) removeFile(ctx context.Context, op, users string, l layout) error {
	s := newScript()
	s.stopIf("[:len "+users+"] > 0", stopExists)
	s.seeDirectory(l)
	s.pass()
	s.removeFile(l)
	c, err := a.persist(ctx, op, s)
	switch {
	case err != nil:
		return err
	case c.reply.done:
		return nil
	case c.reply.stop == stopExists:
		return c.fail(ErrConflict, errors.New("a disk has appeared that uses the file"))
	case c.reply.stop == stopNoDirectory:
		return a.noDirectory(c, l)
	}
	return a.diagnose(ctx, c, fmt.Errorf("the file %s could not be removed", l.file))
}

// removeFile adds the removal of the volume's subvolume and file, each if it is there, and the proof that the file is
// gone.
func (s *script) removeFile(l layout) {
	if l.subvolume != "" {
		s.add(":if ([:len " + l.bySubvolume() + "] > 0) do={ /disk/btrfs/subvolume/remove " + l.bySubvolume() + " }")
		s.stopIf("[:len "+l.bySubvolume()+"] > 0", stopFile)
	}
	s.seeFile(l)
	s.add(":if ($rdsFile) do={ /file/remove "+quote(l.file)+" }",
		":set rdsFile true",
		":do { :local rdsSize [/file/get "+quote(l.file)+" size] } on-error={ :set rdsFile false }")
	s.stopIf("$rdsFile", stopFile)
}

// noDirectory is the error where the volumes' directory cannot be seen: whether the file is there is not known then.
// The pool is read anew by the next call.
func (a *Array) noDirectory(c call, l layout) error {
	a.pool.Store(nil)
	return c.fail(ErrUnknown, fmt.Errorf("the directory %s cannot be seen, so neither can the file %s; is the pool "+
		"mounted?", l.directory, l.file))
}

// persist sends a script that may be sent again, until it ends or a guard at its start stops it, for the time to
// settle.
func (a *Array) persist(ctx context.Context, op string, s *script) (call, error) {
	limited, cancel := context.WithTimeout(ctx, a.settle.limit)
	defer cancel()
	for {
		c, err := a.send(ctx, op, s)
		guarded := c.reply.stop != "" && !c.reply.passed
		if err != nil || c.reply.done || guarded || c.reply.saysPermission() || sleep(limited, a.settle.pause) != nil {
			return c, err
		}
	}
}
