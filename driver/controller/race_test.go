package controller

import (
	"context"
	"fmt"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"srvlab.io/rds-csi/test/routerostest"
)

// both runs two calls at once and gives their errors.
func both(one, two func() error) (errOne, errTwo error) {
	var wg sync.WaitGroup
	wg.Go(func() { errOne = one() })
	wg.Go(func() { errTwo = two() })
	wg.Wait()
	return errOne, errTwo
}

// TestTwoReplicas has the old leader and the new one work on the same volume, as in a failover. RouterOS runs other
// sessions' commands between the commands of a line, so now and then both are told that they succeeded; but name, host
// field, mark and export are set by one command, so whatever the order, in the end one node holds the volume, and no
// other is let in under any name that it was ever told.
func TestTwoReplicas(t *testing.T) {
	b := newBox(t, "rds1", routerostest.Options{})
	one, two := newReplica(t, "", b), newReplica(t, "", b)
	for round := range 20 {
		v := one.mustCreate(t, request(fmt.Sprintf("vol-%d", round))).GetVolumeId()
		told := map[string]string{}
		var mu sync.Mutex
		publish := func(r *replica, node string) func() error {
			return func() error {
				c, err := r.publish(t, v, node, false)
				mu.Lock()
				defer mu.Unlock()
				told[node] = c["nqn"]
				return err
			}
		}
		errA, errB := both(publish(one, "node-a"), publish(two, "node-b"))
		if errA != nil && errB != nil {
			t.Fatalf("round %d: nobody won: %v, %v", round, errA, errB)
		}
		holder := oneHolder(t, b, two, v, told)
		other := map[string]string{"node-a": "node-b", "node-b": "node-a"}[holder]

		// The old leader unpublishes the holder while the new one publishes to the other node.
		errU, errP := both(func() error { return one.unpublish(t, v, holder) }, publish(two, other))
		for _, err := range []error{errA, errB, errU, errP} {
			if c := status.Code(err); c != codes.OK && c != codes.Aborted && c != codes.FailedPrecondition {
				t.Fatalf("round %d: %v", round, err)
			}
		}
		if err := one.unpublish(t, v, holder); err != nil {
			t.Fatal(err)
		}
		if _, err := b.connect(t, holder, told[holder]); err == nil {
			t.Fatalf("round %d: %s is let in after it was unpublished", round, holder)
		}
		if err := one.unpublish(t, v, other); err != nil {
			t.Fatal(err)
		}
		if err := one.remove(t, v); err != nil {
			t.Fatal(err)
		}
	}
	b.wantState(t)
}

// oneHolder gives the node that holds the volume, and fails unless it is one, and the only one that gets in.
func oneHolder(t *testing.T, b *box, r *replica, v string, told map[string]string) string {
	t.Helper()
	var holders []string
	for node := range told {
		if c, err := r.publish(t, v, node, false); err == nil { // a repeat, which also mends the export
			holders = append(holders, node)
			b.mustConnect(t, node, c["nqn"])
		} else {
			wantCode(t, err, codes.FailedPrecondition, "[attached-elsewhere]")
		}
	}
	if len(holders) != 1 || len(r.published(t, v)) != 1 {
		t.Fatalf("held by %v", holders)
	}
	for node, nqn := range told {
		if _, err := b.connect(t, node, nqn); err == nil && node != holders[0] {
			t.Fatalf("%s holds the volume, and %s is let in too", holders[0], node)
		}
	}
	return holders[0]
}

// TestDeleteAgainstPublish: whatever the order, the volume is there with all its parts in the end, or none of it is.
func TestDeleteAgainstPublish(t *testing.T) {
	b := newBox(t, "rds1", routerostest.Options{})
	one, two := newReplica(t, "", b), newReplica(t, "", b)
	for round := range 20 {
		v := one.mustCreate(t, request(fmt.Sprintf("vol-%d", round))).GetVolumeId()
		errD, errP := both(
			func() error { return one.remove(t, v) },
			func() error { _, err := two.publish(t, v, "node-a", false); return err },
		)
		if errD != nil && errP != nil {
			t.Fatalf("round %d: nobody won: %v, %v", round, errD, errP)
		}
		if errD == nil {
			b.wantState(t)
			continue
		}
		if c := status.Code(errD); c != codes.FailedPrecondition && c != codes.Aborted {
			t.Fatalf("round %d: delete: %v", round, errD)
		}
		b.mustConnect(t, "node-a", two.mustPublish(t, v, "node-a", false)["nqn"])
		if err := one.unpublish(t, v, ""); err != nil {
			t.Fatal(err)
		}
		if err := one.remove(t, v); err != nil {
			t.Fatal(err)
		}
	}
	b.wantState(t)
}

