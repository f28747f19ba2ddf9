package controller

import (
	"strings"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"
)

func mount(m csi.VolumeCapability_AccessMode_Mode, fsType string, flags ...string) *csi.VolumeCapability {
	return &csi.VolumeCapability{
		AccessMode: &csi.VolumeCapability_AccessMode{Mode: m},
		AccessType: &csi.VolumeCapability_Mount{
			Mount: &csi.VolumeCapability_MountVolume{FsType: fsType, MountFlags: flags},
		},
	}
}

func block(m csi.VolumeCapability_AccessMode_Mode) *csi.VolumeCapability {
	return &csi.VolumeCapability{
		AccessMode: &csi.VolumeCapability_AccessMode{Mode: m},
		AccessType: &csi.VolumeCapability_Block{Block: &csi.VolumeCapability_BlockVolume{}},
	}
}

const (
	oneWriter   = csi.VolumeCapability_AccessMode_SINGLE_NODE_WRITER
	manyWriters = csi.VolumeCapability_AccessMode_MULTI_NODE_MULTI_WRITER
)

// TestAccessModes goes through all modes of the specification, so that a new one is refused until somebody decides.
func TestAccessModes(t *testing.T) {
	supported := map[string]string{ // mode: access types
		"SINGLE_NODE_WRITER":        "mount block",
		"SINGLE_NODE_READER_ONLY":   "mount block",
		"SINGLE_NODE_SINGLE_WRITER": "mount block",
		"SINGLE_NODE_MULTI_WRITER":  "mount block",
		"MULTI_NODE_MULTI_WRITER":   "block",
	}
	for number, name := range csi.VolumeCapability_AccessMode_Mode_name {
		m := csi.VolumeCapability_AccessMode_Mode(number)
		for kind, c := range map[string]*csi.VolumeCapability{"mount": mount(m, ""), "block": block(m)} {
			wrong := unsupported([]*csi.VolumeCapability{c})
			if want := strings.Contains(supported[name], kind); want != (len(wrong) == 0) {
				t.Errorf("%s %s: supported should be %v, got %q", kind, name, want, wrong)
			}
			if len(wrong) > 0 && !strings.Contains(wrong[0], name) {
				t.Errorf("%s %s: the message does not name the mode: %q", kind, name, wrong)
			}
		}
	}
}

func TestUnsupported(t *testing.T) {
	tests := []struct {
		name string
		caps []*csi.VolumeCapability
		want []string // a piece of each message
	}{
		{"default file system", []*csi.VolumeCapability{mount(oneWriter, "")}, nil},
		{"ext4", []*csi.VolumeCapability{mount(oneWriter, "ext4")}, nil},
		{"xfs", []*csi.VolumeCapability{mount(oneWriter, "xfs")}, nil},
		{"mount and block", []*csi.VolumeCapability{mount(oneWriter, ""), block(oneWriter)}, nil},
		{"other file system", []*csi.VolumeCapability{mount(oneWriter, "btrfs")}, []string{`"btrfs": is neither`}},
		{"no access type", []*csi.VolumeCapability{{AccessMode: &csi.VolumeCapability_AccessMode{Mode: oneWriter}}}, []string{"access type"}},
		{"no access mode", []*csi.VolumeCapability{{AccessType: block(oneWriter).GetAccessType()}}, []string{"UNKNOWN"}},
		{"mount flags", []*csi.VolumeCapability{mount(oneWriter, "", "noatime", "nodiratime", "stripe=16", "discard", "context=a:b")}, nil},
		{"bad mount flags", []*csi.VolumeCapability{mount(oneWriter, "", "", "bind", "noatime", "x\ny", "loop=/dev/loop0")}, []string{
			`mount flag "": is empty`, `"bind": is the node driver's`, `"x\ny": holds a control`, `"loop=/dev/loop0": is the node`,
		}},
		{
			"everything wrong is said",
			[]*csi.VolumeCapability{mount(manyWriters, "zfs", "rbind"), block(0)},
			[]string{"MULTI_NODE_MULTI_WRITER: a mounted volume", `"zfs"`, `"rbind"`, "UNKNOWN: a raw block"},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := unsupported(tt.caps)
			if len(got) != len(tt.want) {
				t.Fatalf("got %q, want %q", got, tt.want)
			}
			for i := range got {
				if !strings.Contains(got[i], tt.want[i]) {
					t.Errorf("got %q, want %q", got[i], tt.want[i])
				}
			}
		})
	}
}
