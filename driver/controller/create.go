package controller

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"srvlab.io/rds-csi/driver"
	"srvlab.io/rds-csi/driver/routeros"
	"srvlab.io/rds-csi/safety"
)

// maxName is CSI's limit of a string field.
const maxName = 128

// order is a checked CreateVolumeRequest.
type order struct {
	name       string
	slot       safety.Slot
	size       sizes
	parameters parameters
	topology   *csi.TopologyRequirement
}

// CreateVolume makes the disk and its file on one array. The slot follows from the name, so a call whose answer was
// lost finds its disk when it is repeated. With one candidate it is a single command; with several, all are asked
// first whether they have the volume already.
func (c *Controller) CreateVolume(ctx context.Context, req *csi.CreateVolumeRequest) (*csi.CreateVolumeResponse, error) {
	o, err := c.orderOf(req)
	if err != nil {
		return nil, err
	}
	leave, err := c.inFlight.Enter(o.slot, "CreateVolume")
	if err != nil {
		return nil, err
	}
	defer leave()

	v, err := c.create(ctx, o)
	if err != nil {
		return nil, err
	}
	described := v.csi()
	described.VolumeContext = map[string]string{driver.OnPathLoss: o.parameters.onPathLoss}
	return &csi.CreateVolumeResponse{Volume: described}, nil
}

func (c *Controller) create(ctx context.Context, o order) (volume, error) {
	all := c.candidates(o.parameters.array, o.topology)
	if len(all) == 0 {
		return volume{}, c.unreachable(o.parameters.array, o.topology)
	}
	a := all[0].array
	if len(all) > 1 {
		v, found, err := place(ctx, all, o.slot, o.size.want)
		if err != nil {
			return volume{}, err
		}
		if found {
			return v, o.isThere(v)
		}
		a = v.array
	} else if err := a.ready(ctx); err != nil {
		return volume{}, err
	}
	d, err := a.Create(ctx, routeros.CreateSpec{Slot: o.slot, SizeBytes: o.size.want, PV: o.name})
	switch {
	case err == nil:
		return volume{a, d}, nil
	case errors.Is(err, routeros.ErrExists) && d.Slot == o.slot:
		return volume{a, d}, o.isThere(volume{a, d})
	case errors.Is(err, routeros.ErrNoSpace):
		return volume{}, noSpace(ctx, a, o.size.want, err)
	default:
		return volume{}, refusal(err)
	}
}

// isThere gives nil where the volume that is there is the one ordered.
func (o order) isThere(v volume) error {
	why := o.size.fits(v.disk.SizeBytes)
	if v.disk.Mark.PV != o.name {
		why = fmt.Sprintf("it was created as %q", v.disk.Mark.PV)
	}
	if why == "" {
		return nil
	}
	return status.Errorf(codes.AlreadyExists, "volume %q: array %s has %s, but %s", o.name, v.array.Name(), v.disk.Slot, why)
}

// orderOf checks a request. Whatever is wrong with its capabilities and parameters is said in one error, so that a
// StorageClass is mended once.
func (c *Controller) orderOf(req *csi.CreateVolumeRequest) (order, error) {
	if why := badName(req.GetName()); why != "" {
		return order{}, status.Errorf(codes.InvalidArgument, "volume name %q: %s", req.GetName(), why)
	}
	p, wrong := c.parametersOf(req.GetParameters())
	if len(req.GetVolumeCapabilities()) == 0 {
		wrong = append(wrong, "volume capabilities are missing")
	}
	wrong = append(wrong, unsupported(req.GetVolumeCapabilities())...)
	if req.GetVolumeContentSource() != nil {
		wrong = append(wrong, "volume content source: volumes are only made empty, not from a snapshot or another volume")
	}
	if len(req.GetMutableParameters()) > 0 {
		wrong = append(wrong, "mutable parameters: there are none; a VolumeAttributesClass does not fit this driver")
	}
	if len(wrong) > 0 {
		return order{}, status.Errorf(codes.InvalidArgument, "volume %q: %s", req.GetName(), strings.Join(wrong, "; "))
	}
	least := mib
	if wantsXFS(req.GetVolumeCapabilities()) {
		least = minXFS
	}
	size, err := sizesOf(req.GetCapacityRange(), least)
	if err != nil {
		return order{}, err
	}
	return order{
		name:       req.GetName(),
		slot:       safety.SlotOf(safety.VolumeUUID(c.prefix, req.GetName())),
		size:       size,
		parameters: p,
		topology:   req.GetAccessibilityRequirements(),
	}, nil
}

// badName says why a name is none that CSI allows (CreateVolumeRequest.name).
func badName(name string) string {
	switch {
	case name == "":
		return "is missing"
	case len(name) > maxName:
		return fmt.Sprintf("has %d bytes, more than %d", len(name), maxName)
	case !utf8.ValidString(name):
		return "is not UTF-8"
	case strings.ContainsFunc(name, banned):
		return "holds a control character"
	}
	return ""
}

// banned tells whether a character may not be in a name: control characters other than the common white space.
func banned(r rune) bool { return unicode.IsControl(r) && !strings.ContainsRune("\t\n\r", r) }
