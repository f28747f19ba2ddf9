package node

import (
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"srvlab.io/rds-csi/driver"
	"srvlab.io/rds-csi/driver/mapper"
	"srvlab.io/rds-csi/safety"
)

// volume is what a stage or publish call says of its volume.
type volume struct {
	mapper.ID // what the mapping of exactly this publication is for

	nqn       safety.NQN
	sizeBytes int64
	queue     bool // I/O waits while the path is lost: there is a mapping
}

// access is how a call wants to use its volume.
type access struct {
	block        bool
	fsType       string   // of a mount
	options      []string // of a mount, without repetitions
	readOnly     bool     // the access mode allows no writing
	singleWriter bool     // one target path a node
}

// readOnlyMount tells whether the file system itself is to be mounted read-only.
func (a access) readOnlyMount() bool { return slices.Contains(a.options, "ro") }

func invalid(format string, args ...any) error {
	return status.Errorf(codes.InvalidArgument, format, args...)
}

// parseVolumeID: an ID that this driver never gives names no volume, which is CSI's NOT_FOUND.
func parseVolumeID(id string) (safety.VolumeID, error) {
	if id == "" {
		return safety.VolumeID{}, invalid("no volume ID")
	}
	v, err := safety.ParseVolumeID(id)
	if err != nil {
		return safety.VolumeID{}, status.Error(codes.NotFound, err.Error())
	}
	return v, nil
}

// checkPath refuses a path that is not below kubelet's directory, or would be elsewhere once "..", "//" and the like
// are resolved.
func (n *Node) checkPath(name, path string) error {
	switch {
	case path == "":
		return invalid("no %s", name)
	case !filepath.IsAbs(path) || filepath.Clean(path) != path:
		return invalid("%s %q: must be a clean absolute path", name, path)
	case !n.below(path):
		return invalid("%s %q: must be below kubelet's directory %s (--kubelet-dir)", name, path, n.kubeletDir)
	}
	return nil
}

// below tells whether a clean path is below kubelet's directory.
func (n *Node) below(path string) bool { return strings.HasPrefix(path, n.kubeletDir+"/") }

// parseVolume takes what the controller's publish says apart, and refuses an NQN that is not this volume's.
func (n *Node) parseVolume(id string, publication, attributes map[string]string) (volume, error) {
	vid, err := parseVolumeID(id)
	if err != nil {
		return volume{}, err
	}
	address, err := netip.ParseAddr(publication[driver.PublishAddress])
	if err != nil {
		return volume{}, invalid("publish context %s: %v", driver.PublishAddress, err)
	}
	port, err := strconv.ParseUint(publication[driver.PublishPort], 10, 16)
	if err != nil || port == 0 {
		return volume{}, invalid("publish context %s %q: is no port", driver.PublishPort, publication[driver.PublishPort])
	}
	size, err := strconv.ParseInt(publication[driver.PublishSize], 10, 64)
	if err != nil || size <= 0 {
		return volume{}, invalid("publish context %s %q: is no size", driver.PublishSize, publication[driver.PublishSize])
	}
	nqn, err := safety.ParseNQN(publication[driver.PublishNQN])
	if err != nil {
		return volume{}, invalid("publish context %s: %v", driver.PublishNQN, err)
	}
	queue, err := parseOnPathLoss(attributes[driver.OnPathLoss])
	if err != nil {
		return volume{}, err
	}
	uuid, generation, managed := n.prefix.Split(nqn)
	if !managed || uuid != vid.Slot.UUID() {
		return volume{}, safety.Refuse(safety.ForeignNQN, fmt.Errorf(
			"publish context of volume %s: %s is not one of its NQNs, which start with %s%s.g", id, nqn, n.prefix, vid.Slot.UUID()))
	}
	return volume{
		ID:        mapper.ID{Slot: vid.Slot, Generation: generation, Address: address.Unmap(), Port: uint16(port), Array: vid.Array},
		nqn:       nqn,
		sizeBytes: size,
		queue:     queue,
	}, nil
}

func parseOnPathLoss(s string) (queue bool, err error) {
	switch s {
	case "", driver.OnPathLossQueue:
		return true, nil
	case driver.OnPathLossError:
		return false, nil
	}
	return false, invalid("volume context %s %q: must be %s or %s",
		driver.OnPathLoss, s, driver.OnPathLossQueue, driver.OnPathLossError)
}

// defaultFSType is what a volume gets whose StorageClass names no file system.
const defaultFSType = fsExt4

// notOurs are mount options that mount something else than the volume, or change another mount.
var notOurs = []string{"bind", "rbind", "move", "remount", "loop", "offset", "sizelimit"}

func parseCapability(c *csi.VolumeCapability) (access, error) {
	if c == nil {
		return access{}, invalid("no volume capability")
	}
	a := access{block: c.GetBlock() != nil}
	if err := a.setMode(c.GetAccessMode().GetMode()); err != nil {
		return access{}, err
	}
	if a.block {
		return a, nil
	}
	m := c.GetMount()
	if m == nil {
		return access{}, invalid("volume capability: neither block nor mount")
	}
	a.fsType = m.GetFsType()
	if a.fsType == "" {
		a.fsType = defaultFSType
	}
	if a.fsType != fsExt4 && a.fsType != fsXFS {
		return access{}, invalid("file system %q: must be %s or %s", a.fsType, fsExt4, fsXFS)
	}
	for option := range strings.SplitSeq(strings.Join(m.GetMountFlags(), ","), ",") {
		name, _, _ := strings.Cut(option, "=")
		if slices.Contains(notOurs, name) {
			return access{}, invalid("mount option %q: is not allowed", option)
		}
		if option != "" && !slices.Contains(a.options, option) {
			a.options = append(a.options, option)
		}
	}
	return a, nil
}

func (a *access) setMode(mode csi.VolumeCapability_AccessMode_Mode) error {
	switch mode {
	case csi.VolumeCapability_AccessMode_SINGLE_NODE_WRITER, csi.VolumeCapability_AccessMode_SINGLE_NODE_MULTI_WRITER:
	case csi.VolumeCapability_AccessMode_SINGLE_NODE_SINGLE_WRITER:
		a.singleWriter = true
	case csi.VolumeCapability_AccessMode_SINGLE_NODE_READER_ONLY:
		a.readOnly = true
	case csi.VolumeCapability_AccessMode_MULTI_NODE_MULTI_WRITER:
		if !a.block {
			return invalid("access mode %s: is for raw block only; %s and %s are file systems of one node", mode, fsExt4, fsXFS)
		}
	default:
		return invalid("access mode %s: is not supported", mode)
	}
	return nil
}
