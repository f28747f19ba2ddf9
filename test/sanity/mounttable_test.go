package sanity

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"github.com/moby/sys/mountinfo"
	"google.golang.org/grpc"
)

// mount is one line of mountinfo: the ID tells a new mount from an old one at the same point.
type mount struct {
	ID    int
	Point string
	Root  string
}

// hostMounts reads the host's mount table without any code of the driver, so that a mistake there cannot hide here.
func hostMounts() ([]mount, error) {
	f, err := os.Open("/proc/1/mountinfo")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	infos, err := mountinfo.GetMountsFromReader(f, nil)
	if err != nil {
		return nil, err
	}
	mounts := make([]mount, 0, len(infos))
	for _, m := range infos {
		mounts = append(mounts, mount{m.ID, m.Mountpoint, m.Root})
	}
	return mounts, nil
}

// lookOf tells what stands at a path: "nothing", "block device", "directory", "file" or "other".
func lookOf(path string) string {
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return "nothing"
	case err != nil:
		return err.Error()
	case info.IsDir():
		return "directory"
	case info.Mode()&fs.ModeDevice != 0 && info.Mode()&fs.ModeCharDevice == 0:
		return "block device"
	case info.Mode().IsRegular():
		return "file"
	}
	return "other"
}

// judge says what a call did to the mount table that it must not have done; nothing when all is well. Publishing and
// staging any number of times leaves exactly one mount, taking back any number of times leaves none, and every other
// call, a failed one too, leaves the table as it was. look tells what stands at a path after the call.
func judge(req any, failed bool, before, after []mount, look func(string) string) []string {
	var wrong []string
	complain := func(format string, args ...any) { wrong = append(wrong, fmt.Sprintf(format, args...)) }

	at, want := "", 0 // the one path where the table may change, and the mounts there afterwards
	switch r := req.(type) {
	case *csi.NodeStageVolumeRequest:
		if r.GetVolumeCapability().GetBlock() == nil {
			at, want = r.GetStagingTargetPath(), 1
		}
	case *csi.NodePublishVolumeRequest:
		if r.GetVolumeCapability().GetBlock() == nil {
			at, want = r.GetTargetPath(), 1
		} else if found := look(r.GetTargetPath()); !failed && found != "block device" {
			complain("published raw block, but at %s there is %s", r.GetTargetPath(), found)
		}
	case *csi.NodeUnpublishVolumeRequest:
		at = r.GetTargetPath()
		if found := look(at); !failed && found != "nothing" {
			complain("unpublished, but at %s there still is %s", at, found)
		}
	case *csi.NodeUnstageVolumeRequest:
		at = r.GetStagingTargetPath()
	}
	if failed {
		at = "" // what could not be done must not have been done by half
	}
	at = filepath.Clean(at)

	known := func(table []mount) func(mount) bool {
		return func(m mount) bool { return slices.Contains(table, m) }
	}
	count := func(table []mount) int {
		n := 0
		for _, m := range table {
			if m.Point == at {
				n++
			}
		}
		return n
	}
	added := slices.DeleteFunc(slices.Clone(after), known(before))
	removed := slices.DeleteFunc(slices.Clone(before), known(after))
	for _, m := range added {
		if m.Point != at || want == 0 {
			complain("added mount %d at %s", m.ID, m.Point)
		}
	}
	for _, m := range removed {
		if m.Point != at || want != 0 {
			complain("removed mount %d at %s", m.ID, m.Point)
		}
	}
	if at != "." && count(after) != want {
		complain("%d mounts at %s, want %d", count(after), at, want)
	}
	if at != "." && want == 1 && count(before) == 1 && len(added) != 0 {
		complain("mounted again over a mount that was there")
	}
	return wrong
}

// watchMounts gives a client interceptor that holds every call against judge and reports to fail.
func watchMounts(fail func(string)) grpc.UnaryClientInterceptor {
	return func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker,
		opts ...grpc.CallOption,
	) error {
		before, errBefore := hostMounts()
		callErr := invoke(ctx, method, req, reply, cc, opts...)
		after, errAfter := hostMounts()
		if err := errors.Join(errBefore, errAfter); err != nil {
			fail(fmt.Sprintf("%s: the mount table could not be read: %v", method, err))
			return callErr
		}
		if wrong := judge(req, callErr != nil, before, after, lookOf); len(wrong) > 0 {
			fail(fmt.Sprintf("%s (error: %v): %s", method, callErr, strings.Join(wrong, "; ")))
		}
		return callErr
	}
}

