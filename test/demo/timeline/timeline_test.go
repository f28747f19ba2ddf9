package timeline

import (
	"image/png"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"srvlab.io/rds-csi/test/demo/record"
	"srvlab.io/rds-csi/test/demo/report"
)

// synthetic gives the log of a writer that writes every 60 ms for 80 s from 100 s after boot on, each in about 12 ms
// but for one stall from second 130.2 to 152.7, and a report to go with it.
func synthetic() (*report.Report, []record.Write, []record.Write) {
	var writes, others []record.Write
	for at, seq := 100*time.Second, uint64(1); at < 180*time.Second; seq++ {
		took := time.Duration(9+6*math.Abs(math.Sin(float64(seq)*1.7))+float64(seq%37)/3) * time.Millisecond
		if at > 130*time.Second && at < 131*time.Second {
			took = 22500 * time.Millisecond
		}
		writes = append(writes, record.Write{Seq: seq, Begin: at, End: at + took})
		at += max(took, 60*time.Millisecond)
	}
	for at, seq := 95*time.Second, uint64(1); at < 185*time.Second; seq++ {
		took := time.Duration(5+4*math.Abs(math.Cos(float64(seq)))) * time.Millisecond
		others = append(others, record.Write{Seq: seq, Begin: at, End: at + took})
		at += 250 * time.Millisecond
	}
	return &report.Report{
		Before: report.Device{Name: "nvme1n1", Controller: "nvme1"},
		Outage: report.Outage{
			Began: 130, ConnectionLost: 130.3, ListenerBack: 136, ControllerRemoved: 138.4, ExportsBack: 148,
			Repaired: 150.9, WriterWentOn: 152.7,
		},
	}, writes, others
}

func TestSaveDrawsPhasesAndWriters(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "timeline.svg")
	if err := Of(synthetic()).Save(file); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	svg := string(b)
	for _, want := range []string{
		">array down (6.0 s)<", ">listener up, nothing exported (12.0 s)<", ">exports back: reconnect, reload, go on (4.7 s)<",
		">the kernel removes nvme1 and nvme1n1<", ">writer on the volume<", ">writer on the foreign subsystem<",
		">1 ms<", ">10 ms<", ">1 s<", ">10 s<",
	} {
		if !strings.Contains(svg, want) {
			t.Errorf("the picture has no %s", want)
		}
	}
}

func TestSavePNG(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "timeline.png")
	if err := Of(synthetic()).Save(file); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	if cfg, err := png.DecodeConfig(f); err != nil || cfg.Width <= cfg.Height {
		t.Errorf("got %+v, %v", cfg, err)
	}
}

func TestOfLeavesOutWhatWasNotSeen(t *testing.T) {
	t.Parallel()
	r, writes, others := synthetic()
	r.Outage = report.Outage{Began: 130, ListenerBack: 136}
	p := Of(r, writes, others)
	if len(p.Bands) != 1 || p.Bands[0].Name != "array down" || p.Mark.Name != "" {
		t.Errorf("got %+v, %+v", p.Bands, p.Mark)
	}
	if err := p.Save(filepath.Join(t.TempDir(), "broken.svg")); err != nil {
		t.Errorf("a failed run has its picture too: %v", err)
	}
}

func TestDuringCutsWhatIsBeforeAndAfter(t *testing.T) {
	t.Parallel()
	at := func(begin, end int) record.Write {
		return record.Write{Begin: time.Duration(begin) * time.Second, End: time.Duration(end) * time.Second}
	}
	got := during([]record.Write{at(1, 2), at(9, 11), at(10, 12), at(28, 30), at(29, 31)}, []record.Write{at(10, 11), at(29, 30)})
	if want := []record.Write{at(10, 12), at(28, 30)}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestSaveRefusesAnEmptyLog(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "none.svg")
	if err := Of(&report.Report{}, nil, nil).Save(file); err == nil {
		t.Error("a picture of nothing was drawn")
	}
	if _, err := os.Stat(file); err == nil {
		t.Error("and a file was left")
	}
}

func TestUnit(t *testing.T) {
	t.Parallel()
	for s, want := range map[float64]string{
		1e-6: "1 µs", 1e-4: "100 µs", 1e-3: "1 ms", math.Pow(10, -2): "10 ms", 0.1: "100 ms", 1: "1 s", 100: "100 s",
	} {
		if got := unit(s); got != want {
			t.Errorf("%g s: got %q, want %q", s, got, want)
		}
	}
}
