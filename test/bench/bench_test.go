package main

import (
	"context"
	"errors"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestRatioIsTakenRoundByRound(t *testing.T) {
	t.Parallel()
	// The machine is three times slower in the second round: a ratio of medians would not be 2.
	ours := []time.Duration{2 * time.Second, 6 * time.Second, 2 * time.Second}
	theirs := []time.Duration{time.Second, 3 * time.Second, time.Second}
	r := ratio("x", 1.5, ours, theirs)
	if r.Value != 2 || r.Low != 2 || r.High != 2 || *r.Meets || *r.Target != 1.5 || r.Rounds != 3 {
		t.Errorf("got %+v", r)
	}
}

func TestRow(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		rounds []float64
		target float64
		value  float64
		meets  any
	}{
		"odd":          {[]float64{3, 1, 2}, 2, 2, true},
		"even":         {[]float64{4, 1, 2, 3}, 2, 2.5, false},
		"exactly":      {[]float64{1.3}, 1.3, 1.3, true},
		"without goal": {[]float64{7}, 0, 7, nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := row(name, "ratio", tc.target, tc.rounds)
			var meets any
			if r.Meets != nil {
				meets = *r.Meets
			}
			if r.Value != tc.value || meets != tc.meets {
				t.Errorf("got %+v, meets %v", r, meets)
			}
		})
	}
}

func TestMet(t *testing.T) {
	t.Parallel()
	good, bad, free := row("a", "ratio", 2, []float64{1}), row("b", "ratio", 2, []float64{3}), row("c", "ms", 0, []float64{9})
	if !met([]Row{good, free}) || met([]Row{good, bad, free}) || met([]Row{bad}) {
		t.Error("a missed target must show, and a value without a target must not")
	}
}

func TestRowsFileAndTable(t *testing.T) {
	t.Parallel()
	rows := []Row{row("create", "ratio", 1.2, []float64{1.1, 1.3, 1.15}), row("stage", "ms", 0, []float64{900})}
	file := filepath.Join(t.TempDir(), "bench.json")
	if err := writeRows(file, rows); err != nil {
		t.Fatal(err)
	}
	got, err := readRows(file)
	if err != nil || !reflect.DeepEqual(got, rows) {
		t.Errorf("got %+v, %v", got, err)
	}
	var b strings.Builder
	if err := printRows(&b, rows); err != nil {
		t.Fatal(err)
	}
	const want = `WHAT    MEDIAN    UNIT   TARGET  MEETS  LOW..HIGH       ROUNDS
create      1.15  ratio  <= 1.2  yes    1.10..1.30      3
stage     900.00  ms                    900.00..900.00  1
`
	if b.String() != want {
		t.Errorf("got\n%s\nwant\n%s", b.String(), want)
	}
}

func TestRaceTakesTurns(t *testing.T) {
	t.Parallel()
	var order []string
	as := func(name string) contender {
		return contender{name, func(_ context.Context, round int) (time.Duration, error) {
			order = append(order, name)
			return time.Duration(round+1) * time.Second, nil
		}}
	}
	times, err := race(t.Context(), 2, as("a"), as("b"), as("c"))
	if err != nil {
		t.Fatal(err)
	}
	if want := []string{"a", "b", "c", "b", "c", "a"}; !slices.Equal(order, want) {
		t.Errorf("got %v, want %v", order, want)
	}
	if want := []time.Duration{time.Second, 2 * time.Second}; !slices.Equal(times["c"], want) {
		t.Errorf("times of c: %v", times["c"])
	}
}

func TestRaceEndsWithTheFirstError(t *testing.T) {
	t.Parallel()
	eio := errors.New("input/output error")
	broken := contender{"broken", func(context.Context, int) (time.Duration, error) { return 0, eio }}
	if _, err := race(t.Context(), 3, broken); !errors.Is(err, eio) || !strings.Contains(err.Error(), "broken, round 0") {
		t.Errorf("got %v", err)
	}
}
