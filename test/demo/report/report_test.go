package report

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"

	"srvlab.io/rds-csi/test/demo/record"
)

// good gives the report of a run in which every promise was kept.
func good() *Report {
	foreign := Standing{
		NQN: "nqn.2000-02.com.mikrotik:nixos-node-1-var", Controller: "nvme0", State: "live", Device: "nvme0n1",
		Number: "259:1", DiskSeq: 9, Mount: "60 20 259:1 / /run/var rw - ext4 /dev/nvme0n1 rw",
	}
	return &Report{
		Kernel:  "6.12.1-amd64",
		Steps:   []Step{{Name: "one", From: 20, Seconds: 1.25}, {Name: "another", From: 22, Seconds: 10}},
		Writer:  record.Summary{Writes: 700, MedianSeconds: 0.02, LongestSeconds: 30, StallFrom: 60.4},
		Records: record.Verdict{Whole: 700},
		Outage: Outage{
			Began: 60, ConnectionLost: 60.3, ListenerBack: 65, ControllerRemoved: 68, ExportsBack: 80, Repaired: 88,
			WriterWentOn: 90.4, KernelLine: "[   68.000000] nvme nvme1: Removing controller",
		},
		Before:  Device{Name: "nvme1n1", Number: "259:3", DiskSeq: 11, Controller: "nvme1", Mapping: "dm-0", MappingNr: "253:0"},
		After:   Device{Name: "nvme1n2", Number: "259:4", DiskSeq: 12, Controller: "nvme2", Mapping: "dm-0", MappingNr: "253:0"},
		Growth:  Growth{AskedBytes: 1 << 30, BytesBefore: 488 << 20, BytesAfter: 990 << 20, DeviceBytes: 1 << 30, Writes: 12},
		Fsck:    Fsck{Command: "e2fsck -fn /dev/nvme1n1"},
		Foreign: Foreign{Before: foreign, After: foreign, Writer: record.Summary{Writes: 300}, Records: record.Verdict{Whole: 300}},
		Left:    Left{Checked: []string{"mappings", "mounts"}},
	}
}

func TestJudge(t *testing.T) {
	t.Parallel()
	r := good()
	if !r.Judge() {
		t.Errorf("a good run was judged:\n%v", r.Promises)
	}
}

// TestJudgeNotices breaks one measured value after the other. The promise that it breaks is named by its first words;
// each other one must stay kept, or the table would send its reader to the wrong place.
func TestJudgeNotices(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		promise string
		spoil   func(*Report)
	}{
		"a step failed":         {"every step", func(r *Report) { r.Steps[0].Error = "EIO" }},
		"the run ended early":   {"every step", func(r *Report) { r.Failure = "step: EIO" }},
		"no steps":              {"every step", func(r *Report) { r.Steps = nil }},
		"no outage":             {"the outage", func(r *Report) { r.Outage.ConnectionLost = 0 }},
		"no line in the log":    {"the outage", func(r *Report) { r.Outage.KernelLine = "" }},
		"removed too early":     {"the outage", func(r *Report) { r.Outage.ControllerRemoved = 64 }},
		"export before removal": {"the outage", func(r *Report) { r.Outage.ExportsBack = 67 }},
		"an error":              {"the writer sees", func(r *Report) { r.Writer.Errors, r.Writer.FirstError = 1, "EIO" }},
		"stalled elsewhere":     {"the writer waits", func(r *Report) { r.Writer.StallFrom = 100 }},
		"stalled too short":     {"the writer waits", func(r *Report) { r.Writer.LongestSeconds = 5 }},
		"never went on":         {"the writer waits", func(r *Report) { r.Outage.WriterWentOn = 0 }},
		"never repaired":        {"the writer waits", func(r *Report) { r.Outage.Repaired = 0 }},
		"lost":                  {"no acknowledged", func(r *Report) { r.Records.Lost = 1 }},
		"torn":                  {"no acknowledged", func(r *Report) { r.Records.Torn = 1 }},
		"duplicated":            {"no acknowledged", func(r *Report) { r.Records.Duplicated = 1 }},
		"reordered":             {"no acknowledged", func(r *Report) { r.Records.Reordered = 1 }},
		"fewer than written":    {"no acknowledged", func(r *Report) { r.Records.Whole-- }},
		"the same name":         {"the volume comes back", func(r *Report) { r.After.Name = r.Before.Name }},
		"the same disk":         {"the volume comes back", func(r *Report) { r.After.DiskSeq = r.Before.DiskSeq }},
		"another mapping":       {"the volume comes back", func(r *Report) { r.After.MappingNr = "253:1" }},
		"never came back":       {"the volume comes back", func(r *Report) { r.After = Device{} }},
		"device did not grow":   {"the file system grows", func(r *Report) { r.Growth.DeviceBytes = 512 << 20 }},
		"file system did not":   {"the file system grows", func(r *Report) { r.Growth.BytesAfter = r.Growth.BytesBefore }},
		"grown while idle":      {"the file system grows", func(r *Report) { r.Growth.Writes = 0 }},
		"fsck found something":  {"fsck", func(r *Report) { r.Fsck.ExitCode = 4 }},
		"fsck never ran":        {"fsck", func(r *Report) { r.Fsck = Fsck{} }},
		"foreign: controller":   {"the foreign", func(r *Report) { r.Foreign.After.Controller = "nvme3" }},
		"foreign: device":       {"the foreign", func(r *Report) { r.Foreign.After.Number = "259:9" }},
		"foreign: diskseq":      {"the foreign", func(r *Report) { r.Foreign.After.DiskSeq++ }},
		"foreign: mount":        {"the foreign", func(r *Report) { r.Foreign.After.Mount = "" }},
		"foreign: not live":     {"the foreign", func(r *Report) { r.Foreign.Before.State, r.Foreign.After.State = "connecting", "connecting" }},
		"foreign: error":        {"the foreign", func(r *Report) { r.Foreign.Writer.Errors = 1 }},
		"foreign: lost":         {"the foreign", func(r *Report) { r.Foreign.Records.Lost = 1 }},
		"foreign: never there":  {"the foreign", func(r *Report) { r.Foreign = Foreign{} }},
		"left":                  {"nothing is left", func(r *Report) { r.Left.Extra = []string{"mounts: 253:0 / at /v"} }},
		"taken away":            {"nothing is left", func(r *Report) { r.Left.Missing = []string{"mounts: 8:1 / at /"} }},
		"never looked":          {"nothing is left", func(r *Report) { r.Left = Left{} }},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := good()
			tc.spoil(r)
			if r.Judge() {
				t.Error("the run was judged good")
			}
			for _, p := range r.Promises {
				if broken := strings.HasPrefix(p.Name, tc.promise); broken == p.Kept {
					t.Errorf("%q kept: %v, measured: %s", p.Name, p.Kept, p.Measured)
				}
			}
		})
	}
}

