// Package record is what the demo's writers leave behind: records that show by themselves whether each is whole and
// in its place, and a log of what each of them took; it judges what it reads and refuses to repair any of it.
package record

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
)

// Size is the length of every record in bytes: one sector of the exported disk, so that a record is torn when a
// sector is lost or swapped, and not only when a whole block is.
const Size = 512

// A record is, in this order: magic, CRC-32C of all that follows it, the stream, the sequence number, and a filler
// made of both. All numbers are big-endian.
const (
	atSum      = 4
	atStream   = 8
	atSequence = 24
	atFiller   = 32
)

var (
	magic      = []byte("RDSR")
	castagnoli = crc32.MakeTable(crc32.Castagnoli)
)

// Stream tells the records of one writer from those of another. Without it a block that some earlier file left on
// the disk would pass for a record of this one.
type Stream [atSequence - atStream]byte

// Encode gives record number seq of stream s.
func Encode(s Stream, seq uint64) []byte {
	b := make([]byte, Size)
	copy(b, magic)
	copy(b[atStream:], s[:])
	binary.BigEndian.PutUint64(b[atSequence:], seq)
	// xorshift64*: no two neighbouring sectors are alike, so one that is written in another's place shows.
	x := seq ^ binary.BigEndian.Uint64(s[:])
	for at := atFiller; at < Size; at += 8 {
		x ^= x >> 12
		x ^= x << 25
		x ^= x >> 27
		binary.BigEndian.PutUint64(b[at:], x*0x2545f4914f6cdd1d)
	}
	binary.BigEndian.PutUint32(b[atSum:], crc32.Checksum(b[atStream:], castagnoli))
	return b
}

// decode gives the sequence number of b; false when b is not a whole record of stream s.
func decode(s Stream, b []byte) (uint64, bool) {
	whole := len(b) == Size &&
		bytes.Equal(b[:atSum], magic) &&
		binary.BigEndian.Uint32(b[atSum:]) == crc32.Checksum(b[atStream:], castagnoli) &&
		bytes.Equal(b[atStream:atSequence], s[:])
	if !whole {
		return 0, false
	}
	return binary.BigEndian.Uint64(b[atSequence:]), true
}

// Verdict is what Verify found. A writer that was served well leaves Whole records and zero of all the others.
type Verdict struct {
	Whole      int `json:"whole"`      // records that are whole, each sequence number counted once
	Lost       int `json:"lost"`       // acknowledged by fsync, but no whole record is there
	Torn       int `json:"torn"`       // sectors, or a shorter piece at the end, that are no whole record of the stream
	Duplicated int `json:"duplicated"` // records that are there once more
	Reordered  int `json:"reordered"`  // records behind one with a higher sequence number
}

// Clean tells whether every acknowledged record is there, once, whole and in its place, and nothing else.
func (v Verdict) Clean() bool { return v == Verdict{Whole: v.Whole} }

// String gives the verdict in words.
func (v Verdict) String() string {
	return fmt.Sprintf("%d whole, %d lost, %d torn, %d duplicated, %d reordered",
		v.Whole, v.Lost, v.Torn, v.Duplicated, v.Reordered)
}

// Verify reads the file of stream s from r and holds it against the writer's log. A record that was written but never
// acknowledged may be there or not. A torn record that was acknowledged is both torn and lost.
func Verify(r io.Reader, s Stream, log []Write) (Verdict, error) {
	var v Verdict
	seen := make(map[uint64]bool, len(log))
	highest := uint64(0)
	for sector := make([]byte, Size); ; {
		n, err := io.ReadFull(r, sector)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) {
			return Verdict{}, fmt.Errorf("read records: %w", err)
		}
		seq, whole := decode(s, sector[:n])
		switch {
		case !whole:
			v.Torn++
			continue
		case seen[seq]:
			v.Duplicated++
			continue
		case seq < highest:
			v.Reordered++
		}
		seen[seq] = true
		highest = max(highest, seq)
	}
	v.Whole = len(seen)
	for _, w := range log {
		if w.Err == "" && !seen[w.Seq] {
			v.Lost++
		}
	}
	return v, nil
}
