package machine

import (
	"bufio"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// codename is the Debian release whose kernels are booted: both 6.1 (its own) and 6.12 (its backports).
const codename = "bookworm"

// source is one apt source, of either format.
type source struct {
	uris, suites, components []string
	fields                   map[string]string // everything else, by its name in deb822 files: Signed-By, Trusted, …
}

// readSources reads the sources of this machine. The repository names no archive: which mirror, snapshot or proxy is
// right here is something only the machine knows.
func readSources(etc string) ([]source, error) {
	files := []string{filepath.Join(etc, "sources.list")}
	for _, pattern := range []string{"*.list", "*.sources"} {
		more, err := filepath.Glob(filepath.Join(etc, "sources.list.d", pattern))
		if err != nil {
			return nil, fmt.Errorf("apt sources: %w", err)
		}
		files = append(files, more...)
	}
	var all []source
	for _, name := range files {
		f, err := os.Open(name)
		if os.IsNotExist(err) {
			continue // a machine has one format or the other
		}
		if err != nil {
			return nil, fmt.Errorf("apt sources: %w", err)
		}
		parse := parseOneLine
		if strings.HasSuffix(name, ".sources") {
			parse = parseDeb822
		}
		found, err := parse(f)
		_ = f.Close()
		if err != nil {
			return nil, fmt.Errorf("apt sources %s: %w", name, err)
		}
		all = append(all, found...)
	}
	return all, nil
}

// parseOneLine reads "deb [option=value …] URI suite component…" (sources.list(5)).
func parseOneLine(r io.Reader) ([]source, error) {
	var all []source
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		line, _, _ := strings.Cut(lines.Text(), "#")
		rest, ok := strings.CutPrefix(strings.TrimSpace(line), "deb")
		if !ok || rest == "" || !strings.ContainsAny(rest[:1], " \t") {
			continue // empty, or deb-src
		}
		s := source{fields: map[string]string{}}
		rest = strings.TrimSpace(rest)
		if options, ok := strings.CutPrefix(rest, "["); ok {
			options, after, closed := strings.Cut(options, "]")
			if !closed {
				return nil, fmt.Errorf("line %q: no ]", lines.Text())
			}
			for _, option := range strings.Fields(options) {
				key, value, _ := strings.Cut(option, "=")
				s.fields[fieldName(strings.TrimRight(key, "+-"))] = strings.ReplaceAll(value, ",", " ")
			}
			rest = after
		}
		words := strings.Fields(rest)
		if len(words) < 2 {
			return nil, fmt.Errorf("line %q: no URI and suite", lines.Text())
		}
		s.uris, s.suites, s.components = words[:1], words[1:2], words[2:]
		all = append(all, s)
	}
	return all, lines.Err()
}

// fieldName gives the deb822 name of an option of the one-line format.
func fieldName(option string) string {
	switch option {
	case "arch":
		return "Architectures"
	case "lang":
		return "Languages"
	case "target":
		return "Targets"
	}
	words := strings.Split(option, "-")
	for i, w := range words {
		if w != "" {
			words[i] = strings.ToUpper(w[:1]) + w[1:]
		}
	}
	return strings.Join(words, "-")
}

// parseDeb822 reads stanzas of "Field: value" with continuation lines.
func parseDeb822(r io.Reader) ([]source, error) {
	var all []source
	stanza := map[string]string{}
	field := ""
	finish := func() {
		if s, ok := sourceOf(stanza); ok {
			all = append(all, s)
		}
		stanza, field = map[string]string{}, ""
	}
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		line := strings.TrimRight(lines.Text(), " \t")
		switch {
		case line == "":
			finish()
		case strings.HasPrefix(line, "#"):
		case line[0] == ' ' || line[0] == '\t':
			if field == "" {
				return nil, fmt.Errorf("line %q continues nothing", line)
			}
			stanza[field] += "\n" + line // an embedded key keeps its lines
		default:
			key, value, ok := strings.Cut(line, ":")
			if !ok {
				return nil, fmt.Errorf("line %q is no field", line)
			}
			field = strings.ToLower(key)
			stanza[field] = strings.TrimSpace(value)
		}
	}
	finish()
	return all, lines.Err()
}

func sourceOf(stanza map[string]string) (source, bool) {
	take := func(key string) []string {
		words := strings.Fields(stanza[key])
		delete(stanza, key)
		return words
	}
	types, enabled := take("types"), take("enabled")
	s := source{uris: take("uris"), suites: take("suites"), components: take("components"), fields: map[string]string{}}
	for key, value := range stanza {
		s.fields[fieldName(key)] = value
	}
	off := len(enabled) == 1 && slices.Contains([]string{"no", "false", "0", "off"}, strings.ToLower(enabled[0]))
	return s, slices.Contains(types, "deb") && !off && len(s.uris) > 0
}

// kernelSources turns the sources of a machine that runs the release named host into those of the kernels' release,
// with its backports beside its main suite. Everything that is no part of Debian's own main archive is left out.
func kernelSources(all []source, host string) []source {
	var kept []source
	for _, s := range all {
		if !slices.Contains(s.components, "main") {
			continue
		}
		var suites []string
		for _, suite := range s.suites {
			switch suite {
			case host:
				suites = append(suites, codename, codename+"-backports")
			case host + "-updates", host + "-security", host + "-backports":
				suites = append(suites, codename+strings.TrimPrefix(suite, host))
			}
		}
		if len(suites) == 0 {
			continue
		}
		slices.Sort(suites)
		s.suites, s.components = slices.Compact(suites), []string{"main"}
		kept = append(kept, s)
	}
	return kept
}

// String gives the source as a deb822 stanza.
func (s source) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "Types: deb\nURIs: %s\nSuites: %s\nComponents: %s\n",
		strings.Join(s.uris, " "), strings.Join(s.suites, " "), strings.Join(s.components, " "))
	for _, key := range slices.Sorted(maps.Keys(s.fields)) {
		fmt.Fprintf(&b, "%s: %s\n", key, s.fields[key])
	}
	return b.String()
}
