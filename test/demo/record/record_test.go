package record

import (
	"bytes"
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
	"time"
)

var (
	mine   = Stream{1, 2, 3, 4, 5, 6, 7, 8, 9}
	theirs = Stream{9, 8, 7, 6, 5, 4, 3, 2, 1}
)

// sectors gives the records with these sequence numbers as a file has them.
func sectors(seqs ...uint64) [][]byte {
	var all [][]byte
	for _, seq := range seqs {
		all = append(all, Encode(mine, seq))
	}
	return all
}

// acknowledged gives the log of a writer whose records 1 to n were all acknowledged.
func acknowledged(n uint64) []Write {
	var log []Write
	for seq := range n {
		log = append(log, Write{Seq: seq + 1})
	}
	return log
}

func TestVerify(t *testing.T) {
	t.Parallel()
	flipped := func(seq uint64, at int) []byte {
		b := Encode(mine, seq)
		b[at] ^= 1
		return b
	}
	for name, tc := range map[string]struct {
		file [][]byte
		log  []Write
		want Verdict
	}{
		"all there":             {sectors(1, 2, 3), acknowledged(3), Verdict{Whole: 3}},
		"nothing written":       {nil, nil, Verdict{}},
		"one more than fsynced": {sectors(1, 2, 3), acknowledged(2), Verdict{Whole: 3}},
		"lost at the end":       {sectors(1, 2), acknowledged(4), Verdict{Whole: 2, Lost: 2}},
		"lost in the middle":    {sectors(1, 3), acknowledged(3), Verdict{Whole: 2, Lost: 1}},
		"all lost":              {nil, acknowledged(3), Verdict{Lost: 3}},
		"an errored write is not lost": {
			sectors(1, 3),
			[]Write{{Seq: 1}, {Seq: 2, Err: "input/output error"}, {Seq: 3}},
			Verdict{Whole: 2},
		},
		"duplicated":         {sectors(1, 2, 2, 3), acknowledged(3), Verdict{Whole: 3, Duplicated: 1}},
		"reordered":          {sectors(1, 3, 2, 4), acknowledged(4), Verdict{Whole: 4, Reordered: 1}},
		"swapped in another": {sectors(1, 1, 3), acknowledged(3), Verdict{Whole: 2, Duplicated: 1, Lost: 1}},
		"torn sum":           {[][]byte{flipped(1, 5)}, acknowledged(1), Verdict{Torn: 1, Lost: 1}},
		"torn magic":         {[][]byte{flipped(1, 0)}, acknowledged(1), Verdict{Torn: 1, Lost: 1}},
		"torn sequence":      {[][]byte{flipped(1, atSequence+7)}, acknowledged(1), Verdict{Torn: 1, Lost: 1}},
		"torn last byte":     {[][]byte{flipped(1, Size-1)}, acknowledged(1), Verdict{Torn: 1, Lost: 1}},
		"zeroes instead":     {[][]byte{Encode(mine, 1), make([]byte, Size)}, acknowledged(2), Verdict{Whole: 1, Torn: 1, Lost: 1}},
		"half a record":      {[][]byte{Encode(mine, 1), Encode(mine, 2)[:100]}, acknowledged(1), Verdict{Whole: 1, Torn: 1}},
		"shifted by a byte":  {[][]byte{{0}, Encode(mine, 1)}, acknowledged(1), Verdict{Torn: 2, Lost: 1}},
		"of another stream":  {[][]byte{Encode(theirs, 1)}, acknowledged(1), Verdict{Torn: 1, Lost: 1}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, err := Verify(bytes.NewReader(slices.Concat(tc.file...)), mine, tc.log)
			if err != nil {
				t.Fatal(err)
			}
			if got != tc.want {
				t.Errorf("got  %v\nwant %v", got, tc.want)
			}
			if clean := tc.want == (Verdict{Whole: tc.want.Whole}); got.Clean() != clean {
				t.Errorf("Clean() of %v: got %v", got, got.Clean())
			}
		})
	}
}

func TestVerifyNoticesEveryFlippedBit(t *testing.T) {
	t.Parallel()
	whole := Encode(mine, 77)
	for bit := range Size * 8 {
		b := bytes.Clone(whole)
		b[bit/8] ^= 1 << (bit % 8)
		if _, ok := decode(mine, b); ok {
			t.Errorf("bit %d flipped, and the record still passes", bit)
		}
	}
}

func TestVerifyUnreadable(t *testing.T) {
	t.Parallel()
	eio := errors.New("input/output error")
	if _, err := Verify(iotest.ErrReader(eio), mine, nil); !errors.Is(err, eio) {
		t.Errorf("got %v, want the reader's error: a file that cannot be read is not an empty one", err)
	}
}

func TestReadLog(t *testing.T) {
	t.Parallel()
	want := []Write{
		{Seq: 1, Begin: time.Second, End: time.Second + 5*time.Millisecond},
		{Seq: 2, Begin: 2 * time.Second, End: 22 * time.Second, Err: "write /v/data: \"input/output\nerror\""},
	}
	var text []byte
	for _, w := range want {
		text = w.Append(text)
	}
	for name, tail := range map[string]string{"complete": "", "a line being written": "3 30000"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, err := ReadLog(strings.NewReader(string(text) + tail))
			if err != nil {
				t.Fatal(err)
			}
			if !slices.Equal(got, want) {
				t.Errorf("got  %v\nwant %v", got, want)
			}
		})
	}
	for name, line := range map[string]string{
		"empty line":     "",
		"field missing":  `1 2 ""`,
		"not a number":   `1 x 3 ""`,
		"negative":       `-1 2 3 ""`,
		"unquoted error": `1 2 3 EIO`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if got, err := ReadLog(strings.NewReader(line + "\n")); err == nil {
				t.Errorf("%q was read as %v", line, got)
			}
		})
	}
}

func TestSummarize(t *testing.T) {
	t.Parallel()
	ms := func(seq uint64, begin, took int, err string) Write {
		return Write{
			Seq: seq, Begin: time.Duration(begin) * time.Millisecond,
			End: time.Duration(begin+took) * time.Millisecond, Err: err,
		}
	}
	got := Summarize([]Write{ms(1, 0, 10, ""), ms(2, 500, 4000, ""), ms(3, 5000, 20, "EIO"), ms(4, 6000, 30, "EROFS")})
	want := Summary{
		Writes: 2, Errors: 2, FirstError: "EIO",
		MedianSeconds: 0.025, LongestSeconds: 4, StallFrom: 0.5,
	}
	if got != want {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
	if got := Summarize(nil); got != (Summary{}) {
		t.Errorf("no writes: got %+v", got)
	}
}

func TestClockGoesOn(t *testing.T) {
	t.Parallel()
	first, err := Clock()
	if err != nil {
		t.Fatal(err)
	}
	second, err := Clock()
	if err != nil || second < first || first <= 0 {
		t.Errorf("got %v, then %v, %v", first, second, err)
	}
}
