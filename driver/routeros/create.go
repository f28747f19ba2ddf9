package routeros

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"srvlab.io/rds-csi/safety"
)

// CreateSpec says what to create.
type CreateSpec struct {
	Slot      safety.Slot
	SizeBytes int64 // a multiple of 1 MiB
	PV        string
}

// The words of the guards.
const (
	stopExists      = "exists"       // the slot is taken
	stopGone        = "gone"         // the slot is empty
	stopChanged     = "changed"      // the comment is not the one that the caller read
	stopPool        = "pool"         // the pool is not as it was when it was read last
	stopNoSpace     = "no-space"     // the pool's free space is too small
	stopNoDirectory = "no-directory" // the volumes' directory is not there, or not to be seen
	stopFile        = "file"         // the file is there
	stopLarger      = "larger"       // the disk is larger than asked for
)

// Create makes a disk: one line with its guards, the disk, and the row back. With ErrExists it also gives the disk
// that is there already if that one is ours, so that a create whose answer was lost ends well in one more call; the
// zero Disk with ErrExists is a file without a disk, which nobody here may use or remove.
func (a *Array) Create(ctx context.Context, spec CreateSpec) (Disk, error) {
	op := "create disk " + string(spec.Slot)
	if _, _, err := safety.ParseSlot(string(spec.Slot)); err != nil {
		return Disk{}, a.misuse(op, err)
	}
	if spec.SizeBytes <= 0 || spec.SizeBytes%mebibyte != 0 {
		return Disk{}, a.misuse(op, fmt.Errorf("size of %d bytes is no multiple of 1 MiB", spec.SizeBytes))
	}
	pool, err := a.place(ctx)
	if err != nil {
		return Disk{}, err
	}
	// Two things in the way can be cleared up at once: the pool is mounted elsewhere than when it was read last, and
	// the directory is not there.
	for range 3 {
		d, again, err := a.create(ctx, op, pool, spec)
		switch again {
		case stopPool:
			pool, err = a.placeAgain(ctx)
		case stopNoDirectory:
			err = a.makeDirectory(ctx, pool)
		default:
			return d, err
		}
		if err != nil {
			return Disk{}, err
		}
	}
	return Disk{}, a.misuse(op, errors.New("the pool's mount point or the directory on it keeps changing"))
}

// misuse is the error of a call that makes no sense or leads nowhere.
func (a *Array) misuse(op string, err error) error {
	return &Error{Array: a.config.Name, Op: op, Kind: ErrUnknown, Err: err}
}

// create sends the line and settles what came of it. again is the guard that ended the line if Create can do
// something about it.
func (a *Array) create(ctx context.Context, op string, pool Pool, spec CreateSpec) (d Disk, again string, err error) {
	n := creation{array: a, spec: spec, layout: a.layout(pool, spec.Slot)}
	n.mark = Mark{NQN: a.prefix.Export(spec.Slot.UUID(), 0), Cluster: a.cluster, PV: spec.PV}.String()
	c, err := a.send(ctx, op, n.script(pool))
	if err != nil {
		return Disk{}, "", err
	}
	switch c.reply.stop {
	case stopPool, stopNoDirectory:
		return Disk{}, c.reply.stop, nil
	case "":
		d, err = a.settled(ctx, c, spec.Slot, n.wanted)
		if err != nil || !n.isRow(d, c.reply.added) {
			d, err = n.failed(ctx, c, d, err)
		}
	default:
		d, err = n.stopped(ctx, c)
	}
	return d, "", err
}

// creation is one create under way.
type creation struct {
	array  *Array
	spec   CreateSpec
	layout layout
	mark   string
}

