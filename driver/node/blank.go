package node

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"srvlab.io/rds-csi/safety"
)

const (
	// proofSize is how much is read at either end of a device that is to be proven blank.
	proofSize = 1 << 20
	// readTime bounds one direct read or write, probeTime one look for signatures.
	readTime  = 30 * time.Second
	probeTime = 30 * time.Second
)

// The marker is written over zeros before mkfs starts and taken away after it has succeeded, always before the first
// mount. So a device that carries its own volume's marker has never held anybody's data, whatever a killed mkfs has
// left on it, and may be formatted again; without the marker it would be "not blank" for ever. It stands half a MiB
// before the end: mkfs.ext4 wipes the first 4 and the last 64 KiB at once, mkfs.xfs 128 KiB at either end, and neither
// has anything to write in the free space of the last group before that.
const (
	markerText   = "RDSCSI-FORMATTING "
	markerBack   = 512 << 10 // from the end of the device
	markerSector = 512       // the marker and zeros
	markerBlock  = 4096      // what is written at once: no disk has larger sectors
)

// marker gives the sector that says: this driver is formatting this volume.
func marker(slot safety.Slot) []byte {
	b := make([]byte, markerSector)
	copy(b, markerText+slot.UUID().String()+"\n")
	return b
}

// content is what a device that is to be mounted holds.
type content int

const (
	// unknown is never formatted and never mounted.
	unknown content = iota
	// blank: both ends are zero, and there is no signature.
	blank
	// halfMade: a format of ours was cut short; nobody has ever used the device.
	halfMade
	// wanted: it holds the file system that was asked for.
	wanted
	// wantedMarked: the same, and the marker: the driver was killed between the end of mkfs and the taking away.
	wantedMarked
)

// signature is what blkid found on a device; zero: nothing.
type signature struct {
	fsType string // of the file system
	text   string // all of it, for messages
}

// evidence is what was read of a device, each by a successful read.
type evidence struct {
	signature   signature
	first, last scan // of proofSize each
}

// scan is what is kept of a stretch of a device that was read: how much it was, whether all of it was zero, and the
// bytes of a window in it. It is an io.Writer, so that a program's output needs no memory of its size.
type scan struct {
	length int64
	data   bool // something was not zero
	from   int64
	kept   []byte // what stands at from; its length is the window's
}

// Write takes the next bytes.
func (s *scan) Write(p []byte) (int, error) {
	s.data = s.data || !zero(p)
	if begin, end := max(s.from, s.length), min(s.from+int64(len(s.kept)), s.length+int64(len(p))); begin < end {
		copy(s.kept[begin-s.from:], p[begin-s.length:end-s.length])
	}
	s.length += int64(len(p))
	return len(p), nil
}

// Of the start of a device its superblock is kept, of the end the place of the marker.
const superblocks = 2048

func firstScan() scan { return scan{kept: make([]byte, superblocks)} }

func lastScan() scan { return scan{from: proofSize - markerBack, kept: make([]byte, markerSector)} }

// judge tells what the evidence is evidence of.
func judge(e evidence, fsType string, slot safety.Slot) (content, error) {
	if e.first.length != proofSize || e.last.length != proofSize {
		return unknown, safety.Refuse(safety.BlankUnproven, errors.New("not both ends were read"))
	}
	marked := bytes.Equal(e.last.kept, marker(slot))
	switch {
	case marked && unfinished(e):
		return halfMade, nil
	case marked && e.signature.fsType == fsType:
		return wantedMarked, nil
	case e.signature.fsType == fsType:
		return wanted, nil
	case e.signature != (signature{}):
		return unknown, safety.Refuse(safety.NotBlank, fmt.Errorf("holds %s where %s was expected", e.signature.text, fsType))
	case e.first.data:
		return unknown, safety.Refuse(safety.NotBlank, fmt.Errorf("no signature, but data in the first %d bytes", proofSize))
	case e.last.data:
		return unknown, safety.Refuse(safety.NotBlank, fmt.Errorf("no signature, but data in the last %d bytes", proofSize))
	}
	return blank, nil
}