func TestJudge(t *testing.T) {
	mountCap := &csi.VolumeCapability{AccessType: &csi.VolumeCapability_Mount{Mount: &csi.VolumeCapability_MountVolume{}}}
	blockCap := &csi.VolumeCapability{AccessType: &csi.VolumeCapability_Block{Block: &csi.VolumeCapability_BlockVolume{}}}
	stage := &csi.NodeStageVolumeRequest{StagingTargetPath: "/s", VolumeCapability: mountCap}
	publish := &csi.NodePublishVolumeRequest{TargetPath: "/t", VolumeCapability: mountCap}
	publishBlock := &csi.NodePublishVolumeRequest{TargetPath: "/t", VolumeCapability: blockCap}
	unpublish := &csi.NodeUnpublishVolumeRequest{TargetPath: "/t"}
	unstage := &csi.NodeUnstageVolumeRequest{StagingTargetPath: "/s"}
	root, staged, target := mount{1, "/", "/"}, mount{2, "/s", "/"}, mount{3, "/t", "/"}
	again, other := mount{4, "/t", "/"}, mount{5, "/var", "/"}

	for _, c := range []struct {
		name          string
		req           any
		failed        bool
		before, after []mount
		look          string
		want          string // "" is well done, else part of a complaint
	}{
		{name: "stage", req: stage, before: []mount{root}, after: []mount{root, staged}},
		{name: "stage again", req: stage, before: []mount{root, staged}, after: []mount{root, staged}},
		{name: "stage without a mount", req: stage, before: []mount{root}, after: []mount{root}, want: "0 mounts at /s, want 1"},
		{
			name: "publish twice stacks", req: publish, before: []mount{root, target}, after: []mount{root, target, again},
			want: "2 mounts at /t, want 1",
		},
		{
			name: "publish replaces the mount", req: publish, before: []mount{root, target}, after: []mount{root, again},
			want: "removed mount 3",
		},
		{name: "failed publish leaves a mount", req: publish, failed: true, before: []mount{root}, after: []mount{root, target}, want: "added mount 3"},
		{name: "publish mounts elsewhere too", req: publish, before: []mount{root}, after: []mount{root, target, other}, want: "added mount 5 at /var"},
		{name: "publish block", req: publishBlock, before: []mount{root}, after: []mount{root}, look: "block device"},
		{name: "publish block by bind", req: publishBlock, before: []mount{root}, after: []mount{root, target}, look: "block device", want: "added mount 3"},
		{name: "publish block makes a file", req: publishBlock, before: []mount{root}, after: []mount{root}, look: "file", want: "there is file"},
		{name: "unpublish", req: unpublish, before: []mount{root, target}, after: []mount{root}, look: "nothing"},
		{name: "unpublish a stack", req: unpublish, before: []mount{root, target, again}, after: []mount{root}, look: "nothing"},
		{name: "unpublish leaves one", req: unpublish, before: []mount{root, target, again}, after: []mount{root, target}, look: "nothing", want: "1 mounts at /t, want 0"},
		{name: "unpublish leaves the directory", req: unpublish, before: []mount{root}, after: []mount{root}, look: "directory", want: "still is directory"},
		{name: "unstage takes a foreign mount", req: unstage, before: []mount{root, staged, other}, after: []mount{root}, want: "removed mount 5 at /var"},
		{name: "unstage", req: unstage, before: []mount{root, staged}, after: []mount{root}},
		{name: "statistics mount something", req: &csi.NodeGetVolumeStatsRequest{}, before: []mount{root}, after: []mount{root, other}, want: "added mount 5"},
		{name: "empty target", req: &csi.NodePublishVolumeRequest{VolumeCapability: mountCap}, failed: true, before: []mount{root}, after: []mount{root}},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := judge(c.req, c.failed, c.before, c.after, func(string) string { return c.look })
			if c.want == "" && len(got) > 0 {
				t.Errorf("complains: %q", got)
			}
			if c.want != "" && !strings.Contains(strings.Join(got, "; "), c.want) {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
}
