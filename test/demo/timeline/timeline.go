// Package timeline draws what each fsync took, over time, with the outage behind it; it refuses to draw from anything
// but the writers' logs and the report, and smooths nothing.
package timeline

import (
	"bytes"
	"errors"
	"fmt"
	"image/color"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/text"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"

	"srvlab.io/rds-csi/test/demo/record"
	"srvlab.io/rds-csi/test/demo/report"
)

// Band is a stretch of time that is shaded and named in the legend. Times are seconds on record.Clock.
type Band struct {
	Name     string
	From, To float64
}

// Picture is what is drawn.
type Picture struct {
	Title  string
	Writes []record.Write // the writer on the volume
	Others []record.Write // the writer on the foreign subsystem
	Bands  []Band
	Mark   Band // a moment, From alone
}

// Of gives the picture of a run. It leaves out a phase that was not seen to its end.
func Of(r *report.Report, writes, others []record.Write) Picture {
	o := r.Outage
	p := Picture{Title: "Wait of one writer for each append and fsync while the array reboots (log scale)", Writes: writes, Others: others}
	for _, b := range []Band{
		{"array down", o.Began, o.ListenerBack},
		{"listener up, nothing exported", o.ListenerBack, o.ExportsBack},
		{"exports back: reconnect, reload, go on", o.ExportsBack, o.WriterWentOn},
	} {
		if b.From > 0 && b.To > b.From {
			p.Bands = append(p.Bands, b)
		}
	}
	if o.ControllerRemoved > 0 {
		p.Mark = Band{Name: "the kernel removes " + r.Before.Controller + " and " + r.Before.Name, From: o.ControllerRemoved}
	}
	return p
}

var (
	shades = []color.Color{
		color.NRGBA{R: 0xd9, G: 0x5f, B: 0x4a, A: 0x48},
		color.NRGBA{R: 0xe8, G: 0xa3, B: 0x3d, A: 0x48},
		color.NRGBA{R: 0x5a, G: 0xa9, B: 0x6b, A: 0x48},
	}
	writerInk  = color.NRGBA{R: 0x1f, G: 0x4e, B: 0x8c, A: 0xff}
	foreignInk = color.NRGBA{R: 0x9a, G: 0x9a, B: 0x9a, A: 0xff}
	removalInk = color.NRGBA{R: 0xa0, G: 0x1c, B: 0x1c, A: 0xff}
)

// Save draws p into a file; its extension, .svg or .png, is its format.
func (p Picture) Save(file string) error {
	if len(p.Writes) == 0 {
		return errors.New("draw the timeline: the writer's log is empty")
	}
	origin := p.Writes[0].Begin.Seconds()
	all := plot.New()
	all.Title.Text = p.Title
	all.X.Label.Text = "seconds since the writer's first record"
	all.Y.Scale = plot.LogScale{}
	all.Y.Tick.Marker = plot.TickerFunc(decades)
	all.X.Tick.Marker = plot.TickerFunc(tens)
	for _, style := range []*text.Style{
		&all.Title.TextStyle, &all.X.Label.TextStyle, &all.X.Tick.Label, &all.Y.Tick.Label,
		&all.Legend.TextStyle,
	} {
		style.Font.Variant = "Sans"
	}
	all.Title.TextStyle.Font.Size = vg.Points(13)
	all.Add(grid())

	others := during(p.Others, p.Writes)
	bottom, top := span(p.Writes, others)
	if err := p.shade(all, origin, bottom, top); err != nil {
		return err
	}
	for _, s := range []struct {
		name   string
		log    []record.Write
		ink    color.Color
		radius vg.Length
	}{
		{"writer on the foreign subsystem", others, foreignInk, vg.Points(1.2)},
		{"writer on the volume", p.Writes, writerInk, vg.Points(1.6)},
	} {
		if len(s.log) == 0 {
			continue
		}
		w := waits{log: s.log, origin: origin, ink: s.ink, radius: s.radius}
		all.Add(w)
		all.Legend.Add(s.name, w)
	}
	all.Y.Min, all.Y.Max = bottom, top
	// The y axis has no label: on a logarithmic scale gonum v0.17 places its box far above the middle, and leaves half
	// of the picture empty for it. The title says what is drawn.
	// The legend stands between title and picture, where it can hide nothing.
	all.Legend.Top, all.Legend.Left = true, true
	all.Legend.Padding = vg.Points(1)
	all.Title.Padding = vg.Length(len(p.Bands)+3) * legendLine
	all.Legend.YOffs = all.Title.Padding - vg.Points(6)
	return write(all, file)
}

// legendLine is the height of one entry of the legend.
const legendLine = 15

// write draws into a file. In an SVG the font has names to fall back to: a reader without it would see a serif one.
func write(all *plot.Plot, file string) error {
	picture, err := all.WriterTo(26*vg.Centimeter, 13*vg.Centimeter, strings.TrimPrefix(filepath.Ext(file), "."))
	if err != nil {
		return fmt.Errorf("draw the timeline into %s: %w", file, err)
	}
	var b bytes.Buffer
	if _, err := picture.WriteTo(&b); err != nil {
		return fmt.Errorf("draw the timeline into %s: %w", file, err)
	}
	drawn := bytes.ReplaceAll(b.Bytes(), []byte("font-family:Liberation Sans;"), []byte("font-family:Liberation Sans,Arial,sans-serif;"))
	return os.WriteFile(file, drawn, 0o644)
}