func TestNothingMeasuredKeepsNoPromise(t *testing.T) {
	t.Parallel()
	var r Report
	if r.Judge() {
		t.Error("a run that measured nothing was judged good")
	}
	for _, p := range r.Promises {
		if p.Kept {
			t.Errorf("%q is kept, measured: %s", p.Name, p.Measured)
		}
	}
}

func TestWriteRead(t *testing.T) {
	t.Parallel()
	r := good()
	r.Judge()
	var first, second bytes.Buffer
	if err := r.Write(&first); err != nil {
		t.Fatal(err)
	}
	again, err := Read(bytes.NewReader(first.Bytes()))
	if err != nil {
		t.Fatal(err)
	}
	if err := again.Write(&second); err != nil || first.String() != second.String() {
		t.Errorf("%v; first\n%s\nthen\n%s", err, &first, &second)
	}
	if _, err := Read(strings.NewReader(`{"kernel": "6.12", "recordsLost": 0}`)); err == nil {
		t.Error("a key that no report has was taken")
	}
}

// TestKeys holds the names that readers of the report rely on.
func TestKeys(t *testing.T) {
	t.Parallel()
	var b bytes.Buffer
	if err := good().Write(&b); err != nil {
		t.Fatal(err)
	}
	var keys map[string]any
	if err := json.Unmarshal(b.Bytes(), &keys); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{
		"kernel", "steps", "promises", "writer.writes", "writer.errors", "writer.longestStallSeconds", "records.lost",
		"records.torn", "outage.controllerRemoved", "deviceBefore.name", "deviceAfter.name", "fsck.exitCode",
		"foreign.before.controller", "foreign.after.diskseq", "left.checked",
	} {
		at := any(keys)
		for key := range strings.SplitSeq(path, ".") {
			object, _ := at.(map[string]any)
			at = object[key]
		}
		if at == nil && path != "promises" { // Judge has not made them yet
			t.Errorf("the report has no %s", path)
		}
	}
}

func TestTable(t *testing.T) {
	t.Parallel()
	r := good()
	r.Steps[1].Error = "EIO"
	r.Judge()
	r.Promises = r.Promises[:2]
	var b strings.Builder
	if err := r.Table(&b); err != nil {
		t.Fatal(err)
	}
	const want = `STEP     SECONDS  RESULT
one          1.2  ok
another     10.0  FAILED

PROMISE                                                         RESULT  MEASURED
every step succeeds                                             BROKEN  another: EIO
the outage is the nasty one: the kernel removes the controller  kept    ` +
		`8.0 s after the reboot, 12.0 s before the exports were back: [   68.000000] nvme nvme1: Removing controller

Linux 6.12.1-amd64
`
	if got := b.String(); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}
