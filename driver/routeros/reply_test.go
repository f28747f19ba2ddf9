package routeros

import (
	"strings"
	"testing"
)

func TestReadReply(t *testing.T) {
	const done, stop, pass = doneWord + "n0nce", stopWord + "n0nce", passWord + "n0nce"
	for _, tt := range []struct {
		name, out string
		want      reply
	}{
		{"nothing", "", reply{}},
		{"done", done + "\r\n", reply{done: true}},
		{"rows", "[{\"slot\":\"a\"}]\r\n" + done + "\r\n", reply{done: true, body: `[{"slot":"a"}]`}},
		{"added", pass + "\r\n*1F\r\n[]\r\n" + done + "\r\n", reply{done: true, passed: true, added: "*1F", body: "[]"}},
		{"error", "failure: no space\r\n", reply{text: "failure: no space"}},
		{"error in two lines", "failure:\r\n\r\nno space\r\n", reply{text: "failure: no space"}},
		{"error before rows", "warning: x\r\n[]\r\n" + done, reply{done: true, text: "warning: x", body: "[]"}},
		{"guard", stop + " no-space\r\n", reply{stop: "no-space"}},
		{"guard with its place", stop + " no-space (:error; line 1)\r\n", reply{stop: "no-space"}},
		{"cut off", "[{\"slot\":\"a\"", reply{body: `[{"slot":"a"`}},
		{"cut off sentinel", "[]\r\n" + done[:len(done)-1], reply{body: "[] " + done[:len(done)-1]}},
		{"another's sentinel", doneWord + "other\r\n", reply{text: doneWord + "other"}},
		{"echo of the line", `:put "` + done + `"` + "\r\n", reply{text: `:put "` + done + `"`}},
		{"no item number", "*xyz\r\n", reply{text: "*xyz"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := readReply(tt.out, "n0nce"); got != tt.want {
				t.Errorf("\n got %+v\nwant %+v", got, tt.want)
			}
		})
	}
}

func TestRows(t *testing.T) {
	for _, tt := range []struct {
		name, body string
		slots      string // "!" for an error
	}{
		{"none", "[]", ""},
		{"two", `[{"slot":"a"},{"slot":"b"}]`, "a b"},
		{"object of a menu without items", `{"slot":"a"}`, "a"},
		{"nothing", "", "!"},
		{"cut off", `[{"slot":"a"},`, "!"},
		{"no rows", `[1]`, "!"},
		{"raw control character in a comment", "[{\"comment\":\"a\tb\x01\",\"slot\":\"a\"}]", "a"},
		{"not UTF-8", "[{\"comment\":\"\xff\",\"slot\":\"a\"}]", "a"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			rows, err := reply{body: tt.body}.rows()
			var slots []string
			for _, r := range rows {
				slots = append(slots, r.text("slot"))
			}
			got := strings.Join(slots, " ")
			if err != nil {
				got = "!"
			}
			if got != tt.slots {
				t.Errorf("got %q, %v, want %q", got, err, tt.slots)
			}
		})
	}
}

// The forms in which a value may come are those of facts/routeros.md, 2.2, 2.3 and gap 4.
func TestRowValues(t *testing.T) {
	rows, err := reply{body: `[{"a":true,"b":"true","c":"yes","d":false,"e":"no","f":"","g":null,
		"n":1099511627776,"s":"1099511627776","f6":1099511627776.000000,"sp":"1 099 511 627 776","h":"1024.0GiB",
		"list":["ssh","!ftp"]}]`}.rows()
	if err != nil {
		t.Fatal(err)
	}
	r := rows[0]
	for key, want := range map[string]bool{"a": true, "b": true, "c": true, "d": false, "e": false, "f": false, "g": false, "none": false} {
		if r.flag(key) != want {
			t.Errorf("flag %s is %t", key, !want)
		}
	}
	for _, key := range []string{"n", "s", "f6", "sp", "h"} {
		if n, ok := r.bytes(key); n != 1<<40 || !ok {
			t.Errorf("bytes %s: %d, %t", key, n, ok)
		}
	}
	for _, key := range []string{"a", "f", "g", "none", "list"} {
		if n, ok := r.bytes(key); ok {
			t.Errorf("bytes %s: %d, want none", key, n)
		}
	}
	if got := r.text("list"); got != "ssh,!ftp" {
		t.Errorf("list: %s", got)
	}
}

func TestParseBytes(t *testing.T) {
	for in, want := range map[string]int64{
		"0": 0, "4096": 4096, "512M": 512 << 20, "1.5GiB": 3 << 29, "10.0KiB": 10 << 10, "1T": 1 << 40, "3.0B": 3,
		"9223372036854775807": 1<<63 - 1,
		"":                    -1, "-1": -1, "x": -1, "GiB": -1, "1.2.3": -1, "1X": -1, "99999999999999999999": -1, "9000000P": -1, "none": -1, "-": -1,
	} {
		got, ok := parseBytes(in)
		if !ok {
			got = -1
		}
		if got != want {
			t.Errorf("parseBytes(%q) = %d, want %d", in, got, want)
		}
	}
}

// FuzzReadReply: no output makes the reader panic, and none that lacks the sentinel's last byte counts as done.
func FuzzReadReply(f *testing.F) {
	f.Add("*1\r\n[{\"a\":1}]\r\n", 3)
	f.Add("{}", 0)
	f.Fuzz(func(t *testing.T, out string, cut int) {
		full := out + "\r\n" + doneWord + "n0nce\r\n"
		if r := readReply(full, "n0nce"); r.done {
			_, _ = r.rows() // only whether it panics
		} else {
			t.Fatalf("%q is not done", full)
		}
		end := strings.LastIndex(full, "n0nce")
		if strings.Contains(out, "n0nce") || cut < 0 {
			return
		}
		if r := readReply(full[:end+cut%5], "n0nce"); r.done {
			t.Fatalf("%q is done", full[:end+cut%5])
		}
	})
}