// during gives the writes that were made between the first and the last of the others.
func during(log, others []record.Write) []record.Write {
	first, last := others[0].Begin, others[len(others)-1].End
	var kept []record.Write
	for _, w := range log {
		if w.Begin >= first && w.End <= last {
			kept = append(kept, w)
		}
	}
	return kept
}

// span gives the decades that hold all waits of the logs.
func span(logs ...[]record.Write) (bottom, top float64) {
	low, high := math.Inf(1), math.Inf(-1)
	for _, log := range logs {
		for _, w := range log {
			low, high = min(low, seconds(w)), max(high, seconds(w))
		}
	}
	return math.Pow(10, math.Floor(math.Log10(low))), math.Pow(10, math.Ceil(math.Log10(high)))
}

// seconds gives a wait that a logarithmic scale can show: a clock that did not move gives a microsecond, not zero.
func seconds(w record.Write) float64 { return max(w.Took().Seconds(), 1e-6) }

func (p Picture) shade(all *plot.Plot, origin, bottom, top float64) error {
	for i, b := range p.Bands {
		from, to := b.From-origin, b.To-origin
		box, err := plotter.NewPolygon(plotter.XYs{{X: from, Y: bottom}, {X: to, Y: bottom}, {X: to, Y: top}, {X: from, Y: top}})
		if err != nil {
			return fmt.Errorf("shade %q: %w", b.Name, err)
		}
		box.Color = shades[i%len(shades)]
		box.LineStyle.Width = 0
		all.Add(box)
		all.Legend.Add(fmt.Sprintf("%s (%.1f s)", b.Name, b.To-b.From), box)
	}
	if p.Mark.Name == "" {
		return nil
	}
	at := p.Mark.From - origin
	line, err := plotter.NewLine(plotter.XYs{{X: at, Y: bottom}, {X: at, Y: top}})
	if err != nil {
		return fmt.Errorf("mark %q: %w", p.Mark.Name, err)
	}
	line.Color, line.Width = removalInk, vg.Points(1.2)
	line.Dashes = []vg.Length{vg.Points(4), vg.Points(2)}
	all.Add(line)
	all.Legend.Add(p.Mark.Name, line)
	return nil
}

func grid() *plotter.Grid {
	g := plotter.NewGrid()
	g.Vertical.Color = color.Transparent
	g.Horizontal.Color = color.Gray{Y: 0xdd}
	return g
}

// tens labels every tenth second.
func tens(low, high float64) []plot.Tick {
	var ticks []plot.Tick
	for at := math.Ceil(low/5) * 5; at <= high; at += 5 {
		t := plot.Tick{Value: at}
		if math.Mod(at, 10) == 0 {
			t.Label = strconv.FormatFloat(at, 'f', -1, 64)
		}
		ticks = append(ticks, t)
	}
	return ticks
}

// decades labels powers of ten in the unit that reads best, and leaves the lines between them bare.
func decades(low, high float64) []plot.Tick {
	var ticks []plot.Tick
	for power := math.Floor(math.Log10(low)); power <= math.Ceil(math.Log10(high)); power++ {
		at := math.Pow(10, power)
		ticks = append(ticks, plot.Tick{Value: at, Label: unit(at)})
		for n := 2.0; n < 10 && at*n < high; n++ {
			ticks = append(ticks, plot.Tick{Value: at * n})
		}
	}
	return ticks
}

func unit(s float64) string {
	for _, u := range []struct {
		size float64
		name string
	}{{1, " s"}, {1e-3, " ms"}} {
		if s >= u.size*0.999 {
			return strconv.FormatFloat(math.Round(s/u.size), 'f', -1, 64) + u.name
		}
	}
	return strconv.FormatFloat(math.Round(s*1e6), 'f', -1, 64) + " µs"
}

// waits draws each write as a bar from its begin to its end, at the height of what it took, with a dot at its end: a
// stall is as long as it was, and the thousand short ones are dots.
type waits struct {
	log    []record.Write
	origin float64
	ink    color.Color
	radius vg.Length
}

// Plot implements plot.Plotter.
func (w waits) Plot(c draw.Canvas, all *plot.Plot) {
	x, y := all.Transforms(&c)
	bar := draw.LineStyle{Color: w.ink, Width: w.radius}
	dot := draw.GlyphStyle{Color: w.ink, Radius: w.radius, Shape: draw.CircleGlyph{}}
	for _, one := range w.log {
		height := y(seconds(one))
		begin, end := x(one.Begin.Seconds()-w.origin), x(one.End.Seconds()-w.origin)
		if end-begin > w.radius {
			c.StrokeLine2(bar, begin, height, end, height)
		}
		c.DrawGlyph(dot, vg.Point{X: end, Y: height})
	}
}

// DataRange implements plot.DataRanger.
func (w waits) DataRange() (xmin, xmax, ymin, ymax float64) {
	xmin, ymin, xmax, ymax = math.Inf(1), math.Inf(1), math.Inf(-1), math.Inf(-1)
	for _, one := range w.log {
		xmin, xmax = min(xmin, one.Begin.Seconds()-w.origin), max(xmax, one.End.Seconds()-w.origin)
		ymin, ymax = min(ymin, seconds(one)), max(ymax, seconds(one))
	}
	return xmin, xmax, ymin, ymax
}

// Thumbnail implements plot.Thumbnailer.
func (w waits) Thumbnail(c *draw.Canvas) {
	dot := draw.GlyphStyle{Color: w.ink, Radius: w.radius * 1.5, Shape: draw.CircleGlyph{}}
	c.DrawGlyph(dot, vg.Point{X: (c.Min.X + c.Max.X) / 2, Y: (c.Min.Y + c.Max.Y) / 2})
}
