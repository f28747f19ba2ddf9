package sanity

import (
	"context"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	csisanity "github.com/kubernetes-csi/csi-test/v5/pkg/sanity"
	"github.com/onsi/ginkgo/v2"
	"github.com/onsi/gomega"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"srvlab.io/rds-csi/safety"
	"srvlab.io/rds-csi/test/stack"
)

const (
	cluster  = "sanity"
	nodeName = "sanity-node"
	// volumeBytes is small, because the kernel's half formats and fills volumes on an emulated machine.
	volumeBytes = 64 << 20
)

// part is one run of csi-sanity. Ginkgo runs one suite a process, so each part runs in a child of this test binary.
type part struct {
	access string // mount or block
	skip   string // specs whose text contains it are left out, because this part has nothing to answer them
	stack  stack.Config
	// checkAfter looks, after the suite, at what must be gone or untouched.
	checkAfter func(context.Context, *stack.Stack) error
}

// inChild is set for the child process and says which access type it runs.
const inChild = "RDS_SANITY_ACCESS"

// runParts runs the calling test once in a child process for each access type.
func runParts(t *testing.T, timeout time.Duration, access ...string) {
	t.Helper()
	for _, a := range access {
		t.Run(a, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), timeout)
			defer cancel()
			name, _, _ := strings.Cut(t.Name(), "/")
			cmd := exec.CommandContext(ctx, os.Args[0], "-test.run=^"+name+"$", "-test.timeout="+timeout.String(), "-ginkgo.no-color")
			cmd.Env = append(os.Environ(), inChild+"="+a)
			cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) } // Ginkgo then cleans up what it made
			cmd.WaitDelay = time.Minute
			out, err := cmd.CombinedOutput()
			if err != nil {
				t.Fatalf("csi-sanity with %s volumes: %v\n%s", a, err, out)
			}
			t.Logf("%s", lastLines(string(out), 4))
		})
	}
}

func lastLines(s string, n int) string {
	lines := strings.Split(strings.TrimSpace(s), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}

// run is the child's half: it starts the programs, registers csi-sanity's specs and runs them.
func (p part) run(t *testing.T, node csi.NodeServer) {
	t.Helper()
	ctx := context.WithoutCancel(t.Context()) // the programs outlive the test's context: Cleanup stops them in order
	s, err := stack.Start(ctx, p.stack)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Stop(); err != nil {
			t.Error(err)
		}
	})

	config := csisanity.NewTestConfig()
	dial := []grpc.DialOption{
		grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithAuthority("localhost"),
		grpc.WithChainUnaryInterceptor(watchMounts(func(complaint string) { ginkgo.Fail(complaint, 4) })),
	}
	config.DialOptions, config.ControllerDialOptions = dial, dial
	config.ControllerAddress = "unix://" + filepath.Join(p.stack.Dir, "controller.sock")
	config.Address = "unix://" + filepath.Join(p.stack.Dir, "node.sock")
	if node != nil {
		config.Address = serveNode(t, node)
	}
	config.TargetPath = filepath.Join(p.stack.Kubelet, "pods")
	config.StagingPath = filepath.Join(p.stack.Kubelet, "staging")
	config.TestVolumeSize = volumeBytes
	config.TestVolumeExpandSize = 2 * volumeBytes
	config.TestVolumeAccessType = p.access
	config.TestNodeVolumeAttachLimit = true
	config.IDGen = ids{p.stack.Array.Name, p.stack.Prefix}

	sanity := csisanity.GinkgoTest(&config)
	gomega.RegisterFailHandler(ginkgo.Fail)
	var report ginkgo.Report
	ginkgo.ReportAfterSuite("keep the report", func(r ginkgo.Report) { report = r })
	suite, reporter := ginkgo.GinkgoConfiguration()
	if p.skip != "" {
		suite.SkipStrings = []string{p.skip}
	}
	ginkgo.RunSpecs(t, "csi-sanity, "+p.access, suite, reporter)
	sanity.Finalize()

	p.judgeReport(ctx, t, report, s, node)
	if err := p.checkAfter(ctx, s); err != nil {
		t.Errorf("after the suite: %v", err)
	}
}

// leastSpecs is how many specs must have run: csi-sanity 5.6 has 103, and those for snapshots, groups, cloning,
// modification and health are not for us yet. A suite that lost its specs must not look green.
const (
	leastSpecs           = 57
	leastControllerSpecs = 33
)