func TestTwoReplicasCreate(t *testing.T) {
	b := newBox(t, "rds1", routerostest.Options{})
	one, two := newReplica(t, "", b), newReplica(t, "", b)
	for round := range 10 {
		req := request(fmt.Sprintf("vol-%d", round))
		errOne, errTwo := both(
			func() error { _, err := one.CreateVolume(t.Context(), req); return err },
			func() error { _, err := two.CreateVolume(t.Context(), req); return err },
		)
		if errOne != nil || errTwo != nil {
			t.Errorf("round %d: %v, %v", round, errOne, errTwo)
		}
	}
	if n := strings.Count(b.String(), "disk pvc-"); n != 10 {
		t.Errorf("%d disks:\n%s", n, b)
	}
}

// TestOneCallPerVolume: a second call for a volume does not wait behind one that hangs, and other volumes go on.
func TestOneCallPerVolume(t *testing.T) {
	b := newBox(t, "rds1", routerostest.Options{})
	r := newReplica(t, "", b)
	v := r.mustCreate(t, request("data")).GetVolumeId()
	other := r.mustCreate(t, request("other")).GetVolumeId()
	b.Inject(routerostest.Fault{
		Kind: routerostest.Hang, Times: -1, Match: regexp.MustCompile(strings.TrimPrefix(v, "rds1/")),
	})
	ctx, giveUp := context.WithCancel(t.Context())
	ended := make(chan error, 2)
	for range 2 { // one of them hangs, the other one meets it
		go func() {
			_, err := r.DeleteVolume(ctx, &csi.DeleteVolumeRequest{VolumeId: v})
			ended <- err
		}()
	}
	wantCode(t, <-ended, codes.Aborted, "DeleteVolume is still under way", "[in-flight]")

	wantCode(t, r.unpublish(t, v, "node-a"), codes.Aborted, "[in-flight]")
	_, err := r.publish(t, v, "node-a", false)
	wantCode(t, err, codes.Aborted, "[in-flight]")
	_, err = r.expand(t, v, 2*gib, 0)
	wantCode(t, err, codes.Aborted, "[in-flight]")
	_, err = r.CreateVolume(t.Context(), request("data"))
	wantCode(t, err, codes.Aborted, "[in-flight]")
	r.mustPublish(t, other, "node-a", false)

	giveUp()
	wantCode(t, <-ended, codes.Canceled)
	b.ClearFaults()
	for status.Code(err) == codes.Aborted { // the server learns of it a little later than the client
		time.Sleep(time.Millisecond)
		_, err = r.publish(t, v, "node-a", false)
	}
	if err != nil {
		t.Errorf("after the hanging call has ended: %v", err)
	}
}

// TestTwoClusters: two clusters share an array by having two prefixes. Neither sees, lists, counts or harms the other's.
func TestTwoClusters(t *testing.T) {
	const ours, theirs = "nqn.2000-02.com.mikrotik:east-", "nqn.2000-02.com.mikrotik:west-"
	b := newBox(t, "rds1", routerostest.Options{})
	east, west := newReplica(t, ours, b), newReplica(t, theirs, b)
	e, w := east.mustCreate(t, request("data")).GetVolumeId(), west.mustCreate(t, request("data")).GetVolumeId()
	if e == w {
		t.Fatalf("both clusters call their volume %s", e)
	}
	if nqn := west.mustPublish(t, w, "node-a", false)["nqn"]; !strings.HasPrefix(nqn, theirs) {
		t.Errorf("west exports %s", nqn)
	}
	before := b.String()
	if got := listAll(t, east, 0); len(got) != 1 || got[0] != e {
		t.Errorf("east lists %v, has %s", got, e)
	}
	wantCode(t, east.remove(t, w), codes.FailedPrecondition, "[foreign-nqn]")
	wantCode(t, east.unpublish(t, w, ""), codes.FailedPrecondition, "[foreign-nqn]")
	_, err := east.publish(t, w, "node-b", false)
	wantCode(t, err, codes.FailedPrecondition, "[foreign-nqn]")
	_, err = east.expand(t, w, 2*gib, 0)
	wantCode(t, err, codes.FailedPrecondition, "[foreign-nqn]")
	if b.String() != before {
		t.Errorf("east changed\n%sto\n%s", before, b)
	}
}

// TestForeignDiskInOurSlot: somebody's disk without our mark stands where a volume of ours would.
func TestForeignDiskInOurSlot(t *testing.T) {
	b := newBox(t, "rds1", routerostest.Options{})
	r := newReplica(t, "", b)
	v := r.mustCreate(t, request("data")).GetVolumeId()
	slot := strings.TrimPrefix(v, "rds1/")
	for _, comment := range []string{"", "mine", "rds-csi nqn=" + prefix + "x.g1 cluster=unit pv=data node="} {
		b.Exec("csi", `/disk/set `+slot+` comment="`+comment+`"`)
		before := b.String()
		_, err := r.CreateVolume(t.Context(), request("data"))
		wantCode(t, err, codes.FailedPrecondition, "[foreign-nqn]")
		wantCode(t, r.remove(t, v), codes.FailedPrecondition, "[foreign-nqn]")
		if got := listAll(t, r, 0); len(got) != 0 {
			t.Errorf("comment %q: it is listed: %v", comment, got)
		}
		if b.String() != before {
			t.Errorf("comment %q: changed\n%sto\n%s", comment, before, b)
		}
	}
}
