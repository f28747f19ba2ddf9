package safety

import (
	"fmt"
	"regexp"
	"strings"
)

// Host is a node as the array knows it. Controller and node compute it from the cluster ID and the node's name, so
// they need not exchange it. The zero value is no host.
type Host struct {
	Node string // the Kubernetes node name
	UUID UUID   // the NVMe host identifier
}

// nodeName is what Kubernetes allows: a DNS subdomain (RFC 1123). It goes into the disk's comment on the array.
var nodeName = regexp.MustCompile(`^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$`)

// maxNodeName leaves room for the mark in a CSI node ID: Kubernetes takes at most 192 bytes (CSINode validation).
const maxNodeName = 180

// NewHost gives the host of a node in a cluster. The cluster ID is free text, but not empty: with an empty one, two
// clusters with nodes of the same name would be one host to the array, and fencing one would open it to the other.
func NewHost(clusterID, node string) (Host, error) {
	if clusterID == "" {
		return Host{}, fmt.Errorf("host of node %q: the cluster ID is empty; give --cluster-id the same value on controller and nodes", node)
	}
	if !nodeName.MatchString(node) || len(node) > maxNodeName {
		return Host{}, fmt.Errorf("node name %q: must be a Kubernetes node name (lower-case DNS subdomain) of at most %d bytes", node, maxNodeName)
	}
	return Host{Node: node, UUID: uuid5(hostSpace, clusterID, node)}, nil
}

// NQN gives the host NQN, "nqn.2014-08.org.nvmexpress:uuid:<uuid>" (NVM Express Base Specification 2.0, 4.5).
func (h Host) NQN() NQN { return NQN("nqn.2014-08.org.nvmexpress:uuid:" + h.UUID.String()) }

// ID gives CSI's node_id: "<node name>/<first 8 digits of the host UUID>". The digits prove that node driver and
// controller were given the same cluster ID; otherwise the array would refuse a host that the controller believes
// to have let in, and nobody could see why.
func (h Host) ID() string { return h.Node + "/" + h.UUID.String()[:8] }

// ParseNodeID gives the host behind a CSI node ID. An error means that no node of this cluster has that ID.
func ParseNodeID(clusterID, id string) (Host, error) {
	node, _, found := strings.Cut(id, "/")
	if !found {
		return Host{}, fmt.Errorf("node ID %q: is not <node name>/<8 hexadecimal digits>", id)
	}
	h, err := NewHost(clusterID, node)
	if err != nil {
		return Host{}, fmt.Errorf("node ID %q: %w", id, err)
	}
	if h.ID() != id {
		return Host{}, fmt.Errorf("node ID %q: the cluster %q would give its node the ID %q; is --cluster-id the same on controller and nodes?", id, clusterID, h.ID())
	}
	return h, nil
}
