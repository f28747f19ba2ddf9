package node

import (
	"bytes"
	"slices"
	"testing"

	"srvlab.io/rds-csi/safety"
)

func TestJudge(t *testing.T) {
	slot := safety.SlotOf(testUUID)
	made := func(changes []func([]byte)) []byte {
		b := make([]byte, proofSize)
		for _, change := range changes {
			change(b)
		}
		return b
	}
	first := func(changes ...func([]byte)) scan { return scanned(firstScan(), made(changes)) }
	last := func(changes ...func([]byte)) scan { return scanned(lastScan(), made(changes)) }
	put := func(at int64, data ...byte) func([]byte) { return func(b []byte) { copy(b[at:], data) } }
	marked := put(proofSize-markerBack, marker(slot)...)
	foreignMark := put(proofSize-markerBack, marker(safety.SlotOf(safety.UUID{9}))...)
	longerMark := func(b []byte) { marked(b); b[proofSize-markerBack+markerSector-1] = 1 }
	ext4, xfs := signature{fsExt4, "ext4"}, signature{fsXFS, "xfs"}
	end := last()

	for _, c := range []struct {
		name   string
		e      evidence
		fsType string
		want   content
		reason safety.Reason
	}{
		{"zero at both ends", evidence{first: first(), last: end}, fsExt4, blank, ""},
		{"the end was not read", evidence{first: first()}, fsExt4, unknown, safety.BlankUnproven},
		{"the start was not read", evidence{last: end}, fsExt4, unknown, safety.BlankUnproven},
		{"nothing was read", evidence{}, fsExt4, unknown, safety.BlankUnproven},
		{"one bit at the start", evidence{first: first(put(0, 1)), last: end}, fsExt4, unknown, safety.NotBlank},
		{"one bit at the end of the start", evidence{first: first(put(proofSize-1, 1)), last: end}, fsExt4, unknown, safety.NotBlank},
		{"one bit at the end", evidence{first: first(), last: last(put(4097, 1))}, fsExt4, unknown, safety.NotBlank},
		{"the file system", evidence{signature: ext4, first: first(put(1080, 0x53)), last: end}, fsExt4, wanted, ""},
		{"another file system", evidence{signature: xfs, first: first(put(0, 'X')), last: end}, fsExt4, unknown, safety.NotBlank},
		{"a signature beyond what was read", evidence{signature: signature{"zfs_member", "zfs_member"}, first: first(), last: end}, fsExt4, unknown, safety.NotBlank},
		{"a partition table", evidence{signature: signature{text: "a partition table (gpt)"}, first: first(), last: end}, fsExt4, unknown, safety.NotBlank},
		{"our marker", evidence{first: first(), last: last(marked)}, fsExt4, halfMade, ""},
		{"our marker and pieces of mkfs", evidence{first: first(put(500_000, 7)), last: last(marked, put(9, 9))}, fsExt4, halfMade, ""},
		{"our marker at the start", evidence{first: first(put(0, marker(slot)...)), last: end}, fsExt4, unknown, safety.NotBlank},
		{"another volume's marker", evidence{first: first(), last: last(foreignMark)}, fsExt4, unknown, safety.NotBlank},
		{"our marker with something behind it", evidence{first: first(), last: last(longerMark)}, fsExt4, unknown, safety.NotBlank},
		{"our marker beside another's signature", evidence{signature: signature{text: "a partition table (dos)"}, first: first(), last: last(marked)}, fsExt4, unknown, safety.NotBlank},
		{"our marker on ext4 never mounted", evidence{signature: ext4, first: first(), last: last(marked)}, fsExt4, halfMade, ""},
		{"our marker on ext4 mounted once", evidence{signature: ext4, first: first(put(ext4MountCount, 1)), last: last(marked)}, fsExt4, wantedMarked, ""},
		{"our marker on ext4 with a mount time", evidence{signature: ext4, first: first(put(ext4MountTime, 0, 0, 0, 1)), last: last(marked)}, fsExt4, wantedMarked, ""},
		{"our marker on xfs in progress", evidence{signature: xfs, first: first(put(xfsInProgress, 1)), last: last(marked)}, fsXFS, halfMade, ""},
		{"our marker on a finished xfs", evidence{signature: xfs, first: first(), last: last(marked)}, fsXFS, wantedMarked, ""},
		{"xfs in progress without our marker", evidence{signature: xfs, first: first(put(xfsInProgress, 1)), last: end}, fsXFS, wanted, ""},
		{"our marker on a used file system of the other type", evidence{signature: xfs, first: first(), last: last(marked)}, fsExt4, unknown, safety.NotBlank},
	} {
		got, err := judge(c.e, c.fsType, slot)
		if got != c.want || safety.ReasonOf(err) != c.reason {
			t.Errorf("%s: %d, %v; want %d, %q", c.name, got, err, c.want, c.reason)
		}
	}
}

// scanned gives the scan of b, written in pieces of uneven length.
func scanned(s scan, b []byte) scan {
	for size := 1; len(b) > 0; size = size*3 + 1 {
		n := min(size, len(b))
		if _, err := s.Write(b[:n]); err != nil {
			panic(err)
		}
		b = b[n:]
	}
	return s
}

// Nothing but zeros is blank, and nothing but our own marker is half made.
func FuzzJudge(f *testing.F) {
	slot := safety.SlotOf(testUUID)
	const place = 2*proofSize - markerBack
	f.Add([]byte{}, 0)
	f.Add([]byte{1}, 12345)
	f.Add([]byte{1}, 2*proofSize-1)
	f.Add(marker(slot), place)
	f.Add(marker(slot), place+1)
	f.Add(marker(slot), 0)
	f.Add(marker(slot)[:200], place)
	f.Fuzz(func(t *testing.T, data []byte, at int) {
		at = max(at, 0) % (2 * proofSize)
		disk := make([]byte, 2*proofSize)
		copy(disk[at:], data)
		e := evidence{first: scanned(firstScan(), disk[:proofSize]), last: scanned(lastScan(), disk[proofSize:])}
		got, _ := judge(e, fsExt4, slot)
		isMarked := bytes.Equal(disk[place:place+markerSector], marker(slot))
		isZero := !slices.ContainsFunc(disk, func(b byte) bool { return b != 0 })
		switch {
		case isZero && got != blank, isMarked && got != halfMade, !isZero && !isMarked && got != unknown:
			t.Errorf("%d bytes at %d: %d", len(data), at, got)
		}
	})
}

func TestParseSignature(t *testing.T) {
	for _, c := range []struct {
		out  string
		want signature
		ok   bool
	}{
		{"DEVNAME=/dev/dm-0\nUUID=1-2\nBLOCK_SIZE=4096\nTYPE=ext4\nUSAGE=filesystem\n", signature{"ext4", "ext4"}, true},
		{"DEVNAME=/dev/dm-0\nPTUUID=1\nPTTYPE=gpt\n", signature{"", "a partition table (gpt)"}, true},
		{"TYPE=LVM2_member\nPTTYPE=dos\n", signature{"LVM2_member", "LVM2_member, a partition table (dos)"}, true},
		{"", signature{}, false},
		{"DEVNAME=/dev/dm-0\nTYPE=\n", signature{}, false},
	} {
		got, err := parseSignature([]byte(c.out))
		if got != c.want || (err == nil) != c.ok {
			t.Errorf("%q: %+v, %v; want %+v", c.out, got, err, c.want)
		}
	}
}
