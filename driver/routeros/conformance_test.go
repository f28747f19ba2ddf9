package routeros

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"testing"
	"text/tabwriter"
	"time"

	"srvlab.io/rds-csi/safety"
	"srvlab.io/rds-csi/test/routerostest"
)

// conformanceArrays names the arrays.yaml of real devices. Without it the suite runs against the emulator.
const conformanceArrays = "RDS_TEST_ARRAYS"

// TestConformance finds out which assumptions about the device hold: those that the driver relies on, which must, and
// the gaps of facts/routeros.md, section 9, each of which is a switch of the emulator. It prints a table, and the
// emulator's switches for a device that behaves like this one. Everything it makes lies under a prefix of its own,
// made up for the run, and is removed at the end.
func TestConformance(t *testing.T) {
	if file := os.Getenv(conformanceArrays); file != "" {
		c, err := LoadConfig(file)
		must(t, err)
		for _, a := range c.Arrays {
			t.Run(string(a.Name), func(t *testing.T) { conformance(t, a).report(t) })
		}
		return
	}
	for _, fs := range bothFS {
		t.Run("emulator/"+fs, func(t *testing.T) {
			t.Parallel()
			b := open(t, onPool(fs), noPortal)
			before := foreign(b.box)
			s := conformance(t, b.config)
			s.report(t)
			if s.switches() != "" {
				t.Errorf("the emulator at its defaults is told to be %s", s.switches())
			}
			for _, f := range s.findings {
				if f.verdict == unclear != f.nvme && !f.elsewhere {
					t.Errorf("%s: %s, %s", f.assumption, f.verdict, f.evidence)
				}
			}
			if left := state(b.box); left != "" || foreign(b.box) != before {
				t.Errorf("left on the array:\n%s\nothers' disks:\n%s", left, foreign(b.box))
			}
		})
	}
}

// noPortal gives the array a portal at which nobody listens: the memory back end exports nothing.
func noPortal(c *ArrayConfig) { c.NVMe = NVMeConfig{Address: "127.0.0.1", Port: 1} }

// TestConformanceSeesEverySwitch: the suite finds each way in which a device may behave, and names it as the emulator
// does. So its last line, from a real device, is what makes the emulator that device.
func TestConformanceSeesEverySwitch(t *testing.T) {
	// What cannot be told without a target that exports, or without harm to a device that others use.
	hidden := []string{
		"allow-host", "allow-host-change", "target-model", "grow-exported=unannounced", "session-limit",
		"missing-argument",
	}
	for _, s := range routerostest.AllSwitchPositions() {
		t.Run(s.String(), func(t *testing.T) {
			t.Parallel()
			for _, h := range hidden {
				if strings.HasPrefix(s.String(), h) {
					return
				}
			}
			o := onPool(btrfs)
			o.Switches = s
			b := open(t, o, noPortal)
			got := conformance(t, b.config).switches()
			want := s.String()
			if want == "slot-length=enforced" { // not to be told from by-version on a version that enforces it
				want = ""
			}
			if got != want {
				t.Errorf("found %q", got)
			}
			if strings.Contains(b.box.String(), "conformance") {
				t.Errorf("left on the array:\n%s", b.box)
			}
		})
	}
}

// verdict is what became of an assumption.
type verdict string

const (
	holds   verdict = "holds"
	fails   verdict = "does not hold"
	unclear verdict = "could not tell"
)

// finding is one line of the table.
type finding struct {
	assumption string
	verdict    verdict
	evidence   string
	relied     bool   // the driver needs it
	nvme       bool   // needs a portal that exports
	elsewhere  bool   // needs another kind of pool, or harm to others
	gap        string // the emulator's switch, "" for none
	position   string // of that switch; "" for its default
}

// suite is one run on one array.
type suite struct {
	t        *testing.T
	array    *Array
	portal   netip.AddrPort
	pool     Pool
	tag      string // in the name of everything made
	volumes  []safety.Slot
	slots    []string // of disks made behind the driver's back
	files    []string // of such disks
	findings []finding
}

