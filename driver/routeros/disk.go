package routeros

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"srvlab.io/rds-csi/safety"
)

// Disk is a disk of ours as its row shows it.
type Disk struct {
	ID        string // RouterOS's item number "*1F": good until the array restarts
	Slot      safety.Slot
	Path      string // the file behind it, without leading slash
	SizeBytes int64  // 0: the array does not tell
	Exported  bool
	NQN       safety.NQN // as exported; RouterOS shows it only while the disk is exported
	AllowHost string     // the host NQN that may connect, "" for any; shown only while the disk is exported
	Port      uint16     // shown only while the disk is exported
	Comment   string
	Mark      Mark

	guest bool // mount-filesystem: RouterOS would mount what the volume's user has made
}

// Disk reads one disk. ErrNotFound: the array has no disk in that slot. ErrForeign: it has one that is not ours.
func (a *Array) Disk(ctx context.Context, slot safety.Slot) (Disk, error) {
	c, rows, err := a.look(ctx, "read disk "+string(slot), printSlot(string(slot)))
	if err != nil {
		return Disk{}, err
	}
	return a.only(c, rows, slot)
}

// only gives the one disk that the rows must hold.
func (a *Array) only(c call, rows []row, slot safety.Slot) (Disk, error) {
	switch len(rows) {
	case 0:
		return Disk{}, c.fail(ErrNotFound, nil)
	case 1:
	default:
		return Disk{}, c.fail(ErrUnknown, fmt.Errorf("%d disks in one slot", len(rows)))
	}
	if got := rows[0].text("slot"); got != string(slot) {
		return Disk{}, c.fail(ErrUnknown, fmt.Errorf("asked for the slot %s, got the row of %q", slot, got))
	}
	d, err := a.ours(rows[0])
	if err != nil {
		return Disk{}, c.fail(ErrForeign, err)
	}
	return d, nil
}

// Disks reads all disks that are ours, sorted by slot. Others' are left out without a word.
func (a *Array) Disks(ctx context.Context) ([]Disk, error) {
	_, rows, err := a.look(ctx, "list disks", asJSON("/disk/print detail as-value where slot~"+quote("^pvc-")))
	if err != nil {
		return nil, err
	}
	return a.allOurs(rows), nil
}

func (a *Array) allOurs(rows []row) []Disk {
	var disks []Disk
	for _, r := range rows {
		if d, err := a.ours(r); err == nil {
			disks = append(disks, d)
		}
	}
	slices.SortFunc(disks, func(x, y Disk) int { return cmp.Compare(x.Slot, y.Slot) })
	return disks
}

// owns tells why a disk is not ours. It is if slot and comment are what this installation writes and agree with each
// other: a mark copied to another disk (copy-from copies comments) does not make that disk ours.
func (a *Array) owns(d Disk) error {
	_, uuid, err := safety.ParseSlot(string(d.Slot))
	if err != nil {
		return err
	}
	mark, err := ParseMark(d.Comment)
	if err != nil {
		return err
	}
	owner, _, ok := a.prefix.Split(mark.NQN)
	if !ok {
		return fmt.Errorf("the NQN %q in its comment is not of the managed prefix %s", mark.NQN, a.prefix)
	}
	if owner != uuid {
		return fmt.Errorf("its comment is that of the volume %s", owner)
	}
	return nil
}

// ours reads a row.
func (a *Array) ours(r row) (Disk, error) {
	d := Disk{Slot: safety.Slot(r.text("slot")), Comment: r.text("comment")}
	if err := a.owns(d); err != nil {
		return Disk{}, err
	}
	mark, err := ParseMark(d.Comment)
	if err != nil {
		return Disk{}, err
	}
	size, ok := r.bytes("size")
	if !ok {
		size, _ = r.bytes("file-size")
	}
	d.ID, d.Path, d.SizeBytes, d.Mark = r.text(".id"), r.path(), size, mark
	d.Exported, d.guest = r.flag("nvme-tcp-export"), r.flag("mount-filesystem")
	if d.Exported {
		d.NQN = safety.NQN(r.text("nvme-tcp-server-nqn"))
		d.AllowHost = r.text("nvme-tcp-server-allow-host-name")
		port, _ := strconv.ParseUint(r.text("nvme-tcp-server-port"), 10, 16)
		d.Port = uint16(port)
	}
	return d, nil
}

// path gives the row's file as /file names it: /disk shows a leading slash that /file does not have. Taking the two
// for different things once made an orphan cleaner delete 114 live files.
func (r row) path() string { return strings.TrimPrefix(r.text("file-path"), "/") }
