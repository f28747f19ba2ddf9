package routeros

import (
	"context"
	"errors"
	"regexp"
	"strings"
	"testing"

	"srvlab.io/rds-csi/safety"
)

var nonceOf = regexp.MustCompile(doneWord + `([0-9a-f]+)"`)

// answering gives an array that answers every line with the same text, in which DONE, PASS and STOP stand for the
// line's words.
func answering(t *testing.T, text string, err error) *Array {
	t.Helper()
	c := ArrayConfig{Name: "rds1", Pool: "pool", Directory: "csi", NVMe: NVMeConfig{Address: "192.0.2.9", Port: 4420}}
	run := &scripted{answers: []func(string) (string, error){func(line string) (string, error) {
		nonce := nonceOf.FindStringSubmatch(line)[1]
		return strings.NewReplacer("DONE", doneWord+nonce, "PASS", passWord+nonce, "STOP", stopWord+nonce).Replace(text), err
	}}}
	a, errNew := newArray(c, Options{Prefix: prefixOf(t, "test-"), Cluster: "cluster"}, run)
	must(t, errNew)
	a.settle = settle{}
	return a
}

// TestLookUpProvesNothing: only an answer that came to its end, and is an empty list, is "there is none".
func TestLookUpProvesNothing(t *testing.T) {
	slot := volume(prefixOf(t, "test-"), "data")
	mark := Mark{NQN: prefixOf(t, "test-").Export(slot.UUID(), 0), Cluster: "cluster", PV: "data"}
	row := `{".id":"*1","slot":"` + string(slot) + `","comment":"` + mark.String() + `","size":1073741824}`
	lost := &lostError{sent: true, err: errors.New("EOF")}
	for _, tt := range []struct {
		name, out string
		err       error
		want      error
	}{
		{name: "none", out: "[]\r\nDONE\r\n", want: ErrNotFound},
		{name: "the row", out: "[" + row + "]\r\nDONE\r\n"},
		{name: "the row, and the connection is lost behind it", out: "[" + row + "]\r\nDONE\r\n", err: lost},
		{name: "none, and the connection is lost behind it", out: "[]\r\nDONE\r\n", err: lost, want: ErrNotFound},
		{name: "empty", out: "", want: ErrUnknown},
		{name: "only the end", out: "DONE\r\n", want: ErrUnknown},
		{name: "no end", out: "[]\r\n", want: ErrUnknown},
		{name: "no end, and the connection is lost", out: "[]\r\n", err: lost, want: ErrUnreachable},
		{name: "another command's end", out: "[]\r\nrds-csi-done-0123456789abcdef01234567\r\n", want: ErrUnknown},
		{name: "an echo of the line", out: "[]\r\n:put \"DONE\"\r\n", want: ErrUnknown},
		{name: "an error", out: "no such item\r\n", want: ErrUnknown},
		{name: "an error and the end", out: "no such item\r\nDONE\r\n", want: ErrUnknown},
		{name: "no policy", out: "not enough permissions (9)\r\n", want: ErrPermission},
		{name: "cut JSON", out: "[" + row[:40] + "\r\nDONE\r\n", want: ErrUnknown},
		{name: "two disks in the slot", out: "[" + row + "," + row + "]\r\nDONE\r\n", want: ErrUnknown},
		{name: "the row of another slot", out: `[{"slot":"pool"}]` + "\r\nDONE\r\n", want: ErrUnknown},
		{name: "a row of nothing", out: "[{}]\r\nDONE\r\n", want: ErrUnknown},
		{name: "null", out: "[null]\r\nDONE\r\n", want: ErrUnknown},
	} {
		t.Run(tt.name, func(t *testing.T) {
			d, err := answering(t, tt.out, tt.err).Disk(t.Context(), slot)
			if tt.want == nil {
				must(t, err)
				if d.SizeBytes != gib {
					t.Errorf("got %+v", d)
				}
				return
			}
			wantError(t, err, tt.want)
			for _, other := range []error{ErrNotFound, ErrForeign} {
				if !errors.Is(tt.want, other) && errors.Is(err, other) {
					t.Errorf("%v is also %v", err, other)
				}
			}
			if disks, err := answering(t, tt.out, tt.err).Disks(t.Context()); err == nil && len(disks) == 0 &&
				!strings.Contains(tt.out, "DONE") {
				t.Error("the list is empty")
			}
			if p, err := answering(t, tt.out, tt.err).Pool(t.Context()); err == nil && tt.name != "the row of another slot" {
				t.Errorf("the pool is %+v", p)
			}
		})
	}
}

