package controller

import (
	"math"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

func TestSizesOf(t *testing.T) {
	const gib = 1024 * mib
	tests := []struct {
		name            string
		required, limit int64
		least           int64
		want            int64
		code            codes.Code
	}{
		{name: "nothing asked", want: gib},
		{name: "exact MiB", required: 64 * mib, want: 64 * mib},
		{name: "rounded up", required: 64*mib + 1, want: 65 * mib},
		{name: "one byte", required: 1, want: mib},
		{name: "1.5 GiB is not truncated", required: gib + gib/2, want: gib + gib/2},
		{name: "1025 GiB is not truncated", required: 1025 * gib, want: 1025 * gib},
		{name: "limit above", required: gib, limit: 2 * gib, want: gib},
		{name: "limit equal", required: gib, limit: gib, want: gib},
		{name: "only a limit above the default", limit: 5 * gib, want: gib},
		{name: "only a limit below the default", limit: 100*mib + 5, want: 100 * mib},
		{name: "rounding would exceed the limit", required: mib + 1, limit: 2*mib - 1, code: codes.OutOfRange},
		{name: "a limit below 1 MiB", limit: mib - 1, code: codes.OutOfRange},
		{name: "limit below required", required: 2 * gib, limit: gib, code: codes.InvalidArgument},
		{name: "negative", required: -1, code: codes.InvalidArgument},
		{name: "negative limit", limit: -1, code: codes.InvalidArgument},
		{name: "more than there is", required: math.MaxInt64, code: codes.OutOfRange},
		{name: "xfs", required: 300 * mib, least: minXFS, want: 300 * mib},
		{name: "too small for xfs", required: 299 * mib, least: minXFS, code: codes.OutOfRange},
		{name: "limit too small for xfs", limit: 299 * mib, least: minXFS, code: codes.OutOfRange},
		{name: "xfs without a size", least: minXFS, want: gib},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := sizesOf(&csi.CapacityRange{RequiredBytes: tt.required, LimitBytes: tt.limit}, max(tt.least, mib))
			if status.Code(err) != tt.code || got.want != tt.want {
				t.Errorf("got %d bytes, %v; want %d, %s", got.want, err, tt.want, tt.code)
			}
			if err == nil && got.fits(got.want) != "" {
				t.Errorf("what is to be made does not fit: %s", got.fits(got.want))
			}
		})
	}
	if got, err := sizesOf(nil, mib); err != nil || got.want != gib {
		t.Errorf("no range at all: %d, %v", got.want, err)
	}
}

func FuzzSizesOf(f *testing.F) {
	f.Add(int64(1), int64(2))
	f.Add(int64(math.MaxInt64), int64(0))
	f.Add(mib+1, 2*mib)
	f.Fuzz(func(t *testing.T, required, limit int64) {
		s, err := sizesOf(&csi.CapacityRange{RequiredBytes: required, LimitBytes: limit}, mib)
		if err != nil {
			return
		}
		if s.want <= 0 || s.want%mib != 0 || s.want < required || limit > 0 && s.want > limit {
			t.Errorf("%d to %d bytes: made %d", required, limit, s.want)
		}
	})
}
