package report

import (
	"fmt"
	"strings"
)

// Promise is one sentence of the README held against what was measured.
type Promise struct {
	Name     string `json:"name"`
	Measured string `json:"measured"`
	Kept     bool   `json:"kept"`
}

// Judge fills in the promises and tells whether all of them were kept. A value that was never measured keeps none.
func (r *Report) Judge() bool {
	r.Promises = []Promise{
		r.finished(), r.outageWasReal(), r.writerSawNoError(), r.writerWaited(), r.nothingLost(), r.cameBack(),
		r.grew(), r.clean(), r.foreignUntouched(), r.nothingLeft(),
	}
	for _, p := range r.Promises {
		if !p.Kept {
			return false
		}
	}
	return true
}

func (r *Report) finished() Promise {
	p := Promise{
		Name: "every step succeeds", Measured: fmt.Sprintf("%d steps", len(r.Steps)),
		Kept: len(r.Steps) > 0 && r.Failure == "",
	}
	for _, s := range r.Steps {
		if s.Error != "" {
			p.Kept, p.Measured = false, s.Name+": "+s.Error
		}
	}
	if r.Failure != "" {
		p.Measured = r.Failure
	}
	return p
}

// outageWasReal holds the demo itself to its word: without the removal by the kernel all else would prove nothing.
func (r *Report) outageWasReal() Promise {
	o := r.Outage
	inOrder := o.Began > 0 && o.ConnectionLost >= o.Began && o.ListenerBack > o.Began &&
		o.ControllerRemoved >= o.ListenerBack && o.ExportsBack > o.ControllerRemoved
	measured := "not seen"
	if inOrder {
		measured = fmt.Sprintf("%.1f s after the reboot, %.1f s before the exports were back: %s",
			o.ControllerRemoved-o.Began, o.ExportsBack-o.ControllerRemoved, o.KernelLine)
	}
	return Promise{"the outage is the nasty one: the kernel removes the controller", measured, inOrder && o.KernelLine != ""}
}

func (r *Report) writerSawNoError() Promise {
	measured := fmt.Sprintf("%d writes, %d errors", r.Writer.Writes, r.Writer.Errors)
	if r.Writer.FirstError != "" {
		measured += ", the first: " + r.Writer.FirstError
	}
	return Promise{"the writer sees no error", measured, r.Writer.Writes > 0 && r.Writer.Errors == 0}
}

// writerWaited is the other half of "no error": a writer that happened to pause in the outage would see none either.
func (r *Report) writerWaited() Promise {
	o, end := r.Outage, r.Writer.StallFrom+r.Writer.LongestSeconds
	measured := fmt.Sprintf("longest stall %.1f s", r.Writer.LongestSeconds)
	if o.ExportsBack > 0 {
		measured += fmt.Sprintf(", over %.1f s after the exports were back", end-o.ExportsBack)
	}
	return Promise{
		"the writer waits while there is no device, and then goes on", measured,
		o.Repaired >= o.ExportsBack && o.ExportsBack > 0 && o.WriterWentOn > 0 &&
			r.Writer.StallFrom <= o.ControllerRemoved && end >= o.ExportsBack,
	}
}

func (r *Report) nothingLost() Promise {
	return Promise{
		"no acknowledged record is lost, torn, doubled or moved", r.Records.String(),
		r.Records.Clean() && r.Records.Whole > 0 && r.Records.Whole == r.Writer.Writes,
	}
}

func (r *Report) cameBack() Promise {
	b, a := r.Before, r.After
	return Promise{
		"the volume comes back under another name, the mapping stays",
		fmt.Sprintf("%s (%s, diskseq %d) → %s (%s, diskseq %d); %s (%s) → %s (%s)",
			b.Name, b.Number, b.DiskSeq, a.Name, a.Number, a.DiskSeq, b.Mapping, b.MappingNr, a.Mapping, a.MappingNr),
		b.Name != "" && a.Name != "" && b.Name != a.Name && b.DiskSeq != a.DiskSeq &&
			b.Mapping != "" && b.Mapping == a.Mapping && b.MappingNr == a.MappingNr,
	}
}

// grew wants the device at the size that was asked for, and a file system that took at least nine tenths of what was
// added: ext4 keeps some of it for its own tables.
func (r *Report) grew() Promise {
	g := r.Growth
	const MiB = 1 << 20
	return Promise{
		"the file system grows while it is written to",
		fmt.Sprintf("%d → %d MiB of %d MiB, %d writes meanwhile", g.BytesBefore/MiB, g.BytesAfter/MiB, g.DeviceBytes/MiB, g.Writes),
		g.AskedBytes > g.BytesBefore && g.BytesBefore > 0 && g.DeviceBytes == g.AskedBytes &&
			(g.BytesAfter-g.BytesBefore)*10 >= (g.AskedBytes-g.BytesBefore)*9 && g.Writes > 0,
	}
}

func (r *Report) clean() Promise {
	measured := "did not run"
	if r.Fsck.Command != "" {
		measured = fmt.Sprintf("%s: exit code %d", r.Fsck.Command, r.Fsck.ExitCode)
	}
	return Promise{"fsck finds the volume clean", measured, r.Fsck.Command != "" && r.Fsck.ExitCode == 0}
}

func (r *Report) foreignUntouched() Promise {
	f := r.Foreign
	measured := fmt.Sprintf("%s %s (%s, diskseq %d), %d writes, %d errors; %v",
		f.After.Controller, f.After.Device, f.After.Number, f.After.DiskSeq, f.Writer.Writes, f.Writer.Errors, f.Records)
	if f.Before != f.After {
		measured = fmt.Sprintf("before: %+v; after: %+v", f.Before, f.After)
	}
	return Promise{"the foreign subsystem is not touched", measured, f.Untouched()}
}

func (r *Report) nothingLeft() Promise {
	measured := "never compared"
	if len(r.Left.Checked) > 0 {
		measured = "none of: " + strings.Join(r.Left.Checked, ", ")
	}
	if len(r.Left.Extra) > 0 {
		measured = "left: " + strings.Join(r.Left.Extra, "; ")
	}
	if len(r.Left.Missing) > 0 {
		measured += "; missing: " + strings.Join(r.Left.Missing, "; ")
	}
	return Promise{
		"nothing is left behind", measured,
		len(r.Left.Checked) > 0 && len(r.Left.Extra) == 0 && len(r.Left.Missing) == 0,
	}
}