// conformance runs the suite on an array.
func conformance(t *testing.T, c ArrayConfig) *suite {
	t.Helper()
	var random [4]byte
	rand.Read(random[:])
	tag := "conformance-" + hex.EncodeToString(random[:])
	prefix := prefixOf(t, tag+"-")
	a, err := Open(c, Options{Prefix: prefix, Cluster: tag})
	must(t, err)
	t.Cleanup(func() { a.Close() })
	s := &suite{t: t, array: a, portal: a.portal, tag: tag}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
	defer cancel()
	defer s.clean()
	must(t, a.Check(ctx))
	s.pool, err = a.Pool(ctx)
	must(t, err)
	for _, part := range []func(context.Context){s.console, s.rows, s.sizes, s.names, s.filesAndSpace, s.subvolumes, s.exports, s.fence, s.endings, s.untried} {
		part(ctx)
	}
	return s
}

// clean removes everything that the run made.
func (s *suite) clean() {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(s.t.Context()), time.Minute)
	defer cancel()
	for _, slot := range s.volumes {
		d, err := s.array.Disk(ctx, slot)
		if err == nil {
			_, err = s.array.Unpublish(ctx, d, nil)
		}
		if errors.Is(err, ErrNotFound) { // one whose disk was removed and whose file is left
			err = nil
		}
		if err := errors.Join(err, s.array.Delete(ctx, slot)); err != nil {
			s.t.Errorf("clean up: %v", err)
		}
	}
	for _, slot := range s.slots {
		s.drop(ctx, slot)
	}
	for _, f := range s.files {
		s.try(ctx, ":do { /file/remove "+quote(f)+" } on-error={ :put \"not there\" }")
	}
}

// drop removes a disk by its slot if it is there.
func (s *suite) drop(ctx context.Context, slot string) {
	item := bySlot(slot)
	s.try(ctx, ":if ([:len "+item+"] > 0) do={ /disk/set "+item+" nvme-tcp-export=no; /disk/remove "+item+" }")
}

// try sends a line, whatever it comes to.
func (s *suite) try(ctx context.Context, statements ...string) reply {
	c, err := s.array.send(ctx, "try", newScript(statements...))
	if err != nil {
		return reply{text: err.Error()}
	}
	return c.reply
}

// rawAdd makes a disk as somebody else would, and remembers it.
func (s *suite) rawAdd(ctx context.Context, slot, file string, size int64) reply {
	s.slots, s.files = append(s.slots, slot), append(s.files, file)
	return s.try(ctx, ":put [/disk/add type=file"+attribute("file-path", file)+" file-size="+number(size)+
		attribute("slot", slot)+" mount-filesystem=no"+attribute("comment", s.tag)+"]")
}

// sizeIn gives the size of the disk in a slot, -1 if there is none.
func (s *suite) sizeIn(ctx context.Context, slot string) int64 {
	_, rows, err := s.array.look(ctx, "read", printSlot(slot))
	if err != nil || len(rows) != 1 {
		return -1
	}
	size, _ := rows[0].bytes("size")
	return size
}

// file names a file that only this run has.
func (s *suite) file(name string) string {
	return s.pool.MountPoint + "/" + s.array.config.Directory + "/" + s.tag + "-" + name + ".img"
}

// slot names a disk that only this run has, in as few characters as possible.
func (s *suite) slot(name string) string { return s.tag[len("conformance-"):] + "-" + name }

// volume makes a volume as the driver does.
func (s *suite) volume(ctx context.Context, name string, size int64) Disk {
	slot := volume(s.array.prefix, name)
	s.volumes = append(s.volumes, slot)
	d, err := s.array.Create(ctx, CreateSpec{Slot: slot, SizeBytes: size, PV: name})
	must(s.t, err)
	return d
}

