package controller

import (
	"fmt"
	"slices"
	"strings"

	"github.com/container-storage-interface/spec/lib/go/csi"
)

// singleNode are the access modes of one node. For the array they are all the same: one host may connect. What one
// pod or several may do on that node is kubelet's business, read-only is the mount's.
var singleNode = []csi.VolumeCapability_AccessMode_Mode{
	csi.VolumeCapability_AccessMode_SINGLE_NODE_WRITER,
	csi.VolumeCapability_AccessMode_SINGLE_NODE_SINGLE_WRITER,
	csi.VolumeCapability_AccessMode_SINGLE_NODE_MULTI_WRITER,
	csi.VolumeCapability_AccessMode_SINGLE_NODE_READER_ONLY,
}

// The file systems that the node makes. An empty fs_type is ext4.
const (
	ext4 = "ext4"
	xfs  = "xfs"
)

// unsupported says what is wrong with each of the capabilities, nothing where all are supported.
func unsupported(caps []*csi.VolumeCapability) []string {
	var wrong []string
	for _, c := range caps {
		switch c.GetAccessType().(type) {
		case *csi.VolumeCapability_Mount:
			wrong = append(wrong, unsupportedMount(c)...)
		case *csi.VolumeCapability_Block:
			if m := mode(c); !slices.Contains(singleNode, m) && m != csi.VolumeCapability_AccessMode_MULTI_NODE_MULTI_WRITER {
				wrong = append(wrong, fmt.Sprintf("access mode %s: a raw block volume can be SINGLE_NODE_… (one node) or "+
					"MULTI_NODE_MULTI_WRITER (two nodes, for a live migration)", m))
			}
		default:
			wrong = append(wrong, "access type is missing: mount or block")
		}
	}
	return wrong
}

func unsupportedMount(c *csi.VolumeCapability) []string {
	var wrong []string
	if m := mode(c); !slices.Contains(singleNode, m) {
		wrong = append(wrong, fmt.Sprintf("access mode %s: a mounted volume can only be SINGLE_NODE_…, because ext4 and xfs "+
			"are destroyed by a second node; for several nodes use a raw block volume with MULTI_NODE_MULTI_WRITER", m))
	}
	if fs := c.GetMount().GetFsType(); fs != "" && fs != ext4 && fs != xfs {
		wrong = append(wrong, fmt.Sprintf("file system %q: is neither ext4 nor xfs", fs))
	}
	for _, f := range c.GetMount().GetMountFlags() {
		if why := badMountFlag(f); why != "" {
			wrong = append(wrong, fmt.Sprintf("mount flag %q: %s", f, why))
		}
	}
	return wrong
}

func mode(c *csi.VolumeCapability) csi.VolumeCapability_AccessMode_Mode {
	return c.GetAccessMode().GetMode()
}

// badMountFlag says why a mount flag cannot be one of a volume. Flags that change which mount is meant, and not how it
// is made, would let a StorageClass tell the node driver to move or share mounts of the node.
func badMountFlag(f string) string {
	switch name, _, _ := strings.Cut(f, "="); name {
	case "":
		return "is empty"
	case "bind", "rbind", "move", "remount", "shared", "rshared", "slave", "rslave", "private", "rprivate",
		"unbindable", "runbindable", "loop", "offset", "sizelimit":
		return "is the node driver's own business"
	}
	if strings.ContainsFunc(f, func(r rune) bool { return r < ' ' || r == 0x7f }) {
		return "holds a control character"
	}
	return ""
}

// wantsXFS tells whether one of the capabilities asks for xfs.
func wantsXFS(caps []*csi.VolumeCapability) bool {
	return slices.ContainsFunc(caps, func(c *csi.VolumeCapability) bool { return c.GetMount().GetFsType() == xfs })
}

// Modes of a publication, as they stand in the mark.
const (
	modeSingle = ""
	modeShared = "shared" // MULTI_NODE_MULTI_WRITER
)

// markMode gives the mark's mode of a capability.
func markMode(c *csi.VolumeCapability) string {
	if mode(c) == csi.VolumeCapability_AccessMode_MULTI_NODE_MULTI_WRITER {
		return modeShared
	}
	return modeSingle
}
