// Package report is what one run of the demo measured, and the promises held against it; it refuses to measure
// anything itself, so that no number in it can come from the code that judges it.
package report

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"

	"srvlab.io/rds-csi/test/demo/record"
)

// Report is out/demo/report.json. All times are seconds since the machine's boot by its monotonic clock, the one that
// the kernel's log is stamped with; all durations are seconds. The zero value keeps no promise.
type Report struct {
	Kernel   string    `json:"kernel"` // uname -r of the machine with the volume
	Steps    []Step    `json:"steps"`
	Failure  string    `json:"failure,omitempty"` // what ended the run early
	Promises []Promise `json:"promises"`          // made by Judge

	Writer  record.Summary `json:"writer"`
	Records record.Verdict `json:"records"` // read back over a new connection, after the last unmount
	Outage  Outage         `json:"outage"`
	Before  Device         `json:"deviceBefore"`
	After   Device         `json:"deviceAfter"`
	Growth  Growth         `json:"growth"`
	Fsck    Fsck           `json:"fsck"`
	Foreign Foreign        `json:"foreign"`
	Left    Left           `json:"left"`
}

// Step is one thing that was asked of the programs, and what the kernel said when it was done.
type Step struct {
	Name    string   `json:"name"`
	From    float64  `json:"from"`
	Seconds float64  `json:"seconds"`
	Seen    []string `json:"seen"`
	Error   string   `json:"error,omitempty"`
}

// Device is where the volume's mapping led at one moment.
type Device struct {
	Name       string `json:"name"`   // the block device, nvme0n1
	Number     string `json:"number"` // its major:minor
	DiskSeq    uint64 `json:"diskseq"`
	Controller string `json:"controller"`
	Mapping    string `json:"mapping"`       // the mapping's block device, dm-0
	MappingNr  string `json:"mappingNumber"` // its major:minor
}

// Outage is the array's reboot, as the kernel of the node saw it. A zero time was not seen.
type Outage struct {
	Began             float64 `json:"began"`             // the reboot was ordered
	ConnectionLost    float64 `json:"connectionLost"`    // the controller left the state live
	ListenerBack      float64 `json:"listenerBack"`      // the port accepts connections, nothing is exported yet
	ControllerRemoved float64 `json:"controllerRemoved"` // controller and block device were gone from sysfs
	ExportsBack       float64 `json:"exportsBack"`       // the array exports the volume again
	Repaired          float64 `json:"repaired"`          // the mapping was seen to lead to a live device again
	WriterWentOn      float64 `json:"writerWentOn"`      // the first write that began in the outage was acknowledged
	KernelLine        string  `json:"kernelLine"`        // the kernel log's word on the removal
}

// Growth is the online expansion, measured with statfs through the published path.
type Growth struct {
	AskedBytes  int64 `json:"askedBytes"`
	BytesBefore int64 `json:"bytesBefore"`
	BytesAfter  int64 `json:"bytesAfter"`
	DeviceBytes int64 `json:"deviceBytes"` // of the mapping, afterwards
	Writes      int   `json:"writes"`      // acknowledged while it went on
}

// Fsck is the check of the volume after the last unmount, over a new connection. The zero value never ran.
type Fsck struct {
	Command  string `json:"command"`
	ExitCode int    `json:"exitCode"` // e2fsck: 0 is clean
	Output   string `json:"output"`
}

// Foreign is the subsystem that is none of the driver's: it stands for the disk under a diskless node's /var.
type Foreign struct {
	Before  Standing       `json:"before"`
	After   Standing       `json:"after"`
	Writer  record.Summary `json:"writer"`
	Records record.Verdict `json:"records"`
}

// Standing is all that identifies a mounted subsystem.
type Standing struct {
	NQN        string `json:"nqn"`
	Controller string `json:"controller"`
	State      string `json:"state"`
	Device     string `json:"device"`
	Number     string `json:"number"`
	DiskSeq    uint64 `json:"diskseq"`
	Mount      string `json:"mount"` // its line in /proc/1/mountinfo
}

// Untouched tells whether the subsystem is the very same as before, and served its writer all the time.
func (f Foreign) Untouched() bool {
	return f.Before != Standing{} && f.Before == f.After && f.Before.State == "live" && served(f.Writer, f.Records)
}

// Left is what was on node and array before the first volume was created and after the last was deleted.
type Left struct {
	Checked []string `json:"checked"` // the kinds of things that were compared
	Extra   []string `json:"extra"`   // there now, and not before
	Missing []string `json:"missing"` // there before, and not now
}

// served tells whether a writer wrote, saw no error, and all that it wrote is there.
func served(w record.Summary, v record.Verdict) bool {
	return w.Writes > 0 && w.Errors == 0 && v.Clean() && v.Whole == w.Writes
}

// Write writes the report as indented JSON.
func (r *Report) Write(out io.Writer) error {
	enc := json.NewEncoder(out)
	enc.SetIndent("", "  ")
	enc.SetEscapeHTML(false) // the kernel's "->" stays readable
	return enc.Encode(r)
}

// Read reads a report that Write wrote; a key that is not in it is an error.
func Read(in io.Reader) (*Report, error) {
	dec := json.NewDecoder(in)
	dec.DisallowUnknownFields()
	r := new(Report)
	if err := dec.Decode(r); err != nil {
		return nil, fmt.Errorf("read report: %w", err)
	}
	return r, nil
}

// WriteFile writes the report to a file.
func (r *Report) WriteFile(name string) error {
	f, err := os.Create(name)
	if err != nil {
		return err
	}
	return errors.Join(r.Write(f), f.Close())
}

// The files of a run in out/demo.
const (
	File       = "report.json"
	WriterLog  = "writer.log"
	ForeignLog = "foreign-writer.log"
)
