package driver

import (
	"context"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"srvlab.io/rds-csi/safety"
)

// Name is the driver's name in CSI, StorageClasses and CSINode objects, and the start of its topology keys.
const Name = "rds.csi.srvlab.io"

// TopologyKey gives the topology key of an array. A node that reaches the array has it with the value TopologyValue;
// one key an array, because a key has one value a node and a node may reach several arrays.
func TopologyKey(a safety.ArrayName) string { return Name + "/array-" + string(a) }

// TopologyValue is the value of every topology key of the driver.
const TopologyValue = "true"

// Keys of the publish context: what the controller's publish tells the node's stage.
const (
	PublishNQN     = "nqn"       // the NQN of this generation of the volume
	PublishAddress = "address"   // the IP address of the array's NVMe/TCP portal
	PublishPort    = "port"      // its port, decimal
	PublishSize    = "sizeBytes" // the volume's size, decimal: a device of another size is the wrong one
)

// OnPathLoss is the key of the volume context, and the StorageClass parameter, that says what a writer sees while the
// volume's path is lost.
const OnPathLoss = "onPathLoss"

// The values of OnPathLoss. Absent means OnPathLossQueue.
const (
	OnPathLossQueue = "queue" // it waits
	OnPathLossError = "error" // it gets the kernel's error
)

type identity struct {
	csi.UnimplementedIdentityServer
	version string
	ready   func(context.Context) bool
}

func (i *identity) GetPluginInfo(context.Context, *csi.GetPluginInfoRequest) (*csi.GetPluginInfoResponse, error) {
	return &csi.GetPluginInfoResponse{Name: Name, VendorVersion: i.version}, nil
}

// GetPluginCapabilities answers for the plugin as a whole, whichever of its two programs is asked (CSI, "Plugin").
func (i *identity) GetPluginCapabilities(
	context.Context, *csi.GetPluginCapabilitiesRequest,
) (*csi.GetPluginCapabilitiesResponse, error) {
	service := func(t csi.PluginCapability_Service_Type) *csi.PluginCapability {
		return &csi.PluginCapability{Type: &csi.PluginCapability_Service_{Service: &csi.PluginCapability_Service{Type: t}}}
	}
	online := &csi.PluginCapability_VolumeExpansion{Type: csi.PluginCapability_VolumeExpansion_ONLINE}
	return &csi.GetPluginCapabilitiesResponse{Capabilities: []*csi.PluginCapability{
		service(csi.PluginCapability_Service_CONTROLLER_SERVICE),
		service(csi.PluginCapability_Service_VOLUME_ACCESSIBILITY_CONSTRAINTS),
		{Type: &csi.PluginCapability_VolumeExpansion_{VolumeExpansion: online}},
	}}, nil
}

// Probe answers "not ready" as a value and not as an error: the sidecars wait for the one and end on the other.
func (i *identity) Probe(ctx context.Context, _ *csi.ProbeRequest) (*csi.ProbeResponse, error) {
	return &csi.ProbeResponse{Ready: wrapperspb.Bool(i.ready(ctx))}, nil
}
