package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"slices"
	"text/tabwriter"
	"time"
)

// Row is one line of bench.json. A value with a target meets it when it is at most as large.
type Row struct {
	Name   string   `json:"name"`
	Value  float64  `json:"value"`
	Unit   string   `json:"unit"`
	Target *float64 `json:"target"` // null: reported, not promised
	Meets  *bool    `json:"meets"`  // null where there is no target
	Low    float64  `json:"low"`    // the lowest and the highest of the rounds that Value is the median of
	High   float64  `json:"high"`
	Rounds int      `json:"rounds"`
}

// row makes a Row of what the rounds gave; target 0 is none.
func row(name, unit string, target float64, rounds []float64) Row {
	r := Row{
		Name: name, Unit: unit, Value: median(rounds), Rounds: len(rounds),
		Low: slices.Min(rounds), High: slices.Max(rounds),
	}
	if target > 0 {
		meets := r.Value <= target
		r.Target, r.Meets = &target, &meets
	}
	return r
}

// ratio compares two contenders round by round. The two times of a round were taken right after each other, so what
// slows the machine down for a while slows both.
func ratio(name string, target float64, ours, theirs []time.Duration) Row {
	rounds := make([]float64, len(ours))
	for i := range ours {
		rounds[i] = ours[i].Seconds() / theirs[i].Seconds()
	}
	return row(name, "ratio", target, rounds)
}

// lasted gives the times themselves.
func lasted(name string, times []time.Duration) Row {
	rounds := make([]float64, len(times))
	for i := range times {
		rounds[i] = times[i].Seconds() * 1e3
	}
	return row(name, "ms", 0, rounds)
}

func median(values []float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	n := len(sorted)
	return (sorted[(n-1)/2] + sorted[n/2]) / 2
}

// met tells whether every target was met.
func met(rows []Row) bool {
	return !slices.ContainsFunc(rows, func(r Row) bool { return r.Meets != nil && !*r.Meets })
}

// writeRows writes the rows as a JSON list.
func writeRows(name string, rows []Row) error {
	b, err := json.MarshalIndent(rows, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(name, append(b, '\n'), 0o644)
}

func readRows(name string) ([]Row, error) {
	b, err := os.ReadFile(name)
	if err != nil {
		return nil, err
	}
	var rows []Row
	return rows, json.Unmarshal(b, &rows)
}

// printRows prints the table.
func printRows(out io.Writer, rows []Row) error {
	t := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	if _, err := fmt.Fprintln(t, "WHAT\tMEDIAN\tUNIT\tTARGET\tMEETS\tLOW..HIGH\tROUNDS"); err != nil {
		return err
	}
	for _, r := range rows {
		target, meets := "", ""
		if r.Target != nil {
			target = fmt.Sprintf("<= %g", *r.Target)
			meets = map[bool]string{true: "yes", false: "NO"}[*r.Meets]
		}
		if _, err := fmt.Fprintf(t, "%s\t%8.2f\t%s\t%s\t%s\t%.2f..%.2f\t%d\n",
			r.Name, r.Value, r.Unit, target, meets, r.Low, r.High, r.Rounds); err != nil {
			return err
		}
	}
	return t.Flush()
}
