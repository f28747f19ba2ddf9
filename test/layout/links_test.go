package layout

import (
	"context"
	"fmt"
	"io/fs"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"
)

// ban is what a program must not link, directly or through others, and why.
type ban struct{ start, why string }

// everywhere is banned from every program that runs in a cluster.
var everywhere = []ban{
	{"testing", "not in production code: it registers flags and keeps dead code alive"},
	{module + "/test/", "a model of the array is not the array"},
	{"k8s.io/client-go", "the volumes must go on while the API server is down, and it is twelve megabytes on every node"},
}

// links says of each program what it must not link.
var links = map[string][]ban{
	"rds-csi-node": slices.Concat(everywhere, []ban{
		{"golang.org/x/crypto/ssh", "a node holds no key of the array: who breaks into one node must not own every volume"},
		{module + "/driver/routeros", "a node holds no key of the array: who breaks into one node must not own every volume"},
		{module + "/driver/controller", "a node decides nothing about the array"},
	}),
	"rds-csi-controller": slices.Concat(everywhere, []ban{
		{"k8s.io/mount-utils", "the controller mounts nothing; it runs without privileges on any node"},
		{module + "/driver/node", "the controller acts on no node"},
		{module + "/driver/nvme", "the controller connects to nothing"},
		{module + "/driver/mapper", "the controller maps nothing"},
		{module + "/safety/kernel", "the kernel of the controller's own node says nothing about anybody's volume"},
	}),
	"routeros-emulator": {
		{"testing", "it is a program too"},
		{module + "/driver", "a model that shares the client's code shares the client's mistakes"},
	},
}

// linked gives a line for each package of deps that bans forbid.
func linked(program string, bans []ban, deps []string) []string {
	var wrong []string
	for _, d := range deps {
		for _, b := range bans {
			dir := strings.TrimSuffix(b.start, "/")
			if d == dir || strings.HasPrefix(d, dir+"/") {
				wrong = append(wrong, fmt.Sprintf("%s links %s: %s", program, d, b.why))
			}
		}
	}
	return wrong
}

// dependencies asks the go command what a program links.
func dependencies(t *testing.T, program string) []string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "go", "list", "-deps", "./cmd/"+program)
	cmd.Dir = "../.."
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s: %v", cmd, err)
	}
	return strings.Fields(string(out))
}

func TestProgramsLinkOnlyWhatTheyNeed(t *testing.T) {
	for program, bans := range links {
		deps := dependencies(t, program)
		if !slices.Contains(deps, "fmt") {
			t.Errorf("%s: links no fmt: go list said %q", program, deps)
		}
		for _, wrong := range linked(program, bans, deps) {
			t.Error(wrong)
		}
	}
	// The same question about the programs that do link the banned packages, so that a renamed one is noticed.
	for program, must := range map[string][]string{
		"rds-csi-controller": {"golang.org/x/crypto/ssh", module + "/driver/routeros", module + "/driver/controller"},
		"rds-csi-node":       {module + "/driver/node", module + "/driver/nvme", module + "/driver/mapper", module + "/safety/kernel"},
	} {
		deps := dependencies(t, program)
		for _, m := range must {
			if !slices.Contains(deps, m) {
				t.Errorf("%s does not link %s any more: the bans of this file are about a package that is gone", program, m)
			}
		}
	}
	bad := []string{"fmt", "testing", "testing/iotest", "golang.org/x/crypto/ssh/knownhosts", "golang.org/x/crypto/sha3", module + "/driver/routeros", module + "/driver/node", module + "/testing"}
	if got := linked("x", links["rds-csi-node"], bad); len(got) != 4 {
		t.Errorf("the bad list: want 4 lines, got %q", got)
	}
}

// everyProgramHasItsBans: no program without a decision about what it must not link.
func everyProgramHasItsBans(fsys fs.FS) ([]string, error) {
	list, err := sources(fsys)
	if err != nil {
		return nil, err
	}
	var wrong []string
	there := byPackage(list)
	for _, dir := range sorted(there) {
		program, ok := strings.CutPrefix(dir, "cmd/")
		if _, listed := links[program]; ok && there[dir][0].file.Name.Name == "main" && !listed {
			wrong = append(wrong, dir+": say in links what it must not link")
		}
	}
	return wrong, nil
}

func TestEveryProgramHasItsBans(t *testing.T) {
	rule(everyProgramHasItsBans).holds(t, map[string]string{
		"cmd/rds-csi-node/main.go":    "package main",
		"cmd/rds-csi-cleaner/main.go": "package main",
		"cmd/internal/program/p.go":   "package program",
	}, "cmd/rds-csi-cleaner: say in links")
}
