package controller

import (
	"fmt"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"srvlab.io/rds-csi/test/routerostest"
)

// operation is a call that changes something, and what must have happened before.
type operation struct {
	name    string
	prepare func(*testing.T, *replica) string // gives the volume ID
	do      func(*testing.T, *replica, string) error
}

// fresh, held and shared prepare a volume that nobody holds, node-a holds, node-a and node-b hold.
func fresh(t *testing.T, r *replica) string {
	t.Helper()
	return r.mustCreate(t, request("data")).GetVolumeId()
}

func held(t *testing.T, r *replica) string {
	t.Helper()
	v := fresh(t, r)
	r.mustPublish(t, v, "node-a", false)
	return v
}

func shared(t *testing.T, r *replica) string {
	t.Helper()
	v := fresh(t, r)
	r.mustPublish(t, v, "node-a", true)
	r.mustPublish(t, v, "node-b", true)
	return v
}

func operations() []operation {
	return []operation{
		{"create", func(*testing.T, *replica) string { return "" }, func(t *testing.T, r *replica, _ string) error {
			t.Helper()
			_, err := r.CreateVolume(t.Context(), request("data"))
			return err
		}},
		{"publish", fresh, func(t *testing.T, r *replica, v string) error {
			t.Helper()
			_, err := r.publish(t, v, "node-a", false)
			return err
		}},
		{"move back", func(t *testing.T, r *replica) string {
			t.Helper()
			v := fresh(t, r)
			mustPublishAndBack(t, r, v)
			return v
		}, func(t *testing.T, r *replica, v string) error {
			t.Helper()
			_, err := r.publish(t, v, "node-b", false)
			return err
		}},
		{"unpublish", held, func(t *testing.T, r *replica, v string) error { t.Helper(); return r.unpublish(t, v, "node-a") }},
		{"share", func(t *testing.T, r *replica) string {
			t.Helper()
			v := fresh(t, r)
			r.mustPublish(t, v, "node-a", true)
			return v
		}, func(t *testing.T, r *replica, v string) error {
			t.Helper()
			_, err := r.publish(t, v, "node-b", true)
			return err
		}},
		{"unpublish one of two", shared, func(t *testing.T, r *replica, v string) error { t.Helper(); return r.unpublish(t, v, "node-a") }},
		{"unpublish both", shared, func(t *testing.T, r *replica, v string) error { t.Helper(); return r.unpublish(t, v, "") }},
		{"expand", held, func(t *testing.T, r *replica, v string) error {
			t.Helper()
			_, err := r.expand(t, v, 2*gib, 0)
			return err
		}},
		{"delete", fresh, func(t *testing.T, r *replica, v string) error { t.Helper(); return r.remove(t, v) }},
	}
}

// TestLostAnswer loses the connection at each command line of each operation, before and after the line took effect and
// in the middle of the answer. The caller is never told that it is final, and its repeat, answered by another replica,
// ends where the undisturbed operation does.
func TestLostAnswer(t *testing.T) {
	for _, op := range operations() {
		t.Run(op.name, func(t *testing.T) {
			undisturbed := newBox(t, "rds1", routerostest.Options{})
			r := newReplica(t, "", undisturbed)
			if err := op.do(t, r, op.prepare(t, r)); err != nil {
				t.Fatal(err)
			}
			for _, fault := range []routerostest.Fault{
				{Kind: routerostest.DropBefore}, {Kind: routerostest.DropAfter}, {Kind: routerostest.Partial, Bytes: 7},
			} {
				for nth := 1; nth <= 4; nth++ {
					t.Run(fmt.Sprintf("%s line %d", fault.Kind, nth), func(t *testing.T) {
						fault.Nth = nth
						disturb(t, op, fault, undisturbed.String())
					})
				}
			}
		})
	}
}

func disturb(t *testing.T, op operation, fault routerostest.Fault, want string) {
	t.Helper()
	b := newBox(t, "rds1", routerostest.Options{})
	one, two := newReplica(t, "", b), newReplica(t, "", b)
	v := op.prepare(t, one)
	b.Inject(fault)
	if err := op.do(t, one, v); err != nil {
		wantCode(t, err, codes.Unavailable, "[array-unreachable]")
	}
	b.ClearFaults()
	if err := op.do(t, two, v); err != nil {
		t.Fatalf("the repeat: %v", err)
	}
	if b.String() != want {
		t.Errorf("the state is\n%swant\n%s", b, want)
	}
}

// TestRebootDuringPublish: the array goes down behind the line that exported.
func TestRebootDuringPublish(t *testing.T) {
	b := newBox(t, "rds1", routerostest.Options{})
	r := newReplica(t, "", b)
	v := r.mustCreate(t, request("data")).GetVolumeId()
	b.Inject(routerostest.Fault{Kind: routerostest.RebootFault, Nth: 2})
	_, err := r.publish(t, v, "node-a", false)
	if err != nil && status.Code(err) != codes.Unavailable {
		t.Fatalf("got %v", err)
	}
	for range 100 {
		if _, err = r.publish(t, v, "node-a", false); err == nil {
			break
		}
		wantCode(t, err, codes.Unavailable)
	}
	if err != nil {
		t.Fatal(err)
	}
	if got := b.Phase(); got != "up" {
		t.Errorf("published while the array is %s", got)
	}
}
