// Package nvme knows gRPC, which it should not.
package nvme

import (
	_ "os/exec" // want "depguard: only driver/node runs programs"

	"google.golang.org/grpc/codes"
	_ "k8s.io/utils/exec" // want "depguard: only driver/node runs programs"
)

// Code is for the package that answers calls.
func Code() codes.Code { return codes.Internal } // want "forbidigo: gRPC codes are for package driver" "forbidigo: gRPC codes are for package driver"