// relied notes an assumption that the driver needs.
func (s *suite) relied(assumption string, ok bool, evidence string, values ...any) {
	f := finding{assumption: assumption, verdict: holds, evidence: fmt.Sprintf(evidence, values...), relied: true}
	if !ok {
		f.verdict = fails
	}
	s.findings = append(s.findings, f)
}

// answer notes what a gap turns out to be: a position of the emulator's switch, the first of which is the assumption.
func (s *suite) answer(gap, assumption, position, evidence string, values ...any) {
	f := finding{assumption: assumption, gap: gap, verdict: holds, evidence: fmt.Sprintf(evidence, values...)}
	if position != "" {
		f.verdict, f.position = fails, position
	}
	s.findings = append(s.findings, f)
}

// unknown notes that nothing could be found out.
func (s *suite) unknown(assumption string, nvme bool, evidence string, values ...any) {
	s.findings = append(s.findings, finding{
		assumption: assumption, verdict: unclear, nvme: nvme, elsewhere: !nvme, evidence: fmt.Sprintf(evidence, values...),
	})
}

// switches gives the emulator's switches for this device.
func (s *suite) switches() string {
	var list []string
	for _, f := range s.findings {
		if f.position != "" {
			list = append(list, f.gap+"="+f.position)
		}
	}
	return strings.Join(list, ",")
}

// report prints the table and fails the test where the driver relies on what does not hold.
func (s *suite) report(t *testing.T) {
	t.Helper()
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "assumption\tverdict\tevidence")
	for _, f := range s.findings {
		mark := " "
		if f.relied {
			mark = "!"
		}
		fmt.Fprintf(w, "%s %s\t%s\t%s\n", mark, f.assumption, f.verdict, brief(f.evidence))
		if f.relied && f.verdict == fails {
			t.Errorf("the driver relies on this, and it does not hold: %s (%s)", f.assumption, f.evidence)
		}
	}
	must(t, w.Flush())
	t.Logf("array %s (! = the driver relies on it):\n%s\nemulator switches of a device like this one: %q", s.array.Name(), b.String(), s.switches())
}

// brief fits evidence into a line of the table.
func brief(evidence string) string {
	const most = 110
	s := strings.NewReplacer("\n", " ", "<nil>", "no error").Replace(evidence)
	if len(s) > most {
		s = s[:most] + "…"
	}
	return s
}

// console is about the command line itself.
func (s *suite) console(ctx context.Context) {
	r := s.try(ctx, ":put \"one\"", ":error \"two\"", ":put \"three\"")
	s.relied("a failing statement ends its line", !r.done && !strings.Contains(r.text, "three"), "%s", r.text)
	position := ""
	if !strings.Contains(r.text, "two (") {
		position = "plain"
	}
	s.answer("error-command", ":error prints its text and where it stands", position, "%s", r.text)

	r = s.try(ctx, ":put \"one\"", "/disk/print no-such-argument=1")
	s.relied("a line with a mistake does not come to its end", !r.done, "%s", r.text)
	position = ""
	if strings.Contains(r.text, "one") {
		position = "statement"
	}
	s.answer("parse-errors", "nothing of a line with a mistake is executed", position, "%s", r.text)
	position = ""
	if strings.Contains(r.text, "bad parameter") {
		position = "bad-parameter"
	}
	s.answer("unknown-argument", `an unknown argument is "expected end of command"`, position, "%s", r.text)

	r = s.try(ctx, "/disk/set [/disk/find where slot="+quote(s.slot("none"))+"] comment=\"x\"")
	position = ""
	if !r.done {
		position = "refused"
	}
	s.answer("empty-find", "set of [find] that matches nothing succeeds silently", position, "%s", r.text)
	r = s.try(ctx, ":local x [/file/get "+quote(s.file("none"))+" size]")
	s.relied("/file/get of a name that is not there fails", !r.done, "%s", r.text)

	s.globalRequest(ctx)
}

