package kernel

import (
	"bytes"
	"strings"
	"testing"
)

const rootLine = "22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw\n"

func TestParseMounts(t *testing.T) {
	for name, c := range map[string]struct {
		line string
		want Mount
	}{
		"plain": {
			"36 35 259:3 / /var rw,noatime master:1 - ext4 /dev/nvme0n1 rw,errors=continue",
			Mount{
				ID: 36, Parent: 35, Dev: DevID{259, 3}, Root: "/", Point: "/var", FSType: "ext4", Source: "/dev/nvme0n1",
				Options: "rw,noatime", SuperOptions: "rw,errors=continue",
			},
		},
		"escapes, no optional field": {
			`40 22 0:45 /a\040b /mnt/tab\011nl\012bs\134x ro - fuse.x\040y so\040urce rw`,
			Mount{
				ID: 40, Parent: 22, Dev: DevID{0, 45}, Root: "/a b", Point: "/mnt/tab\tnl\nbs\\x", FSType: "fuse.x y",
				Source: "so urce", Options: "ro", SuperOptions: "rw", ReadOnly: true,
			},
		},
		"read-only file system behind a writable mount": {
			"41 22 253:0 / /mnt rw,nosuid shared:1 master:2 propagate_from:3 - xfs /dev/dm-0 ro,attr2",
			Mount{
				ID: 41, Parent: 22, Dev: DevID{253, 0}, Root: "/", Point: "/mnt", FSType: "xfs", Source: "/dev/dm-0",
				Options: "rw,nosuid", SuperOptions: "ro,attr2", SuperReadOnly: true,
			},
		},
		"bind of a device node": {
			"42 22 0:6 /nvme0n1 /publish/x rw shared:3 - devtmpfs devtmpfs rw,mode=755",
			Mount{
				ID: 42, Parent: 22, Dev: DevID{0, 6}, Root: "/nvme0n1", Point: "/publish/x", FSType: "devtmpfs",
				Source: "devtmpfs", Options: "rw", SuperOptions: "rw,mode=755",
			},
		},
		"an option that only contains ro": {
			"43 22 8:2 / /x rw,errors=remount-ro - ext4 /dev/sdb rw,errors=remount-ro",
			Mount{
				ID: 43, Parent: 22, Dev: DevID{8, 2}, Root: "/", Point: "/x", FSType: "ext4", Source: "/dev/sdb",
				Options: "rw,errors=remount-ro", SuperOptions: "rw,errors=remount-ro",
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := parseMounts([]byte(rootLine + c.line + "\n"))
			if err != nil || len(got) != 2 || got[1] != c.want {
				t.Errorf("got  %+v, %v\nwant %+v", got, err, c.want)
			}
		})
	}
}

// A table that is not whole is an error, never a shorter table.
func TestParseMountsRefuses(t *testing.T) {
	const good = "36 35 259:3 / /var rw - ext4 /dev/nvme0n1 rw"
	for name, c := range map[string]struct{ table, want string }{
		"empty":                {"", "empty"},
		"torn inside a line":   {rootLine + "36 35 259:3 / /va", "torn"},
		"torn in the options":  {rootLine + good, "torn"}, // moby/sys/mountinfo takes it for whole
		"torn with a newline":  {rootLine + "36 35 259:3 / /va\n", "36 35"},
		"no ID":                {rootLine + "x" + good[2:] + "\n", "mount ID"},
		"ID 0":                 {rootLine + "0" + good[2:] + "\n", "mount ID"},
		"negative ID":          {rootLine + "-1" + good[2:] + "\n", "mount ID"},
		"no parent":            {rootLine + "36 x 259:3 / /var rw - ext4 /dev/nvme0n1 rw\n", "parent"},
		"no device":            {rootLine + "36 35 nvme / /var rw - ext4 /dev/nvme0n1 rw\n", "device number"},
		"device without minor": {rootLine + "36 35 259:x / /var rw - ext4 /dev/nvme0n1 rw\n", "device number"},
		"no separator":         {rootLine + "36 35 259:3 / /var rw shared:1 ext4 x y z /dev/nvme0n1 rw\n", "separator"},
		"empty line":           {rootLine + "\n" + good + "\n", "line 2"},
		"line of 70 kB":        {rootLine + "36 35 259:3 / /var rw - overlay overlay lowerdir=" + strings.Repeat("x", 70_000) + "\n", "too long"},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := parseMounts([]byte(c.table))
			if err == nil || got != nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %d mounts, error %v; want no mount and %q", len(got), err, c.want)
			}
		})
	}
}

// However a table is cut, the answer is an error or every line that is there.
func FuzzParseMounts(f *testing.F) {
	f.Add([]byte(rootLine))
	f.Add([]byte(rootLine + `36 35 259:3 /\040 /var rw shared:1 - ext4 /dev/nvme0n1 rw` + "\n"))
	f.Add([]byte("1 1 0:0 a b c - d e f"))
	f.Fuzz(func(t *testing.T, data []byte) {
		mounts, err := parseMounts(data)
		if err != nil {
			return
		}
		if lines := bytes.Count(data, []byte("\n")); lines != len(mounts) || lines == 0 {
			t.Fatalf("%d lines gave %d mounts", lines, len(mounts))
		}
		for _, m := range mounts {
			if m.ID <= 0 || m.Parent < 0 {
				t.Fatalf("%+v", m)
			}
		}
	})
}

func TestParseDevID(t *testing.T) {
	for _, s := range []string{"0:0", "259:3", "4095:1048575"} {
		if d, err := ParseDevID(s); err != nil || d.String() != s {
			t.Errorf("%q is read as %v, %v", s, d, err)
		}
	}
	for _, s := range []string{"", ":", "259", "259:", ":3", "-1:3", "259:-3", "259:3:1", "0x1:2", "4096:0", "0:1048576", " 1:2"} {
		if d, err := ParseDevID(s); err == nil {
			t.Errorf("%q is read as %v", s, d)
		}
	}
}
