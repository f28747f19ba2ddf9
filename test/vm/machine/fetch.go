package machine

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
)

// privateApt is an apt configuration of our own: its lists, cache and sources lie in the cache directory, so nothing
// of the machine's package state is changed, and no right to do so is needed.
type privateApt struct{ config string }

func newPrivateApt(cache string) (*privateApt, error) {
	host, err := releaseName("/etc/os-release")
	if err != nil {
		return nil, err
	}
	all, err := readSources("/etc/apt")
	if err != nil {
		return nil, err
	}
	sources := kernelSources(all, host)
	if len(sources) == 0 {
		return nil, fmt.Errorf("the apt sources of this machine have no suite %q: it must be a Debian", host)
	}
	var stanzas []string
	for _, s := range sources {
		stanzas = append(stanzas, s.String())
	}
	root := filepath.Join(cache, "apt")
	for _, d := range []string{"state/lists/partial", "cache/archives/partial", "sources"} {
		if err := os.MkdirAll(filepath.Join(root, d), 0o755); err != nil {
			return nil, fmt.Errorf("private apt: %w", err)
		}
	}
	files := map[string]string{
		"sources/kernels.sources": strings.Join(stanzas, "\n"),
		"status":                  "",
		"apt.conf":                aptConfig(root),
	}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(root, name), []byte(text), 0o644); err != nil {
			return nil, fmt.Errorf("private apt: %w", err)
		}
	}
	return &privateApt{config: filepath.Join(root, "apt.conf")}, nil
}

// aptConfig is read after the machine's own configuration, so that proxies and credentials stay; its hooks go.
func aptConfig(root string) string {
	return fmt.Sprintf(`Dir::State "%[1]s/state";
Dir::State::status "%[1]s/status";
Dir::Cache "%[1]s/cache";
Dir::Etc::sourcelist "/dev/null";
Dir::Etc::sourceparts "%[1]s/sources";
Dir::Etc::preferences "/dev/null";
Dir::Etc::preferencesparts "/dev/null";
Acquire::Languages "none";
Acquire::Retries "3";
APT::Sandbox::User "root";
#clear Acquire::IndexTargets::deb::DEP-11;
#clear APT::Update::Pre-Invoke;
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
`, root)
}

// releaseName gives VERSION_CODENAME of os-release(5).
func releaseName(file string) (string, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return "", fmt.Errorf("release of this machine: %w", err)
	}
	for line := range strings.Lines(string(text)) {
		if name, ok := strings.CutPrefix(strings.TrimSpace(line), "VERSION_CODENAME="); ok && name != "" {
			return strings.Trim(name, `"`), nil
		}
	}
	return "", errors.New("release of this machine: os-release has no VERSION_CODENAME")
}

// newest gives the newest kernel package of a series that the archive serves.
func (a *privateApt) newest(ctx context.Context, series string) (name, version string, err error) {
	// A source that does not answer, or has no backports, is no reason to stop while another has the package.
	_, updateErr := output(ctx, downloadTimeout, "", "apt-get", "-c", a.config, "-qq", "update")
	list, err := output(ctx, programTimeout, "", "apt-cache", "-c", a.config, "search", "--names-only",
		"^linux-image-"+regexp.QuoteMeta(series)+`\.`)
	if err != nil {
		return "", "", errors.Join(updateErr, err)
	}
	names := imageNames(list, series)
	if len(names) == 0 {
		return "", "", errors.Join(updateErr, fmt.Errorf("no package linux-image-%s.*-amd64 in the archive", series))
	}
	table, err := output(ctx, programTimeout, "", "apt-cache", append([]string{"-c", a.config, "madison"}, names...)...)
	if err != nil {
		return "", "", err
	}
	for line := range strings.Lines(table) {
		columns := strings.Split(line, "|")
		if len(columns) != 3 {
			continue
		}
		n, v := strings.TrimSpace(columns[0]), strings.TrimSpace(columns[1])
		if version == "" || newer(ctx, v, version) {
			name, version = n, v
		}
	}
	if version == "" {
		return "", "", fmt.Errorf("no version of %s in the archive", strings.Join(names, ", "))
	}
	return name, version, nil
}

// imageNames picks the plain images of a series from what apt-cache search printed: no cloud (it lacks drivers), no
// rt, no unsigned, no debug symbols.
func imageNames(list, series string) []string {
	form := regexp.MustCompile(`(?m)^(linux-image-` + regexp.QuoteMeta(series) + `\.[0-9.]+([-+][0-9a-z.]+)?-amd64) - `)
	var names []string
	for _, m := range form.FindAllStringSubmatch(list, -1) {
		names = append(names, m[1])
	}
	return names
}

func (a *privateApt) download(ctx context.Context, dir, name, version string) error {
	_, err := output(ctx, downloadTimeout, dir, "apt-get", "-c", a.config, "-qq", "download", name+"="+version)
	return err
}