// judgeReport fails the test for every skipped spec that no missing capability explains, and when too few ran.
func (p part) judgeReport(ctx context.Context, t *testing.T, report ginkgo.Report, s *stack.Stack, node csi.NodeServer) {
	t.Helper()
	offered, err := offers(ctx, s, node)
	if err != nil {
		t.Fatal(err)
	}
	ran := 0
	for _, spec := range report.SpecReports {
		switch {
		case spec.LeafNodeType.String() != "It" || p.skip != "" && strings.Contains(spec.FullText(), p.skip):
		case spec.State.String() == "pending" && strings.Contains(spec.FullText(), pendingUpstream):
		case spec.State.String() == "passed":
			ran++
		case spec.State.String() == "skipped":
			capability, known := explained[spec.Failure.Message]
			if !known || offered[capability] {
				t.Errorf("skipped: %s: %q, and no capability that we lack explains it", spec.FullText(), spec.Failure.Message)
			}
		default:
			t.Errorf("%s: %s", spec.State, spec.FullText())
		}
	}
	least := leastSpecs
	if p.skip != "" {
		least = leastControllerSpecs
	}
	if ran < least {
		t.Errorf("only %d specs ran, want at least %d", ran, least)
	}
	t.Logf("%d specs passed", ran)
}

// pendingUpstream is the one spec that csi-test itself has switched off (PIt in its controller.go).
const pendingUpstream = "pagination should detect volumes added between pages"

// explained maps csi-sanity's skip messages to the capability whose absence is the reason.
var explained = map[string]string{
	"Snapshot not supported":                               "CREATE_DELETE_SNAPSHOT",
	"CreateSnapshot not supported":                         "CREATE_DELETE_SNAPSHOT",
	"DeleteSnapshot not supported":                         "CREATE_DELETE_SNAPSHOT",
	"ListSnapshots not supported":                          "LIST_SNAPSHOTS",
	"GetSnapshot not supported":                            "GET_SNAPSHOT",
	"SNAPSHOT_ACCESSIBILITY_CONSTRAINTS not supported":     "SNAPSHOT_ACCESSIBILITY_CONSTRAINTS",
	"Volume Cloning not supported":                         "CLONE_VOLUME",
	"Modify volume not supported":                          "MODIFY_VOLUME",
	"Modify Volume not supported":                          "MODIFY_VOLUME",
	"ControllerModifyVolume not supported":                 "MODIFY_VOLUME",
	"ControllerPublishVolume.readonly field not supported": "PUBLISH_READONLY",
	"ControllerGetVolumeHealth not supported":              "GET_VOLUME_HEALTH",
	"ControllerListVolumeHealth not supported":             "LIST_VOLUME_HEALTH",
	"NodeGetVolumeHealth not supported":                    "node GET_VOLUME_HEALTH",
	"NodeGetStorageHealth not supported":                   "node GET_STORAGE_HEALTH",
	"GroupControllerService not supported":                 "GROUP_CONTROLLER_SERVICE",
	"VolumeGroupSnapshots not supported":                   "GROUP_CONTROLLER_SERVICE",
	"No MaxVolumesPerNode":                                 "max_volumes_per_node",
}

// offers asks both programs what they can do, in the words of explained.
func offers(ctx context.Context, s *stack.Stack, node csi.NodeServer) (map[string]bool, error) {
	offered := map[string]bool{}
	controller, err := s.Controller.ControllerGetCapabilities(ctx, &csi.ControllerGetCapabilitiesRequest{})
	if err != nil {
		return nil, err
	}
	for _, c := range controller.GetCapabilities() {
		offered[c.GetRpc().GetType().String()] = true
	}
	if node != nil {
		return offered, nil
	}
	capabilities, err := s.Node.NodeGetCapabilities(ctx, &csi.NodeGetCapabilitiesRequest{})
	if err != nil {
		return nil, err
	}
	for _, c := range capabilities.GetCapabilities() {
		offered["node "+c.GetRpc().GetType().String()] = true
	}
	info, err := s.Node.NodeGetInfo(ctx, &csi.NodeGetInfoRequest{})
	if err != nil {
		return nil, err
	}
	offered["max_volumes_per_node"] = info.GetMaxVolumesPerNode() > 0
	return offered, nil
}

// ids makes IDs of the driver's own form that name nothing, so that "not found" is tested and not "malformed".
type ids struct {
	array  safety.ArrayName
	prefix safety.Prefix
}

func (i ids) GenerateUniqueValidVolumeID() string {
	name := csisanity.UniqueString("nobody")
	return safety.VolumeID{Array: i.array, Slot: safety.SlotOf(safety.VolumeUUID(i.prefix, name))}.String()
}

func (ids) GenerateInvalidVolumeID() string   { return "no-such-form" }
func (ids) GenerateUniqueValidNodeID() string { return csisanity.UniqueString("nobody") + "/00000000" }
func (ids) GenerateInvalidNodeID() string     { return "no-such-form" }

// nothingLeft asks the array, over a connection of its own, whether disks or files of the suite are still there.
func nothingLeft(ctx context.Context, s *stack.Stack) error {
	left := map[string]string{}
	for what, line := range map[string]string{
		"disks": `:put [/disk/find where slot~"^pvc-"]`,
		"files": `:put [/file/find where name~"pvc-"]`,
	} {
		out, err := s.Console(ctx, line)
		if err != nil {
			return err
		}
		if out = strings.TrimSpace(out); out != "" {
			left[what] = out
		}
	}
	if len(left) > 0 {
		return fmt.Errorf("still on the array: %s", slices.Collect(maps.Values(left)))
	}
	return nil
}