// globalRequest asks what the array does with a request that it cannot know (gap 9).
func (s *suite) globalRequest(ctx context.Context) {
	g, _ := s.array.run.(*guarded)
	r, ok := g.next.(*sshRunner)
	if !ok {
		return
	}
	client, err := r.dial(ctx)
	if err != nil {
		s.unknown("a global request is answered", false, "%v", err)
		return
	}
	defer client.Close()
	answered := make(chan error, 1)
	go func() {
		_, _, err := client.SendRequest("keepalive@openssh.com", true, nil)
		answered <- err
	}()
	select {
	case err := <-answered:
		s.answer("global-requests", "SSH global requests are answered", "", "answer, error %v", err)
	case <-time.After(2 * time.Second):
		s.answer("global-requests", "SSH global requests are answered", "ignored", "no answer within 2s")
	}
}

// rows is about how an item looks in JSON (gap 4).
func (s *suite) rows(ctx context.Context) {
	free, slot := s.pool.FreeBytes, volume(s.array.prefix, "rows")
	s.volumes = append(s.volumes, slot)
	c, err := s.array.send(ctx, "create", creation{
		array: s.array, spec: CreateSpec{Slot: slot, SizeBytes: 64 * mebibyte, PV: "rows"},
		layout: s.array.layout(s.pool, slot),
		mark:   Mark{NQN: s.array.prefix.Export(slot.UUID(), 0), Cluster: s.tag, PV: "rows"}.String(),
	}.script(s.pool))
	must(s.t, err)
	created := time.Now()
	rows, _ := c.reply.rows()
	position := ""
	if len(rows) == 0 {
		position = "delayed"
	}
	d, err := s.array.await(ctx, slot, func(Disk) error { return nil })
	must(s.t, err)
	s.answer("row-visible", "the disk shows at once after add", position, "after %s", time.Since(created).Round(10*time.Millisecond))
	s.relied("file-size in bytes is taken to the byte", d.SizeBytes == 64*mebibyte, "%d", d.SizeBytes)
	pool, err := s.array.Pool(ctx)
	must(s.t, err)
	position = ""
	if free-pool.FreeBytes < 60*mebibyte {
		position = "thin"
	}
	s.answer("accounting", "a file takes its whole size from the pool at once", position, "free went down by %d", free-pool.FreeBytes)

	_, rows, err = s.array.look(ctx, "read", printSlot(string(d.Slot)))
	must(s.t, err)
	s.form(rows[0])

	// Strings that look like numbers, and what has a meaning in quotes.
	for _, comment := range []string{"2048", `a"b\c$d;[:put x]{}#'`, " two  blanks ", "a,b=c:d/e_f-g.h%20"} {
		r := s.try(ctx, "/disk/set "+bySlot(string(d.Slot))+attribute("comment", comment), printSlot(string(d.Slot)))
		rows, err := r.rows()
		ok := err == nil && len(rows) == 1 && rows[0].text("comment") == comment
		s.relied(fmt.Sprintf("a comment of %q comes back as it was set", comment), ok, "%s", comments(rows))
	}
	s.try(ctx, "/disk/set "+bySlot(string(d.Slot))+attribute("comment", d.Comment))
}

// comments gives what comments came back.
func comments(rows []row) string {
	var all []string
	for _, r := range rows {
		all = append(all, fmt.Sprintf("%q", r["comment"]))
	}
	return strings.Join(all, ", ")
}