// Where the superblocks say that a file system is not finished, or was never mounted.
const (
	ext4Superblock = 1024
	ext4MountTime  = ext4Superblock + 0x2c // 4 bytes, s_mtime
	ext4MountCount = ext4Superblock + 0x34 // 2 bytes, s_mnt_count
	xfsInProgress  = 126                   // 1 byte, sb_inprogress: mkfs clears it last
)

// unfinished tells whether what is on a marked device may be made again. The marker alone says so; this is the
// second lock, for an array that loses the write that took the marker away and keeps later ones: a file system that
// has been mounted is not made again.
func unfinished(e evidence) bool {
	start := e.first.kept
	switch e.signature.fsType {
	case "":
		return e.signature == signature{}
	case fsExt4:
		return zero(start[ext4MountTime:ext4MountTime+4]) && zero(start[ext4MountCount:ext4MountCount+2])
	case fsXFS:
		return start[xfsInProgress] != 0
	}
	return false
}

func zero(b []byte) bool {
	for len(b) > 0 {
		n := min(len(b), len(zeros))
		if !bytes.Equal(b[:n], zeros[:n]) {
			return false
		}
		b = b[n:]
	}
	return true
}

var zeros [4096]byte

// pin is a hold of the device by which, until it is released, the kernel gives neither the device's name nor its number
// to another: every program that is started meanwhile meets this device or none.
type pin struct {
	*os.File
	programs runner
	slot     safety.Slot
}

// pin opens the device and then confirms that it is the volume's.
func (n *Node) pin(ctx context.Context, v volume, d device) (*pin, error) {
	f, err := openDevice(d, unix.O_RDONLY)
	if err != nil {
		return nil, err
	}
	if err := n.confirm(ctx, v, d); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return &pin{f, n.programs, v.Slot}, nil
}

// release ends the hold. Who closes a block device last waits for its page cache to be read and written. That must
// not be the driver, which would hang there while the array is away, with the volume's in-flight mark. A mounted
// device stays open by the mount; else a program gets the descriptor, too, and ends after the driver has closed its
// own.
func (p *pin) release(ctx context.Context, mounted bool) {
	if mounted {
		_ = p.Close() // nothing was written through it
		return
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	started, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		c := command{slot: p.slot, limit: pinTime, argv: []string{"sleep", "infinity"}, in: p.File, started: started}
		_, _ = p.programs.run(ctx, c) // it ends by being killed
	}()
	select {
	case <-started:
	case <-ended: // there is nobody to leave it to
	}
	_ = p.Close()
	cancel()
	<-ended
}

// pinTime is longer than any release takes.
const pinTime = time.Minute