// TestDeleteProvesItsEnd: no answer of the device short of the sentinel counts as deleted.
func TestDeleteProvesItsEnd(t *testing.T) {
	slot := volume(prefixOf(t, "test-"), "data")
	pool := `{"slot":"pool","fs":"xfs","mount-point":"pool","mounted":true,"free":1}`
	for _, out := range []string{
		"", "PASS\r\n", "failure: no\r\n", "STOP no-directory\r\n", "PASS\r\nSTOP file\r\n", "PASS\r\nfailure: busy\r\n",
	} {
		a := answering(t, "["+pool+"]\r\nDONE\r\n", nil)
		_, err := a.place(t.Context())
		must(t, err)
		a.run = answering(t, out, nil).run
		if err := a.Delete(t.Context(), slot); err == nil {
			t.Errorf("%q is a delete", out)
		}
		if err := a.removeFile(t.Context(), "delete", bySlot(string(slot)), a.layout(Pool{MountPoint: "pool"}, slot)); err == nil {
			t.Errorf("%q is a file that is gone", out)
		}
	}
}

// TestExportIsVerified: a device that takes the command and does something else. The export that came of it is ended.
func TestExportIsVerified(t *testing.T) {
	for name, ignored := range map[string]string{
		"host": ` nvme-tcp-server-allow-host-name="[^"]*"`,
		"NQN":  ` nvme-tcp-server-nqn="[^"]*"`,
		"port": ` nvme-tcp-server-port=[0-9]+`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := open(t, onPool(xfs), func(c *ArrayConfig) { c.NVMe.Port = 4421 })
			d := b.create(t, "data")
			b.lines.hook = func(line string) string { return regexp.MustCompile(ignored).ReplaceAllString(line, "") }
			_, err := b.array.Publish(t.Context(), d, ExportSpec{
				NQN: b.prefix.Export(d.Slot.UUID(), 1), AllowHost: hostA, Nodes: []string{"a"},
			})
			wantError(t, err, ErrUnsupported)
			if !strings.Contains(err.Error(), "not ") || strings.Contains(state(b.box), "export=true") {
				t.Errorf("%v; the array has\n%s", err, state(b.box))
			}
		})
	}
}

// TestCreateIsVerified: the same for create, which takes back what it made.
func TestCreateIsVerified(t *testing.T) {
	for name, change := range map[string][2]string{
		"size":             {`file-size=[0-9]+`, "file-size=1000000"},
		"comment":          {` comment="[^"]*"`, ""},
		"mount-filesystem": {` mount-filesystem=no`, ""},
		"export":           {` nvme-tcp-export=no`, " nvme-tcp-export=yes"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := open(t, onPool(xfs))
			must(t, b.array.Check(t.Context()))
			b.lines.hook = func(line string) string {
				if !strings.Contains(line, "/disk/add") {
					return line
				}
				return regexp.MustCompile(change[0]).ReplaceAllString(line, change[1])
			}
			_, err := b.array.Create(t.Context(), CreateSpec{Slot: volume(b.prefix, "data"), SizeBytes: gib, PV: "data"})
			if err == nil {
				t.Fatal("taken")
			}
			if name == "comment" { // without its mark the disk is not ours, and stays
				wantError(t, err, ErrForeign)
				if !strings.Contains(err.Error(), "may be left") {
					t.Errorf("%v does not say what is left", err)
				}
				return
			}
			wantError(t, err, ErrUnknown)
			if got := state(b.box); got != "" {
				t.Errorf("left:\n%s", got)
			}
		})
	}
}

// TestMisuse: calls that make no sense are refused before a line is sent.
func TestMisuse(t *testing.T) {
	b := open(t, onPool(xfs))
	d := b.create(t, "data")
	other := volume(b.prefix, "other").UUID()
	b.lines.take()
	ctx, a := t.Context(), b.array
	for name, do := range map[string]func(context.Context) error{
		"create nothing": func(ctx context.Context) error { _, err := a.Create(ctx, CreateSpec{Slot: d.Slot}); return err },
		"create part of a MiB": func(ctx context.Context) error {
			_, err := a.Create(ctx, CreateSpec{Slot: d.Slot, SizeBytes: 5})
			return err
		},
		"create in a slot": func(ctx context.Context) error {
			_, err := a.Create(ctx, CreateSpec{Slot: "raid10", SizeBytes: gib})
			return err
		},
		"delete a slot":      func(ctx context.Context) error { return a.Delete(ctx, "raid10") },
		"grow part of a MiB": func(ctx context.Context) error { _, err := a.Grow(ctx, d, 2*gib+1); return err },
		"publish nothing":    func(ctx context.Context) error { _, err := a.Publish(ctx, d, ExportSpec{}); return err },
		"publish as another": func(ctx context.Context) error {
			_, err := a.Publish(ctx, d, ExportSpec{NQN: b.prefix.Export(other, 1)})
			return err
		},
		"publish outside the prefix": func(ctx context.Context) error {
			_, err := a.Publish(ctx, d, ExportSpec{NQN: safety.NQN("nqn.2000-02.com.mikrotik:nixos-var")})
			return err
		},
		"reopen what is closed": func(ctx context.Context) error { _, err := a.Reopen(ctx, d, hostA, nil); return err },
		"unpublish nothing":     func(ctx context.Context) error { _, err := a.Unpublish(ctx, Disk{}, nil); return err },
	} {
		if err := do(ctx); err == nil {
			t.Errorf("%s: done", name)
		}
		if sent := b.lines.take(); len(sent) != 0 {
			t.Errorf("%s: sent %q", name, sent)
		}
	}
}