func (n creation) script(pool Pool) *script {
	slot, l := string(n.spec.Slot), n.layout
	poolItem := bySlot(n.array.config.Pool)
	s := newScript()
	s.stopIf("[:len "+bySlot(slot)+"] > 0", stopExists)
	s.stopIf("[/disk/get "+poolItem+" fs] != "+quote(pool.FS), stopPool)
	s.stopIf("[/disk/get "+poolItem+" mount-point] != "+quote(pool.MountPoint), stopPool)
	// "not at least" also stops where the pool tells no free space at all.
	s.stopIf("!([/disk/get "+poolItem+" free] >= "+number(spaceFor(n.spec.SizeBytes))+")", stopNoSpace)
	s.seeDirectory(l)
	s.seeFile(l)
	s.stopIf("$rdsFile", stopFile)
	s.pass()
	if l.subvolume != "" {
		// An empty one may be left of a create that was cut off; the guards have shown that it has no file.
		s.add(":if ([:len " + l.bySubvolume() + "] = 0) do={ /disk/btrfs/subvolume/add" +
			attribute("name", l.subvolume) + attribute("fs", l.label) + " }")
	}
	// mount-filesystem defaults to yes: RouterOS would mount the file system of the volume's user.
	s.add(":put [/disk/add type=file"+attribute("file-path", l.file)+" file-size="+number(n.spec.SizeBytes)+
		attribute("slot", slot)+" mount-filesystem=no nvme-tcp-export=no"+attribute("comment", n.mark)+"]",
		printSlot(slot))
	return s
}

// seeDirectory adds the guard that the volumes' directory can be seen. It is what makes "no such file" of the next
// look-up mean just that: the same command has just found something in the same place with the same rights. It is
// also the proof that the pool is mounted.
func (s *script) seeDirectory(l layout) {
	s.stopOnError(":local rdsType [/file/get "+quote(l.directory)+" type]", stopNoDirectory)
}

// seeFile sets $rdsFile to whether the file is there. /file is asked for one name: a list, even with "where name=",
// walks the whole tree.
func (s *script) seeFile(l layout) {
	s.add(":local rdsFile true",
		":do { :local rdsSize [/file/get "+quote(l.file)+" size] } on-error={ :set rdsFile false }")
}

// bySubvolume gives the expression for the item number of the volume's subvolume.
func (l layout) bySubvolume() string {
	return "[/disk/btrfs/subvolume/find where name=" + quote(l.subvolume) + " and fs=" + quote(l.label) + "]"
}

// wanted tells what is wrong with the row.
func (n creation) wanted(d Disk) error {
	return expect(
		"comment", d.Comment, n.mark,
		"size", number(d.SizeBytes), number(n.spec.SizeBytes),
		"file", d.Path, n.layout.file,
		"export", strconv.FormatBool(d.Exported), "false",
		"mount-filesystem", strconv.FormatBool(d.guest), "false",
	)
}

// isRow tells whether d is the row that add made. Should the device make a second disk of another slot instead of
// refusing the duplicate (gap 5), then the row in the slot is an older one.
func (n creation) isRow(d Disk, added string) bool { return added == "" || d.ID == "" || d.ID == added }

// stopped gives the error for a guard.
func (n creation) stopped(ctx context.Context, c call) (Disk, error) {
	a := n.array
	switch c.reply.stop {
	case stopExists:
		d, err := a.Disk(ctx, n.spec.Slot)
		if errors.Is(err, ErrNotFound) {
			return Disk{}, c.fail(ErrConflict, errors.New("the disk that was in the way has gone"))
		}
		if err != nil {
			return Disk{}, err
		}
		return d, c.fail(ErrExists, nil)
	case stopFile:
		// Either the row of an add whose answer was lost has yet to show, or there is a file without a disk: left by
		// a delete or a create that was cut off, or somebody's.
		d, err := a.await(ctx, n.spec.Slot, func(Disk) error { return nil })
		if err != nil && !errors.Is(err, ErrNotFound) {
			return Disk{}, err
		}
		return d, c.fail(ErrExists, fmt.Errorf("the file %s is there without a disk; what is in it is unknown, so it is "+
			"neither used nor removed: look at it, and remove it with /file/remove %s", n.layout.file, quote(n.layout.file)))
	case stopNoSpace:
		return Disk{}, n.noSpace(ctx, c)
	default:
		return Disk{}, c.fail(ErrUnknown, fmt.Errorf("stopped at %q", c.reply.stop))
	}
}

func (n creation) noSpace(ctx context.Context, c call) error {
	size := n.spec.SizeBytes
	need := fmt.Sprintf("%d bytes and %d for the file system's own use", size, spaceFor(size)-size)
	if p, err := n.array.Pool(ctx); err == nil {
		return c.fail(ErrNoSpace, fmt.Errorf("asked for %s, the pool has %d free", need, p.FreeBytes))
	}
	return c.fail(ErrNoSpace, fmt.Errorf("asked for %s", need))
}