// openDevice opens a device and checks its number. Opening reads nothing, so it does not wait for a dead path.
func openDevice(d device, flags int) (*os.File, error) {
	fd, err := unix.Open(d.path, flags|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: d.path, Err: err}
	}
	f := os.NewFile(uintptr(fd), d.path)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return nil, errors.Join(&os.PathError{Op: "fstat", Path: d.path, Err: err}, f.Close())
	}
	if st.Mode&unix.S_IFMT != unix.S_IFBLK || st.Rdev != d.dev.Rdev() {
		err := safety.Refuse(safety.WrongDevice, fmt.Errorf("%s is not the block device %s", d.path, d.dev))
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// claim is an exclusive hold of a device: the kernel gives it to one opener and refuses it while the device is mounted,
// mapped, or in the hands of a mkfs that an earlier call has left behind.
type claim struct {
	*os.File
	device
}

func (n *Node) claimDevice(d device) (*claim, error) {
	f, err := openDevice(d, unix.O_RDWR|unix.O_EXCL)
	if errors.Is(err, unix.EBUSY) {
		return nil, safety.Refuse(safety.DeviceBusy, fmt.Errorf("%s is in use by %s", d.path, n.users(d.dev)))
	}
	if err != nil {
		return nil, err
	}
	return &claim{f, d}, nil
}

// read reads length bytes past the page cache and gives them to w.
func (n *Node) read(ctx context.Context, slot safety.Slot, f *os.File, offset, length int64, w io.Writer) error {
	argv := []string{"dd", fmt.Sprintf("bs=%d", length), "count=1", "iflag=direct,fullblock", "status=none"}
	_, err := f.Seek(offset, io.SeekStart)
	if err == nil {
		_, err = n.programs.run(ctx, command{slot: slot, limit: readTime, argv: argv, in: f, out: w})
	}
	if err != nil {
		return safety.Refuse(safety.BlankUnproven, fmt.Errorf("read %d bytes of %s at %d: %w", length, f.Name(), offset, err))
	}
	return nil
}

// write writes past the page cache and has the array put it on stable storage.
func (n *Node) write(ctx context.Context, slot safety.Slot, c *claim, offset int64, data []byte) error {
	if _, err := c.Seek(offset, io.SeekStart); err != nil {
		return err
	}
	argv := []string{
		"dd", fmt.Sprintf("bs=%d", len(data)), "count=1",
		"iflag=fullblock", "oflag=direct", "conv=notrunc,fsync", "status=none",
	}
	_, err := n.programs.run(ctx, command{slot: slot, limit: readTime, argv: argv, in: bytes.NewReader(data), out: c.File})
	if err != nil {
		return fmt.Errorf("write %d bytes to %s at %d: %w", len(data), c.path, offset, err)
	}
	return nil
}

// inspect tells what the device holds. Blank is only what was read, both ends of it, and was zero: blkid answers 2 for
// a blank device as for one that is missing or cannot be read, so its answer counts only beside reads of our own.
func (n *Node) inspect(ctx context.Context, slot safety.Slot, fsType string, c *claim, p *pin) (content, error) {
	if c.sizeBytes < 2*proofSize {
		return unknown, safety.Refuse(safety.WrongDevice, fmt.Errorf("%s has %d bytes, too few for a file system", c.path, c.sizeBytes))
	}
	e := evidence{first: firstScan(), last: lastScan()}
	var errs [3]error
	var wg sync.WaitGroup
	wg.Go(func() { e.signature, errs[0] = n.signatures(ctx, slot, c.device) })
	wg.Go(func() { errs[1] = n.read(ctx, slot, c.File, 0, proofSize, &e.first) })
	wg.Go(func() { errs[2] = n.read(ctx, slot, p.File, c.sizeBytes-proofSize, proofSize, &e.last) })
	wg.Wait()
	for _, err := range errs {
		if err != nil {
			return unknown, err
		}
	}
	found, err := judge(e, fsType, slot)
	if err != nil {
		return unknown, fmt.Errorf("%s of volume %s: %w", c.path, slot, err)
	}
	return found, nil
}

// blkid's exit codes (blkid(8)).
const (
	blkidNothing    = 2
	blkidAmbivalent = 8
)

// signatures asks blkid for whatever it knows: file systems, RAID members, partition tables, encryption.
func (n *Node) signatures(ctx context.Context, slot safety.Slot, d device) (signature, error) {
	o, err := n.programs.run(ctx, command{slot: slot, limit: probeTime, argv: []string{"blkid", "-p", "-o", "export", d.path}})
	var exited *exitError
	switch {
	case err == nil:
		return parseSignature(o.stdout)
	case errors.As(err, &exited) && exited.exit == blkidNothing:
		return signature{}, nil
	case errors.As(err, &exited) && exited.exit == blkidAmbivalent:
		return signature{text: "several contradictory signatures"}, nil
	}
	return signature{}, safety.Refuse(safety.BlankUnproven, err)
}

// parseSignature reads blkid's KEY=value lines.
func parseSignature(out []byte) (signature, error) {
	var s signature
	var texts []string
	for line := range strings.Lines(string(out)) {
		key, value, found := strings.Cut(strings.TrimSpace(line), "=")
		switch {
		case !found || value == "":
		case key == "TYPE":
			s.fsType = value
			texts = append(texts, value)
		case key == "PTTYPE":
			texts = append(texts, "a partition table ("+value+")")
		}
	}
	if len(texts) == 0 { // exit status 0 says that something was found
		return signature{}, safety.Refuse(safety.BlankUnproven, fmt.Errorf("blkid found something, but not what: %.200q", out))
	}
	s.text = strings.Join(texts, ", ")
	return s, nil
}
