package driver

import (
	"strings"
	"testing"

	"srvlab.io/rds-csi/safety"
)

func TestInFlight(t *testing.T) {
	var f InFlight
	leaveA, err := f.Enter("pvc-a", "NodeStageVolume")
	if err != nil {
		t.Fatal(err)
	}
	leaveB, err := f.Enter("pvc-b", "NodeStageVolume")
	if err != nil {
		t.Fatalf("another volume: %v", err)
	}
	_, err = f.Enter("pvc-a", "NodeUnstageVolume")
	if safety.ReasonOf(err) != safety.InFlight || !strings.Contains(err.Error(), "NodeStageVolume is still under way") {
		t.Fatalf("second call for the same volume: %v", err)
	}
	leaveA()
	leave, err := f.Enter("pvc-a", "NodeUnstageVolume")
	if err != nil {
		t.Fatalf("after the first has left: %v", err)
	}
	leaveA() // a leave too many must not end somebody else's stay
	if _, err := f.Enter("pvc-a", "NodeStageVolume"); safety.ReasonOf(err) != safety.InFlight {
		t.Fatalf("while the second is under way: %v", err)
	}
	leave()
	leaveB()
	if len(f.busy) != 0 {
		t.Errorf("still busy: %v", f.busy)
	}
}
