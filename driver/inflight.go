package driver

import (
	"fmt"
	"sync"

	"srvlab.io/rds-csi/safety"
)

// InFlight is the set of volumes that something is under way for: a call, or the node's repair. A volume is named by
// its slot, which is the same before and after an array was chosen for it. The zero value is empty and ready to use.
type InFlight struct {
	mu   sync.Mutex
	busy map[safety.Slot]string
}

// Enter marks the volume as busy with op until leave is called. Where it already is, the error is a Refusal
// in-flight: callers come again, and waiting here would only pile them up behind a call that hangs.
func (f *InFlight) Enter(v safety.Slot, op string) (leave func(), err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if other, found := f.busy[v]; found {
		return nil, safety.Refuse(safety.InFlight, fmt.Errorf("%s of volume %s: %s is still under way", op, v, other))
	}
	if f.busy == nil {
		f.busy = map[safety.Slot]string{}
	}
	f.busy[v] = op
	return sync.OnceFunc(func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		delete(f.busy, v)
	}), nil
}