// form notes the types of values.
func (s *suite) form(r row) {
	pick := func(gap, assumption, position, key string) {
		if v, ok := r[key]; ok {
			s.answer(gap, assumption, position, "%s: %T %v", key, v, v)
			return
		}
		s.answer(gap, assumption, position, "%s: absent", key)
	}
	position := ""
	switch v := r["file-size"].(type) {
	case nil:
		position = "absent"
	case string:
		if strings.Contains(v, "i") {
			position = "text"
		}
	}
	pick("file-size", "file-size is a number of bytes", position, "file-size")
	position = ""
	if _, ok := r["fs"].(string); !ok {
		position = "absent"
	}
	pick("no-filesystem", `a disk without file system has fs "-"`, position, "fs")
	position = ""
	if _, ok := r["mounted"]; !ok {
		position = "absent"
	}
	pick("false-flags", "flags that are not set are there as false", position, "mounted")
	position = ""
	switch r["nvme-tcp-export"] {
	case "no":
		position = "yes-no"
	case "false":
		position = "text"
	}
	pick("truth-values", "truth values are true and false", position, "nvme-tcp-export")
	position = ""
	if _, ok := r["size"].(string); ok {
		position = "strings"
	}
	pick("numbers", "numbers are numbers", position, "size")
	position = ""
	for _, v := range r {
		if v == nil {
			position = "null"
		}
	}
	pick("no-value", "properties without a value are absent", position, "free")
	position = ""
	if !strings.HasPrefix(r.text("file-path"), "/") {
		position = "plain"
	}
	pick("file-path", "file-path starts with a slash", position, "file-path")
}

// sizes is about growing and shrinking (gap 2).
func (s *suite) sizes(ctx context.Context) {
	d := s.volume(ctx, "sizes", 64*mebibyte)
	grown, err := s.array.Grow(ctx, d, 96*mebibyte)
	s.relied("a disk that is not exported grows", err == nil && grown.SizeBytes == 96*mebibyte, "%d, %v", grown.SizeBytes, err)
	r := s.try(ctx, "/disk/set "+bySlot(string(d.Slot))+" file-size="+number(64*mebibyte))
	position := ""
	switch size := s.sizeIn(ctx, string(d.Slot)); {
	case size == 64*mebibyte:
		position = "done"
	case r.done:
		position = "ignored"
	}
	s.answer("shrink", "file-size is not made smaller", position, "%s", r.text)

	d, err = s.array.Disk(ctx, d.Slot)
	must(s.t, err)
	d, err = s.array.Publish(ctx, d, ExportSpec{NQN: s.array.prefix.Export(d.Slot.UUID(), 1), Nodes: []string{"x"}})
	must(s.t, err)
	larger, err := s.array.Grow(ctx, d, 128*mebibyte)
	position = ""
	if errors.Is(err, ErrUnsupported) {
		position = "refused"
	}
	s.answer("grow-exported", "a disk grows while it is exported", position, "%d, %v", larger.SizeBytes, err)

	for _, to := range []struct {
		gap, name string
		size      int64
		what      string
		positions map[int64]string
	}{
		{"existing-larger", "larger", 32 * mebibyte, "a file that is larger is attached as it is", map[int64]string{64 * mebibyte: "", 32 * mebibyte: "truncated", -1: "refused"}},
		{"existing-smaller", "smaller", 96 * mebibyte, "a file that is smaller grows when it is attached", map[int64]string{96 * mebibyte: "", 64 * mebibyte: "kept", -1: "refused"}},
	} {
		slot, file := s.slot(to.name), s.file(to.name)
		s.rawAdd(ctx, slot, file, 64*mebibyte)
		s.settle(ctx, slot)
		s.drop(ctx, slot)
		r := s.rawAdd(ctx, slot, file, to.size)
		if r.done {
			s.settle(ctx, slot)
		}
		size := s.sizeIn(ctx, slot)
		s.answer(to.gap, to.what, to.positions[size], "64 MiB attached as %d MiB gives %d bytes; %s", to.size/mebibyte, size, r.text)
	}
}

// settle waits until a disk shows.
func (s *suite) settle(ctx context.Context, slot string) {
	for range 100 {
		if s.sizeIn(ctx, slot) >= 0 || sleep(ctx, 100*time.Millisecond) != nil {
			return
		}
	}
}
