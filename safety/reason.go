package safety

import "errors"

// Reason says in one word why something was refused or went wrong. The same word is the end of the gRPC message, the
// label of the metric and the name of the page in runbooks/. The zero value is no reason.
type Reason string

// The reasons. Each has its page runbooks/<reason>.md; test/layout checks it.
const (
	// InFlight: another call for the same volume is under way.
	InFlight Reason = "in-flight"
	// ForeignNQN: a subsystem, controller or disk that is not this installation's stands where ours was expected.
	ForeignNQN Reason = "foreign-nqn"
	// AttachedElsewhere: the volume is published to as many nodes as its access mode allows.
	AttachedElsewhere Reason = "attached-elsewhere"
	// PathLost: the volume's NVMe/TCP connection could not be made, or is gone.
	PathLost Reason = "path-lost"
	// WrongDevice: the device is not the one that was asked for: size, generation or identity differ.
	WrongDevice Reason = "wrong-device"
	// NotBlank: the device holds something, and it is not the file system that was asked for.
	NotBlank Reason = "not-blank"
	// BlankUnproven: whether the device is blank could not be told; it is never formatted on a guess.
	BlankUnproven Reason = "blank-unproven"
	// FilesystemCorrupt: the check before the mount found what it may not repair by itself.
	FilesystemCorrupt Reason = "filesystem-corrupt"
	// DeviceBusy: something still uses the device, so its mapping or connection stays.
	DeviceBusy Reason = "device-busy"
	// MountFailed: the kernel refused a mount or an unmount, or did not finish it in time.
	MountFailed Reason = "mount-failed"
	// StaleMount: a mount of the volume is there, but not of the device that the volume is on now.
	StaleMount Reason = "stale-mount"
	// NodeUnsuited: the node lacks what the call needs: a kernel module, a program, mount propagation.
	NodeUnsuited Reason = "node-unsuited"
	// ArrayUnreachable: the array does not answer over SSH, or its answer was lost.
	ArrayUnreachable Reason = "array-unreachable"
	// ArrayNotReady: the array answers, but fails the start-up check: version, package, policy or pool.
	ArrayNotReady Reason = "array-not-ready"
	// ArrayRefused: the array refused a command, and reading back does not tell why.
	ArrayRefused Reason = "array-refused"
	// NoSpace: the pool has not enough free space.
	NoSpace Reason = "no-space"
)

// Reasons lists every Reason, for the tests that hold runbooks and alerts against them.
func Reasons() []Reason {
	return []Reason{
		InFlight, ForeignNQN, AttachedElsewhere, PathLost, WrongDevice, NotBlank, BlankUnproven, FilesystemCorrupt,
		DeviceBusy, MountFailed, StaleMount, NodeUnsuited, ArrayUnreachable, ArrayNotReady, ArrayRefused, NoSpace,
	}
}

// Refusal is an error with a Reason. Its text ends in the reason, which names the runbook.
type Refusal struct {
	Reason Reason
	// Touched says that the call had already changed something (a connection, a mapping, a mount) that a later call
	// must finish or take back. kubelet needs to know: after a final error it never calls unstage.
	Touched bool
	Err     error
}

// Refuse gives err as a Refusal made before anything was touched.
func Refuse(r Reason, err error) *Refusal { return &Refusal{Reason: r, Err: err} }

// RefuseTouched gives err as a Refusal of a call that had already changed something.
func RefuseTouched(r Reason, err error) *Refusal { return &Refusal{Reason: r, Touched: true, Err: err} }

// Error gives the text of the cause and the reason in brackets at the end.
func (r *Refusal) Error() string { return r.Err.Error() + " [" + string(r.Reason) + "]" }

// Unwrap gives the cause.
func (r *Refusal) Unwrap() error { return r.Err }

// ReasonOf gives the Reason of the outermost Refusal in err's chain, "" where there is none.
func ReasonOf(err error) Reason {
	var r *Refusal
	if errors.As(err, &r) {
		return r.Reason
	}
	return ""
}
