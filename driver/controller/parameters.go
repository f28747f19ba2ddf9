package controller

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"srvlab.io/rds-csi/driver"
	"srvlab.io/rds-csi/safety"
)

// parameterArray is the StorageClass parameter that names the array.
const parameterArray = "array"

// metadata are the keys that external-provisioner adds with --extra-create-metadata, and the file system, which it
// passes on as a capability. They say nothing new here.
var metadata = []string{
	"csi.storage.k8s.io/fstype",
	"csi.storage.k8s.io/pv/name",
	"csi.storage.k8s.io/pvc/name",
	"csi.storage.k8s.io/pvc/namespace",
}

// parameters are a StorageClass' parameters.
type parameters struct {
	array      safety.ArrayName // "": any
	onPathLoss string
}

// parametersOf checks parameters, and says what is wrong with each that is.
func (c *Controller) parametersOf(given map[string]string) (parameters, []string) {
	p := parameters{onPathLoss: driver.OnPathLossQueue}
	var wrong []string
	for _, key := range slices.Sorted(maps.Keys(given)) {
		value := given[key]
		switch {
		case key == parameterArray:
			p.array = safety.ArrayName(value)
			if _, known := c.arrays[p.array]; !known {
				wrong = append(wrong, fmt.Sprintf("parameter array=%q: is not configured; there are: %s", value, c.known()))
			}
		case key == driver.OnPathLoss:
			p.onPathLoss = value
			if value != driver.OnPathLossQueue && value != driver.OnPathLossError {
				wrong = append(wrong, fmt.Sprintf("parameter onPathLoss=%q: is neither queue nor error", value))
			}
		case !slices.Contains(metadata, key):
			wrong = append(wrong, fmt.Sprintf("parameter %q: unknown; known are %s, %s and %s",
				key, parameterArray, driver.OnPathLoss, strings.Join(metadata, ", ")))
		}
	}
	return p, wrong
}
