package routerostest

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// FaultKind is what goes wrong.
type FaultKind string

// The kinds of fault.
const (
	Latency     FaultKind = "latency"     // the line takes Delay longer
	DropBefore  FaultKind = "drop-before" // the connection ends before the line is executed
	DropAfter   FaultKind = "drop-after"  // the line is executed, and the connection ends without a byte of its answer
	Partial     FaultKind = "partial"     // the connection ends after Bytes bytes of the answer
	Hang        FaultKind = "hang"        // the line is not executed and nothing comes back
	OutOfSpace  FaultKind = "no-space"    // add and growing fail for want of space during the line
	ExitStatus  FaultKind = "exit"        // the line's exit status is Exit, as mocks of others have it
	RebootFault FaultKind = "reboot"      // the box reboots after the line was executed
)

// Fault is something that goes wrong with command lines. It waits for the Nth line that Match finds (0: the first),
// and then strikes Times lines in a row (0: one, negative: all from there on).
type Fault struct {
	Kind  FaultKind
	Match *regexp.Regexp // nil: every line
	Nth   int
	Times int

	Delay               time.Duration // latency
	Bytes               int           // partial
	Exit                int           // exit
	Down, ListenerFirst time.Duration // reboot
}

// FaultHelp describes the text form of a Fault, for a program's --help.
const FaultHelp = `KIND[:KEY=VALUE[,KEY=VALUE]...]
  latency:delay=200ms     the line takes longer
  drop-before             connection lost before the line is executed
  drop-after              executed, then the connection is lost without an answer
  partial:bytes=10        executed, and the connection is lost after so many bytes of the answer
  hang                    not executed, no answer, until the client gives up
  no-space                the pool is full while the line runs
  exit:code=1             the exit status is not 0
  reboot:down=3s,listener-first=5s
                          executed, then the box reboots: no SSH and no NVMe for "down"; then the NVMe port answers
                          for "listener-first" before the exports exist
 keys of every kind:
  nth=N                   strike the Nth line that matches (default 1)
  times=N                 strike so many matching lines in a row (default 1, -1: for ever)
  match=REGEXP            count only lines that match; must be the last key, everything behind it is the expression
`

// ParseFault reads the text form that FaultHelp describes.
func ParseFault(s string) (Fault, error) {
	kind, rest, _ := strings.Cut(s, ":")
	f := Fault{Kind: FaultKind(kind)}
	switch f.Kind {
	case Latency, DropBefore, DropAfter, Partial, Hang, OutOfSpace, ExitStatus, RebootFault:
	default:
		return Fault{}, fmt.Errorf("fault %q: there is no kind %q", s, kind)
	}
	for rest != "" {
		var part string
		if strings.HasPrefix(rest, "match=") {
			part, rest = rest, ""
		} else {
			part, rest, _ = strings.Cut(rest, ",")
		}
		key, val, _ := strings.Cut(part, "=")
		if err := f.set(key, val); err != nil {
			return Fault{}, fmt.Errorf("fault %q: %w", s, err)
		}
	}
	return f, nil
}

func (f *Fault) set(key, val string) (err error) {
	switch key {
	case "nth":
		f.Nth, err = strconv.Atoi(val)
	case "times":
		f.Times, err = strconv.Atoi(val)
	case "bytes":
		f.Bytes, err = strconv.Atoi(val)
	case "code":
		f.Exit, err = strconv.Atoi(val)
	case "delay":
		f.Delay, err = time.ParseDuration(val)
	case "down":
		f.Down, err = time.ParseDuration(val)
	case "listener-first":
		f.ListenerFirst, err = time.ParseDuration(val)
	case "match":
		f.Match, err = regexp.Compile(val)
	default:
		err = fmt.Errorf("there is no key %q", key)
	}
	return err
}

// armed is a fault that waits or strikes.
type armed struct {
	Fault
	seen, struck int
}

// Inject arms a fault. Of several that would strike one line, the one injected first does.
func (b *Box) Inject(f Fault) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.faults = append(b.faults, &armed{Fault: f})
}

// ClearFaults disarms all faults.
func (b *Box) ClearFaults() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.faults = nil
}

// takeFault gives the fault that strikes a line, the zero Fault if none does. All faults count the line.
func (b *Box) takeFault(line string) Fault {
	var hit Fault
	for i := 0; i < len(b.faults); i++ {
		a := b.faults[i]
		if a.Match != nil && !a.Match.MatchString(line) {
			continue
		}
		a.seen++
		if a.seen < a.Nth || hit.Kind != "" {
			continue
		}
		hit = a.Fault
		a.struck++
		if a.Times >= 0 && a.struck >= max(1, a.Times) {
			b.faults = append(b.faults[:i:i], b.faults[i+1:]...)
			i--
		}
	}
	return hit
}
