// Package driver imports what it must not.
package driver

import (
	"errors"
	"io/ioutil" // want "depguard: deprecated since Go 1.16" "staticcheck: SA1019"
	"log"       // want "depguard: log with log/slog"
	"math/rand" // want "depguard: use math/rand/v2"
	_ "testing" // want "depguard: not in production code; it registers flags"

	_ "github.com/pkg/errors" // want "depguard: wrap with %w"
	"google.golang.org/grpc/codes"
	_ "k8s.io/client-go/kubernetes" // want "depguard: neither driver nor controller asks"
	_ "k8s.io/klog/v2"              // want "depguard: log with log/slog; klog"

	_ "srvlab.io/rds-csi/metrics"    // want "depguard: a component reports through a function"
	_ "srvlab.io/rds-csi/supervisor" // want "depguard: each half runs"
	_ "srvlab.io/rds-csi/test/vm"    // want "depguard: not in production code; a model"
)

// ErrGone is an error that others wrap.
var ErrGone = errors.New("gone")

// Code may use gRPC's codes here: the package's interface speaks them.
func Code() codes.Code {
	log.SetOutput(ioutil.Discard)
	if rand.Int() > 0 { // want "gosec: G404"
		return codes.Internal
	}
	return codes.OK
}