// failed tells by reading back why no row as wanted came of the line, and takes back what the line itself has made.
// d and err are what was seen of the slot.
func (n creation) failed(ctx context.Context, c call, d Disk, err error) (Disk, error) {
	a := n.array
	var wrong *mismatch
	missing, foreign := errors.Is(err, ErrNotFound), errors.Is(err, ErrForeign)
	if err != nil && !missing && !foreign && !errors.As(err, &wrong) {
		return Disk{}, afterSending(err)
	}
	undone := n.takeBack(ctx, c, err != nil)
	switch {
	case err == nil: // the row is as wanted, and older than this add
		return d, c.fail(ErrExists, undone)
	case foreign:
		return Disk{}, c.fail(ErrForeign, errors.Join(err, undone))
	case wrong != nil:
		return Disk{}, c.fail(ErrUnknown, errors.Join(wrong, undone))
	}
	if p, err := a.Pool(ctx); err == nil && p.FreeBytes < spaceFor(n.spec.SizeBytes) || c.reply.saysNoSpace() {
		return Disk{}, n.noSpace(ctx, c)
	}
	return Disk{}, a.diagnose(ctx, c, undone)
}

// takeBack removes the row that this line added and, if asked to, the file, unless a disk of ours uses it. It does so
// only for a line that had passed its guards: then nothing of it was there before. An error says what is left.
func (n creation) takeBack(ctx context.Context, c call, file bool) error {
	if !c.reply.passed {
		return nil
	}
	const op = "take back a create that failed"
	if id := c.reply.added; id != "" {
		if err := n.removeAdded(ctx, op, id); err != nil {
			return fmt.Errorf("the disk %s may be left: %w", id, err)
		}
	}
	if !file {
		return nil
	}
	// The slot itself may be somebody else's by now; what counts is that no disk of ours uses the file.
	ours := "[/disk/find where comment=" + quote(n.mark) + "]"
	if err := n.array.removeFile(ctx, op, ours, n.layout); err != nil {
		return fmt.Errorf("the file %s may be left: %w", n.layout.file, err)
	}
	return nil
}

// removeAdded removes the disk that add has just numbered, which may take its time to show.
func (n creation) removeAdded(ctx context.Context, op, id string) error {
	limited, cancel := context.WithTimeout(ctx, n.array.settle.limit)
	defer cancel()
	s := newScript()
	s.stopIf("[:len [/disk/find where .id="+id+"]] = 0", stopGone)
	s.stopIf("[/disk/get "+id+" comment] != "+quote(n.mark), stopChanged)
	s.add("/disk/remove " + id)
	for {
		c, err := n.array.send(ctx, op, s)
		switch {
		case err != nil || c.reply.done:
			return err
		case c.reply.stop != stopGone:
			return c.fail(ErrUnknown, nil)
		case sleep(limited, n.array.settle.pause) != nil:
			return ctx.Err() // it never showed
		}
	}
}

// makeDirectory makes the directory of the volumes, each level of it, and proves that it is there.
func (a *Array) makeDirectory(ctx context.Context, pool Pool) error {
	const op = "make directory"
	path := pool.MountPoint
	// The mount point itself must be seen first: on a pool that is not mounted the directories would be made on the
	// array's internal flash.
	s := newScript()
	s.stopOnError(":local rdsType [/file/get "+quote(path)+" type]", stopPool)
	for part := range strings.SplitSeq(a.config.Directory, "/") {
		path += "/" + part
		s.add(":do { :local rdsType [/file/get " + quote(path) + " type] } on-error={ /file/add type=directory" +
			attribute("name", path) + " }")
	}
	s.stopOnError(":local rdsType [/file/get "+quote(path)+" type]", stopNoDirectory)
	c, err := a.send(ctx, op, s)
	switch {
	case err != nil:
		return err
	case c.reply.stop == stopPool:
		return c.fail(ErrUnsupported, fmt.Errorf("the pool's mount point %s cannot be seen in /file; is the pool "+
			"mounted?", pool.MountPoint))
	case !c.reply.done:
		return a.diagnose(ctx, c, fmt.Errorf("the directory %s is not there and could not be made", path))
	}
	return nil
}
