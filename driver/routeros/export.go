package routeros

import (
	"context"
	"errors"
	"fmt"
	"strconv"

	"srvlab.io/rds-csi/safety"
)

// ExportSpec says how to export a disk.
type ExportSpec struct {
	NQN       safety.NQN
	AllowHost safety.NQN // the one host that may connect, "" for any; ignored where arrays.yaml says allowHost: false
	Nodes     []string   // the CSI node IDs that hold the volume, for the mark
	Mode      string     // the access mode, for the mark; "" for none
}

// Publish exports the disk under a new NQN. The export is off before anything changes, which ends every connection
// that there was; the new NQN, host and mark are set together with the export. It is done only if the mark is still
// the one in old, else it is ErrConflict, and it succeeds if the disk is already as asked: that is the second call
// after a lost answer.
func (a *Array) Publish(ctx context.Context, old Disk, spec ExportSpec) (Disk, error) {
	if v, _, ok := a.prefix.Split(spec.NQN); !ok || v != old.Slot.UUID() {
		return Disk{}, a.misuse("publish disk "+string(old.Slot), fmt.Errorf("the NQN %s is not of this volume and "+
			"prefix", spec.NQN))
	}
	mark := old.Mark
	mark.NQN, mark.Nodes, mark.Mode = spec.NQN, spec.Nodes, spec.Mode
	host := a.allowHost(spec.AllowHost)
	e := change{array: a, verb: "publish", old: old, mark: mark, exported: true, nqn: spec.NQN, host: host}
	return e.do(ctx,
		"/disk/set "+e.item()+" nvme-tcp-export=no",
		"/disk/set "+e.item()+attribute("nvme-tcp-server-nqn", string(spec.NQN))+
			attribute("nvme-tcp-server-allow-host-name", string(host))+
			" nvme-tcp-server-port="+number(int64(a.portal.Port()))+
			attribute("comment", mark.String())+" nvme-tcp-export=yes")
}

// Reopen changes who may connect, and the mark, while the export stays up: the window in which two nodes hold the
// volume for a live migration.
func (a *Array) Reopen(ctx context.Context, old Disk, allowHost safety.NQN, nodes []string) (Disk, error) {
	if !old.Exported {
		return Disk{}, a.misuse("reopen disk "+string(old.Slot), errors.New("it is not exported"))
	}
	mark := old.Mark
	mark.Nodes = nodes
	host := a.allowHost(allowHost)
	e := change{array: a, verb: "reopen", old: old, mark: mark, exported: true, nqn: old.NQN, host: host}
	return e.do(ctx, "/disk/set "+e.item()+
		attribute("nvme-tcp-server-allow-host-name", string(host))+attribute("comment", mark.String()))
}

// Unpublish ends the export. nodes are those that the mark shall still name, normally none; the mode goes with the
// last of them.
func (a *Array) Unpublish(ctx context.Context, old Disk, nodes []string) (Disk, error) {
	mark := old.Mark
	mark.Nodes = nodes
	if len(nodes) == 0 {
		mark.Mode = ""
	}
	e := change{array: a, verb: "unpublish", old: old, mark: mark}
	return e.do(ctx, "/disk/set "+e.item()+" nvme-tcp-export=no"+attribute("comment", mark.String()))
}

// HostLock tells whether an export lets in one host only: allowHost in arrays.yaml. Without it the generation in the
// NQN is the only fence.
func (a *Array) HostLock() bool { return a.config.NVMe.AllowHost == nil || *a.config.NVMe.AllowHost }

func (a *Array) allowHost(host safety.NQN) safety.NQN {
	if !a.HostLock() {
		return ""
	}
	return host
}

// change is a change of a disk's export under way.
type change struct {
	array    *Array
	verb     string
	old      Disk
	mark     Mark
	exported bool
	nqn      safety.NQN
	host     safety.NQN
}

func (e change) item() string { return unchanged(e.old) }

// errOvertaken: the mark is neither the one that was read nor the one that was to be set. Waiting does not help.
var errOvertaken = errors.New("somebody else has set another mark")

// wanted tells what is wrong with the row.
func (e change) wanted(d Disk) error {
	if d.Comment != e.old.Comment && d.Comment != e.mark.String() {
		return errOvertaken
	}
	fields := []string{
		"comment", d.Comment, e.mark.String(),
		"export", strconv.FormatBool(d.Exported), strconv.FormatBool(e.exported),
	}
	if e.exported {
		fields = append(fields,
			"NQN", string(d.NQN), string(e.nqn),
			"allowed host", d.AllowHost, string(e.host),
			"port", strconv.Itoa(int(d.Port)), strconv.Itoa(int(e.array.portal.Port())))
	}
	return expect(fields...)
}

// do sends the line and settles what came of it.
func (e change) do(ctx context.Context, statements ...string) (Disk, error) {
	a, slot := e.array, e.old.Slot
	if err := a.owns(e.old); err != nil {
		return Disk{}, a.misuse(e.verb+" disk "+string(slot), err)
	}
	s := newScript()
	s.compareComment(e.old)
	s.pass()
	s.add(statements...)
	s.add(printSlot(string(slot)))
	c, err := a.send(ctx, e.verb+" disk "+string(slot), s)
	if err != nil {
		return Disk{}, err
	}
	if c.reply.stop != "" {
		d, err := a.stoppedChange(ctx, c, slot, e.wanted)
		return d, err
	}
	d, err := a.settled(ctx, c, slot, e.wanted)
	var wrong *mismatch
	switch {
	case err == nil:
		return d, nil
	case errors.Is(err, errOvertaken):
		return Disk{}, c.fail(ErrConflict, err)
	case !errors.As(err, &wrong):
		return Disk{}, afterSending(err)
	case !c.reply.done:
		return Disk{}, a.diagnose(ctx, c, wrong)
	}
	// The device took the command and did something else. An export that lets in whom it should not is not left open.
	return Disk{}, c.fail(ErrUnsupported, errors.Join(wrong, e.shut(ctx, d)))
}

// shut ends an export that is not as asked.
func (e change) shut(ctx context.Context, d Disk) error {
	if !e.exported || !d.Exported {
		return nil
	}
	s := newScript()
	s.compareComment(d)
	s.add("/disk/set " + unchanged(d) + " nvme-tcp-export=no")
	c, err := e.array.send(ctx, "end the export of disk "+string(d.Slot), s)
	if err == nil && !c.reply.done {
		err = c.fail(ErrUnknown, errors.New("the disk is left exported"))
	}
	return err
}

// compareComment adds the guards of compare-and-set: the disk is there, and its comment is the one that was read.
func (s *script) compareComment(old Disk) {
	item := bySlot(string(old.Slot))
	s.stopIf("[:len "+item+"] = 0", stopGone)
	s.stopIf("[/disk/get "+item+" comment] != "+quote(old.Comment), stopChanged)
}

// stoppedChange gives what a guard's stop comes to: success if the disk is as wanted already, else why it is not.
func (a *Array) stoppedChange(ctx context.Context, c call, slot safety.Slot, wanted func(Disk) error) (Disk, error) {
	d, err := a.Disk(ctx, slot)
	if err != nil {
		return Disk{}, err
	}
	switch err := wanted(d); {
	case err == nil:
		return d, nil
	case c.reply.stop == stopNoSpace:
		return Disk{}, c.fail(ErrNoSpace, err)
	default:
		return Disk{}, c.fail(ErrConflict, err)
	}
}
