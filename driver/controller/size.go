package controller

import (
	"fmt"
	"math"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

const (
	mib = int64(1) << 20
	// defaultSize is that of a volume whose size nobody asked for.
	defaultSize = 1024 * mib
	// minXFS is what mkfs.xfs makes at least (xfsprogs 5.19 and newer refuse less). Refusing it here tells the user at
	// the claim, and not the node at each of its tries.
	minXFS = 300 * mib
)

// sizes is a checked capacity range. want is what to make; an existing volume fits when it has at least required and
// at most limit (0: no limit).
type sizes struct {
	want, required, limit int64
}

// sizesOf checks a capacity range for a volume of at least least bytes. Sizes are whole MiB, rounded up.
func sizesOf(r *csi.CapacityRange, least int64) (sizes, error) {
	s := sizes{required: r.GetRequiredBytes(), limit: r.GetLimitBytes()}
	switch {
	case s.required < 0 || s.limit < 0:
		return sizes{}, status.Errorf(codes.InvalidArgument, "capacity range: %d to %d bytes is negative", s.required, s.limit)
	case s.limit > 0 && s.limit < s.required:
		return sizes{}, status.Errorf(codes.InvalidArgument, "capacity range: the limit of %d bytes is below the required %d",
			s.limit, s.required)
	case s.required > math.MaxInt64-mib:
		return sizes{}, status.Errorf(codes.OutOfRange, "capacity range: no array has %d bytes", s.required)
	}
	s.want = roundUp(s.required)
	if s.required == 0 {
		s.want = defaultSize
		if s.limit > 0 {
			s.want = min(s.want, s.limit/mib*mib)
		}
	}
	switch {
	case s.want == 0 || s.limit > 0 && s.want > s.limit:
		return sizes{}, status.Errorf(codes.OutOfRange, "capacity range: no whole number of MiB lies between %d and %d bytes",
			s.required, s.limit)
	case s.want < least:
		return sizes{}, status.Errorf(codes.OutOfRange, "capacity range: %d bytes are too few for xfs: mkfs.xfs makes none below %d",
			s.want, least)
	}
	return s, nil
}

func roundUp(n int64) int64 { return (n + mib - 1) / mib * mib }

// fits says why an existing volume of that size is not the one that was asked for; "" where it is.
func (s sizes) fits(size int64) string {
	switch {
	case size < s.required:
		return fmt.Sprintf("it has %d bytes, %d are required", size, s.required)
	case s.limit > 0 && size > s.limit:
		return fmt.Sprintf("it has %d bytes, the limit is %d", size, s.limit)
	}
	return ""
}
